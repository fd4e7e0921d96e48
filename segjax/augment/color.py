"""Augmentation that changes values: colours, blur, cutout; labels stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.augment.geometry import box

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def jitter_color(
  image: jax.Array,
  brightness: ArrayLike,
  contrast: ArrayLike,
  saturation: ArrayLike,
  hue: ArrayLike,
) -> jax.Array:
  """Changes brightness, contrast and saturation by factors and turns the hue; clips to [0,1].

  Args:
    image: f32[...,3] in [0,1].
    brightness: factor.
    contrast: factor, about the mean grey of the image.
    saturation: factor, 0 gives grey.
    hue: radians, a rotation of the colour plane of YIQ (an approximation of the hue of HSV
      that needs no branches).

  Returns:
    f32[...,3] in [0,1].
  """
  luma = jnp.array(LUMA)
  image = image * brightness
  mean = (image @ luma).mean()
  image = mean + contrast * (image - mean)
  to_yiq = jnp.array(TO_YIQ)
  cos, sin = saturation * jnp.cos(hue), saturation * jnp.sin(hue)
  zero, one = jnp.zeros_like(cos), jnp.ones_like(cos)
  rows = (one, zero, zero, zero, cos, -sin, zero, sin, cos)
  turn = jnp.stack(rows).reshape(3, 3)
  return jnp.clip(image @ (jnp.linalg.inv(to_yiq) @ turn @ to_yiq).T, 0, 1)


def blur_gaussian(image: jax.Array, sigma: ArrayLike, radius: int) -> jax.Array:
  """Blurs by a Gaussian; the image's edge pixels continue beyond it.

  Args:
    image: f32[H,W,C].
    sigma: pixels, from 0 for no blur.
    radius: pixels at which the kernel is cut off.

  Returns:
    f32[H,W,C], in the range of the image and [0,1].
  """
  weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / jnp.maximum(sigma, 1e-3)) ** 2)
  weights /= weights.sum()
  low, high = value_range(image)
  for axis in (0, 1):
    size = image.shape[axis]
    padded = jnp.pad(image, [(radius, radius) if d == axis else (0, 0) for d in range(3)], "edge")
    taps = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * radius + 1)]
    image = sum(w * tap for w, tap in zip(weights, taps, strict=True))
  return jnp.clip(image, low, high)


def value_range(image: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Smallest and largest value of each channel, or 0 and 1 where they are inside.

  Weighted means may round to just above the largest value; clipped to this range, values that are
  not in [0,1] stay as they are.
  """
  return jnp.minimum(image.min((0, 1)), 0), jnp.maximum(image.max((0, 1)), 1)


def cut_out(image: jax.Array, center: ArrayLike, side: ArrayLike) -> jax.Array:
  """Hides a square under the image's mean colour (DeVries and Taylor, arXiv 1708.04552).

  Labels stay as they are: the net infers the hidden part from its surroundings.

  Args:
    image: f32[H,W,C].
    center: f32[2] in [0,1]; near the border a part of the square lies outside.
    side: share of the image's shorter side.

  Returns:
    f32[H,W,C].
  """
  shape = image.shape[:2]
  hidden = box(shape, center * jnp.array(shape), (side * min(shape),) * 2)
  return jnp.where(hidden[..., None], image.mean((0, 1)), image)
