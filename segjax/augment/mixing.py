"""Augmentation that mixes the examples of a batch: MixUp and CutMix, on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.augment.geometry import box
from segjax.augment.limits import check_limits
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
  w = weight[:, None, None, None]
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


def _paste(inside, image, label):
  """CutMix: labels i32[B,H,W] are pasted along, those of i32[B] mixed by the pixels' share."""
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
) -> Callable[..., tuple[jax.Array, jax.Array | Mixed]] | None:
  """Builds the augmentation of a batch, or None where everything is off.

  Args:
    mixup: probability that an example that gets no rectangle is blended with the next (Zhang et
      al., ICLR 2018); class labels alone.
    mixup_alpha: parameter of the Beta distribution of its weight.
    cutmix: probability that an example gets a rectangle of the next (Yun et al., ICCV 2019).
    cutmix_alpha: parameter of the Beta distribution of the rectangle's share, before the border
      cuts it.

  Returns:
    (key, f32[B,H,W,C], label) -> (image, label): i32[B,H,W] gives the same, i32[B] Mixed. It raises
    a UserError for other labels, and for MixUp of masks.

  Raises:
    UserError: a value outside its limits.
  """
  check_limits("batch_augment", locals())
  if not (mixup or cutmix):
    return None

  def augment(key, image, label):
    if label.ndim not in (1, 3) or (mixup and label.ndim == 3):
      raise UserError(
        f"batch_augment: labels have shape {label.shape}; expected classes [B], or without mixup "
        "masks [B,H,W]"
      )
    keys = jax.random.split(key, 4)
    pasted = jnp.zeros((len(image), 1, 1), bool)
    mixed = image
    if cutmix:
      pasted = jax.random.bernoulli(keys[0], cutmix, pasted.shape)
      inside = pasted & draw_boxes(keys[1], image.shape[:3], cutmix_alpha)
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
