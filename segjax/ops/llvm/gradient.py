"""The weight gradient: a tile of a few taps and input channels by vectors of output channels."""

from __future__ import annotations

from llvmlite import ir

from segjax.ops.llvm import tiles
from segjax.ops.llvm.emitter import integer, vector

STRIP = 96 << 10  # float32 values of a strip's copy and of the output's gradient beside it
PARTIAL = 160 << 10  # of all partial sums
PARTS = 8  # fewer groups of strips are divided by input channels, for threads to share


def gradient(spec, machine):
  """Kernel of `weight_gradient`: partial sums f32[groups,K,K,C,F], see `xla_call.register`."""
  module, e, (x, g, out, part, scratch) = tiles.begin("weight_gradient", 2)
  build, size, channels, features = e.build, spec.size, spec.channels, spec.features
  height, width = spec.out_size
  blocks = tiles.blocks(features, machine.lanes)
  most = (machine.registers - 4) // (size * len(blocks[0][0]))
  together = min(channels, next(n for n in (8, 4, 2, 1) if n <= max(most, 1)))
  per, groups, rows, strips = _groups(spec)
  # A part copies the channels that it takes: its whole lots, and the last, which may be thinner.
  whole = channels // together
  mine = whole if groups >= PARTS else -(-whole // (2 * PARTS))
  shares = -(-whole // mine)
  group, tile = e.divide(part, shares)
  low = build.mul(tile, integer(mine))
  high = e.smaller(build.add(low, integer(mine)), integer(whole))
  last = build.zext(build.icmp_signed("==", tile, integer(shares - 1)), tile.type)
  begin = build.mul(group, integer(per))
  many = e.smaller(integer(per), build.sub(integer(spec.batch * strips), begin))
  interleave, near = tiles.row_interleave(spec)
  copied, in_turn = near.rows_seen(rows), strips // interleave
  with e.loop(many) as turn:
    fresh = build.icmp_signed("==", turn, integer(0))
    image, strip = e.divide(build.add(begin, turn), strips)
    phase, done = e.divide(strip, in_turn)
    done = build.mul(done, integer(rows))
    here = e.smaller(integer(rows), build.sub(integer(height // interleave), done))
    first = build.add(build.mul(done, integer(interleave)), phase)
    above = build.mul(first, integer(spec.stride))
    tiles.copy_rows(
      e, spec, x, scratch, image, above, copied, together, interleave, (low, high, mine)
    )
    for vectors, start, (_, count) in tiles.feature_blocks(e, features, machine.lanes, None, 1):
      for lot, (begin_lot, end_lot), channel in (
        (together, (low, high), 0),
        (channels % together, (integer(0), last), whole * together),
      ):
        if not lot:
          continue
        with e.loop(count) as block, e.loop(end_lot, begin_lot) as c, e.loop(size) as i:
          g_block = e.at(
            g,
            (image, height * width * features),
            (first, width * features),
            (block, sum(vectors)),
            start,
          )
          target = e.at(
            out,
            (group, size * size * channels * features),
            (i, size * channels * features),
            (c, lot * features),
            channel * features + start,
            (block, sum(vectors)),
          )
          sums = tiles.sums(e, size * lot, vectors)
          with e.loop(here) as r:
            row = build.add(
              build.mul(r, integer(spec.stride)), build.mul(i, integer(near.dilation))
            )
            padded = spec.padded_width
            source = e.at(
              scratch,
              (build.sub(c, begin_lot), copied * padded * lot),
              (mine * together if channel else 0) * copied * padded,
              (row, padded * lot),
            )
            with e.loop(width) as column:
              pixel = e.at(g_block, (r, interleave * width * features), (column, features))
              seen = e.at(source, (column, spec.stride * lot))
              _add_pixel(e, sums, vectors, pixel, seen, lot, spec.dilation)
          for k, totals in enumerate(sums):
            for (offset, lanes), total in zip(tiles.offsets(vectors), totals, strict=True):
              at = e.at(target, (k // lot * channels + k % lot) * features + offset)
              none = ir.Constant(vector(lanes), [0.0] * lanes)
              before = build.select(fresh, none, e.load(at, lanes))
              e.store(build.fadd(before, e.load(total, lanes)), at)
  e.finish()
  channels = min(channels, (mine + 1) * together)
  return module, 2, groups * shares, copied * spec.padded_width * channels


def _add_pixel(e, sums, vectors, pixel, seen, lot, dilation):
  """Adds products of `lot` channels under a row of taps and the gradient of an output pixel."""
  gradients = [e.load(e.at(pixel, offset), lanes) for offset, lanes in tiles.offsets(vectors)]
  for k, totals in enumerate(sums):
    value = e.load(e.at(seen, k // lot * dilation * lot + k % lot))
    for total, of_output in zip(totals, gradients, strict=True):
      e.add_product(total, e.spread(value, of_output.type.count), of_output)


def partial_shape(spec):
  """Shape of the kernel's result."""
  return _groups(spec)[1], spec.size, spec.size, spec.channels, spec.features


def _groups(spec):
  """Division of a weight gradient: (strips per group, groups, rows per strip, strips per image)."""
  height, width = spec.out_size
  interleave, near = tiles.row_interleave(spec)
  row = spec.padded_width * spec.channels
  rows = tiles.strip_rows(
    height // interleave,
    STRIP,
    lambda r: near.rows_seen(r) * row + r * width * spec.features,
  )
  strips = interleave * -(-(height // interleave) // rows)
  weights = spec.size**2 * spec.channels * spec.features
  per = -(-spec.batch * strips // min(spec.batch * strips, 16, max(1, PARTIAL // weights)))
  return per, -(-spec.batch * strips // per), rows, strips
