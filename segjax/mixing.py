"""Augmentation that mixes the examples of a batch: MixUp and CutMix, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from segjax.augment import box, check_limits
from segjax.errors import UserError


def mixup(key, image, target, alpha):
  """Blends each example with the next (Zhang et al., ICLR 2018), for classification.

  Args:
    key: of jax.random.
    image: f32[B,H,W,3].
    target: f32[B,...], one-hot or soft.
    alpha: above 0; the weight of each example is drawn from Beta(alpha, alpha).

  Returns:
    (image, target), weight * own + (1 - weight) * next.

  Raises:
    UserError: integer targets, which have no blend.
  """
  if not jnp.issubdtype(target.dtype, jnp.floating):
    raise UserError(f"mixup: target is {target.dtype}, expected floats, e.g. jax.nn.one_hot")
  weight = jax.random.beta(key, alpha, alpha, (len(image),))

  def blend(x):
    w = weight.reshape(-1, *(1,) * (x.ndim - 1))
    return w * x + (1 - w) * jnp.roll(x, -1, 0)

  return blend(image), blend(target)


def draw_boxes(key, shape, alpha):
  """Draws the rectangles of CutMix: bool[B,H,W], True inside; shape is (B, H, W).

  The rectangle has the image's proportions, covers a share of Beta(alpha, alpha), lies about a
  uniform centre and is cut at the border.
  """
  keys = jax.random.split(key)
  size = jnp.array(shape[1:])
  sides = size * jnp.sqrt(jax.random.beta(keys[0], alpha, alpha, (shape[0], 1)))
  centers = size * jax.random.uniform(keys[1], (shape[0], 2))
  return jax.vmap(lambda c, s: box(shape[1:], c, s))(centers, sides)


def paste_next(inside, image, label):
  """Where bool[B,H,W] `inside` is True, image and label of the next example of the batch."""
  return (
    jnp.where(inside[..., None], jnp.roll(image, -1, 0), image),
    jnp.where(inside, jnp.roll(label, -1, 0), label),
  )


def cutmix(key, image, label, alpha):
  """Pastes a rectangle of the next example into each (Yun et al., ICCV 2019).

  Dense labels are pasted along. Class labels stay; their targets are to be mixed by the share:
  share * own + (1 - share) * next.

  Args:
    key: of jax.random.
    image: f32[B,H,W,3].
    label: i32[B,H,W] or i32[B].
    alpha: above 0; the share of the rectangle, before the border cuts it, is drawn from
      Beta(alpha, alpha).

  Returns:
    (image, label, f32[B] share of an image's pixels that are its own).
  """
  inside = draw_boxes(key, image.shape[:3], alpha)
  dense = label if label.ndim == 3 else jnp.zeros(inside.shape, label.dtype)
  image, pasted = paste_next(inside, image, dense)
  return image, pasted if label.ndim == 3 else label, 1 - inside.mean((1, 2))


def make_batch_augment(*, cutmix=0.0, cutmix_alpha=1.0):
  """Builds the augmentation of a batch with dense labels, or None where everything is off.

  Args:
    cutmix: probability that an example gets a rectangle of the next, see `cutmix`.
    cutmix_alpha: of the Beta distribution of the rectangle's share.

  Returns:
    (key, f32[B,H,W,3], i32[B,H,W]) -> (image, label).

  Raises:
    UserError: a value outside its limits.
  """
  check_limits("batch_augment", locals())
  if not cutmix:
    return None

  def augment(key, image, label):
    keys = jax.random.split(key)
    mixed = jax.random.bernoulli(keys[0], cutmix, (len(image), 1, 1))
    return paste_next(mixed & draw_boxes(keys[1], label.shape, cutmix_alpha), image, label)

  return augment
