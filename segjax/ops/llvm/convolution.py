"""Convolution and its weight gradient, NHWC, float32, of one group or depthwise.

Directly (`forward`, `gradient`): through an image a strip of rows at a time, from a copy with its
padding that stays in the cache of a core. The innermost loops keep a tile of sums in registers: a
few pixels by up to two vectors of output channels forward, a few taps and input channels by as many
for the gradient. By Winograd's tiles (`winograd`, `winograd_gradient`) they are matrix products.
Depthwise (`depthwise`, `depthwise_gradient`) vectors go along the channels, and nothing is copied.
Each sum is taken in one fixed order with products rounded once, so that neither the number of
threads nor the width of the vectors changes a bit, nor, forward, the other images of the batch.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib
import math
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.llvm import xla_call


class Convolution(NamedTuple):
  """Shapes of a convolution, all that its kernels depend on.

  Attributes:
    batch: images.
    height: rows of an image.
    width: pixels of a row.
    channels: number of channels of the input.
    features: channels of the output.
    size: rows and columns of the kernel.
    stride: stride of both axes.
    dilation: dilation of both axes.
    pads: ((top, bottom), (left, right)), rows and columns of zeros, none negative.
    turned: the kernel is given as [K,K,F,C] and read from its end, as the gradient by the input of
      a convolution with it asks for. Of a depthwise convolution: its transpose is computed.
    groups: number of groups of channels; the kernels here are for one, and for one of each channel.
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
  groups: int = 1

  def shape(self, slot):
    """Shape of the "image", the "kernel" or the "output"."""
    return dict(
      image=(self.batch, self.height, self.width, self.channels),
      kernel=(self.size, self.size, self.channels // self.groups, self.features),
      output=(self.batch, *self.out_size, self.features),
    )[slot]

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
    sizes = [(n - self.reach) // self.stride + 1 for n in padded]
    return tuple(max(n, 0) if isinstance(n, int) else n for n in sizes)

  def seen_along(self, axis):
    """For each tap along an axis, 0 down and 1 to the right: (its shift, the outputs it feeds).

    It multiplies the input at `stride * output + shift` for every output of the range; the other
    outputs see padding there.
    """
    n, low, out = (self.height, self.width)[axis], self.pads[axis][0], self.out_size[axis]
    found = []
    for tap in range(self.size):
      shift = tap * self.dilation - low
      first, last = -(shift // self.stride), (n - 1 - shift) // self.stride
      found.append((shift, range(max(first, 0), min(last + 1, out))))
    return found

  def seen(self):
    """The part of the image that each tap sees, the middle tap first; no taps of padding alone.

    Returns:
      list of (tap in row-major order, `seen_along` of its row and of its column).
    """
    down, right = self.seen_along(0), self.seen_along(1)
    taps = sorted(range(self.size**2), key=lambda tap: tap != self.size**2 // 2)
    found = [(tap, down[tap // self.size], right[tap % self.size]) for tap in taps]
    return [(tap, *axes) for tap, *axes in found if all(outputs for _, outputs in axes)]

  def rows_seen(self, rows):
    """Rows of the input that `rows` rows of the output see."""
    return (rows - 1) * self.stride + self.reach


def usable(spec, *dtypes):
  """Whether `convolve` and `weight_gradient` work for arrays of `dtypes`, on one device."""
  fits = spec.groups == 1 and _has_kernels(spec, dtypes)
  return fits and is_sound("tiles" if in_tiles(spec) else "direct")


def usable_depthwise(spec, *dtypes):
  """Whether the depthwise functions work for arrays of `dtypes`, on one device."""
  fits = spec.groups == spec.channels == spec.features and _has_kernels(spec, dtypes)
  return fits and is_sound("depthwise")


def _has_kernels(spec, dtypes):
  return (
    all(d == jnp.float32 for d in dtypes)
    and spec.size > 1
    and min(map(min, spec.pads)) >= 0
    and min(spec.out_size) > 0
    and xla_call.machine() is not None
  )


def in_tiles(spec):
  """Whether a convolution goes by tiles, see `winograd`.

  With fewer channels their additions cost more than the products that they save, and with fewer
  pixels the kernel's. The batch has no say: an image has the same bits in any.
  """
  enough = min(spec.channels, spec.features) >= 16 and math.prod(spec.out_size) >= 256
  return spec.size == 3 and spec.stride == 1 and enough


@functools.cache
def is_sound(kind):
  """Whether kernels "direct", by "tiles" or "depthwise" give numpy's numbers: tried once a process.

  Where they do not, a warning says so, and they are not used.
  """
  groups = 2 if kind == "depthwise" else 1
  spec = Convolution(1, 3, 5, 2, 4 - groups, 3, 1, 1, ((1, 1), (1, 1)), groups=groups)
  sizes = (spec.shape(slot) for slot in ("image", "kernel", "output"))
  x, kernel, g = (np.sin(np.arange(math.prod(s), dtype=np.float32)).reshape(s) for s in sizes)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  # Of each output the 3x3 pixels that it sees, [B,H,W,C,3,3].
  seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
  if kind == "depthwise":
    wanted = (
      np.einsum("bhwcij,ijc->bhwc", seen, kernel[:, :, 0]),
      np.einsum("bhwcij,bhwc->ijc", seen, g)[:, :, None],
    )
  else:
    wanted = np.einsum("bhwcij,ijcf->bhwf", seen, kernel), np.einsum("bhwcij,bhwf->ijcf", seen, g)

  @jax.jit
  def compute(x, kernel, g):
    if kind == "depthwise":
      return depthwise_convolve(x, kernel, spec), depthwise_weight_gradient(x, g, spec)
    tiles = kind == "tiles"
    return convolve(x, kernel, spec, tiles), weight_gradient(x, g, spec, tiles)

  def found():
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
      return compute(x, kernel, g)

  # This is called while a program is lowered; a thread has none of that program's contexts.
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pairs = zip(pool.submit(found).result(), wanted, strict=True)
  if all(np.allclose(a, b, atol=1e-5) for a, b in pairs):
    return True
  warnings.warn(
    f"segjax's CPU kernels ({kind}) give wrong numbers on this machine; XLA's own convolutions, "
    "which are slower, take their place",
    RuntimeWarning,
    stacklevel=2,
  )
  return False


def convolve(x, kernel, spec, tiles=None):
  """The convolution `spec` of x f32[B,H,W,C] and kernel f32[K,K,C,F], f32[B,H',W',F].

  `tiles` says whether it goes by tiles; None leaves that to `in_tiles`.
  """
  shape = spec.shape("output")
  if not (in_tiles(spec) if tiles is None else tiles):
    return _call("forward", shape, spec, x, kernel)
  flat = (_module("winograd").PLACES * spec.channels * spec.features,)
  kernel = _call("winograd_kernel", flat, spec, kernel, module="winograd")
  return _call("winograd", shape, spec, x, kernel)


def weight_gradient(x, g, spec, tiles=None):
  """Gradient of `convolve` by the kernel, f32[K,K,C,F], where g f32[B,H',W',F] is the output's."""
  tiles = in_tiles(spec) if tiles is None else tiles
  return _sum_of_parts("winograd_gradient" if tiles else "gradient", spec, x, g)


def depthwise_convolve(x, kernel, spec):
  """The depthwise convolution `spec` of x f32[B,H,W,C] and kernel f32[K,K,1,C], f32[B,H',W',C].

  Where `spec` is turned that of its transpose: x is f32[B,H',W',C], the result f32[B,H,W,C].
  """
  return _call("depthwise", spec.shape("image" if spec.turned else "output"), spec, x, kernel)


def depthwise_weight_gradient(x, g, spec):
  """Gradient of a depthwise convolution by its kernel, f32[K,K,1,C], as of `weight_gradient`."""
  return _sum_of_parts("depthwise_gradient", spec, x, g)


def _sum_of_parts(make, spec, *args):
  """The sum of a kernel's partial results, in their order."""
  parts = _call(make, _module(make).partial_shape(spec), spec, *args)
  # XLA's reduction over the first axis takes fifty times as long.
  return sum(parts[1:], start=parts[0])


def _module(name):
  """A module that writes kernels; they need llvmlite, this one does not."""
  return importlib.import_module(f"segjax.ops.llvm.{name}")


def _call(make, shape, spec, *args, module=None):
  """A kernel's result, f32 of `shape`; a function of the module of its name, or of another."""
  kernel = getattr(_module(module or make), make)
  name = xla_call.register(kernel, spec, xla_call.machine())
  return jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(shape, jnp.float32))(*args)
