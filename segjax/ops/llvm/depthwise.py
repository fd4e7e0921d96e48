"""A depthwise convolution, or its transpose, by tiles of a few pixels and vectors of channels.

Nothing is padded: a row of results sees a list of rows of the source, each with a row of taps, and
at its left and right end the loop over columns leaves out the taps that see padding. Of the
transpose with a stride, columns of each remainder see taps of their own, and so do rows, so that no
tap is multiplied by zeros between the pixels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from segjax.ops.llvm import tiles
from segjax.ops.llvm.emitter import I64, POINTER, integer

VECTORS = 2  # of channels
PIXELS = 4  # of a row
ROWS = 16  # of a part at most
PARTS = 16  # fewer have fewer rows
NEAR = 4 << 10  # taps of all channels that stay in a core's first cache


class Columns(NamedTuple):
  """The columns of results at `first + period * n`, which see the same taps.

  Attributes:
    first: the first of them.
    count: number of them.
    taps: list of (tap, shift, range of n); it sees the source at `step * n + shift`.
  """

  first: int
  count: int
  taps: list[tuple[int, int, Any]]


def depthwise(spec, machine):
  """Kernel of `depthwise_convolve`, see `xla_call.register`."""
  module, e, (x, kernel, out, part, listed) = tiles.begin("depthwise", 2)
  build, channels = e.build, spec.channels
  (height, width), (out_height, out_width) = (spec.height, spec.width), spec.out_size
  if spec.turned:
    height, width, out_height, out_width = out_height, out_width, height, width
  rows = min(ROWS, max(1, spec.batch * out_height // PARTS))
  strips = -(-out_height // rows)
  image, strip = e.divide(part, strips)
  begin = build.mul(strip, integer(rows))
  end = e.smaller(build.add(begin, integer(rows)), integer(out_height))
  source = e.at(x, (image, height * width * channels))
  target = e.at(out, (image, out_height * out_width * channels))
  with e.loop(end, begin) as row:
    many = _list_rows(e, spec, row, source, kernel, listed)
    place = e.at(target, (row, out_width * channels))
    for columns in _columns(spec):
      for taps, first, last in _stretches(columns):
        for pixels, column, count in tiles.columns(last - first, PIXELS):
          write = partial(
            _write_tile, e, spec, columns, taps, pixels, first + column, (listed, many), place
          )
          _each_tile(e, spec, machine, count, write)
  e.finish()
  # Two pointers for each row of taps.
  return module, 2, spec.batch * strips, 4 * spec.size


def _each_tile(e, spec, machine, count, write):
  """Calls write(tile, vectors, offsets) in loops over tiles of pixels and blocks of channels."""
  blocks = tiles.narrow_blocks(spec.channels, machine.lanes, VECTORS)
  if spec.size**2 * spec.channels <= NEAR:
    with e.loop(count) as tile:
      for vectors, start, times in blocks:
        with e.loop(times) as block:
          write(tile, vectors, ((block, sum(vectors)), start))
  else:
    for vectors, start, times in blocks:
      with e.loop(times) as block, e.loop(count) as tile:
        write(tile, vectors, ((block, sum(vectors)), start))


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
  build, channels = e.build, spec.channels
  height, width = spec.out_size if spec.turned else (spec.height, spec.width)
  many = e.variable(I64)
  build.store(integer(0), many)
  for i in range(spec.size):
    shift = i * spec.dilation - spec.pads[0][0]
    if spec.turned:
      # Of rows past the image's end, lest a number is negative.
      past = spec.stride * spec.reach
      seen, rest = e.divide(build.add(row, integer(past - shift)), spec.stride)
      seen = build.sub(seen, integer(spec.reach))
    else:
      seen, rest = build.add(build.mul(row, integer(spec.stride)), integer(shift)), integer(0)
    inside = build.icmp_unsigned("<", seen, integer(height))
    inside = build.and_(inside, build.icmp_signed("==", rest, integer(0)))
    count = build.load(many, typ=I64)
    for k, pointer in enumerate(
      (e.at(source, (seen, width * channels)), e.at(kernel, i * spec.size * channels))
    ):
      build.store(pointer, _entry(e, listed, count, k))
    build.store(build.add(count, build.zext(inside, I64)), many)
  return build.load(many, typ=I64)


def _entry(e, listed, n, k):
  """Pointer to one of the two pointers of pair n."""
  at = e.build.add(e.build.mul(n, integer(2)), integer(k))
  return e.build.gep(listed, [at], source_etype=POINTER)


def _write_tile(e, spec, columns, taps, pixels, first, rows, target, tile, vectors, here):
  """Writes the results of a few pixels in a block of channels.

  Args:
    e: Emitter.
    spec: Convolution.
    columns: Columns.
    taps: [(column of the kernel, its shift)].
    pixels: count.
    first: pixels of `columns` before the first tile.
    rows: (pairs of pointers, their number), see `_list_rows`.
    target: pointer to the row of results.
    tile: index.
    vectors: widths of the vectors of the block.
    here: offsets of the block.
  """
  channels, (listed, many) = spec.channels, rows
  period, step = (spec.stride, 1) if spec.turned else (1, spec.stride)
  sums = tiles.sums(e, pixels, vectors)
  with e.loop(many) as n:
    source, weights = (
      e.at(e.build.load(_entry(e, listed, n, k), typ=POINTER), *here) for k in (0, 1)
    )
    seen = e.at(source, (tile, pixels * step * channels), first * step * channels)
    for j, shift in taps:
      for k, (offset, lanes) in enumerate(tiles.offsets(vectors)):
        weight = e.load(e.at(weights, j * channels + offset), lanes)
        for p, totals in enumerate(sums):
          value = e.load(e.at(seen, (shift + p * step) * channels + offset), lanes)
          e.add_product(totals[k], value, weight)
  at = (columns.first + first * period) * channels
  place = e.at(target, (tile, pixels * period * channels), at, *here)
  for total, lanes, pointer in tiles.places(e, sums, vectors, place, period * channels):
    e.store(e.load(total, lanes), pointer)


def _columns(spec):
  """All Columns of a row of results."""
  if not spec.turned:
    taps = [(j, *seen) for j, seen in enumerate(spec.seen_along(1))]
    return [Columns(0, spec.out_size[1], taps)]
  found = []
  for first in range(min(spec.stride, spec.width)):
    count, taps = -(-(spec.width - first) // spec.stride), []
    for j in range(spec.size):
      shift, rest = divmod(first + spec.pads[1][0] - j * spec.dilation, spec.stride)
      if not rest:
        taps.append((j, shift, range(max(-shift, 0), min(spec.out_size[1] - shift, count))))
    found.append(Columns(first, count, taps))
  return found


def _stretches(columns):
  """Columns as [(taps and their shifts, first n, end)], without those that see padding there."""
  ends = {end for _, _, seen in columns.taps if seen for end in (seen.start, seen.stop)}
  ends = sorted({0, columns.count, *ends})
  taps = [[(j, shift) for j, shift, seen in columns.taps if end in seen] for end in ends]
  return list(zip(taps, ends, ends[1:], strict=False))
