"""Augmentation that moves pixels: flips, scale, crop, rotation; image and label together."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jax.typing import ArrayLike

from segjax.data.labels import IGNORE


def flip_horizontal(
  image: jax.Array, label: jax.Array, flipped: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Mirrors left and right where `flipped` is True.

  Args:
    image: f32[H,W,C].
    label: i32[H,W].
    flipped: scalar bool.

  Returns:
    (image, label), same shapes and dtypes.
  """
  return jnp.where(flipped, image[:, ::-1], image), jnp.where(flipped, label[:, ::-1], label)


def flip_up_down(
  image: jax.Array, label: jax.Array, flipped: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Mirrors top and bottom where `flipped` is True.

  Args:
    image: f32[H,W,C].
    label: i32[H,W].
    flipped: scalar bool.

  Returns:
    (image, label), same shapes and dtypes.
  """
  return jnp.where(flipped, image[::-1], image), jnp.where(flipped, label[::-1], label)


def scale_and_crop(
  image: jax.Array, label: jax.Array, scale: ArrayLike, position: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Scales about a random position and keeps the size.

  Output pixel centre o shows input coordinate (o - t) / scale with t = position * size *
  (1 - scale): enlarging (scale > 1) crops, shrinking leaves a border, black in the image and
  255 (ignore) in the label.

  Args:
    image: f32[H,W,C].
    label: i32[H,W].
    scale: f32[2], vertical and horizontal, above 0.
    position: f32[2] in [0,1], where the crop (or the shrunk image) lies.

  Returns:
    (f32[H,W,C] bilinear, i32[H,W] nearest).
  """
  size = jnp.array(image.shape[:2])
  shift = position * size * (1 - scale)
  image = jax.image.scale_and_translate(image, image.shape, (0, 1), scale, shift, "linear")
  at = [
    jnp.floor((jnp.arange(n) + 0.5 - shift[d]) / scale[d]).astype(int)
    for d, n in enumerate(label.shape)
  ]
  inside = [(i >= 0) & (i < n) for i, n in zip(at, label.shape, strict=True)]
  rows, columns = (jnp.clip(i, 0, n - 1) for i, n in zip(at, label.shape, strict=True))
  known = inside[0][:, None] & inside[1][None]
  return image * known[..., None], jnp.where(known, label[rows][:, columns], IGNORE)


def rotate_scale_and_crop(
  image: jax.Array, label: jax.Array, angle: ArrayLike, scale: ArrayLike, position: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Rotates about the centre, then scales and crops as `scale_and_crop`, resampling once.

  Rotation is rigid in pixels, also of oblong images. Unlike `scale_and_crop` this does not
  smooth before it shrinks; below a scale of about 0.5 fine texture aliases.

  Args:
    image: f32[H,W,C].
    label: i32[H,W].
    angle: radians, anticlockwise.
    scale: f32[2], vertical and horizontal, above 0.
    position: f32[2] in [0,1], where the crop (or the shrunk image) lies.

  Returns:
    (f32[H,W,C] bilinear, i32[H,W] nearest); 0 and 255 (ignore) where the input does not reach.
  """
  size = jnp.array(image.shape[:2])
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  turn = jnp.stack([cos, sin, -sin, cos]).reshape(2, 2)
  matrix = turn / scale
  # Sums, not matrix products: GPUs may keep 10 bits of a factor there, half a pixel of 1024.
  shift = size / 2 - (turn * size / 2).sum(1) - (matrix * position * size * (1 - scale)).sum(1)
  y, x = jnp.arange(label.shape[0])[:, None] + 0.5, jnp.arange(label.shape[1]) + 0.5
  at = [row[0] * y + row[1] * x + s for row, s in zip(matrix, shift, strict=True)]
  inside = [(a >= 0) & (a < n) for a, n in zip(at, label.shape, strict=True)]
  known = inside[0] & inside[1]
  rows, columns = (
    jnp.clip(jnp.floor(a).astype(int), 0, n - 1) for a, n in zip(at, label.shape, strict=True)
  )
  centers = [a - 0.5 for a in at]
  image = jax.vmap(lambda c: map_coordinates(c, centers, 1, "nearest"), -1, -1)(image)
  return image * known[..., None], jnp.where(known, label[rows, columns], IGNORE)


def draw_crop(
  key: jax.Array, area_min: ArrayLike, area_max: ArrayLike, aspect: ArrayLike
) -> jax.Array:
  """Draws the sides of a random resized crop (Szegedy et al., CVPR 2015).

  The area is uniform. The aspect ratio is log-uniform within the bounds that keep the crop inside
  the image, where the original draws again.

  Args:
    key: PRNG key.
    area_min: share of the image, above 0.
    area_max: share of the image, at most 1.
    aspect: the ratio of width to height, relative to the image's, is drawn from exp(+-aspect).

  Returns:
    f32[2], height and width as shares of the image's.
  """
  keys = jax.random.split(key)
  area = jax.random.uniform(keys[0], (), minval=area_min, maxval=area_max)
  bound = jnp.minimum(aspect, -jnp.log(area))
  ratio = bound * jax.random.uniform(keys[1], (), minval=-1, maxval=1)
  return jnp.sqrt(area * jnp.exp(jnp.stack([-ratio, ratio])))


def box(shape: Sequence[int], center: ArrayLike, size: ArrayLike) -> jax.Array:
  """Mask of the pixel centres in a rectangle, which may reach beyond the image.

  Args:
    shape: (H, W).
    center: f32[2], row and column in pixels.
    size: f32[2], height and width in pixels.

  Returns:
    bool[H,W], True inside.
  """
  rows, columns = (
    jnp.abs(jnp.arange(n) + 0.5 - center[d]) < size[d] / 2 for d, n in enumerate(shape)
  )
  return rows[:, None] & columns
