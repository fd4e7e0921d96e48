"""The weight gradient of `winograd`, by matrix products over tiles.

It is the transpose of the convolution in its kernel: inputs of a tile, as there, and the gradient
of its outputs, added up to 16 values, give 16 matrix products over all tiles. These are the
gradient of the transformed kernel, of which additions make that of the kernel.
"""

from __future__ import annotations

from llvmlite import ir

from segjax.ops.llvm import tiles
from segjax.ops.llvm import winograd as w
from segjax.ops.llvm.emitter import integer, vector
from segjax.ops.llvm.winograd import PAD, PLACES, SEEN

CHANNELS = 96  # of the input, and of the output, that a part takes at most
STRIP = 96 << 10  # float32 values of the tiles that are taken at a time
PARTS = 16  # fewer are divided into groups of tiles


def winograd_gradient(spec, machine):
  """Kernel of `weight_gradient`: partial sums f32[groups,3,3,C,F], see `xla_call.register`."""
  module, e, (x, g, out, part, scratch) = tiles.begin("winograd_gradient", 2)
  build, (height, width) = e.build, spec.out_size
  (channels, of_input), (features, of_output) = _share(spec.channels), _share(spec.features)
  groups, per = _groups(spec)
  tiles_per_image, tiles_per_row = w.grid(spec)
  pitch = channels + PAD
  rows = min(max(STRIP // (PLACES * (pitch + features)), 1), per)
  blocks = tiles.blocks(features, machine.lanes)
  most = w.rows_of_product(blocks, machine)
  # The scratch memory: inputs of tiles, gradients of their outputs, sums, zeros around an image.
  wanted = e.at(scratch, PLACES * rows * pitch)
  sums = e.at(wanted, PLACES * rows * features)
  zeros = e.at(sums, PLACES * channels * features)
  e.clear(sums, PLACES * channels * features + max(channels, features))
  group, share = e.divide(part, of_input * of_output)
  channel, feature = e.divide(share, of_output)
  # The last share begins early rather than be thinner; the common part of two comes out twice.
  channel = e.smaller(build.mul(channel, integer(channels)), integer(spec.channels - channels))
  feature = e.smaller(build.mul(feature, integer(features)), integer(spec.features - features))
  begin = build.mul(group, integer(per))
  end = e.smaller(build.add(begin, integer(per)), integer(spec.batch * tiles_per_image))
  with e.loop(-(-per // rows)) as strip:
    first = build.add(begin, build.mul(strip, integer(rows)))
    here = e.smaller(integer(rows), build.sub(end, first))
    with e.loop(here) as tile:
      image, place = e.divide(build.add(first, tile), tiles_per_image)
      corner = w.corner_of(e, spec, place, tiles_per_row)
      source = e.at(x, (image, spec.height * spec.width * spec.channels), channel)
      pixels = w.pixels_seen(e, spec, source, zeros, corner)
      row = e.at(scratch, (tile, pitch))
      w.transform(e, machine, pixels, channels, w.of_pixels(e), row, rows * pitch)
      source = e.at(g, (image, height * width * spec.features), feature)
      outputs = w.outputs_of(e, spec, source, zeros, corner)
      row = e.at(wanted, (tile, features))
      w.transform(e, machine, outputs, features, _of_outputs(e), row, rows * features)
    with e.loop(PLACES) as n:
      for vectors, start, (_, count) in tiles.feature_blocks(e, features, machine.lanes, None, 1):
        for lot, column, times in tiles.columns(channels, most):
          with e.loop(count) as block, e.loop(times) as t:
            block_at = (block, sum(vectors)), start
            left = e.at(scratch, (n, rows * pitch), (t, lot), column), pitch, 1
            right = e.at(wanted, (n, rows * features), *block_at), features
            totals = tiles.sums(e, lot, vectors)
            tiles.add_products(e, here, totals, vectors, left, right)
            row = (n, channels * features), (t, lot * features), column * features
            target = e.at(sums, *row, *block_at)
            for total, lanes, at in tiles.places(e, totals, vectors, target, features):
              e.store(build.fadd(e.load(at, lanes), e.load(total, lanes)), at)
  target = e.at(out, (group, 9 * spec.channels * spec.features), (channel, spec.features), feature)
  _write(e, machine, spec, sums, channels, features, target)
  e.finish()
  size = PLACES * (rows * (pitch + features) + channels * features) + max(channels, features)
  return module, 2, groups * of_input * of_output, size


def _write(e, machine, spec, sums, channels, features, target):
  """Writes the kernel's gradient of that of the transformed one, f32[16,channels,features]."""
  of_tap = spec.channels * spec.features
  with e.loop(channels) as c:
    for lanes, here in w.vectors_of(e, features, machine.lanes):
      source = e.at(sums, (c, features), *here)
      values = w.square(e, SEEN, source, channels * features, lanes)
      for tap, value in enumerate(w.both_axes(_of_places(e, lanes), values)):
        e.store(value, e.at(target, tap * of_tap, (c, spec.features), *here))


def partial_shape(spec):
  """Shape of the kernel's result."""
  return _groups(spec)[0], 3, 3, spec.channels, spec.features


def _share(channels):
  """(channels of a part, parts), chosen so that the padded channels in total are fewest."""
  least = -(-channels // CHANNELS)
  found = []
  for parts in range(least, 2 * least):
    each = -(-channels // parts)
    each = min(each + -each % 16, channels)
    found.append((each * parts, parts, each))
  _, parts, each = min(found)
  return each, parts


def _groups(spec):
  """(groups of tiles, tiles of a group)."""
  shares = _share(spec.channels)[1] * _share(spec.features)[1]
  count = spec.batch * w.grid(spec)[0]
  per = -(-count // min(-(-PARTS // shares), count))
  return -(-count // per), per


def _of_outputs(e):
  """The transform of the gradients of two outputs."""
  build = e.build
  return lambda a, b: (a, build.fadd(a, b), build.fsub(a, b), build.fneg(b))


def _of_places(e, lanes):
  """Three taps' gradients of four values' of the transformed kernel."""
  build, half = e.build, ir.Constant(vector(lanes), [0.5] * lanes)

  def along(a, b, c, d):
    middle = build.fmul(build.fadd(b, c), half)
    return build.fadd(a, middle), build.fmul(build.fsub(b, c), half), build.fadd(middle, d)

  return along
