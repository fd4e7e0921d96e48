"""The weight gradient of a depthwise convolution: image and gradient are read once for all taps.

Vectors go along the channels, which no sum crosses. The sums of a row of taps by a few vectors of
channels stay in registers while the rows of a strip pass, which stay in a core's cache. Nothing is
padded: at the left and right end of a row its loop leaves out the taps that see padding.
"""

from __future__ import annotations

from itertools import pairwise

from llvmlite import ir

from segjax.ops.llvm import tiles
from segjax.ops.llvm.emitter import integer, vector

CHANNELS = 64  # that a part takes at most
STRIP = 64 << 10  # float32 values of a strip's rows, of the image and of the gradient
PARTS = 16  # fewer are divided into groups of strips


def depthwise_gradient(spec, machine):
  """Kernel of `depthwise_weight_gradient`: partial sums f32[groups,K,K,C], see `register`."""
  module, e, (x, g, out, part, _) = tiles.begin("depthwise_gradient", 2)
  build, size, channels = e.build, spec.size, spec.channels
  height, width = spec.out_size
  per, groups, rows, strips, shares = _groups(spec)
  group, share = e.divide(part, shares)
  begin = build.mul(group, integer(per))
  many = e.smaller(integer(per), build.sub(integer(spec.batch * strips), begin))
  with e.loop(many) as turn:
    fresh = build.icmp_signed("==", turn, integer(0))
    image, strip = e.divide(build.add(begin, turn), strips)
    first = build.mul(strip, integer(rows))
    end = e.smaller(build.add(first, integer(rows)), integer(height))
    for vectors, start, (low, high) in _blocks(e, channels, machine, size, share, shares):
      with e.loop(high, low) as block, e.loop(size) as i:
        here = (block, sum(vectors)), start
        # The row of the image that this row of taps sees under the first row of outputs.
        shift = build.sub(build.mul(i, integer(spec.dilation)), integer(spec.pads[0][0]))
        source = e.at(x, (image, spec.height * spec.width * channels), *here)
        source = e.at(source, (shift, spec.width * channels))
        gradient = e.at(g, (image, height * width * channels), *here)
        sums = tiles.sums(e, size, vectors)
        seen_from, seen_to = _rows_seen(e, spec, shift)
        with e.loop(e.smaller(end, seen_to), e.larger(first, seen_from)) as row:
          source_row = e.at(source, (row, spec.stride * spec.width * channels))
          _add_row(e, spec, sums, vectors, source_row, e.at(gradient, (row, width * channels)))
        taps = size * channels
        target = e.at(out, (group, size * taps), (i, taps), *here)
        for total, lanes, at in tiles.places(e, sums, vectors, target, channels):
          none = ir.Constant(vector(lanes), [0.0] * lanes)
          before = build.select(fresh, none, e.load(at, lanes))
          e.store(build.fadd(before, e.load(total, lanes)), at)
  e.finish()
  return module, 2, groups * shares, 0


def _add_row(e, spec, sums, vectors, source, gradient):
  """Adds the products of a row of the gradient and the row of the image under a row of taps."""
  channels = spec.channels
  for taps, first, end in _stretches(spec):
    with e.loop(end, first) as column:
      seen = e.at(source, (column, spec.stride * channels), -spec.pads[1][0] * channels)
      pixel = e.at(gradient, (column, channels))
      for k, (offset, lanes) in enumerate(tiles.offsets(vectors)):
        of_output = e.load(e.at(pixel, offset), lanes)
        for j in taps:
          value = e.load(e.at(seen, j * spec.dilation * channels + offset), lanes)
          e.add_product(sums[j][k], value, of_output)


def _stretches(spec):
  """A row of outputs as [(columns of the kernel, first, end)]: those that see the image there."""
  seen = [outputs for _, outputs in spec.seen_along(1)]
  ends = sorted({end for outputs in seen if outputs for end in (outputs.start, outputs.stop)})
  taps = [[j for j, outputs in enumerate(seen) if first in outputs] for first in ends]
  return [(t, *at) for t, at in zip(taps, pairwise(ends), strict=False) if t]


def _rows_seen(e, spec, shift):
  """Range of the rows of outputs that see rows of the image, at `stride * row + shift`."""
  build, nothing = e.build, integer(0)
  first = build.sub(integer(spec.stride - 1), shift)
  end = build.sub(integer(spec.height - 1 + spec.stride), shift)
  return [e.divide(e.larger(n, nothing), spec.stride)[0] for n in (first, end)]


def _blocks(e, channels, machine, size, share, shares):
  """For each kind of block of channels: (vectors, first channel, range of blocks of this share)."""
  build, fit = e.build, max((machine.registers - 2) // size, 1)
  most = max(n for n in (1, 2, 4) if n <= fit)
  last = build.zext(build.icmp_signed("==", share, integer(shares - 1)), share.type)
  for vectors, start, count in tiles.narrow_blocks(channels, machine.lanes, most):
    each = -(-count // shares)
    low = build.mul(share, integer(each))
    high = e.smaller(build.add(low, integer(each)), integer(count))
    # The last share takes the thinner blocks after the first kind.
    yield vectors, start, (integer(0), last) if start else (low, high)


def partial_shape(spec):
  """Shape of the kernel's result."""
  return _groups(spec)[1], spec.size, spec.size, 1, spec.channels


def _groups(spec):
  """(strips per group, groups, rows per strip, strips per image, shares of the channels)."""
  height, width = spec.out_size
  shares = -(-spec.channels // CHANNELS)
  pixel = min(spec.channels, CHANNELS)
  rows = tiles.strip_rows(
    height, STRIP, lambda r: (spec.rows_seen(r) * spec.width + r * width) * pixel
  )
  strips = -(-height // rows)
  per = -(-spec.batch * strips // min(spec.batch * strips, -(-PARTS // shares)))
  return per, -(-spec.batch * strips // per), rows, strips, shares
