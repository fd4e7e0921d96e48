"""Rotation prediction: how an image was turned, without labels (Gidaris et al., ICLR 2018)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from segjax.errors import UserError
from segjax.tasks.classification import Classification

ANGLES = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


@dataclasses.dataclass(frozen=True)
class Rotation(Classification):
  """Classification of an image's turn, anticlockwise; the classes of the data are not looked at.

  In training each image is turned at random, in an evaluation in all four ways.
  """

  top_k: int = 1

  needs: ClassVar[str] = "nothing"
  pretext: ClassVar[bool] = True

  def __post_init__(self):
    object.__setattr__(self, "classes", ANGLES)
    super().__post_init__()

  def prepare(self, key, image, label, *, train, augment=None):
    """Turned images, and by how many quarters."""
    image, _ = super().prepare(key, image, label, train=train, augment=augment)
    if image.shape[1] != image.shape[2]:
      raise UserError(f"rotation needs square images, data.size is {image.shape[1:3]}")
    if key is None:
      return image, None
    turned = jnp.stack([jnp.rot90(image, k, axes=(1, 2)) for k in range(4)])
    if not train:
      label = jnp.repeat(jnp.arange(4), len(image))
      return turned.reshape(-1, *image.shape[1:]), label
    quarters = jax.random.randint(jax.random.fold_in(key, 2**31 + 1), (len(image),), 0, 4)
    return turned[quarters, jnp.arange(len(image))], quarters

  def statistics(self, logits, label, mask, *, histogram):
    """Sums over a batch, or over its images in all four ways."""
    mask = jnp.tile(mask, len(logits) // len(mask))
    return super().statistics(logits, label, mask, histogram=histogram)
