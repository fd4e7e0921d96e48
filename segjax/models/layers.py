"""Layers that the nets share: pooling, up-sampling, normalisation, the double convolution.

`max_pool_2x2` and the transposed convolutions are exact rewrites of `nn.max_pool` and
`nn.ConvTranspose`. On a CPU XLA lowers the standard forms to select-and-scatter and to a
convolution over a zero-dilated input, which together take about half of a U-Net step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.errors import UserError, choose

NORMS = ("none", "batch", "group")
UPSAMPLINGS = ("transposed2", "transposed3", "bilinear")
INITS = {"glorot": nn.initializers.glorot_uniform(), "he": nn.initializers.he_uniform()}


def initializer(name):
  """Kernels: "glorot" (Glorot, Bengio, 2010) or "he" (He et al., 2015), both uniform."""
  return choose(INITS, name, "kernel_init")


def _windows_2x2(x):
  """The four members of each 2x2 window, in the row-major order of the window."""
  h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  return [x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)]


@jax.custom_vjp
def max_pool_2x2(x):
  """Largest value of each 2x2 window, stride 2; equals `nn.max_pool(x, (2, 2), (2, 2))`.

  The gradient goes to the first maximum of a window in row-major order, as XLA's
  select-and-scatter does (`jnp.maximum` alone would share it between equal values).

  Args:
    x: [B,H,W,C]; an odd last row or column is dropped, as with padding "VALID".

  Returns:
    [B,H//2,W//2,C], same dtype.
  """
  a, b, c, d = _windows_2x2(x)
  return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _max_pool_fwd(x):
  y = max_pool_2x2(x)
  return y, (x, y)


def _max_pool_bwd(residuals, g):
  x, y = residuals
  free, parts = jnp.ones_like(y, bool), []
  for member in _windows_2x2(x):
    hit = free & (member == y)
    parts.append(jnp.where(hit, g, 0))
    free = free & ~hit
  (n, h, w, c), (big_h, big_w) = y.shape, x.shape[1:3]
  grid = jnp.stack(parts, 3).reshape(n, h, w, 2, 2, c)
  out = grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c)
  return (jnp.pad(out, ((0, 0), (0, big_h - 2 * h), (0, big_w - 2 * w), (0, 0))),)


max_pool_2x2.defvjp(_max_pool_fwd, _max_pool_bwd)


def depth_to_space(x, features):
  """[B,H,W,4*features] -> [B,2H,2W,features]; channel block 2*i+j fills offset (i, j)."""
  n, h, w, _ = x.shape
  x = x.reshape(n, h, w, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, 2 * h, 2 * w, features)


class ConvTranspose2x2(nn.Module):
  """2x2 transposed convolution, stride 2: a matrix product and depth-to-space.

  Same function and same parameters (names, shapes, values) as
  `nn.ConvTranspose(features, (2, 2), strides=(2, 2), padding="VALID")`.

  Attributes:
    features: output channels.
    kernel_init: of the kernel, see `initializer`.
    dtype: compute dtype; parameters stay float32.
  """

  features: int
  kernel_init: str = "glorot"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B,H,W,C] -> [B,2H,2W,features]."""
    kernel = self.param(
      "kernel", initializer(self.kernel_init), (2, 2, x.shape[-1], self.features), jnp.float32
    )
    # nn.ConvTranspose does not flip its kernel: tap (1, 1) feeds the output offset (0, 0).
    matrix = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(x.shape[-1], 4 * self.features)
    x = depth_to_space(x.astype(self.dtype) @ matrix.astype(self.dtype), self.features)
    return x + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


class ConvTranspose3x3(nn.Module):
  """3x3 transposed convolution, stride 2, output exactly twice the input.

  Same function and parameters as `nn.ConvTranspose(features, (3, 3), strides=(2, 2),
  padding=((1, 2), (1, 2)))`; equals PyTorch's `ConvTranspose2d(kernel_size=3, stride=2,
  padding=1, output_padding=1)` with the kernel flipped in both directions. Each output parity
  sees 1, 2, 2 or 4 of the nine taps, so it is four small convolutions on the undilated input.

  Attributes:
    features: output channels.
    kernel_init: of the kernel, see `initializer`.
    dtype: compute dtype; parameters stay float32.
  """

  features: int
  kernel_init: str = "glorot"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B,H,W,C] -> [B,2H,2W,features]."""
    kernel = self.param(
      "kernel", initializer(self.kernel_init), (3, 3, x.shape[-1], self.features), jnp.float32
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    taps = (slice(1, 2), slice(0, 3, 2))  # even outputs see the middle tap, odd ones the outer two
    conv = partial(
      jax.lax.conv_general_dilated,
      window_strides=(1, 1),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    parts = [
      conv(x, kernel[taps[i], taps[j]], padding=((0, i), (0, j))) for i in (0, 1) for j in (0, 1)
    ]
    return depth_to_space(jnp.concatenate(parts, -1), self.features) + bias.astype(self.dtype)


def resize_bilinear(x, size):
  """Bilinear resize of [B,H,W,C] to `size` = (height, width), half-pixel centres.

  Equals PyTorch's `interpolate(mode="bilinear", align_corners=False)` when enlarging; when
  shrinking it averages over the covered pixels (antialias), as PyTorch's `antialias=True` does.
  """
  return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear")


def pad_to_multiple(image, multiple):
  """Extends [B,H,W,C] at the bottom and right, repeating the edge, to multiples of `multiple`."""
  h, w = image.shape[1:3]
  return jnp.pad(image, ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0)), mode="edge")


def normalize(x, norm, *, train, name):
  """Applies the norm called `norm` ("none", "batch", "group") inside a compact module.

  Batch norm follows PyTorch's defaults: running averages move by 0.1 a step (Flax calls that
  momentum 0.9), epsilon 1e-5; PyTorch stores the unbiased variance, Flax the biased one.
  """
  if norm == "none":
    return x
  if norm == "batch":
    return nn.BatchNorm(
      use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=x.dtype, name=name
    )(x)
  if norm == "group":
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if x.shape[-1] % g == 0 and x.shape[-1] > g)
    return nn.GroupNorm(num_groups=groups, epsilon=1e-5, dtype=x.dtype, name=name)(x)
  raise UserError(f"norm is {norm!r}, expected one of {', '.join(NORMS)}")


class DoubleConv(nn.Module):
  """Two 3x3 convolutions, each with an optional norm and ReLU; biased only without a norm.

  Attributes:
    features: output channels of both convolutions.
    norm: "none", "batch" or "group".
    kernel_init: of the kernels, see `initializer`.
    dtype: compute dtype.
  """

  features: int
  norm: str = "none"
  kernel_init: str = "glorot"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,H,W,features]."""
    for i in ("1", "2"):
      x = nn.Conv(
        self.features,
        (3, 3),
        use_bias=self.norm == "none",
        kernel_init=initializer(self.kernel_init),
        dtype=self.dtype,
        name="conv" + i,
      )(x)
      x = nn.relu(normalize(x, self.norm, train=train, name="norm" + i))
    return x
