"""Augmentation that mixes the examples of a batch: MixUp, CutMix, ClassMix, on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.augment.geometry import box
from segjax.augment.limits import LIMITS, check_limits
from segjax.data.labels import IGNORE
from segjax.errors import UserError


class Mixed(NamedTuple):
  """Labels of examples that were mixed with the next: the target is a part of both.

  Attributes:
    own: i32[B], class of the example.
    other: i32[B], class of the next one.
    share: f32[B] in [0,1], weight of its own.
  """

  own: Any
  other: Any
  share: Any


def _blend(key, image, alpha):
  """MixUp: (weight * own + (1 - weight) * next, f32[B] weight from Beta(alpha, alpha))."""
  weight = jax.random.beta(key, alpha, alpha, (len(image),))
  w = weight.astype(image.dtype)[:, None, None, None]
  return w * image + (1 - w) * jnp.roll(image, -1, 0), weight


def draw_boxes(key: jax.Array, shape: Sequence[int], alpha: float) -> jax.Array:
  """Draws the rectangles of CutMix (Yun et al., ICCV 2019).

  A rectangle has the image's proportions, covers a share of Beta(alpha, alpha), lies about a
  uniform centre and is cut at the border.

  Args:
    key: PRNG key.
    shape: (B, H, W).
    alpha: parameter of the Beta distribution, above 0.

  Returns:
    bool[B,H,W], True inside.
  """
  keys = jax.random.split(key)
  size = jnp.array(shape[1:])
  sides = size * jnp.sqrt(jax.random.beta(keys[0], alpha, alpha, (shape[0], 1)))
  centers = size * jax.random.uniform(keys[1], (shape[0], 2))
  return jax.vmap(lambda c, s: box(shape[1:], c, s))(centers, sides)


def paste_next(
  inside: ArrayLike, image: jax.Array, label: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Replaces parts of images and labels by those of the next example of the batch.

  Args:
    inside: bool[B,H,W], True where the next example is shown.
    image: f32[B,H,W,C].
    label: i32[B,H,W].

  Returns:
    (image, label), same shapes and dtypes.
  """
  return (
    jnp.where(inside[..., None], jnp.roll(image, -1, 0), image),
    jnp.where(inside, jnp.roll(label, -1, 0), label),
  )


def draw_classes(key: jax.Array, label: jax.Array, classes: Sequence[int] = ()) -> jax.Array:
  """Draws the pixels of ClassMix: those of half of the classes of a mask.

  Olsson et al., "ClassMix", WACV 2021, with the labels in place of predictions; of 2 n - 1 classes
  n are drawn.

  Args:
    key: PRNG key.
    label: i32[H,W]; 255 is no class.
    classes: those to take, all that the mask has, in place of a random half.

  Returns:
    bool[H,W], True where the mask has one of the drawn classes.
  """
  if classes:
    return jnp.isin(label, jnp.array(classes))
  there = jnp.zeros(IGNORE + 1, bool).at[label.ravel()].set(True).at[IGNORE].set(False)
  order = jnp.where(there, jax.random.uniform(key, there.shape), jnp.inf).argsort()
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
  return (there & (rank < (there.sum() + 1) // 2))[label]


def _paste(inside, image, label):
  """Labels i32[B,H,W] are pasted along, those of i32[B] mixed by the share of pixels."""
  if label.ndim == 3:
    return paste_next(inside, image, label)
  image, _ = paste_next(inside, image, jnp.zeros(inside.shape, label.dtype))
  return image, Mixed(label, jnp.roll(label, -1), 1 - inside.mean((1, 2)))


def make_batch_augment(
  *,
  mixup: float = 0.0,
  mixup_alpha: float = 0.2,
  cutmix: float = 0.0,
  cutmix_alpha: float = 1.0,
  classmix: float = 0.0,
  classmix_classes: Sequence[int] = (),
) -> Callable[..., tuple[jax.Array, jax.Array | Mixed]] | None:
  """Builds the augmentation of a batch, or None where everything is off.

  Args:
    mixup: probability that an example without a rectangle of CutMix is blended with the next
      (Zhang et al., ICLR 2018); class labels alone.
    mixup_alpha: parameter of the Beta distribution of its weight.
    cutmix: probability that an example gets a rectangle of the next (Yun et al., ICCV 2019).
    cutmix_alpha: parameter of the Beta distribution of the rectangle's share, before the border
      cuts it.
    classmix: probability that the pixels of a random half of the next example's classes are pasted
      onto an example without a rectangle of CutMix (Olsson et al., WACV 2021); masks alone.
    classmix_classes: numbers of the classes that are pasted in place of a random half, where the
      next example has them: rare objects are copied.

  Returns:
    (key, f32[B,H,W,C], label) -> (image, label): i32[B,H,W] gives the same, i32[B] Mixed. It raises
    a UserError for other labels, for MixUp of masks and for ClassMix of classes.

  Raises:
    UserError: a value outside its limits.
  """
  check_limits("batch_augment", {k: v for k, v in locals().items() if k in LIMITS})
  if not all(type(c) is int and 0 <= c < IGNORE for c in classmix_classes):
    raise UserError(
      f"batch_augment.classmix_classes is {classmix_classes!r}; expected numbers of classes from 0 "
      f"to {IGNORE - 1}"
    )
  if not (mixup or cutmix or classmix):
    return None

  def augment(key, image, label):
    fits = dict(mixup=label.ndim == 1 or not mixup, classmix=label.ndim == 3 or not classmix)
    if label.ndim not in (1, 3) or not all(fits.values()):
      raise UserError(
        f"batch_augment: labels have shape {label.shape}; expected classes [B], or masks [B,H,W], "
        "where mixup is for classes and classmix for masks"
      )
    keys = jax.random.split(key, 4)
    inside = pasted = jnp.zeros((len(image), 1, 1), bool)
    mixed = image
    if cutmix:
      pasted = jax.random.bernoulli(keys[0], cutmix, pasted.shape)
      inside = pasted & draw_boxes(keys[1], image.shape[:3], cutmix_alpha)
    if classmix:
      # Of the key's further ones, far from those that `split` gives.
      more = [jax.random.fold_in(key, i) for i in (16, 17)]
      chosen = jax.random.bernoulli(more[0], classmix, pasted.shape) & ~pasted
      draw = lambda k, x: draw_classes(k, x, classmix_classes)  # noqa: E731
      following = jnp.roll(label, -1, 0)
      inside |= chosen & jax.vmap(draw)(jax.random.split(more[1], len(image)), following)
    if cutmix or classmix:
      mixed, label = _paste(inside, image, label)
    else:
      label = Mixed(label, jnp.roll(label, -1), jnp.ones(len(label)))
    if not mixup:
      return mixed, label
    blended = jax.random.bernoulli(keys[2], mixup, (len(image),)) & ~pasted[:, 0, 0]
    blend, weight = _blend(keys[3], image, mixup_alpha)
    mixed = jnp.where(blended[:, None, None, None], blend, mixed)
    return mixed, label._replace(share=jnp.where(blended, weight, label.share))

  return augment
