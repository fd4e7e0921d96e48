"""Convolutions 3x3 by Winograd's minimal filtering: 16 products for the 36 of 2x2 outputs.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), F(2x2, 3x3). A tile of
2x2 outputs sees 4x4 pixels. Additions make 16 values of these and 16 of the taps of the kernel;
products of the two, summed over all channels, are 16 matrix products, and additions make the
outputs of them. The rounding is no worse than of the sums taken one by one, which are
longer. With dilation the pixels and the outputs of a tile are a dilation apart.
"""

from __future__ import annotations

from itertools import chain

from llvmlite import ir

from segjax.ops.llvm import tiles
from segjax.ops.llvm.emitter import integer, vector

SEEN = 4  # rows and columns that a tile sees
PLACES = SEEN**2
PAD = 16  # values between tiles, lest many fall into one set of the first cache
STRIP = 128 << 10  # float32 values of the tiles that are taken at a time
KERNEL = 1 << 20  # values of a kernel that every strip goes through
PARTS = 8  # fewer are divided by features


def winograd_kernel(spec, machine):
  """Transforms a kernel f32[3,3,C,F] to blocks of features, flat, each f32[16,C,block]."""
  module, e, (kernel, out, part, scratch) = tiles.begin("winograd_kernel", 1)
  build, channels, features = e.build, spec.channels, spec.features
  count = sum(n for _, n in tiles.blocks(features, machine.lanes))
  for vectors, start, (low, high) in tiles.feature_blocks(e, features, machine.lanes, part, count):
    together = sum(vectors)
    with e.loop(high, low) as block:
      feature = build.add(build.mul(block, integer(together)), integer(start))
      for tap in range(9):
        place = e.at(scratch, tap * channels * together)
        i, j = divmod(tap, 3)
        tiles.copy_tap(e, spec, place, kernel, integer(i), j, feature, together, together)
      target = e.at(out, (feature, PLACES * channels))
      with e.loop(channels) as channel:
        for offset, lanes in tiles.offsets(vectors):
          here = (channel, together), offset
          taps = square(e, 3, e.at(scratch, *here), channels * together, lanes)
          for n, value in enumerate(both_axes(_of_taps(e, lanes), taps)):
            e.store(value, e.at(target, n * channels * together, *here))
  e.finish()
  return module, 1, count, 9 * channels * 2 * machine.lanes


def winograd(spec, machine):
  """Kernel of `convolve` with a transformed kernel, see `xla_call.register`."""
  module, e, (x, kernel, out, part, scratch) = tiles.begin("winograd", 2)
  build, channels, features = e.build, spec.channels, spec.features
  tiles_per_image, tiles_per_row = grid(spec)
  blocks = tiles.blocks(features, machine.lanes)
  most = rows_of_product(blocks, machine)
  pitch, together = channels + PAD, 2 * machine.lanes
  rows = STRIP // (PLACES * pitch)
  rows = min(max(rows // most, 1) * most, tiles_per_image)
  strips = -(-tiles_per_image // rows)
  large = -(-PLACES * channels * features // KERNEL)
  few = -(-PARTS // (spec.batch * strips))
  count = sum(n for _, n in blocks)
  shares = -(-count // -(-count // min(max(large, few), count)))  # none without a block
  # The scratch memory: inputs of tiles, sums of a block, zeros around an image, outputs past it.
  products = e.at(scratch, PLACES * rows * pitch)
  zeros = e.at(products, PLACES * rows * together)
  nowhere = e.at(zeros, channels)
  e.clear(zeros, channels)
  place, share = e.divide(part, shares)
  image, strip = e.divide(place, strips)
  first = build.mul(strip, integer(rows))
  source = e.at(x, (image, spec.height * spec.width * channels))
  target = e.at(out, (image, spec.out_size[0] * spec.out_size[1] * features))
  with e.loop(rows) as tile:
    corner = corner_of(e, spec, build.add(first, tile), tiles_per_row)
    pixels = pixels_seen(e, spec, source, zeros, corner)
    row = e.at(scratch, (tile, pitch))
    transform(e, machine, pixels, channels, of_pixels(e), row, rows * pitch)
  for vectors, start, (low, high) in tiles.feature_blocks(
    e, features, machine.lanes, share, shares
  ):
    width = sum(vectors)
    with e.loop(high, low) as block:
      feature = build.add(build.mul(block, integer(width)), integer(start))
      with e.loop(PLACES) as n:
        right = e.at(kernel, (feature, PLACES * channels), (n, channels * width)), width
        for lot, column, times in tiles.columns(rows, most):
          with e.loop(times) as t:
            left = e.at(scratch, (n, rows * pitch), (t, lot * pitch), column * pitch), 1, pitch
            sums = tiles.sums(e, lot, vectors)
            tiles.add_products(e, channels, sums, vectors, left, right)
            row = e.at(products, (n, rows * width), (t, lot * width), column * width)
            for total, lanes, at in tiles.places(e, sums, vectors, row, width):
              e.store(e.load(total, lanes), at)
      with e.loop(rows) as tile:
        corner = corner_of(e, spec, build.add(first, tile), tiles_per_row)
        outputs = outputs_of(e, spec, e.at(target, feature), nowhere, corner)
        for offset, lanes in tiles.offsets(vectors):
          sums = square(e, SEEN, e.at(products, (tile, width), offset), rows * width, lanes)
          for pixel, value in zip(chain(*outputs), both_axes(_of_sums(e), sums), strict=True):
            e.store(value, e.at(pixel, offset))
  e.finish()
  size = PLACES * rows * (pitch + together) + channels + together
  return module, 2, spec.batch * strips * shares, size


def grid(spec):
  """(tiles of an image, tiles of a row of tiles).

  Some may lie past the image's end, with dilation and in the last strip: they see zeros, and their
  outputs go nowhere.
  """
  down, right = (spec.dilation * -(-n // (2 * spec.dilation)) for n in spec.out_size)
  return down * right, right


def rows_of_product(blocks, machine):
  """Rows of a matrix product whose sums fit into the registers, beside their factors."""
  return (machine.registers - 3) // max(len(vectors) for vectors, _ in blocks)


def corner_of(e, spec, tile, tiles_per_row):
  """(row, column) of a tile's first output."""
  build = e.build

  def first(index):
    pair, phase = e.divide(index, spec.dilation)
    return build.add(build.mul(pair, integer(2 * spec.dilation)), phase)

  row, column = e.divide(tile, tiles_per_row)
  return first(row), first(column)


def pixels_seen(e, spec, image, zeros, corner):
  """Pointers to the 4x4 pixels that a tile sees, to `zeros` for those of the padding."""
  size, before = (spec.height, spec.width), [low for low, _ in spec.pads]
  return _pixels(e, spec, image, zeros, corner, before, SEEN, size, spec.channels)


def outputs_of(e, spec, image, elsewhere, corner):
  """Pointers to the 2x2 outputs of a tile, `elsewhere` for those past the image's end."""
  return _pixels(e, spec, image, elsewhere, corner, (0, 0), 2, spec.out_size, spec.features)


def _pixels(e, spec, image, elsewhere, corner, before, count, size, channels):
  build = e.build
  rows, columns = (
    [build.add(first, integer(k * spec.dilation - low)) for k in range(count)]
    for first, low in zip(corner, before, strict=True)
  )

  def pointer(row, column):
    # An index before the image is a large one without its sign.
    there = (
      build.icmp_unsigned("<", index, integer(n))
      for index, n in zip((row, column), size, strict=True)
    )
    at = e.at(image, (row, size[1] * channels), (column, channels))
    return build.select(build.and_(*there), at, elsewhere)

  return [[pointer(row, column) for column in columns] for row in rows]


def transform(e, machine, pixels, channels, along, target, pitch):
  """Writes a transform of pixels with all channels; its entries lie `pitch` values apart."""
  for lanes, here in vectors_of(e, channels, machine.lanes):
    values = [[e.load(e.at(pixel, *here), lanes) for pixel in row] for row in pixels]
    for n, value in enumerate(both_axes(along, values)):
      e.store(value, e.at(target, n * pitch, *here))


def square(e, side, source, pitch, lanes):
  """side x side vectors that lie `pitch` values apart, [rows][columns]."""
  places = [[side * i + j for j in range(side)] for i in range(side)]
  return [[e.load(e.at(source, n * pitch), lanes) for n in row] for row in places]


def vectors_of(e, channels, lanes):
  """(lanes, offsets) of the vectors of all channels, inside a loop over those of equal width."""
  done = 0
  while lanes:
    if times := (channels - done) // lanes:
      with e.loop(times) as k:
        yield lanes, ((k, lanes), done)
      done += times * lanes
    lanes //= 2


def both_axes(along, values):
  """A transform `along` one axis, along both: [rows][columns] -> rows and columns, flat."""
  columns = [along(*column) for column in zip(*values, strict=True)]
  return [value for row in zip(*columns, strict=True) for value in along(*row)]


def of_pixels(e):
  """The transform of four pixels."""
  build = e.build
  return lambda a, b, c, d: (
    build.fsub(a, c),
    build.fadd(b, c),
    build.fsub(c, b),
    build.fsub(b, d),
  )


def _of_taps(e, lanes):
  """The transform of three taps."""
  build, half = e.build, ir.Constant(vector(lanes), [0.5] * lanes)

  def along(a, b, c):
    outer, middle = build.fmul(build.fadd(a, c), half), build.fmul(b, half)
    return a, build.fadd(outer, middle), build.fsub(outer, middle), c

  return along


def _of_sums(e):
  """Two outputs of four sums."""
  build = e.build
  return lambda a, b, c, d: (
    build.fadd(build.fadd(a, b), c),
    build.fsub(build.fsub(b, c), d),
  )
