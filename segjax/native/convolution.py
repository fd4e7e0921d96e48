"""Direct convolution and its weight gradient, NHWC, float32.

Both go through an image a strip of rows at a time, from a copy with its padding that stays in the
cache of a core. The innermost loops keep a tile of sums in registers: a few pixels by up to two
vectors of output channels forward, a few taps and input channels by as many for the gradient. Each
sum is taken in one fixed order with products rounded once, so that neither the number of threads
nor the width of the vectors changes a bit, nor, forward, the other images of the batch.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from segjax.native import xla_call

STRIP = 160 << 10  # float32 values of a strip's copy forward
STRIP_OF_GRADIENT = 96 << 10  # of a strip's copy and of the output's gradient beside it
PARTIAL = 160 << 10  # of all partial sums of a weight gradient
LARGE = 64 << 10  # values of a kernel of which a block is packed once an image
PARTS = 8  # fewer are divided by output channels, so that threads share them evenly


class Convolution(NamedTuple):
  """Shapes of a convolution, all that its kernels depend on.

  Attributes:
    batch: images.
    height: rows of an image.
    width: pixels of a row.
    channels: of the input.
    features: channels of the output.
    size: rows and columns of the kernel.
    stride: of both axes.
    dilation: of both axes.
    pads: ((top, bottom), (left, right)), rows and columns of zeros, none negative.
    turned: the kernel is given as [K,K,F,C] and read from its end, as the gradient by the input of
      a convolution with it asks for.
  """

  batch: int
  height: int
  width: int
  channels: int
  features: int
  size: int
  stride: int
  dilation: int
  pads: tuple[tuple[int, int], tuple[int, int]]
  turned: bool = False

  @property
  def reach(self):
    """Rows that one output sees, from the first to the last."""
    return self.dilation * (self.size - 1) + 1

  @property
  def padded_width(self):
    """Pixels of a row with its padding."""
    return self.width + sum(self.pads[1])

  @property
  def out_size(self):
    """(rows, columns) of the output."""
    padded = self.height + sum(self.pads[0]), self.padded_width
    return tuple((n - self.reach) // self.stride + 1 for n in padded)

  def rows_seen(self, rows):
    """Rows of the input that `rows` rows of the output see."""
    return (rows - 1) * self.stride + self.reach


def usable(spec, *dtypes):
  """Whether `convolve` and `weight_gradient` work here for arrays of `dtypes`."""
  return (
    all(d == jnp.float32 for d in dtypes)
    and spec.size > 1
    and min(map(min, spec.pads)) >= 0
    and min(spec.out_size) > 0
    and xla_call.machine() is not None
    and jax.local_device_count("cpu") == 1  # XLA cannot divide a call among devices
  )


def convolve(x, kernel, spec):
  """The convolution `spec` of x f32[B,H,W,C] and kernel f32[K,K,C,F], f32[B,H',W',F]."""
  return _call(_forward_p, spec, x, kernel)


def weight_gradient(x, g, spec):
  """Gradient of `convolve` by the kernel, f32[K,K,C,F], where g f32[B,H',W',F] is the output's."""
  return _call(_gradient_p, spec, x, g).sum(0)


def _primitive(name, make, out_shape):
  """A primitive of JAX that is compiled when a program is lowered for a CPU, not when traced."""
  primitive = Primitive(name)

  def lower(context, *operands, spec):
    name = xla_call.register(make, spec, xla_call.machine())
    return jax.ffi.ffi_lowering(name)(context, *operands)

  mlir.register_lowering(primitive, lower, platform="cpu")
  primitive.def_abstract_eval(lambda *_, spec: jax.core.ShapedArray(out_shape(spec), jnp.float32))
  primitive.def_impl(
    lambda *args, spec: jax.jit(functools.partial(primitive.bind, spec=spec))(*args)
  )
  return primitive


def _call(primitive, spec, *args):
  return jax.custom_batching.sequential_vmap(functools.partial(primitive.bind, spec=spec))(*args)


def _blocks(features, lanes):
  """Output channels as [(vectors, count)]: `count` blocks, each of vectors of so many lanes."""
  count, rest = divmod(features, 2 * lanes)
  blocks = [((lanes, lanes), count)] if count else []
  vectors = []
  while lanes:
    if rest >= lanes:
      vectors.append(lanes)
      rest -= lanes
    else:
      lanes //= 2
  return blocks + ([(tuple(vectors), 1)] if vectors else [])


def _columns(width, most):
  """A row of outputs as [(pixels, first, count)]: `count` tiles of so many pixels from `first`."""
  even = max(p for p in range(1, most + 1) if width % p == 0)
  if 5 * even >= 3 * most or even == width:
    return [(even, 0, width // even)]
  count, rest = divmod(width, most)
  return [(most, 0, count)] * (count > 0) + [(rest, most * count, 1)] * (rest > 0)


def _begin(name, arrays):
  """(module, Emitter, its arguments) of a kernel with `arrays` arguments and one result."""
  from llvmlite import ir

  from segjax.native import emitter

  module = ir.Module(name)
  arguments = [emitter.POINTER] * (arrays + 1) + [emitter.I64, emitter.POINTER]
  function = ir.Function(module, ir.FunctionType(emitter.VOID, arguments), "item")
  for argument in function.args:
    if argument.type == emitter.POINTER:
      argument.add_attribute("noalias")
  return module, emitter.Emitter(function), function.args


def _copy_rows(e, spec, x, target, image, first, rows, block):
  """Copies rows of an image with their padding, as [C//block,rows,padded width,block].

  Args:
    e: Emitter.
    spec: Convolution.
    x: the images.
    target: where to.
    image: index.
    first: row of the padded image to begin with.
    rows: count.
    block: channels that lie together; a last block may have fewer.
  """
  from llvmlite import ir

  build = e.build
  height, width, channels = spec.height, spec.width, spec.channels
  (top, _), (left, right) = spec.pads
  padded = spec.padded_width

  def copy(count, block, start):
    with e.loop(count) as b, e.loop(rows) as r:
      row = build.sub(build.add(first, r), ir.Constant(r.type, top))
      inside = build.icmp_unsigned("<", row, ir.Constant(r.type, height))
      place = e.at(target, (b, rows * padded * block), start * rows * padded, (r, padded * block))
      with build.if_else(inside) as (then, otherwise):
        with then:
          source = e.at(
            x, (image, height * width * channels), (row, width * channels), (b, block), start
          )
          e.clear(place, left * block)
          if block == channels:
            e.copy(e.at(place, left * block), source, width * block)
          else:
            with e.loop(width) as column:
              _copy_values(
                e,
                e.at(place, left * block, (column, block)),
                e.at(source, (column, channels)),
                block,
              )
          e.clear(e.at(place, (left + width) * block), right * block)
        with otherwise:
          e.clear(place, padded * block)

  count, rest = divmod(channels, block)
  if count:
    copy(count, block, 0)
  if rest:
    copy(1, rest, count * block)


def _copy_values(e, target, source, count):
  """Copies a few values by vectors of a power of two."""
  start = 0
  while start < count:
    lanes = 1 << (count - start).bit_length() - 1
    e.store(e.load(e.at(source, start), lanes), e.at(target, start))
    start += lanes


def _strip_rows(rows, most, values):
  """Rows of a strip: as many as keep values(rows) within `most`, halved until they do."""
  while rows > 1 and values(rows) > most:
    rows = -(-rows // 2)
  return rows


def _feature_blocks(e, features, lanes, tile, tiles):
  """For each kind of block of `_blocks`: (vectors, first feature, range of blocks of this part).

  With one tile every part does all blocks, else a part the block that `tile` says.
  """
  from segjax.native.emitter import integer

  build, first_block, first = e.build, 0, 0
  for vectors, count in _blocks(features, lanes):
    if tiles == 1:
      yield vectors, first, (0, count)
    else:
      mine = build.sub(tile, integer(first_block))
      inside = build.icmp_unsigned("<", mine, integer(count))
      start = build.select(inside, mine, integer(0))
      yield vectors, first, (start, build.select(inside, build.add(mine, integer(1)), integer(0)))
    first_block, first = first_block + count, first + count * sum(vectors)


def _pack(e, spec, kernel, target, feature, block):
  """Copies `block` features of the kernel, from `feature` on, to f32[K,C,K,block]."""
  size, channels, features = spec.size, spec.channels, spec.features
  taps = channels * features
  with e.loop(size) as i:
    for j in range(size):
      place = e.at(target, (i, channels * size * block), j * block)
      if spec.turned:
        last = (size * size - 1 - j) * taps
        source = e.at(kernel, (i, -size * taps), (feature, channels), last)
        with e.loop(block) as f, e.loop(channels) as c:
          value = e.load(e.at(source, (f, channels), c))
          e.store(value, e.at(place, (c, size * block), f))
      else:
        source = e.at(kernel, (i, size * taps), feature, j * taps)
        with e.loop(channels) as c:
          _copy_values(e, e.at(place, (c, size * block)), e.at(source, (c, features)), block)


def _division(spec, rows, blocks):
  """(strips, tiles) into which the work of an image is divided.

  By strips of `rows` rows or by blocks of features, of which large kernels are packed once then.
  """
  strips = -(-spec.out_size[0] // rows)
  large = spec.size**2 * spec.channels * spec.features >= LARGE
  if spec.batch * (blocks if large else strips) < PARTS:
    large = blocks > strips
  return (1, blocks) if large else (strips, 1)


def forward(spec, machine):
  """Kernel of `convolve`, see `xla_call.register`."""
  from segjax.native.emitter import integer

  module, e, (x, kernel, out, part, scratch) = _begin("convolve", 2)
  build, size, channels, features = e.build, spec.size, spec.channels, spec.features
  height, width = spec.out_size
  row = spec.padded_width * channels
  rows = _strip_rows(min(8, height), STRIP, lambda r: spec.rows_seen(r) * row)
  strip = spec.rows_seen(rows) * row
  packed = e.at(scratch, strip)
  blocks = _blocks(features, machine.lanes)
  strips, tiles = _division(spec, rows, sum(count for _, count in blocks))
  place, tile = build.sdiv(part, integer(tiles)), build.srem(part, integer(tiles))
  image, begin = build.sdiv(place, integer(strips)), build.srem(place, integer(strips))
  end = build.add(begin, integer(1)) if strips > 1 else integer(-(-height // rows))
  for vectors, start, (low, high) in _feature_blocks(e, features, machine.lanes, tile, tiles):
    together = sum(vectors)
    free = machine.registers - 2 - size * len(vectors)
    most = min(max(free // len(vectors), 1), 16)
    with e.loop(high, low) as block:
      feature = build.add(build.mul(block, integer(together)), integer(start))
      _pack(e, spec, kernel, packed, feature, together)
      with e.loop(end, begin) as s:
        # The last strip begins early rather than be shorter; its first rows come out again.
        first = e.smaller(build.mul(s, integer(rows)), integer(height - rows))
        above = build.mul(first, integer(spec.stride))
        _copy_rows(e, spec, x, scratch, image, above, spec.rows_seen(rows), channels)
        with e.loop(rows) as r:
          for pixels, column, count in _columns(width, most):
            with e.loop(count) as c:
              sums = _sums(e, pixels, vectors)
              with e.loop(size) as i:
                seen = build.add(
                  build.mul(r, integer(spec.stride)), build.mul(i, integer(spec.dilation))
                )
                step = spec.stride * channels
                source = e.at(scratch, (seen, row), (c, pixels * step), column * step)
                with e.loop(channels) as channel:
                  taps = (i, channels * size * together), (channel, size * together)
                  _add_taps(e, spec, sums, vectors, e.at(source, channel), e.at(packed, *taps))
              target = e.at(
                out,
                (image, height * width * features),
                (build.add(first, r), width * features),
                (c, pixels * features),
                column * features,
                feature,
              )
              for p, of_pixel in enumerate(sums):
                for (offset, lanes), total in zip(_offsets(vectors), of_pixel, strict=True):
                  e.store(e.load(total, lanes), e.at(target, p * features + offset))
  e.finish()
  return module, 2, spec.batch * strips * tiles, strip + size * size * channels * 2 * machine.lanes


def _offsets(vectors):
  """[(first feature, lanes)] of the vectors of a block."""
  return [(sum(vectors[:i]), lanes) for i, lanes in enumerate(vectors)]


def _sums(e, count, vectors):
  """Variables for `count` blocks of features, set to 0."""
  from llvmlite import ir

  from segjax.native.emitter import vector

  sums = [[e.variable(vector(lanes)) for lanes in vectors] for _ in range(count)]
  for block in sums:
    for total, lanes in zip(block, vectors, strict=True):
      e.store(ir.Constant(vector(lanes), [0.0] * lanes), total)
  return sums


def _add_taps(e, spec, sums, vectors, source, taps):
  """Adds one row of taps of one input channel to a tile; each pixel is read once for all taps."""
  weights = [
    [e.load(e.at(taps, j * sum(vectors) + offset), lanes) for offset, lanes in _offsets(vectors)]
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


def _groups(spec):
  """How a weight gradient is divided: (strips a group, groups, rows a strip, strips an image)."""
  height, width = spec.out_size
  row = spec.padded_width * spec.channels
  rows = _strip_rows(
    height, STRIP_OF_GRADIENT, lambda r: spec.rows_seen(r) * row + r * width * spec.features
  )
  strips = -(-height // rows)
  weights = spec.size**2 * spec.channels * spec.features
  per = -(-spec.batch * strips // min(spec.batch * strips, 16, max(1, PARTIAL // weights)))
  return per, -(-spec.batch * strips // per), rows, strips


def _lots(channels, most):
  """Input channels as [(channels, count, first)]: `count` lots of so many from `first`."""
  count, rest = divmod(channels, most)
  return [(most, count, 0)] + [(rest, 1, most * count)] * (rest > 0)


def gradient(spec, machine):
  """Kernel of `weight_gradient`: partial sums f32[groups,K,K,C,F], see `xla_call.register`."""
  from llvmlite import ir

  from segjax.native.emitter import integer, vector

  module, e, (x, g, out, part, scratch) = _begin("weight_gradient", 2)
  build, size, channels, features = e.build, spec.size, spec.channels, spec.features
  height, width = spec.out_size
  blocks = _blocks(features, machine.lanes)
  most = (machine.registers - 4) // (size * len(blocks[0][0]))
  together = min(channels, next(n for n in (8, 4, 2, 1) if n <= max(most, 1)))
  per, groups, rows, strips = _groups(spec)
  tiles = 1 if groups >= PARTS else sum(count for _, count in blocks)
  group, tile = build.sdiv(part, integer(tiles)), build.srem(part, integer(tiles))
  begin = build.mul(group, integer(per))
  many = e.smaller(integer(per), build.sub(integer(spec.batch * strips), begin))
  copied = spec.rows_seen(rows)
  with e.loop(many) as turn:
    fresh = build.icmp_signed("==", turn, integer(0))
    place = build.add(begin, turn)
    image = build.sdiv(place, integer(strips))
    first = build.mul(build.srem(place, integer(strips)), integer(rows))
    here = e.smaller(integer(rows), build.sub(integer(height), first))
    above = build.mul(first, integer(spec.stride))
    _copy_rows(e, spec, x, scratch, image, above, copied, together)
    for vectors, start, (low, high) in _feature_blocks(e, features, machine.lanes, tile, tiles):
      for lot, count, channel in _lots(channels, together):
        with e.loop(high, low) as block, e.loop(count) as c, e.loop(size) as i:
          of_block = e.at(
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
          sums = _sums(e, size * lot, vectors)
          with e.loop(here) as r:
            row = build.add(
              build.mul(r, integer(spec.stride)), build.mul(i, integer(spec.dilation))
            )
            padded = spec.padded_width
            source = e.at(
              scratch,
              (c, copied * padded * lot),
              channel * copied * padded,
              (row, padded * lot),
            )
            with e.loop(width) as column:
              pixel = e.at(of_block, (r, width * features), (column, features))
              seen = e.at(source, (column, spec.stride * lot))
              gradients = [e.load(e.at(pixel, o), lanes) for o, lanes in _offsets(vectors)]
              for k, totals in enumerate(sums):
                value = e.load(e.at(seen, k // lot * spec.dilation * lot + k % lot))
                for total, of_output in zip(totals, gradients, strict=True):
                  e.add_product(total, e.spread(value, of_output.type.count), of_output)
          for k, totals in enumerate(sums):
            for (offset, lanes), total in zip(_offsets(vectors), totals, strict=True):
              at = e.at(target, (k // lot * channels + k % lot) * features + offset)
              before = build.select(
                fresh, ir.Constant(vector(lanes), [0.0] * lanes), e.load(at, lanes)
              )
              e.store(build.fadd(before, e.load(total, lanes)), at)
  e.finish()
  return module, 2, groups * tiles, copied * spec.padded_width * channels


_forward_p = _primitive(
  "segjax_convolve", forward, lambda spec: (spec.batch, *spec.out_size, spec.features)
)
_gradient_p = _primitive(
  "segjax_weight_gradient",
  gradient,
  lambda s: (_groups(s)[1], s.size, s.size, s.channels, s.features),
)
