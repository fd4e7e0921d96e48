"""Augmentation on the device: pure functions of a key, image and label together.

`make_augment` gives a function of one example; the train step maps it over the batch with
`jax.vmap`, inside `jit`. An augmentation whose range is empty costs nothing. What mixes the
examples of a batch is in `segjax.mixing`.
"""

from __future__ import annotations

import math
from numbers import Real

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from segjax import own_code
from segjax.data.labels import IGNORE
from segjax.errors import UserError, check_fields

# Smallest and largest value of each field.
LIMITS = dict(
  flip=(0, 1),
  flip_vertical=(0, 1),
  scale_min=(0.01, 100),
  scale_max=(0.01, 100),
  aspect=(0, math.inf),
  crop_area_min=(0.01, 1),
  crop_area_max=(0.01, 1),
  crop_aspect=(0, math.inf),
  rotate=(0, 180),
  brightness=(0, math.inf),
  contrast=(0, math.inf),
  saturation=(0, math.inf),
  hue=(0, math.inf),
  rgb_shift=(0, 1),
  blur=(0, 32),
  noise=(0, 1),
  cutout=(0, 1),
  mixup=(0, 1),
  mixup_alpha=(0.01, 100),
  cutmix=(0, 1),
  cutmix_alpha=(0.01, 100),
)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def flip_horizontal(image, label, flipped):
  """Mirrors left and right where the scalar bool `flipped` is True."""
  return jnp.where(flipped, image[:, ::-1], image), jnp.where(flipped, label[:, ::-1], label)


def flip_up_down(image, label, flipped):
  """Mirrors top and bottom where the scalar bool `flipped` is True."""
  return jnp.where(flipped, image[::-1], image), jnp.where(flipped, label[::-1], label)


def scale_and_crop(image, label, scale, position):
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


def rotate_scale_and_crop(image, label, angle, scale, position):
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


def draw_crop(key, area_min, area_max, aspect):
  """Draws the sides of a random resized crop (Szegedy et al., CVPR 2015).

  The area is uniform. The aspect ratio is log-uniform within the bounds that keep the crop inside
  the image, where the original draws again.

  Args:
    key: of jax.random.
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


def blur_gaussian(image, sigma, radius):
  """Blurs by a Gaussian; the image's edge pixels continue beyond it.

  Args:
    image: f32[H,W,C].
    sigma: pixels, from 0 for no blur.
    radius: pixels, an int: where the kernel is cut off.

  Returns:
    f32[H,W,C], in the range of the image and [0,1].
  """
  weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / jnp.maximum(sigma, 1e-3)) ** 2)
  weights /= weights.sum()
  low, high = _range(image)
  for axis in (0, 1):
    size = image.shape[axis]
    padded = jnp.pad(image, [(radius, radius) if d == axis else (0, 0) for d in range(3)], "edge")
    taps = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(2 * radius + 1)]
    image = sum(w * tap for w, tap in zip(weights, taps, strict=True))
  return jnp.clip(image, low, high)


def _range(image):
  """Smallest and largest value of each channel, or 0 and 1 where they are inside.

  Weighted means may round to just above the largest value; clipped to this range, values that are
  not in [0,1] stay what they are.
  """
  return jnp.minimum(image.min((0, 1)), 0), jnp.maximum(image.max((0, 1)), 1)


def box(shape, center, size):
  """bool[H,W], True for pixel centres in a rectangle, which may reach beyond the image.

  Args:
    shape: (H, W).
    center: f32[2], row and column in pixels.
    size: f32[2], height and width in pixels.
  """
  rows, columns = (
    jnp.abs(jnp.arange(n) + 0.5 - center[d]) < size[d] / 2 for d, n in enumerate(shape)
  )
  return rows[:, None] & columns


def cut_out(image, center, side):
  """Hides a square under the image's mean colour (DeVries and Taylor, arXiv 1708.04552).

  Labels stay as they are: what the square hides is to be told from what surrounds it.

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


def make_augment(
  *,
  flip=0.0,
  flip_vertical=0.0,
  scale_min=1.0,
  scale_max=1.0,
  aspect=0.0,
  crop_area_min=1.0,
  crop_area_max=1.0,
  crop_aspect=0.288,
  rotate=0.0,
  brightness=0.0,
  contrast=0.0,
  saturation=0.0,
  hue=0.0,
  rgb_shift=0.0,
  blur=0.0,
  noise=0.0,
  cutout=0.0,
  own="",
  **fields,
):
  """Builds the augmentation of one example, or None where everything is off.

  Flips come first and are exact. Crop, scale and rotation resample once, together; what lies
  beyond the image then is black and labelled 255 (ignore). Flips, resampling, blur and cutout treat
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
    low, high = _range(image)
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
  function, what = own_code.find(own, "augmentation"), f"augmentation {own!r}"
  own_code.check_disjoint(function, known, what)
  own_code.check_arguments(function, fields, what, passed=("key", "image", "label"))

  def augment(key, image, label):
    changed = function(key, image, label, **fields)
    if jax.tree.map(jnp.shape, changed) != (image.shape, label.shape):
      raise UserError(
        f"{what} returns arrays of shape {jax.tree.map(jnp.shape, changed)}, expected an image and "
        f"a label of the shapes that it got, {(image.shape, label.shape)}"
      )
    return changed[0].astype(image.dtype), changed[1].astype(label.dtype)

  return augment


def _recolored(keys, shift_key, image, colors, rgb_shift):
  """Colours f32[H,W,3] changed by amounts that are drawn around those that change nothing."""
  if any(colors.values()):
    amounts = [
      center + jax.random.uniform(key, (), minval=-radius, maxval=radius)
      for key, radius, center in zip(keys, colors.values(), (1.0, 1.0, 1.0, 0.0), strict=True)
    ]
    image = jitter_color(image, *amounts)
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


def check_limits(what, fields):
  """Raises a UserError for the first field outside `LIMITS`, or x_min above x_max."""
  for name, value in fields.items():
    low, high = LIMITS[name]
    if not (isinstance(value, Real) and low <= value <= high and math.isfinite(value)):
      expected = f"from {low} to {high}" if high < math.inf else f"of {low} or more"
      raise UserError(f"{what}.{name} is {value!r}; expected a number {expected}")
    top = name.removesuffix("_min") + "_max"
    if name.endswith("_min") and value > fields[top]:
      raise UserError(f"{what}.{name} is {value}, above {what}.{top}, {fields[top]}; swap them")
