"""The augmentation of one example: draws the strength of each change, then applies them in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from segjax import own_code
from segjax.augment.color import blur_gaussian, cut_out, jitter_color, value_range
from segjax.augment.geometry import (
  draw_crop,
  flip_horizontal,
  flip_up_down,
  rotate_scale_and_crop,
  scale_and_crop,
)
from segjax.augment.limits import LIMITS, check_limits
from segjax.errors import UserError, check_fields


def make_augment(
  *,
  flip: float = 0.0,
  flip_vertical: float = 0.0,
  scale_min: float = 1.0,
  scale_max: float = 1.0,
  aspect: float = 0.0,
  crop_area_min: float = 1.0,
  crop_area_max: float = 1.0,
  crop_aspect: float = 0.288,
  rotate: float = 0.0,
  brightness: float = 0.0,
  contrast: float = 0.0,
  saturation: float = 0.0,
  hue: float = 0.0,
  rgb_shift: float = 0.0,
  blur: float = 0.0,
  noise: float = 0.0,
  cutout: float = 0.0,
  own: str = "",
  **fields: Any,
) -> Callable[..., tuple[jax.Array, jax.Array]] | None:
  """Builds the augmentation of one example, or None where everything is off.

  Flips come first and are exact. Crop, scale and rotation resample once, together; places
  beyond the image are black and labelled 255 (ignore). Flips, resampling, blur and cutout treat
  all channels alike and keep values that are not in [0,1]. Brightness, contrast, saturation, hue
  and rgb_shift change the first three channels, red, green and blue, and so does noise where there
  are more than three; they expect values in [0,1] and clip to it.

  Args:
    flip: probability of a horizontal flip.
    flip_vertical: probability of a vertical flip.
    scale_min: smallest scale; drawn log-uniformly, at a random position.
    scale_max: largest scale.
    aspect: the ratio of horizontal to vertical scale is drawn from exp(+-aspect).
    crop_area_min: smallest share of the image that a crop keeps, resized to the image's size;
      below 1 every image is cropped. With a scale too, the crop is scaled.
    crop_area_max: largest share.
    crop_aspect: see `draw_crop`; 0.288 is a ratio from 3/4 to 4/3.
    rotate: degrees, drawn from +- this.
    brightness: factors are drawn from 1 +- this.
    contrast: likewise.
    saturation: likewise.
    hue: radians, drawn from +- this.
    rgb_shift: added to each channel, drawn from +- this, of [0,1].
    blur: pixels, largest standard deviation of a Gaussian; drawn from 0.
    noise: largest standard deviation of Gaussian noise, of [0,1]; drawn from 0.
    cutout: side of the hidden square as a share of the shorter side, see `cut_out`.
    own: empty, or an augmentation of your own that comes last, "package.module:function" of (key,
      image, label) that returns (image, label); further fields are its arguments.
    **fields: of `own`.

  Returns:
    (key, f32[H,W,C], label) -> (image, label), same shapes and dtypes. A mask i32[H,W] moves with
    the image, a target image f32[H,W,C'] too, colours untouched; a class i32[] stays. (A mask of
    int8 or bool becomes int32, to hold 255.) It raises a UserError for an image that is not a
    single one of floats, and for colour changes of one or two channels.

  Raises:
    UserError: a value outside its limits, or a smallest one above its largest; a field that neither
      this function nor `own` has.
  """
  check_limits("augment", {k: v for k, v in locals().items() if k in LIMITS})
  mine = _bind(own, fields)
  scaling = (scale_min, scale_max, aspect) != (1.0, 1.0, 0.0)
  cropping = crop_area_min < 1
  moving = scaling or cropping or rotate
  colors = dict(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
  coloring = any(colors.values())
  if not any((flip, flip_vertical, moving, coloring, rgb_shift, blur, noise, cutout)):
    return mine

  def move(keys, more, image, label):
    if flip:
      image, label = flip_horizontal(image, label, jax.random.bernoulli(keys[0], flip))
    if flip_vertical:
      image, label = flip_up_down(image, label, jax.random.bernoulli(more[0], flip_vertical))
    if not moving:
      return image, label
    scale = jnp.ones(2)
    if scaling:
      low, high = jnp.log(scale_min), jnp.log(scale_max)
      scale = jax.random.uniform(keys[1], (), minval=low, maxval=high)
      ratio = jax.random.uniform(keys[2], (), minval=-aspect, maxval=aspect) / 2
      scale = jnp.exp(jnp.stack([scale - ratio, scale + ratio]))
    if cropping:
      scale /= draw_crop(more[1], crop_area_min, crop_area_max, crop_aspect)
    position = jax.random.uniform(keys[3], (2,))
    low, high = value_range(image)
    if rotate:
      angle = jnp.deg2rad(jax.random.uniform(more[2], (), minval=-rotate, maxval=rotate))
      image, label = rotate_scale_and_crop(image, label, angle, scale, position)
    else:
      image, label = scale_and_crop(image, label, scale, position)
    return jnp.clip(image, low, high), label

  def paint(keys, more, image):
    image = _of_colors(lambda x: _recolored(keys[4:], more[3], x, colors, rgb_shift), image)
    if blur:
      sigma = jax.random.uniform(more[4], (), maxval=blur)
      image = blur_gaussian(image, sigma, math.ceil(3 * blur))
    if noise:
      image = _of_colors(lambda x: _noisy(more[5:7], x, noise), image)
    if cutout:
      image = cut_out(image, jax.random.uniform(more[7], (2,)), cutout)
    return image

  def augment(key, image, label):
    _check_example(image, label, colors | dict(rgb_shift=rgb_shift))
    channels = image.shape[-1]
    keys = jax.random.split(key, 8)
    # From 8 on: fold_in(key, i) below is keys[i] again.
    more = [jax.random.fold_in(key, i) for i in range(8, 16)]
    target = label if label.ndim == 3 else image[..., :0]
    mask = label if label.ndim == 2 else jnp.zeros(image.shape[:2], jnp.int32)
    mask = mask.astype(jnp.int32) if mask.dtype in (bool, jnp.int8) else mask
    moved, mask = move(keys, more, jnp.concatenate([image, target], -1), mask)
    image = paint(keys, more, moved[..., :channels]).astype(image.dtype)
    return image, {0: label, 2: mask, 3: moved[..., channels:].astype(label.dtype)}[label.ndim]

  if mine is None:
    return augment
  # Of the key's further ones the next: `augment` has taken those below.
  return lambda key, image, label: mine(jax.random.fold_in(key, 16), *augment(key, image, label))


def _bind(own, fields):
  """The augmentation that `own` names, with its fields; None where it names none."""
  known = list(make_augment.__kwdefaults__)
  if not own:
    check_fields(fields, known, "augment")
    return None
  function = own_code.bind(own, "augmentation", fields, known, ("key", "image", "label"))

  def augment(key, image, label):
    changed = function(key, image, label)
    if jax.tree.map(jnp.shape, changed) != (image.shape, label.shape):
      raise UserError(
        f"augmentation {own!r} returns arrays of shape {jax.tree.map(jnp.shape, changed)}, "
        f"expected an image and a label of the shapes that it got, {(image.shape, label.shape)}"
      )
    return changed[0].astype(image.dtype), changed[1].astype(label.dtype)

  return augment


def _recolored(keys, shift_key, image, colors, rgb_shift):
  """Colours f32[H,W,3] changed by amounts that are drawn around those that change nothing."""
  if any(colors.values()):
    *factors, turn = [
      center + jax.random.uniform(key, (), minval=-radius, maxval=radius)
      for key, radius, center in zip(keys, colors.values(), (1.0, 1.0, 1.0, 0.0), strict=True)
    ]
    image = jitter_color(image, *(jnp.maximum(factor, 0) for factor in factors), turn)
  if rgb_shift:
    shift = jax.random.uniform(shift_key, (3,), minval=-rgb_shift, maxval=rgb_shift)
    image = jnp.clip(image + shift, 0, 1)
  return image


def _noisy(keys, image, most):
  """The image with Gaussian noise of a deviation drawn from 0 to `most`."""
  deviation = jax.random.uniform(keys[0], (), maxval=most)
  return jnp.clip(image + deviation * jax.random.normal(keys[1], image.shape), 0, 1)


def _of_colors(change, image):
  """`change` of the first three channels; the others stay."""
  return jnp.concatenate([change(image[..., :3]), image[..., 3:]], -1)


def _check_example(image, label, colors):
  """Raises a UserError for an example that would be augmented wrongly without an error.

  Args:
    image: should be f32[H,W,C].
    label: should be i32[], i32[H,W] or f32[H,W,C'].
    colors: strength of the changes that need red, green and blue.
  """
  if image.ndim != 3 or label.ndim not in (0, 2, 3):
    raise UserError(
      f"augment: image has shape {image.shape}, label {label.shape}; expected one example, image "
      "[H,W,C] and label [], [H,W] or [H,W,C]; use jax.vmap for a batch"
    )
  for name, array in (("image", image), ("target image", label)):
    if array.ndim == 3 and not jnp.issubdtype(array.dtype, jnp.floating):
      raise UserError(
        f"augment: {name} has dtype {array.dtype}; expected floats in [0,1], e.g. image / 255 (a "
        "mask of classes has the shape [H,W])"
      )
  used = [name for name, strength in colors.items() if strength]
  if image.shape[-1] < 3 and used:
    raise UserError(
      f"augment: {', '.join(used)} change red, green and blue, the image has {image.shape[-1]} "
      "channels; set them to 0"
    )
