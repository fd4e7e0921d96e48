"""Building blocks of both kernels: strips of padded rows, blocks of output channels, tiles of sums.

Numbers known when a kernel is written are ints, all others values of llvmlite's.
"""

from __future__ import annotations

from llvmlite import ir

from segjax.ops.llvm import emitter
from segjax.ops.llvm.emitter import integer


def begin(name, arrays):
  """(module, Emitter, its arguments) of a kernel with `arrays` arguments and one result."""
  module = ir.Module(name)
  arguments = [emitter.POINTER] * (arrays + 1) + [emitter.I64, emitter.POINTER]
  function = ir.Function(module, ir.FunctionType(emitter.VOID, arguments), "item")
  for argument in function.args:
    if argument.type == emitter.POINTER:
      argument.add_attribute("noalias")
  return module, emitter.Emitter(function), function.args


def blocks(features, lanes):
  """Output channels as [(vectors, count)]: `count` blocks, each of vectors of so many lanes."""
  count, rest = divmod(features, 2 * lanes)
  whole = [((lanes, lanes), count)] if count else []
  vectors = []
  while lanes:
    if rest >= lanes:
      vectors.append(lanes)
      rest -= lanes
    else:
      lanes //= 2
  return whole + ([(tuple(vectors), 1)] if vectors else [])


def narrow_blocks(channels, lanes, most):
  """Channels as [(vectors, first, count)]: blocks of `most` vectors of `lanes`, then thinner ones.

  No block has more vectors than `most`.
  """
  count, rest = divmod(channels, most * lanes)
  found = [((lanes,) * most, 0, count)] if count else []
  vectors, start = [], channels - rest
  while rest:
    lanes = min(lanes, 1 << rest.bit_length() - 1)
    vectors, rest = [*vectors, lanes], rest - lanes
    if len(vectors) == most or not rest:
      found.append((tuple(vectors), start, 1))
      vectors, start = [], start + sum(vectors)
  return found


def offsets(vectors):
  """[(first feature, lanes)] of the vectors of a block."""
  return [(sum(vectors[:i]), lanes) for i, lanes in enumerate(vectors)]


def feature_blocks(e, features, lanes, share, shares):
  """For each kind of block of `blocks`: (vectors, first feature, range of blocks of this share).

  Every share has as many blocks of all, the last may have fewer; with one share that is all.
  """
  build, kinds = e.build, blocks(features, lanes)
  each = -(-sum(count for _, count in kinds) // shares)
  first_block, first = 0, 0
  for vectors, count in kinds:
    if shares == 1:
      yield vectors, first, (0, count)
    else:
      start = build.sub(build.mul(share, integer(each)), integer(first_block))
      end = e.smaller(build.add(start, integer(each)), integer(count))
      yield vectors, first, (e.larger(start, integer(0)), end)
    first_block, first = first_block + count, first + count * sum(vectors)


def columns(width, most):
  """A row of outputs as [(pixels, first, count)]: `count` tiles of so many pixels from `first`."""
  even = max(p for p in range(1, most + 1) if width % p == 0)
  if 5 * even >= 3 * most or even == width:
    return [(even, 0, width // even)]
  count, rest = divmod(width, most)
  return [(most, 0, count)] * (count > 0) + [(rest, most * count, 1)] * (rest > 0)


def strip_rows(rows, most, values):
  """Rows of a strip: as many as keep values(rows) within `most`, halved until they do."""
  while rows > 1 and values(rows) > most:
    rows = -(-rows // 2)
  return rows


def row_interleave(spec):
  """(n, spec): strips are of rows n apart, for which the kernel's rows are as `spec` says.

  Rows that are a dilation apart see the same rows of the input, others do not.
  """
  interleave = spec.dilation if spec.stride == 1 and spec.out_size[0] % spec.dilation == 0 else 1
  return interleave, spec._replace(dilation=spec.dilation // interleave)


def copy_rows(e, spec, x, target, image, first, rows, block, interleave=1, lots=None):
  """Copies rows of an image with their padding, as [C//block,rows,padded width,block].

  Args:
    e: Emitter.
    spec: Convolution.
    x: the images.
    target: pointer to write to.
    image: index.
    first: row of the padded image to begin with.
    rows: count.
    block: channels that lie together; a last block may have fewer.
    interleave: rows from one copied row to the next.
    lots: (first, end, most) of the whole blocks that are copied, none by default left out; a last
      block of fewer channels comes `most` blocks after the first.
  """
  build = e.build
  height, width, channels = spec.height, spec.width, spec.channels
  (top, _), (left, right) = spec.pads
  padded = spec.padded_width

  def copy(low, high, block, start, after):
    with e.loop(high, low) as b, e.loop(rows) as r:
      row = build.add(first, build.mul(r, integer(interleave)))
      row = build.sub(row, integer(top))
      inside = build.icmp_unsigned("<", row, integer(height))
      lot = build.sub(b, low) if low else b
      place = e.at(target, (lot, rows * padded * block), after * rows * padded, (r, padded * block))
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
              copy_values(
                e,
                e.at(place, left * block, (column, block)),
                e.at(source, (column, channels)),
                block,
              )
          e.clear(e.at(place, (left + width) * block), right * block)
        with otherwise:
          e.clear(place, padded * block)

  count, rest = divmod(channels, block)
  low, high, most = lots or (0, count, count)
  if count:
    copy(low, high, block, 0, 0)
  if rest:
    copy(0, 1, rest, count * block, most * block)


def copy_values(e, target, source, count):
  """Copies a few values by vectors of a power of two."""
  start = 0
  while start < count:
    lanes = 1 << (count - start).bit_length() - 1
    e.store(e.load(e.at(source, start), lanes), e.at(target, start))
    start += lanes


def copy_tap(e, spec, target, kernel, i, j, feature, block, pitch):
  """Copies `block` features of a tap, from `feature` on, for each input channel.

  Args:
    e: Emitter.
    spec: Convolution.
    target: pointer to write to.
    kernel: f32[K,K,C,F], or turned.
    i: row of the tap, a value.
    j: its column, an int.
    feature: the first, a value.
    block: count.
    pitch: values from one input channel to the next in the target.
  """
  size, channels, features = spec.size, spec.channels, spec.features
  taps = channels * features
  if spec.turned:
    last = (size * size - 1 - j) * taps
    source = e.at(kernel, (i, -size * taps), (feature, channels), last)
    with e.loop(block) as f, e.loop(channels) as c:
      value = e.load(e.at(source, (f, channels), c))
      e.store(value, e.at(target, (c, pitch), f))
  else:
    source = e.at(kernel, (i, size * taps), feature, j * taps)
    with e.loop(channels) as c:
      copy_values(e, e.at(target, (c, pitch)), e.at(source, (c, features)), block)


def sums(e, count, vectors):
  """Variables for `count` blocks of features, set to 0."""
  sums = [[e.variable(emitter.vector(lanes)) for lanes in vectors] for _ in range(count)]
  for block in sums:
    for total, lanes in zip(block, vectors, strict=True):
      e.store(ir.Constant(emitter.vector(lanes), [0.0] * lanes), total)
  return sums


def places(e, sums, vectors, target, pitch):
  """[(variable, lanes, pointer)] of sums; blocks of features lie `pitch` values apart."""
  return [
    (total, lanes, e.at(target, p * pitch + offset))
    for p, totals in enumerate(sums)
    for (offset, lanes), total in zip(offsets(vectors), totals, strict=True)
  ]


def add_products(e, count, sums, vectors, left, right):
  """Adds a matrix product of `count` terms to sums, one row of its left matrix for each block.

  Args:
    e: Emitter.
    count: an int or a value.
    sums: variables, see `sums`.
    vectors: widths of the vectors of a block.
    left: (pointer, values from one term to the next, values from one row to the next).
    right: (pointer, values from one term to the next).
  """
  with e.loop(count) as term:
    row = e.at(right[0], (term, right[1]))
    factors = [e.load(e.at(row, offset), lanes) for offset, lanes in offsets(vectors)]
    column = e.at(left[0], (term, left[1]))
    for p, totals in enumerate(sums):
      value = e.load(e.at(column, p * left[2]))
      for total, factor in zip(totals, factors, strict=True):
        e.add_product(total, e.spread(value, factor.type.count), factor)
