"""Rotation prediction: how an image was turned, without labels (Gidaris et al., ICLR 2018)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from segjax.errors import UserError
from segjax.tasks.classification import Classification

ANGLES = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


@dataclasses.dataclass(frozen=True)
class Rotation(Classification):
  """Classification of an image's turn, anticlockwise; the classes of the data are not looked at.

  Every image comes turned in all four ways, as the paper found best, so a step takes four times the
  time and memory of its batch.
  """

  top_k: int = 1

  label_kind: ClassVar[str] = "nothing"
  self_supervised: ClassVar[bool] = True

  def __post_init__(self):
    object.__setattr__(self, "classes", ANGLES)
    super().__post_init__()

  def prepare(self, key, image, label, *, train, augment=None):
    """Images in all four ways, [4B,H,W,3]: first all as they are; and by how many quarters."""
    image, _ = super().prepare(key, image, label, train=train, augment=augment)
    if image.shape[1] != image.shape[2]:
      raise UserError(f"rotation needs square images, data.size is {image.shape[1:3]}")
    if key is None:
      return image, None
    turned = [jnp.rot90(image, k, axes=(1, 2)) for k in range(len(ANGLES))]
    return jnp.concatenate(turned), jnp.repeat(jnp.arange(len(ANGLES)), len(image))

  def statistics(self, logits, label, valid, *, evaluating):
    """Sums over a batch in all four ways, [4B] of valid [B]."""
    valid = jnp.tile(valid, len(ANGLES))
    return super().statistics(logits, label, valid, evaluating=evaluating)
