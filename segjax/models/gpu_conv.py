"""Convolutions in the forms that are fast on a GPU.

NVIDIA's library has its fastest kernels for 32 and more channels on both sides and for taps that
are near. The forms below bring others to that: the same sums, in another order. Each is linear in
image and kernel and is differentiated as it stands, but for what reaches far.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Channels that the kernels work on together.
TILE = 64
# Channels of an image, at most.
FEW = 4
# The largest dilation that the kernels take, and channels from which products pay beyond it.
NEAR, MANY = 4, 1024


def library(x, kernel, stride, pads, dilation, groups):
  """The library's convolution, NHWC and HWIO, on any platform."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    pads,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def convolve(x, kernel, spec):
  """Convolution without groups.

  Args:
    x: [B,H,W,C].
    kernel: [K,K,C,features].
    spec: `segjax.native.Convolution` of them.

  Returns:
    [B,H',W',features], same dtype.
  """
  size, stride, pads, dilation = spec.size, spec.stride, spec.pads, spec.dilation
  if size == 1 and spec.features == 1 and pads == ((0, 0), (0, 0)):
    return x[:, ::stride, ::stride] @ kernel[0, 0]
  even = spec.height % 2 == spec.width % 2 == 0
  if size == 7 and stride == 2 and pads == ((3, 3),) * 2 and spec.channels <= FEW and even:
    return _of_blocks(x, kernel)
  if size == 3 and stride == 1 and pads == ((dilation, dilation),) * 2:
    if dilation > NEAR and spec.channels >= MANY:
      far = max(spec.height, spec.width) <= 2 * dilation
      seen = dilation < min(spec.height, spec.width)
      return (_of_regions if far and seen else _of_products)(x, kernel, dilation)
    pixels = _pixels_at_a_time(spec)
    if dilation == 1 and pixels > 1:
      return _of_pixels(x, kernel, pixels)
  return library(x, kernel, stride, pads, dilation, 1)


def _pixels_at_a_time(spec):
  """How many pixels of a row make a tile of features, of images two, and not too many channels."""
  most = TILE // spec.features
  if most > 1 and spec.channels <= FEW:
    most *= 2
  fitting = (n for n in (8, 4, 2) if n <= most and spec.width % n == 0)
  return next((n for n in fitting if n * spec.channels <= 4 * TILE), 1)


def _of_pixels(x, kernel, pixels):
  """A 3x3 convolution of thin layers, several pixels of a row at a time.

  A row of W pixels with C channels is one of W/n pixels with n*C in the same memory, and the kernel
  over it has the taps of every pixel's place: n times the products, mostly with zeros, in tiles
  that are full.
  """
  n, height, width, channels = x.shape
  features = kernel.shape[3]
  # Tap t of the wide kernel leads from pixel p of a group to pixel q of another.
  tap, p, q, j = np.ogrid[:3, :pixels, :pixels, :3]
  place = (pixels * (tap - 1) + p - q == j - 1).astype(kernel.dtype)
  wide = jnp.einsum("tpqj,ijco->itpcqo", place, kernel)
  wide = wide.reshape(3, 3, pixels * channels, pixels * features)
  y = library(x.reshape(n, height, width // pixels, -1), wide, 1, ((1, 1), (1, 1)), 1, 1)
  return y.reshape(n, height, width, features)


def _of_blocks(x, kernel):
  """A 7x7 convolution of an image with stride 2, as one of 4x4 without over blocks of 2x2 pixels.

  A pixel has four channels then, so that a block has as many as the kernels can load at once.
  """
  n, height, width, channels = x.shape
  x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, FEW - channels)))
  x = x.reshape(n, height // 2, 2, width // 2, 2, FEW).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(n, height // 2, width // 2, 4 * FEW)
  # The first pixel of the first block is before the kernel.
  kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, FEW - channels), (0, 0)))
  kernel = kernel.reshape(4, 2, 4, 2, FEW, -1).transpose(0, 2, 1, 3, 4, 5)
  kernel = kernel.reshape(4, 4, 4 * FEW, -1)
  return library(x, kernel, 1, ((2, 1), (2, 1)), 1, 1)


def _of_products(x, kernel, dilation):
  """A 3x3 convolution as one product for all taps, whose parts are shifted and summed."""
  height, width = x.shape[1:3]
  places = ((i, j, (i - 1) * dilation, (j - 1) * dilation) for i in range(3) for j in range(3))
  taps = [tap for tap in places if abs(tap[2]) < height and abs(tap[3]) < width]
  products = x @ jnp.concatenate([kernel[i, j] for i, j, *_ in taps], -1)
  total = 0
  for part, (_, _, down, right) in zip(jnp.split(products, len(taps), -1), taps, strict=True):
    shift = (0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0)
    total += jax.lax.pad(part, jnp.zeros((), x.dtype), shift).astype(jnp.float32)
  return total.astype(x.dtype)


def _of_regions(x, kernel, dilation):
  """A 3x3 convolution each of whose pixels sees at most two rows and two columns of taps.

  A pixel of a corner sees four taps, one between two corners two, one in the middle a single one.
  The taps of all corners see the whole image, so theirs is one convolution, without padding, and
  has the features of four.
  """

  def forward(x, kernel):
    height, width = x.shape[1:3]
    ends, center = (slice(1, 3), slice(0, 2)), slice(1, 2)  # taps that the ends of an axis see
    rows, columns = slice(height - dilation, dilation), slice(width - dilation, dilation)

    def valid(x, *kernels):
      y = library(x, jnp.concatenate(kernels, -1), 1, ((0, 0), (0, 0)), dilation, 1)
      return jnp.split(y, len(kernels), -1)

    corners = valid(x, *(kernel[i, j] for i in ends for j in ends))
    top, bottom, middle = corners[:2], corners[2:], []
    if rows.start < rows.stop:
      middle = valid(x[:, rows], *(kernel[center, j] for j in ends))
    if columns.start < columns.stop:
      upper, lower = valid(x[:, :, columns], *(kernel[i, center] for i in ends))
      top.insert(1, upper)
      bottom.insert(1, lower)
      if middle:
        middle.insert(1, x[:, rows, columns] @ kernel[1, 1])
    return jnp.concatenate([jnp.concatenate(r, 2) for r in (top, middle, bottom) if r], 1)

  @jax.custom_vjp
  def regions(x, kernel):
    return forward(x, kernel)

  def bwd(residuals, g):
    x, kernel = residuals
    # The library's gradients of the parts would take every tap at every pixel.
    dx = forward(g, kernel[::-1, ::-1].swapaxes(2, 3))
    return dx, jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)(g)[0]

  regions.defvjp(lambda x, kernel: (regions(x, kernel), (x, kernel)), bwd)
  return regions(x, kernel)
