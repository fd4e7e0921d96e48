"""Augmentation on the device: pure functions of a key, image and label together.

`make_augment` gives a function of one example; the train step maps it over the batch with
`jax.vmap`, inside `jit`. An augmentation whose range is empty costs nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

IGNORE = 255
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def flip_horizontal(image, label, flipped):
  """Mirrors left and right where the scalar bool `flipped` is True."""
  return jnp.where(flipped, image[:, ::-1], image), jnp.where(flipped, label[:, ::-1], label)


def scale_and_crop(image, label, scale, position):
  """Scales about a random position and keeps the size.

  Output pixel centre o shows input coordinate (o - t) / scale with t = position * size *
  (1 - scale): enlarging (scale > 1) crops, shrinking leaves a border, black in the image and
  255 (ignore) in the label.

  Args:
    image: f32[H,W,3].
    label: i32[H,W].
    scale: f32[2], vertical and horizontal, above 0.
    position: f32[2] in [0,1], where the crop (or the shrunk image) lies.

  Returns:
    (f32[H,W,3] bilinear, i32[H,W] nearest).
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


def jitter_color(image, brightness, contrast, saturation, hue):
  """Changes brightness, contrast and saturation by factors and turns the hue; clips to [0,1].

  Args:
    image: f32[...,3] in [0,1].
    brightness: factor.
    contrast: factor, about the mean grey of the image.
    saturation: factor, 0 gives grey.
    hue: radians, a rotation of the colour plane of YIQ (an approximation of the hue of HSV
      that needs no branches).
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


def make_augment(
  *,
  flip=0.0,
  scale_min=1.0,
  scale_max=1.0,
  aspect=0.0,
  brightness=0.0,
  contrast=0.0,
  saturation=0.0,
  hue=0.0,
):
  """Builds the augmentation of one example, or None where everything is off.

  Args:
    flip: probability of a horizontal flip.
    scale_min: smallest scale; drawn log-uniformly, at a random position.
    scale_max: largest scale.
    aspect: the ratio of horizontal to vertical scale is drawn from exp(+-aspect).
    brightness: factors are drawn from 1 +- this.
    contrast: likewise.
    saturation: likewise.
    hue: radians, drawn from +- this.

  Returns:
    (key, f32[H,W,3] in [0,1], i32[H,W]) -> (image, label), same shapes and ranges.
  """
  scaling, coloring = (
    (scale_min, scale_max, aspect) != (1.0, 1.0, 0.0),
    any((brightness, contrast, saturation, hue)),
  )
  if not (flip or scaling or coloring):
    return None

  def augment(key, image, label):
    keys = jax.random.split(key, 8)
    if flip:
      image, label = flip_horizontal(image, label, jax.random.bernoulli(keys[0], flip))
    if scaling:
      low, high = jnp.log(scale_min), jnp.log(scale_max)
      scale = jax.random.uniform(keys[1], (), minval=low, maxval=high)
      ratio = jax.random.uniform(keys[2], (), minval=-aspect, maxval=aspect) / 2
      scale = jnp.exp(jnp.stack([scale - ratio, scale + ratio]))
      image, label = scale_and_crop(image, label, scale, jax.random.uniform(keys[3], (2,)))
    if coloring:
      ranges = ((brightness, 1.0), (contrast, 1.0), (saturation, 1.0), (hue, 0.0))
      amounts = [
        center + jax.random.uniform(k, (), minval=-r, maxval=r)
        for k, (r, center) in zip(keys[4:], ranges, strict=True)
      ]
      image = jitter_color(image, *amounts)
    return image, label

  return augment
