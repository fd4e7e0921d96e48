"""Convolutions in the forms that are fast on a CPU.

XLA's CPU backend is slow at thin, grouped, depthwise, widely dilated and 1x1 convolutions, at those
of maps of a few pixels, and at the weight gradient of any: that of a grouped one takes seconds. The
forms below and the kernels of `llvm` compute the same, with other roundings.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from segjax.ops import llvm
from segjax.ops.forms import (
  Form,
  depth_to_space,
  is_transpose,
  library,
  product_of_pixels,
  transposed,
)
from segjax.ops.shapes import wide

# Rows and columns of maps, and of the kernels over them, of which each tap is a product.
SMALL = 4


def _taps(x, c):
  """For each tap of the kernel in row-major order, the inputs that it multiplies."""
  x = jnp.pad(x, ((0, 0), *c.pads, (0, 0)))
  n, channels = x.shape[0], x.shape[3]
  rows, columns = c.out_size
  for i in range(0, c.size * c.dilation, c.dilation):
    for j in range(0, c.size * c.dilation, c.dilation):
      last = (n, i + (rows - 1) * c.stride + 1, j + (columns - 1) * c.stride + 1, channels)
      yield jax.lax.slice(x, (0, i, j, 0), last, (1, c.stride, c.stride, 1))


# ---- depthwise


def _is_depthwise(c, dtype):
  del dtype
  return c.size > 1 and c.groups == c.channels == c.features


def _sum_of_taps(x, kernel, c):
  """A sum of shifted products, which XLA fuses into one loop."""
  flat = kernel.reshape(-1, 1, 1, 1, c.channels)
  return sum(tap * weight for tap, weight in zip(_taps(x, c), flat, strict=True))


def _reduced_taps(x, g, c):
  """One reduction of many operands reads x and g once; a sum for each tap takes 3 to 12 times."""
  products = [wide(tap * g) for tap in _taps(x, c)]
  sums = jax.lax.reduce(
    products,
    [jnp.zeros((), products[0].dtype)] * len(products),
    lambda a, b: [p + q for p, q in zip(a, b, strict=True)],
    (0, 1, 2),
  )
  return jnp.stack(sums).reshape(c.shape("kernel")).astype(g.dtype)


def _llvm_depthwise_image(kernel, g, c):
  return llvm.depthwise_convolve(g, kernel, c._replace(turned=True))


# ---- grouped


def _has_wide_groups(c, dtype):
  del dtype
  return c.groups > 1 and c.channels // c.groups >= 16


def _product_of_patches(x, kernel, c):
  """Patches of all taps times the kernel: slow, but its gradients are products too."""
  inner = c.channels // c.groups
  patches = jnp.stack(list(_taps(x, c)), 3)
  shape = patches.shape[:3]
  patches = patches.reshape(-1, c.size**2, c.groups, inner)
  kernel = kernel.reshape(c.size**2, inner, c.groups, -1)
  return jnp.einsum("ptgc,tcgo->pgo", patches, kernel).reshape(*shape, c.features)


def _has_groups(c, dtype):
  del dtype
  return c.groups > 1


def _block_diagonal(x, kernel, c):
  """Thin groups: several at a time, as a block-diagonal convolution of up to 32 channels."""
  inner, outer = c.channels // c.groups, c.features // c.groups
  merged = next(m for m in (8, 4, 2, 1) if c.groups % m == 0 and (m * inner <= 32 or m == 1))
  parts = c.groups // merged
  kernel = kernel.reshape(c.size, c.size, inner, parts, merged, outer)
  blocks = jnp.einsum("hwipmo,mn->hwpnimo", kernel, jnp.eye(merged, dtype=kernel.dtype))
  blocks = blocks.reshape(c.size, c.size, parts, merged * inner, merged * outer)
  one = c._replace(groups=1)
  outputs = [library(part, blocks[:, :, p], one) for p, part in enumerate(jnp.split(x, parts, -1))]
  return jnp.concatenate(outputs, -1)


# ---- maps of a few pixels, and taps that see much padding


def _sees_little(c, dtype=None):
  """Whether many taps see padding alone, or there are too few pixels for a tile of sums."""
  del dtype
  small = 1 < c.size <= SMALL and max(c.out_size) <= SMALL
  far = c.dilation > 1 and 4 * c.dilation >= max(c.height, c.width)
  return small or (far and c.size == 3 and c.stride == 1)


def _sum_of_seen(x, kernel, c):
  """A product for each tap, over the part of the image that it sees."""
  return _sum_of_products(x, list(kernel.reshape(-1, c.channels, c.features)), c)


def _seen_gradients(x, g, c):
  taps = [jax.ShapeDtypeStruct((c.channels, c.features), g.dtype)] * c.size**2
  # Of one array, each tap's gradient would be padded to it.
  (gradients,) = jax.linear_transpose(lambda taps: _sum_of_products(x, taps, c), taps)(g)
  return jnp.stack(gradients).reshape(c.shape("kernel"))


def _sum_of_products(x, taps, c):
  """The convolution with taps [C,features] in row-major order."""
  total = jnp.zeros(c.shape("output"), x.dtype)
  for tap, *axes in c.seen():
    part, place = [slice(None)], [(0, 0)]
    for (shift, outputs), out in zip(axes, c.out_size, strict=True):
      first, last = (c.stride * at + shift for at in (outputs[0], outputs[-1]))
      part.append(slice(first, last + 1, c.stride))
      place.append((outputs.start, out - outputs.stop))
    total = total + jnp.pad(x[tuple(part)] @ taps[tap], (*place, (0, 0)))
  return total


# ---- dense


def _is_product(c, dtype):
  del dtype
  return c.size == 1 and c.pads == ((0, 0), (0, 0))


def _product(x, kernel, c):
  return x[:, :: c.stride, :: c.stride] @ kernel[0, 0]


def _kernel_of_products(x, g, c):
  """A matrix product for each tap; of images with few channels, one for all."""
  taps = list(_taps(x, c))
  if c.channels <= SMALL:
    taps = [jnp.concatenate(taps, -1)]
  g = g.reshape(-1, c.features).T
  out = [(g @ tap.reshape(-1, tap.shape[-1])).T for tap in taps]
  return jnp.stack(out).reshape(c.shape("kernel"))


def _llvm_image(kernel, g, c):
  """The convolution of the output with the kernel turned over, where that has no stride."""
  reach = c.dilation * (c.size - 1)
  mirrored = tuple((reach - low, reach - high) for low, high in c.pads)
  back = llvm.Convolution(
    c.batch, *c.out_size, c.features, c.channels, c.size, 1, c.dilation, mirrored, turned=True
  )
  if c.stride == 1 and llvm.usable(back, g.dtype):
    return llvm.convolve(g, kernel, back)
  return transposed("image", library)(kernel, g, c)


def _library_kernel(x, g, c):
  """XLA packs patches of images that need no padding up to twice as fast."""
  (top, bottom), (left, right) = c.pads
  x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
  padded = c._replace(height=x.shape[1], width=x.shape[2], pads=((0, 0), (0, 0)))
  return transposed("kernel", library)(x, g, padded)


def _is_wide(c, dtype):
  del dtype
  many = c.channels * c.features >= 512 or c.channels > c.features
  return c.size == 1 or many or (c.channels <= SMALL and c.features >= 16)


# ---- transposed convolutions, which ask for the image


def _by_parity(kernel, x, c):
  """One product for all nine taps; outputs in even rows see one row of taps, in odd rows two."""
  kernel = kernel[::-1, ::-1].swapaxes(2, 3)
  taps = x @ kernel.transpose(2, 0, 1, 3).reshape(c.features, 9 * c.channels)
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
  return depth_to_space(jnp.concatenate(parts, -1), c.channels)


def _doubled(kernel, x, c):
  return (product_of_pixels if c.size == 2 else _by_parity)(kernel, x, c)


# The first that fits is taken.
FORMS = (
  Form(is_transpose, image=_doubled),
  Form(
    llvm.usable_depthwise,
    llvm.depthwise_convolve,
    _llvm_depthwise_image,
    llvm.depthwise_weight_gradient,
  ),
  Form(_is_depthwise, _sum_of_taps, kernel=_reduced_taps),
  Form(
    _has_wide_groups,
    library,
    image=transposed("image", _product_of_patches),
    kernel=transposed("kernel", _product_of_patches),
  ),
  Form(_has_groups, _block_diagonal),
  Form(_sees_little, _sum_of_seen, kernel=_seen_gradients),
  Form(_is_product, _product, kernel=_kernel_of_products),
  Form(llvm.usable, llvm.convolve, _llvm_image, llvm.weight_gradient),
  Form(_is_wide, library, kernel=_kernel_of_products),
  Form(lambda c, dtype: True, library, kernel=_library_kernel),
)
