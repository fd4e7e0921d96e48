"""Convolutions with PyTorch's conventions, over one primitive that composes with every transform.

The primitive computes any of the three arrays of a convolution from the other two, see `forms`.
Derivatives and transposes of any order are the primitive with another slot left out. A mapped axis
becomes part of the axis that its array shares with the result. The primitive gets its form where a
program is lowered: for a CPU from `cpu`, for a GPU from `gpu`, elsewhere and in programs of several
CPUs, JAX's convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from segjax.ops import arguments, cpu, gpu
from segjax.ops.forms import PLAIN, choose, others
from segjax.ops.llvm import Convolution
from segjax.ops.platforms import is_plain
from segjax.ops.rows import divides, undivided_rows
from segjax.ops.shapes import interleave

# Of each slot, the axes that it shares with others and is not summed over with them.
AXES = {
  "image": dict(batch=0, channels=3),
  "kernel": dict(channels=2, features=3),
  "output": dict(batch=0, features=3),
}
# Of these axes, those that count the groups before anything else.
GROUPED = {("image", "channels"), ("kernel", "features"), ("output", "features")}
# Convolutions with both arrays mapped, up to so many, are written out; more are a loop.
WRITTEN_OUT = 8
# XLA's CPU backend sums products of narrow floats in float32; since 0.11 some in their own dtype.
SUMS_ARE_NARROW = not jax.__version__.startswith("0.10.")


class Spec(NamedTuple):
  """The parts of a convolution that the shapes of two arrays leave open.

  Attributes:
    stride: stride of both axes.
    dilation: dilation of both axes.
    pads: ((top, bottom), (left, right)), rows and columns of zeros.
    groups: number of groups that channels and features are divided into.
    missing: (rows, columns) of the array that is computed; None for the output, whose size follows.
  """

  stride: int
  dilation: int
  pads: tuple[tuple[Any, Any], tuple[Any, Any]]
  groups: int
  missing: tuple[Any, Any] | None = None


conv_p = Primitive("segjax_conv")


def conv(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int = 1,
  padding: int | str | Sequence[tuple[int, int]] = 0,
  dilation: int = 1,
  groups: int = 1,
) -> jax.Array:
  """Two-dimensional convolution, NHWC and HWIO.

  Args:
    x: [B,H,W,C].
    kernel: [K,K,C//groups,features], same dtype.
    stride: stride of both axes.
    padding: rows and columns of zeros on each side, as in PyTorch, or "SAME" as in TensorFlow
      (which pads an even size with stride 2 at the bottom and right only), "VALID" for none, or
      pairs.
    dilation: dilation of both axes.
    groups: number of groups of channels.

  Returns:
    [B,H',W',features], same dtype.

  Raises:
    ValueError: shapes that do not fit each other, or a stride, dilation or padding of another form.
    TypeError: different dtypes.
  """
  x, kernel = jnp.asarray(x), jnp.asarray(kernel)
  arguments.check(x, kernel, groups, stride, dilation)
  pads = arguments.pads(x.shape[1:3], kernel.shape[0], stride, padding, dilation)
  x, pads = _padded(x, pads, dilation * (kernel.shape[0] - 1))
  return _bind("output", Spec(stride, dilation, pads, groups), x, kernel)


def conv_transpose(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Transposed convolution with stride 2, whose output is exactly twice the input; NHWC and HWIO.

  Equals `jax.lax.conv_transpose(x, kernel, (2, 2), padding)` with padding "VALID" for 2x2, ((1, 2),
  (1, 2)) for 3x3 and ((2, 2), (2, 2)) for 4x4. Of the first two it is the image's slot of a
  convolution with stride 2.

  Args:
    x: [B,H,W,C].
    kernel: [K,K,C,features], K being 2, 3 or 4, same dtype.

  Returns:
    [B,2H,2W,features], same dtype.

  Raises:
    ValueError: shapes that do not fit each other, another kernel size.
    TypeError: different dtypes.
  """
  x, kernel = jnp.asarray(x), jnp.asarray(kernel)
  arguments.check(x, kernel, 1)
  size = kernel.shape[0]
  if size == 4:
    return _by_parity(x, kernel)
  if size not in (2, 3):
    raise ValueError(f"conv_transpose: kernel has shape {kernel.shape}, expected 2x2, 3x3 or 4x4")
  pads = ((size - 2, 0),) * 2
  spec = Spec(2, 1, pads, 1, (2 * x.shape[1], 2 * x.shape[2]))
  # JAX's transposed convolution does not flip its kernel: tap (1, 1) feeds the offset (0, 0).
  return _bind("image", spec, kernel[::-1, ::-1].swapaxes(2, 3), x)


def _by_parity(x, kernel):
  """A transposed 4x4 convolution: each parity of rows and columns is a 2x2 one, without waste."""

  def part(i, j):
    return conv(x, kernel[i::2, j::2], padding=((1 - i, i), (1 - j, j)))

  return interleave(*(interleave(part(i, 0), part(i, 1), 2) for i in (0, 1)), 1)


def products_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
  """A policy of `jax.checkpoint` that keeps the results of convolutions and matrix products.

  JAX's `dots_saveable` knows nothing of the primitive here and computes each convolution again.
  """
  return primitive in (conv_p, jax.lax.conv_general_dilated_p, jax.lax.dot_general_p)


def _padded(x, pads, most):
  """The image with all padding below 0 and above `most`, and the rest of the padding.

  XLA reads beyond the image on a CPU where padding is negative. Padding above `most` would make
  that of the gradient negative.
  """
  fixed = [p for p in pads if all(isinstance(n, int) for n in p)]
  rest = tuple(tuple(min(max(n, 0), most) for n in p) if p in fixed else p for p in pads)
  outer = [tuple(a - b for a, b in zip(*p, strict=True)) for p in zip(pads, rest, strict=True)]
  if rest != pads:
    edges = ((0, 0, 0), *((low, high, 0) for low, high in outer), (0, 0, 0))
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
  return x, rest


def _bind(wanted, spec, a, b):
  """The slot `wanted` from the other two; maps of too few rows stay whole, see `rows`."""
  c, maps = _shapes(a, b, wanted, spec), dict(zip(others(wanted), (a, b), strict=True))
  few = (c.size, c.stride) != (1, 1) and not divides(c.height, c.out_size[0])
  if few:
    a, b = (x if slot == "kernel" else undivided_rows(x) for slot, x in maps.items())
  if is_plain():
    y = PLAIN.compute(wanted, a, b, c)
  else:
    y = conv_p.bind(*_alike(a, b), wanted=wanted, spec=spec)
  return undivided_rows(y) if few else y


def _shapes(a, b, wanted, spec):
  """The llvm.Convolution of two arrays or their avals."""
  given = dict(zip(others(wanted), (a.shape, b.shape), strict=True))
  image, kernel, output = (given.get(slot) for slot in AXES)
  batch = image[0] if image else output[0]
  height, width = image[1:3] if image else spec.missing
  channels = image[3] if image else kernel[2] * spec.groups
  features = kernel[3] if kernel else output[3]
  size = kernel[0] if kernel else spec.missing[0]
  return Convolution(
    batch,
    height,
    width,
    channels,
    features,
    size,
    spec.stride,
    spec.dilation,
    spec.pads,
    groups=spec.groups,
  )


def _varying(aval):
  """Names of the axes of a shard_map along which an array differs."""
  kind = getattr(aval, "manual_axis_type", None)
  return getattr(aval, "vma", frozenset()) if kind is None else kind.varying


def _alike(a, b):
  """Two arrays that vary along the same axes of a shard_map."""
  axes = [_varying(jax.typeof(x)) for x in (a, b)]
  every = axes[0] | axes[1]
  return [
    jax.lax.pcast(x, tuple(sorted(every - own)), to="varying") if every - own else x
    for x, own in zip((a, b), axes, strict=True)
  ]


@conv_p.def_abstract_eval
def _abstract(a, b, *, wanted, spec):
  slots = dict(zip(others(wanted), (a, b), strict=True))
  of_batch = slots["output" if wanted == "image" else "image"]
  shape = _shapes(a, b, wanted, spec).shape(wanted)
  split, kernel = of_batch.sharding.spec, slots.get("kernel")
  if any(split[1:]) or (kernel is not None and any(kernel.sharding.spec)):
    raise NotImplementedError(
      f"convolution: arrays are split as {a.sharding.spec} and {b.sharding.spec} over axes of type "
      "Explicit, expected to be split along the batch alone; use axes of type Auto"
    )
  split = type(split)(None if wanted == "kernel" else split[0], None, None, None)
  return of_batch.update(shape=shape, sharding=of_batch.sharding.update(spec=split))


_eager = jax.jit(conv_p.bind, static_argnames=("wanted", "spec"))


@conv_p.def_impl
def _evaluate(a, b, *, wanted, spec):
  with jax.disable_jit(False):
    return _eager(a, b, wanted=wanted, spec=spec)


def _transpose(k, cotangent, *operands, wanted, spec):
  """The cotangent of operand k: its slot, from the other operand and that of the result."""
  slots = others(wanted)
  shape = operands[k].aval.shape
  missing = dict(image=shape[1:3], kernel=shape[:2], output=None)[slots[k]]
  spec = spec._replace(missing=missing)
  given = {wanted: cotangent, slots[1 - k]: operands[1 - k]}
  return conv_p.bind(*_alike(*(given[s] for s in others(slots[k]))), wanted=slots[k], spec=spec)


ad.defbilinear(conv_p, partial(_transpose, 0), partial(_transpose, 1))


def _batch(operands, dims, *, wanted, spec):
  """vmap: a mapped axis joins the one that its array shares with the result."""
  if None not in dims:
    return _batch_both(operands, dims, wanted=wanted, spec=spec)
  k = 0 if dims[0] is not None else 1
  slot = others(wanted)[k]
  (shared,) = AXES[slot].keys() & AXES[wanted].keys()

  def groups(slot):  # of the shared axis
    return spec.groups if (slot, shared) in GROUPED else 1

  x, at, to = operands[k], AXES[slot][shared], AXES[wanted][shared]
  count = x.shape[dims[k]]
  # Within each group, that axis counts first the mapped copies and then their channels.
  x = jnp.moveaxis(x, dims[k], at)
  x = x.reshape(
    *x.shape[: at + 1], groups(slot), x.shape[at + 1] // groups(slot), *x.shape[at + 2 :]
  )
  x = x.swapaxes(at, at + 1)
  x = x.reshape(*x.shape[:at], x.shape[at] * count * x.shape[at + 2], *x.shape[at + 3 :])
  given = [x if i == k else operand for i, operand in enumerate(operands)]
  y = conv_p.bind(*given, wanted=wanted, spec=spec)
  each = y.shape[to] // (groups(wanted) * count)
  y = y.reshape(*y.shape[:to], groups(wanted), count, each, *y.shape[to + 1 :]).swapaxes(to, to + 1)
  return y.reshape(*y.shape[: to + 1], groups(wanted) * each, *y.shape[to + 3 :]), to


def _batch_both(operands, dims, **params):
  """vmap over both arrays: one convolution after another."""
  a, b = (jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True))
  if isinstance(len(a), int) and len(a) <= WRITTEN_OUT:
    return jnp.stack([conv_p.bind(*pair, **params) for pair in zip(a, b, strict=True)]), 0
  return jax.lax.map(lambda pair: conv_p.bind(*pair, **params), (a, b)), 0


batching.primitive_batchers[conv_p] = _batch


def _lowering(platform, one_device=False):
  """The rule that lowers the primitive for a platform.

  Args:
    platform: module with a table FORMS, or None.
    one_device: the forms are for programs of one device alone, or for the parts of a shard_map.
  """

  def rule(context, *operands, wanted, spec):
    a, b = (jax.core.ShapedArray(x.shape, x.dtype) for x in context.avals_in)
    c = _shapes(a, b, wanted, spec)
    sizes = *a.shape, *b.shape, *c.shape(wanted)
    usual = all(isinstance(n, int) and n > 0 for n in sizes)
    if one_device:
      usual = usual and _on_one_device(context.module_context.axis_context)
    widens = platform is cpu and SUMS_ARE_NARROW
    inner = jnp.promote_types(a.dtype, jnp.float32) if widens else a.dtype
    form = choose(platform.FORMS, wanted, c, a.dtype) if platform and usual else PLAIN

    def compute(a, b):
      y = form.compute(wanted, a.astype(inner), b.astype(inner), c)
      return y.astype(a.dtype)

    context = context.replace(avals_in=[a, b])
    return mlir.lower_fun(compute, multiple_results=False)(context, *operands)

  return rule


def _on_one_device(context):
  """Whether a program is one of a single device, as each part of a shard_map is."""
  if hasattr(context, "num_devices"):
    return context.num_devices == 1
  split = dict(context.mesh.shape)
  return all(n == 1 or axis in context.manual_axes for axis, n in split.items())


mlir.register_lowering(conv_p, _lowering(None))
mlir.register_lowering(conv_p, _lowering(gpu), platform="cuda")
mlir.register_lowering(conv_p, _lowering(cpu, one_device=True), platform="cpu")
