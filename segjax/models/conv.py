"""Convolutions with PyTorch's habits, and forms of them that are fast on a CPU.

XLA's CPU backend is slow at thin, grouped, depthwise, widely dilated and 1x1 convolutions, at those
of maps of a few pixels, and at the weight gradient of any: that of a grouped one takes seconds. The
forms below and the kernels of `segjax.native` compute the same, with other roundings, and are used
where a program is lowered for a CPU; GPUs have their own in `gpu_conv`, other platforms get the
library's convolution. Reverse mode alone works through them: forward mode raises, over a gradient
too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import native
from segjax.errors import UserError
from segjax.models import gpu_conv
from segjax.models.gpu_conv import library

# Rows and columns of maps, and of the kernels over them, of which each tap is a product.
SMALL = 4


def convolve(x, kernel, *, stride=1, padding=0, dilation=1, groups=1):
  """Two-dimensional convolution, NHWC and HWIO.

  Args:
    x: [B,H,W,C].
    kernel: [K,K,C//groups,features].
    stride: of both axes.
    padding: rows and columns of zeros on each side, as in PyTorch, or "SAME" as in TensorFlow
      (which pads an even size with stride 2 at the bottom and right only), or pairs.
    dilation: of both axes.
    groups: of channels.

  Returns:
    [B,H',W',features], same dtype.
  """
  pads = _pads(x.shape[1:3], kernel.shape[0], stride, padding, dilation)

  def standard(x, kernel):
    return library(x, kernel, stride, pads, dilation, groups)

  size, _, inner, features = kernel.shape
  spec = native.Convolution(*x.shape, features, size, stride, dilation, pads)
  depthwise = inner == 1 and groups == features == x.shape[3]
  cuda = standard
  if depthwise and size > 1:

    def fast(x, kernel):
      return _depthwise(x, kernel, stride, pads, dilation)
  elif groups > 1:

    def fast(x, kernel):
      return _grouped(x, kernel, stride, pads, dilation, groups)
  elif _sees_little(spec):

    def fast(x, kernel):
      return _seen(x, kernel, spec)

    cuda = partial(gpu_conv.convolve, spec=spec)
  else:
    return _dense(x, kernel, spec)
  return jax.lax.platform_dependent(x, kernel, cpu=fast, cuda=cuda, default=standard)


def _sees_little(spec):
  """Whether many taps see padding alone, or there are too few pixels for a tile of sums."""
  out, dilation = spec.out_size, spec.dilation
  small = 1 < spec.size <= SMALL and 0 < min(out) <= max(out) <= SMALL
  far = dilation > 1 and 4 * dilation >= max(spec.height, spec.width)
  return small or (far and spec.size == 3 and spec.stride == 1)


def _pads(size, kernel_size, stride, padding, dilation):
  if padding == "SAME":
    effective = dilation * (kernel_size - 1) + 1
    totals = [max((-(-n // stride) - 1) * stride + effective - n, 0) for n in size]
    return tuple((t // 2, t - t // 2) for t in totals)
  return ((padding, padding),) * 2 if isinstance(padding, int) else tuple(map(tuple, padding))


def _taps(x, size, stride, pads, dilation):
  """For each tap of the kernel in row-major order, the inputs that it multiplies."""
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  n, h, w, c = x.shape
  rows, columns = ((m - dilation * (size - 1) - 1) // stride + 1 for m in (h, w))
  for i in range(0, size * dilation, dilation):
    for j in range(0, size * dilation, dilation):
      last = (n, i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, c)
      yield jax.lax.slice(x, (0, i, j, 0), last, (1, stride, stride, 1))


def _dense(x, kernel, spec):
  """The library's convolution; on a CPU those of `segjax.native`, and of 1x1 matrix products."""
  size, stride, pads, dilation = spec.size, spec.stride, spec.pads, spec.dilation
  channels, features = spec.channels, spec.features
  # The gradient of the input is a convolution of the output's with the kernel turned over.
  reach = dilation * (size - 1)
  mirrored = tuple((reach - low, reach - high) for low, high in pads)
  back = native.Convolution(
    len(x), *spec.out_size, features, channels, size, 1, dilation, mirrored, turned=True
  )
  usable = native.usable(spec, x.dtype, kernel.dtype)

  def standard(x, kernel):
    return library(x, kernel, stride, pads, dilation, 1)

  cuda = partial(gpu_conv.convolve, spec=spec)

  def cpu(x, kernel):
    if size == 1 and pads == ((0, 0), (0, 0)):
      return x[:, ::stride, ::stride] @ kernel[0, 0]
    return native.convolve(x, kernel, spec) if usable else standard(x, kernel)

  def input_gradient(forward):
    return lambda g, kernel: jax.linear_transpose(lambda x: forward(x, kernel), x)(g)[0]

  def cpu_input_gradient(g, kernel):
    if usable and stride == 1 and native.usable(back, g.dtype):
      return native.convolve(g, kernel, back)
    return input_gradient(standard if usable else cpu)(g, kernel)

  def weight_gradient(forward, x, g):
    return jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)(g)[0]

  def cpu_weight_gradient(x, g):
    wide = channels * features >= 512 or channels > features
    if usable:
      gradient = native.weight_gradient(x, g, spec)
    elif size == 1 or wide or (channels <= 4 and features >= 16):
      gradient = _product_gradient(x, g, size, stride, pads, dilation)
    else:  # The library packs patches of what needs no padding up to twice as fast.
      valid = lambda x, kernel: library(x, kernel, stride, "VALID", dilation, 1)  # noqa: E731
      gradient = weight_gradient(valid, jnp.pad(x, ((0, 0), *pads, (0, 0))), g)
    return gradient.astype(kernel.dtype)

  @jax.custom_vjp
  def dense(x, kernel):
    return jax.lax.platform_dependent(x, kernel, cpu=cpu, cuda=cuda, default=standard)

  def bwd(residuals, g):
    x, kernel = residuals
    by_platform = jax.lax.platform_dependent
    dx = by_platform(
      g,
      kernel,
      cpu=cpu_input_gradient,
      cuda=input_gradient(cuda),
      default=input_gradient(standard),
    )
    gradient = by_platform(
      x,
      g,
      cpu=cpu_weight_gradient,
      cuda=partial(weight_gradient, cuda),
      default=partial(weight_gradient, standard),
    )
    return dx, gradient

  dense.defvjp(lambda x, kernel: (dense(x, kernel), (x, kernel)), bwd)
  return dense(x, kernel)


def _product_gradient(x, g, size, stride, pads, dilation):
  """Weight gradient as matrix products, f32[K,K,C,features].

  With stride 1 input and gradient change places where that shifts the thinner of the two, K*K
  times. Larger images are taken a strip of rows at a time, which all products read from the cache.
  """
  reach = dilation * (size - 1)
  mirrored = tuple((reach - low, reach - high) for low, high in pads)
  if x.shape[-1] > g.shape[-1] and size > 1 and stride == 1 and min(map(min, mirrored)) >= 0:
    swapped = _product_gradient(g, x, size, 1, mirrored, dilation)
    return swapped[::-1, ::-1].swapaxes(2, 3)
  n, height, width, features = g.shape
  channels = x.shape[-1]
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))

  def products(x, g):
    taps = _taps(x, size, stride, ((0, 0), (0, 0)), dilation)
    if channels <= 4:  # too thin for a product of its own
      taps = [jnp.concatenate(list(taps), -1)]
    g = g.reshape(-1, features).T
    out = [
      jnp.matmul(g, tap.reshape(-1, tap.shape[-1]), preferred_element_type=jnp.float32).T
      for tap in taps
    ]
    return jnp.stack(out).reshape(size, size, channels, features)

  if size == 1 or height * width < 1024:
    return products(x, g)
  pixels = 2048 if channels <= 4 else 4096 if channels * features < 2048 else 1024
  rows = min(max(pixels // width, 1), height)
  strips = -(-height // rows)
  missing = strips * rows - height
  x = jnp.pad(x, ((0, 0), (0, missing * stride), (0, 0), (0, 0)))
  g = jnp.pad(g, ((0, 0), (0, missing), (0, 0), (0, 0)))
  seen = (1, (rows - 1) * stride + reach + 1, *x.shape[2:])

  def add(total, place):
    image, row = place // strips, place % strips * rows
    part = jax.lax.dynamic_slice(x, (image, row * stride, 0, 0), seen)
    of_part = jax.lax.dynamic_slice(g, (image, row, 0, 0), (1, rows, width, features))
    return total + products(part, of_part), None

  start = jnp.zeros((size, size, channels, features))
  return jax.lax.scan(add, start, jnp.arange(n * strips))[0]


def _depthwise(x, kernel, stride, pads, dilation):
  """A sum of shifted products, which XLA fuses into one loop."""

  def forward(x, kernel):
    flat = kernel.reshape(-1, x.shape[-1])
    taps = _taps(x, kernel.shape[0], stride, pads, dilation)
    return sum(tap * weight for tap, weight in zip(taps, flat, strict=True))

  @jax.custom_vjp
  def depthwise(x, kernel):
    return forward(x, kernel)

  def fwd(x, kernel):
    return forward(x, kernel), (x, kernel)

  def bwd(residuals, g):
    x, kernel = residuals
    (dx,) = jax.linear_transpose(lambda x: forward(x, kernel), x)(g)
    products = [
      (tap * g).astype(jnp.float32) for tap in _taps(x, kernel.shape[0], stride, pads, dilation)
    ]
    # One reduction of many operands reads x and g once; a sum a tap is 3 to 12 times slower.
    sums = jax.lax.reduce(
      products,
      [jnp.float32(0)] * len(products),
      lambda a, b: [p + q for p, q in zip(a, b, strict=True)],
      (0, 1, 2),
    )
    return dx, jnp.stack(sums).reshape(kernel.shape).astype(kernel.dtype)

  depthwise.defvjp(fwd, bwd)
  return depthwise(x, kernel)


def _grouped(x, kernel, stride, pads, dilation, groups):
  """Thin groups: several at a time, as a block-diagonal convolution of up to 32 channels."""
  size, _, inner, features = kernel.shape
  outer = features // groups
  if inner >= 16:
    return _grouped_wide(x, kernel, stride, pads, dilation, groups)
  merged = next(m for m in (8, 4, 2, 1) if groups % m == 0 and (m * inner <= 32 or m == 1))
  parts = groups // merged
  kernel = kernel.reshape(size, size, inner, parts, merged, outer)
  blocks = jnp.einsum("hwipmo,mn->hwpnimo", kernel, jnp.eye(merged, dtype=kernel.dtype))
  blocks = blocks.reshape(size, size, parts, merged * inner, merged * outer)
  outputs = [
    library(part, blocks[:, :, p], stride, pads, dilation, 1)
    for p, part in enumerate(jnp.split(x, parts, -1))
  ]
  return jnp.concatenate(outputs, -1)


def _grouped_wide(x, kernel, stride, pads, dilation, groups):
  """The library's convolution, whose gradient alone is slow; that is one of products of patches."""
  size, _, inner, features = kernel.shape

  def products(x, kernel):
    patches = jnp.stack(list(_taps(x, size, stride, pads, dilation)), 3)
    shape = patches.shape[:3]
    patches = patches.reshape(-1, size * size, groups, inner)
    kernel = kernel.reshape(size * size, inner, groups, -1)
    return jnp.einsum("ptgc,tcgo->pgo", patches, kernel).reshape(*shape, features)

  @jax.custom_vjp
  def grouped(x, kernel):
    return library(x, kernel, stride, pads, dilation, groups)

  grouped.defvjp(
    lambda x, kernel: (grouped(x, kernel), (x, kernel)),
    lambda residuals, g: jax.vjp(products, *residuals)[1](g),
  )
  return grouped(x, kernel)


def _seen(x, kernel, spec):
  """A product a tap, over what it sees of the image: of small maps and for taps that reach far.

  Larger maps without stride have a kernel for that, which copies nothing.
  """
  reach = spec.dilation * (spec.size - 1)
  same = spec.stride == 1 and spec.pads == ((reach // 2, reach // 2),) * 2
  large = max(spec.out_size) > 2 * SMALL
  of_taps = (-1, spec.channels, spec.features)
  by_kernel = same and large and native.usable(spec, x.dtype, kernel.dtype)

  def products(x, taps):
    return _sum_of_seen(x, taps, spec)

  @jax.custom_vjp
  def seen(x, kernel):
    if by_kernel:
      return native.convolve_wide(x, kernel, spec)
    return products(x, list(kernel.reshape(of_taps)))

  def bwd(residuals, g):
    x, kernel = residuals
    # Of one array, each tap's gradient would be padded to it.
    dx, gradients = jax.vjp(products, x, list(kernel.reshape(of_taps)))[1](g)
    if by_kernel:
      back = spec._replace(channels=spec.features, features=spec.channels, turned=True)
      dx = native.convolve_wide(g, kernel, back)
    return dx, jnp.stack(gradients).reshape(kernel.shape)

  seen.defvjp(lambda x, kernel: (seen(x, kernel), (x, kernel)), bwd)
  return seen(x, kernel)


def _sum_of_seen(x, taps, spec):
  """The convolution with taps [C,features] in row-major order."""
  total = jnp.zeros((len(x), *spec.out_size, spec.features), x.dtype)
  for tap, *axes in spec.seen():
    part, place = [slice(None)], [(0, 0)]
    for (shift, outputs), out in zip(axes, spec.out_size, strict=True):
      first, last = (spec.stride * at + shift for at in (outputs[0], outputs[-1]))
      part.append(slice(first, last + 1, spec.stride))
      place.append((outputs.start, out - outputs.stop))
    total = total + jnp.pad(x[tuple(part)] @ taps[tap], (*place, (0, 0)))
  return total


def depth_to_space(x, features):
  """[B,H,W,4*features] -> [B,2H,2W,features]; channel block 2*i+j fills offset (i, j)."""
  n, h, w, _ = x.shape
  x = x.reshape(n, h, w, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, 2 * h, 2 * w, features)


@jax.custom_vjp
def conv_transpose(x, kernel):
  """2x2 or 3x3 transposed convolution, stride 2, whose output is exactly twice the input.

  Equals `jax.lax.conv_transpose(x, kernel, (2, 2), "VALID")` and `jax.lax.conv_transpose(x, kernel,
  (2, 2), ((1, 2), (1, 2)))`, NHWC and HWIO. It is the transpose of a convolution with stride 2, so
  that convolution is its gradient.

  Args:
    x: [B,H,W,C].
    kernel: [2,2,C,features] or [3,3,C,features].

  Returns:
    [B,2H,2W,features], same dtype.
  """
  if kernel.shape[0] == 2:  # without overlaps, on any platform a product
    channels, features = kernel.shape[2:]
    # The library does not flip its kernel: tap (1, 1) feeds the output offset (0, 0).
    matrix = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(channels, 4 * features)
    return depth_to_space(x @ matrix, features)

  return jax.lax.platform_dependent(x, kernel, cpu=_product_of_parities, default=_of_strided)


def _turned(kernel):
  """Kernel and padding of the strided convolution that `conv_transpose` is the transpose of."""
  before = kernel.shape[0] - 2
  return kernel[::-1, ::-1].swapaxes(2, 3), ((before, 0), (before, 0))


def _conv_transpose_bwd(residuals, g):
  x, kernel = residuals

  def adjoint(g, kernel):
    kernel, pads = _turned(kernel)
    return convolve(g, kernel, stride=2, padding=pads)

  dx, transpose = jax.vjp(adjoint, g, kernel)
  return dx, transpose(x)[1]


conv_transpose.defvjp(
  lambda x, kernel: (conv_transpose(x, kernel), (x, kernel)), _conv_transpose_bwd
)


def _of_strided(x, kernel):
  """The transpose of a convolution with stride 2, which GPU libraries have kernels for.

  `jax.lax.conv_transpose` convolves an image with zeros between the pixels: four times the pixels.
  """
  n, h, w, _ = x.shape
  image = jax.ShapeDtypeStruct((n, 2 * h, 2 * w, kernel.shape[3]), x.dtype)
  kernel, pads = _turned(kernel)
  return jax.linear_transpose(lambda y: library(y, kernel, 2, pads, 1, 1), image)(x)[0]


def _product_of_parities(x, kernel):
  """One product for all nine taps; outputs in even rows see one row of taps, in odd rows two."""
  channels, features = kernel.shape[2:]
  taps = x @ kernel.transpose(2, 0, 1, 3).reshape(channels, 9 * features)
  taps = jnp.split(taps, 9, -1)
  parts = []
  for odd_row in (0, 1):
    for odd_column in (0, 1):
      part = 0
      for i in (0, 2) if odd_row else (1,):
        for j in (0, 2) if odd_column else (1,):
          down, right = i // 2, j // 2  # the last tap sees the next pixel
          tap = taps[3 * i + j][:, down:, right:]
          part = part + jnp.pad(tap, ((0, 0), (0, down), (0, right), (0, 0)))
      parts.append(part)
  return depth_to_space(jnp.concatenate(parts, -1), features)


class Conv(nn.Module):
  """A convolution that pads as PyTorch's `Conv2d(padding=dilation * (kernel_size - 1) // 2)` does.

  With stride 2 that is one row at the top and one at the bottom, where "SAME" of Flax and
  TensorFlow pads an even size at the bottom alone: the same weights give other outputs.
  Parameters: `kernel` [K,K,C//groups,features] and `bias` [features], as in `nn.Conv`.

  Attributes:
    features: output channels.
    kernel_size: K, of both axes.
    stride: of both axes.
    dilation: of both axes.
    groups: of channels; `groups=C` is a depthwise convolution.
    use_bias: adds a bias.
    padding: None for PyTorch's, or "SAME".
    kernel_init: of the kernel; He et al. (2015) by default.
    dtype: compute dtype; parameters are float32.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  use_bias: bool = False
  padding: str | None = None
  kernel_init: Any = nn.initializers.he_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, affine=None):
    """Convolves.

    Args:
      x: [B,H,W,C].
      affine: (factor, shift), both f32[features], that the result is multiplied by and that is
        added to it, as a norm with known statistics does; or None. On accelerators the kernel is
        multiplied, so that the library adds the shift while it convolves.

    Returns:
      [B,ceil(H/stride),ceil(W/stride),features] for odd kernel sizes.

    Raises:
      UserError: the groups do not divide the channels.
    """
    channels = x.shape[-1]
    if channels % self.groups or self.features % self.groups:
      raise UserError(
        f"Conv {self.name}: {self.groups} groups do not divide {channels} and {self.features} "
        "channels"
      )
    shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.features)
    kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
    bias = None
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
    x = x.astype(self.dtype)
    if affine is None:
      x = self._convolved(x, kernel)
      return x if bias is None else x + bias.astype(self.dtype)
    factor, shift = affine
    shift = shift if bias is None else shift + bias * factor

    def after(x, kernel, factor, shift):
      return (self._convolved(x, kernel) * factor + shift).astype(self.dtype)

    def folded(x, kernel, factor, shift):
      return self._convolved(x, kernel * factor) + shift.astype(self.dtype)

    # On a CPU both are one pass over the result, and the kernel would be one more.
    return jax.lax.platform_dependent(x, kernel, factor, shift, cpu=after, default=folded)

  def _convolved(self, x, kernel):
    padding = self.dilation * (self.kernel_size - 1) // 2 if self.padding is None else self.padding
    return convolve(
      x,
      kernel.astype(self.dtype),
      stride=self.stride,
      padding=padding,
      dilation=self.dilation,
      groups=self.groups,
    )
