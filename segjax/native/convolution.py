"""Convolution and its weight gradient, NHWC, float32.

Directly (`forward`, `gradient`): through an image a strip of rows at a time, from a copy with its
padding that stays in the cache of a core. The innermost loops keep a tile of sums in registers: a
few pixels by up to two vectors of output channels forward, a few taps and input channels by as many
for the gradient. By Winograd's tiles (`winograd`, `winograd_gradient`), and where taps reach far
(`wide`), they are matrix products. Each sum is taken in one fixed order with products rounded once,
so that neither the number of threads nor the width of the vectors changes a bit, nor, forward, the
other images of the batch.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from segjax.native import xla_call


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

  def seen(self):
    """What each tap sees of the image, taps that see padding alone left out, the middle one first.

    Returns:
      list of (tap in row-major order, its shift and outputs down, the same to the right). It
      multiplies the input at `stride * output + shift` for every output of a range.
    """
    found = []
    for tap in sorted(range(self.size**2), key=lambda tap: tap != self.size**2 // 2):
      axes = []
      for at, n, (low, _), out in zip(
        divmod(tap, self.size), (self.height, self.width), self.pads, self.out_size, strict=True
      ):
        shift = at * self.dilation - low
        first, last = -(shift // self.stride), (n - 1 - shift) // self.stride
        axes.append((shift, range(max(first, 0), min(last + 1, out))))
      if all(outputs for _, outputs in axes):
        found.append((tap, *axes))
    return found

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


def in_tiles(spec):
  """Whether a convolution goes by tiles, see `winograd`.

  With fewer channels their additions cost more than the products that they save, and with fewer
  pixels the kernel's. The batch has no say: an image has the same bits in any.
  """
  enough = min(spec.channels, spec.features) >= 16 and math.prod(spec.out_size) >= 256
  return spec.size == 3 and spec.stride == 1 and enough


def convolve(x, kernel, spec):
  """The convolution `spec` of x f32[B,H,W,C] and kernel f32[K,K,C,F], f32[B,H',W',F]."""
  if in_tiles(spec):
    return _call(_winograd_p, spec, x, _call(_kernel_p, spec, kernel))
  return _call(_forward_p, spec, x, kernel)


def convolve_wide(x, kernel, spec):
  """`convolve` for taps that reach far, with stride 1 and a padding that keeps the size."""
  return _call(_wide_p, spec, x, kernel)


def weight_gradient(x, g, spec):
  """Gradient of `convolve` by the kernel, f32[K,K,C,F], where g f32[B,H',W',F] is the output's."""
  parts = _call(_winograd_gradient_p if in_tiles(spec) else _gradient_p, spec, x, g)
  # XLA's reduction over the first axis takes fifty times as long.
  return sum(parts[1:], start=parts[0])


def _module(name):
  """A module that writes kernels; they need llvmlite, this one does not."""
  return importlib.import_module(f"segjax.native.{name}")


def _primitive(make, out_shape, module=None):
  """A primitive of JAX for what `make` writes, a function of a module, by default of its own name.

  It is compiled when a program is lowered for a CPU, not when traced.
  """
  primitive = Primitive(f"segjax_{make}")

  def lower(context, *operands, spec):
    name = xla_call.register(getattr(_module(module or make), make), spec, xla_call.machine())
    return jax.ffi.ffi_lowering(name)(context, *operands)

  mlir.register_lowering(primitive, lower, platform="cpu")
  primitive.def_abstract_eval(lambda *_, spec: jax.core.ShapedArray(out_shape(spec), jnp.float32))
  primitive.def_impl(
    lambda *args, spec: jax.jit(functools.partial(primitive.bind, spec=spec))(*args)
  )
  return primitive


def _call(primitive, spec, *args):
  return jax.custom_batching.sequential_vmap(functools.partial(primitive.bind, spec=spec))(*args)


def _out_shape(spec):
  return (spec.batch, *spec.out_size, spec.features)


def _partial_shape(module):
  return lambda spec: _module(module).partial_shape(spec)


def _kernel_shape(spec):
  return (_module("winograd").PLACES * spec.channels * spec.features,)


_forward_p = _primitive("forward", _out_shape)
_wide_p = _primitive("wide", _out_shape)
_winograd_p = _primitive("winograd", _out_shape)
_kernel_p = _primitive("winograd_kernel", _kernel_shape, "winograd")
_gradient_p = _primitive("gradient", _partial_shape("gradient"))
_winograd_gradient_p = _primitive("winograd_gradient", _partial_shape("winograd_gradient"))
