"""Convolutions in the forms that are fast on a GPU.

NVIDIA's library has its fastest kernels for 32 and more channels on both sides and for taps that
are near. The forms below bring others to that: the same sums, in another order.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.forms import Form, is_transpose, library, product_of_pixels
from segjax.ops.shapes import wide

# Channels that the kernels work on together.
TILE = 64
# Channels of an image, at most.
FEW = 4
# The largest dilation that the kernels take, and channels from which products pay beyond it.
NEAR, MANY = 4, 1024


def _is_product(c, dtype):
  del dtype
  return (c.size, c.features, c.groups) == (1, 1, 1) and c.pads == ((0, 0), (0, 0))


def _product(x, kernel, c):
  return x[:, :: c.stride, :: c.stride] @ kernel[0, 0]


def _is_stem(c, dtype):
  del dtype
  even = c.height % 2 == c.width % 2 == 0
  seven = (c.size, c.stride, c.dilation, c.groups) == (7, 2, 1, 1) and c.pads == ((3, 3),) * 2
  return seven and even and c.channels <= FEW


def _is_same_3x3(c):
  """Whether a 3x3 convolution keeps the size of the image."""
  return (c.size, c.stride, c.groups) == (3, 1, 1) and c.pads == ((c.dilation, c.dilation),) * 2


def _reaches_far(c, dtype=None):
  del dtype
  return _is_same_3x3(c) and c.dilation > NEAR and c.channels >= MANY


def _has_regions(c, dtype):
  del dtype
  far = max(c.height, c.width) <= 2 * c.dilation
  return _reaches_far(c) and far and c.dilation < min(c.height, c.width)


def _is_thin(c, dtype):
  del dtype
  return _is_same_3x3(c) and c.dilation == 1 and _pixels_at_a_time(c) > 1


def _pixels_at_a_time(c):
  """Pixels of a row to pack, so that pixels * features fill `TILE`, or two of it from an image.

  1 where the width is not divisible, or the packed channels would be too many.
  """
  most = TILE // c.features
  if most > 1 and c.channels <= FEW:
    most *= 2
  fitting = (n for n in (8, 4, 2) if n <= most and c.width % n == 0)
  return next((n for n in fitting if n * c.channels <= 4 * TILE), 1)


def _pack_pixels(x, kernel, c):
  """A 3x3 convolution of thin layers, several pixels of a row at a time.

  A row of W pixels with C channels is one of W/n pixels with n*C in the same memory, and the kernel
  over it has the taps of every pixel's place: n times the products, mostly with zeros, in tiles
  that are full.
  """
  n, height, width, channels = x.shape
  features, pixels = c.features, _pixels_at_a_time(c)
  # Tap t of the wide kernel leads from pixel p of a group to pixel q of another.
  tap, p, q, j = np.ogrid[:3, :pixels, :pixels, :3]
  place = (pixels * (tap - 1) + p - q == j - 1).astype(kernel.dtype)
  wide = jnp.einsum("tpqj,ijco->itpcqo", place, kernel)
  wide = wide.reshape(3, 3, pixels * channels, pixels * features)
  x = x.reshape(n, height, width // pixels, pixels * channels)
  y = library(x, wide, c)
  return y.reshape(n, height, width, features)


def _space_to_depth_stem(x, kernel, c):
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
  return library(x, kernel, c._replace(stride=1, pads=((2, 1), (2, 1))))


def _sum_of_shifted_products(x, kernel, c):
  """A 3x3 convolution as one product for all taps, whose parts are shifted and summed."""
  height, width, dilation = c.height, c.width, c.dilation
  places = ((i, j, (i - 1) * dilation, (j - 1) * dilation) for i in range(3) for j in range(3))
  taps = [tap for tap in places if abs(tap[2]) < height and abs(tap[3]) < width]
  products = x @ jnp.concatenate([kernel[i, j] for i, j, *_ in taps], -1)
  total = 0
  for part, (_, _, down, right) in zip(jnp.split(products, len(taps), -1), taps, strict=True):
    shift = (0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0)
    total += wide(jax.lax.pad(part, jnp.zeros((), x.dtype), shift))
  return total.astype(x.dtype)


def _by_region(x, kernel, c):
  """A 3x3 convolution each of whose pixels sees at most two rows and two columns of taps.

  A pixel of a corner sees four taps, one between two corners two, one in the middle a single one.
  The taps of all corners see the whole image, so theirs is one convolution, without padding, and
  has the features of four.
  """
  height, width, dilation = c.height, c.width, c.dilation
  ends, center = (slice(1, 3), slice(0, 2)), slice(1, 2)  # taps that the ends of an axis see
  rows, columns = slice(height - dilation, dilation), slice(width - dilation, dilation)

  def valid(x, *kernels):
    y = library(x, jnp.concatenate(kernels, -1), c._replace(pads=((0, 0), (0, 0))))
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


def _image_by_region(kernel, g, c):
  """The library's gradients of the parts would take every tap at every pixel."""
  return _by_region(g, kernel[::-1, ::-1].swapaxes(2, 3), c)


# The first that fits is taken.
FORMS = (
  Form(lambda c, dtype: c.size == 2 and is_transpose(c), image=product_of_pixels),
  Form(_is_product, _product),
  Form(_is_stem, _space_to_depth_stem),
  Form(_has_regions, _by_region, _image_by_region),
  Form(_reaches_far, _sum_of_shifted_products),
  Form(_is_thin, _pack_pixels),
)
