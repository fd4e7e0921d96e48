"""A depthwise convolution, or its transpose, by tiles of a few pixels and vectors of channels.

Nothing is padded: a row of results has a list of the rows of the source that it sees, each with a
row of taps, and at its left and right end tiles leave out the taps that see padding. Of the
transpose with a stride, columns of each remainder see taps of their own, and so do rows, so that no
tap is multiplied by zeros between the pixels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from segjax.ops.llvm import tiles
from segjax.ops.llvm.emitter import I64, POINTER, integer

VECTORS = 2  # of channels
PIXELS = 4  # of a row
ROWS = 16  # of a part at most
PARTS = 16  # fewer have fewer rows
NEAR = 4 << 10  # taps of all channels that stay in a core's first cache


class Run(NamedTuple):
  """Tiles of a row that see the same taps.

  Attributes:
    taps: list of (column of the kernel, column of the source that the first result sees there).
    first: column of the first result.
    pixels: results of a tile.
    count: number of tiles.
  """

  taps: list[tuple[int, int]]
  first: int
  pixels: int
  count: int


def depthwise(spec, machine):
  """Kernel of `depthwise_convolve`, see `xla_call.register`."""
  module, e, (x, kernel, out, part, listed) = tiles.begin("depthwise", 2)
  build, channels = e.build, spec.channels
  (height, width), (out_height, out_width) = _sizes(spec)
  rows = min(ROWS, max(1, spec.batch * out_height // PARTS))
  strips = -(-out_height // rows)
  image, strip = e.divide(part, strips)
  begin = build.mul(strip, integer(rows))
  end = e.smaller(build.add(begin, integer(rows)), integer(out_height))
  source = e.at(x, (image, height * width * channels))
  target = e.at(out, (image, out_height * out_width * channels))
  runs = _runs(spec)
  with e.loop(end, begin) as row:
    many = _list_rows(e, spec, row, source, kernel, listed)
    place = e.at(target, (row, out_width * channels))
    for run in runs:
      for tile, vectors, here in _tiles(e, spec, machine, run.count):
        _write_tile(e, spec, run, tile, vectors, here, (listed, many), place)
  e.finish()
  # Two pointers for each row of taps.
  return module, 2, spec.batch * strips, 4 * spec.size


def _sizes(spec):
  """(rows, columns) of the source and of the result."""
  sizes = (spec.height, spec.width), spec.out_size
  return sizes[::-1] if spec.turned else sizes


def _steps(spec):
  """(pixels of the source, pixels of the result) from one result to the next of the same taps."""
  return (1, spec.stride) if spec.turned else (spec.stride, 1)


def _list_rows(e, spec, row, source, kernel, listed):
  """Lists the rows of the source that a row of results sees, each with its row of taps.

  Args:
    e: Emitter.
    spec: Convolution.
    row: of the results, a value.
    source: pointer to the image.
    kernel: pointer to the taps.
    listed: pointer to pairs of pointers, which are written.

  Returns:
    Number of pairs, a value.
  """
  build, channels, stride = e.build, spec.channels, spec.stride
  (height, width), _ = _sizes(spec)
  many = e.variable(I64)
  build.store(integer(0), many)
  for i in range(spec.size):
    shift = i * spec.dilation - spec.pads[0][0]
    if spec.turned:
      # A multiple of the stride is added first: a row above the image would be negative.
      seen, rest = e.divide(build.add(row, integer(stride * spec.reach - shift)), stride)
      seen = build.sub(seen, integer(spec.reach))
    else:
      seen, rest = build.add(build.mul(row, integer(stride)), integer(shift)), integer(0)
    inside = build.icmp_unsigned("<", seen, integer(height))
    inside = build.and_(inside, build.icmp_signed("==", rest, integer(0)))
    # What is not seen has the next pair written over it.
    n = build.load(many, typ=I64)
    build.store(e.at(source, (seen, width * channels)), _entry(e, listed, n, 0))
    build.store(e.at(kernel, i * spec.size * channels), _entry(e, listed, n, 1))
    build.store(build.add(n, build.zext(inside, I64)), many)
  return build.load(many, typ=I64)


def _entry(e, listed, n, k):
  """Pointer to one of the two pointers of pair n."""
  at = e.build.add(e.build.mul(n, integer(2)), integer(k))
  return e.build.gep(listed, [at], source_etype=POINTER)


def _tiles(e, spec, machine, count):
  """For each kind of block of channels, inside loops: (tile, vectors, offsets of the block)."""
  blocks = tiles.narrow_blocks(spec.channels, machine.lanes, VECTORS)
  if spec.size**2 * spec.channels <= NEAR:
    with e.loop(count) as tile:
      for vectors, start, times in blocks:
        with e.loop(times) as block:
          yield tile, vectors, ((block, sum(vectors)), start)
  else:
    for vectors, start, times in blocks:
      with e.loop(times) as block, e.loop(count) as tile:
        yield tile, vectors, ((block, sum(vectors)), start)


def _write_tile(e, spec, run, tile, vectors, here, rows, target):
  """Writes the results of a few pixels in a block of channels.

  Args:
    e: Emitter.
    spec: Convolution.
    run: Run of the tile.
    tile: index.
    vectors: widths of the vectors of the block.
    here: offsets of the block.
    rows: (pairs of pointers, their number), see `_list_rows`.
    target: pointer to the row of results.
  """
  channels, (listed, many) = spec.channels, rows
  step, period = (n * channels for n in _steps(spec))
  sums = tiles.sums(e, run.pixels, vectors)
  with e.loop(many) as n:
    source, weights = (
      e.at(e.build.load(_entry(e, listed, n, k), typ=POINTER), *here) for k in (0, 1)
    )
    source = e.at(source, (tile, run.pixels * step))
    for j, column in run.taps:
      for k, (offset, lanes) in enumerate(tiles.offsets(vectors)):
        weight = e.load(e.at(weights, j * channels + offset), lanes)
        for p, totals in enumerate(sums):
          value = e.load(e.at(source, column * channels + p * step + offset), lanes)
          e.add_product(totals[k], value, weight)
  place = e.at(target, (tile, run.pixels * period), run.first * channels, *here)
  for total, lanes, at in tiles.places(e, sums, vectors, place, period):
    e.store(e.load(total, lanes), at)


def _runs(spec):
  """The Runs of a row of results."""
  step, period = _steps(spec)
  found = []
  for phase, (count, taps) in enumerate(_phases(spec)):
    ends = {end for _, _, seen in taps if seen for end in (seen.start, seen.stop)}
    ends = sorted({0, count, *ends})
    for first, end in pairwise(ends):
      for pixels, column, many in tiles.columns(end - first, PIXELS):
        n = first + column
        seen = [(j, step * n + shift) for j, shift, outputs in taps if first in outputs]
        found.append(Run(seen, phase + n * period, pixels, many))
  return found


def _phases(spec):
  """For columns that see the same taps: (count, [(column of the kernel, shift, range of n)]).

  The n-th of them sees the source at `step * n + shift`, where it does not see padding. Of a
  convolution these are all columns, of a transpose those of each remainder by the stride.
  """
  columns = spec.out_size[1]
  if not spec.turned:
    return [(columns, [(j, *seen) for j, seen in enumerate(spec.seen_along(1))])]
  found = []
  for phase in range(min(spec.stride, spec.width)):
    count, taps = -(-(spec.width - phase) // spec.stride), []
    for j in range(spec.size):
      shift, rest = divmod(phase + spec.pads[1][0] - j * spec.dilation, spec.stride)
      if not rest:
        taps.append((j, shift, range(max(-shift, 0), min(columns - shift, count))))
    found.append((count, taps))
  return found
