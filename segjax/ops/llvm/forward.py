"""The forward convolution: a tile of a few pixels by up to two vectors of output channels."""

from __future__ import annotations

from segjax.ops.llvm import tiles
from segjax.ops.llvm.emitter import integer

STRIP = 160 << 10  # float32 values of a strip's copy
LARGE = 64 << 10  # values of a kernel of which a block is packed once per image
PARTS = 8  # fewer are divided otherwise, so that threads share them evenly


def forward(spec, machine):
  """Kernel of `convolve`, see `xla_call.register`."""
  module, e, (x, kernel, out, part, scratch) = tiles.begin("convolve", 2)
  build, size, channels, features = e.build, spec.size, spec.channels, spec.features
  height, width = spec.out_size
  row = spec.padded_width * channels
  interleave, near = tiles.row_interleave(spec)
  rows = tiles.strip_rows(min(8, height // interleave), STRIP, lambda r: near.rows_seen(r) * row)
  strip = near.rows_seen(rows) * row
  packed = e.at(scratch, strip)
  blocks = tiles.blocks(features, machine.lanes)
  in_turn = -(-(height // interleave) // rows)
  strips, shares = _division(spec, interleave * in_turn, sum(count for _, count in blocks))
  place, tile = e.divide(part, shares)
  image, begin = e.divide(place, strips)
  end = build.add(begin, integer(1)) if strips > 1 else integer(interleave * in_turn)
  for vectors, start, (low, high) in tiles.feature_blocks(e, features, machine.lanes, tile, shares):
    together = sum(vectors)
    free = machine.registers - 2 - size * len(vectors)
    most = min(max(free // len(vectors), 1), 16)
    with e.loop(high, low) as block:
      feature = build.add(build.mul(block, integer(together)), integer(start))
      _pack(e, spec, kernel, packed, feature, together)
      with e.loop(end, begin) as s:
        # The last strip begins early rather than be shorter; its first rows come out again.
        phase, turn = e.divide(s, in_turn)
        turn = build.mul(turn, integer(rows))
        turn = e.smaller(turn, integer(height // interleave - rows))
        first = build.add(build.mul(turn, integer(interleave)), phase)
        above = build.mul(first, integer(spec.stride))
        tiles.copy_rows(
          e, spec, x, scratch, image, above, near.rows_seen(rows), channels, interleave
        )
        with e.loop(rows) as r:
          for pixels, column, count in tiles.columns(width, most):
            with e.loop(count) as c:
              sums = tiles.sums(e, pixels, vectors)
              with e.loop(size) as i:
                seen = build.add(
                  build.mul(r, integer(spec.stride)), build.mul(i, integer(near.dilation))
                )
                step = spec.stride * channels
                source = e.at(scratch, (seen, row), (c, pixels * step), column * step)
                with e.loop(channels) as channel:
                  taps = (i, channels * size * together), (channel, size * together)
                  _add_taps(e, spec, sums, vectors, e.at(source, channel), e.at(packed, *taps))
              target = e.at(
                out,
                (image, height * width * features),
                (build.add(first, build.mul(r, integer(interleave))), width * features),
                (c, pixels * features),
                column * features,
                feature,
              )
              for total, lanes, place in tiles.places(e, sums, vectors, target, features):
                e.store(e.load(total, lanes), place)
  e.finish()
  return module, 2, spec.batch * strips * shares, strip + size * size * channels * 2 * machine.lanes


def _pack(e, spec, kernel, target, feature, block):
  """Copies `block` features of the kernel, from `feature` on, to f32[K,C,K,block]."""
  with e.loop(spec.size) as i:
    for j in range(spec.size):
      place = e.at(target, (i, spec.channels * spec.size * block), j * block)
      tiles.copy_tap(e, spec, place, kernel, i, j, feature, block, spec.size * block)


def _division(spec, strips, blocks):
  """(strips, shares) into which the work of an image is divided.

  By its strips of rows or by blocks of features, of which large kernels are packed once then.
  """
  large = spec.size**2 * spec.channels * spec.features >= LARGE
  if spec.batch * (blocks if large else strips) < PARTS:
    large = blocks > strips
  return (1, blocks) if large else (strips, 1)


def _add_taps(e, spec, sums, vectors, source, taps):
  """Adds one row of taps of one input channel to a tile; each pixel is read once for all taps."""
  weights = [
    [
      e.load(e.at(taps, j * sum(vectors) + offset), lanes)
      for offset, lanes in tiles.offsets(vectors)
    ]
    for j in range(spec.size)
  ]
  uses = {}
  for p in range(len(sums)):
    for j in range(spec.size):
      uses.setdefault(p * spec.stride + j * spec.dilation, []).append((p, j))
  for place in sorted(uses):
    value = e.load(e.at(source, place * spec.channels))
    for p, j in uses[place]:
      for total, weight in zip(sums[p], weights[j], strict=True):
        e.add_product(total, e.spread(value, weight.type.count), weight)
