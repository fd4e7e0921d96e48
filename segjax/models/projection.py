"""A backbone with the projection that self-supervised losses compare."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.backbones import make_backbone
from segjax.models.layers import BatchNorm


class Projection(nn.Module):
  """Backbone, mean over positions, two dense layers.

  Attributes:
    num_classes: width of the projection.
    backbone: a key of `BACKBONES`.
    width: of the layer between.
    dtype: compute dtype; parameters and projections are float32.
  """

  num_classes: int = 128
  backbone: str = "resnet18"
  width: int = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> f32[B,num_classes]; sows `penultimate`, the pooled features f32[B,C]."""
    features = make_backbone(self.backbone, dtype=self.dtype, name="backbone")(image, train=train)
    x = features[-1].mean((1, 2))
    self.sow("intermediates", "penultimate", x.astype(jnp.float32))
    x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="hidden")(x))
    x = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
    return x.astype(jnp.float32)


class Prototypes(nn.Module):
  """A backbone whose normalised projection is compared with prototypes, DINO's head.

  Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, with batch
  norm in the head, an option there: features of random convolutions are nearly the same for all
  images, and without it much of a short training goes by before prototypes tell them apart. The
  prototypes have length 1. The batch statistics hold `center`, f32[num_classes], which
  `segjax.tasks.dino` moves.

  Attributes:
    num_classes: prototypes.
    backbone: a key of `BACKBONES`.
    width: of the two hidden layers.
    bottleneck: width of the normalised projection.
    dtype: compute dtype; parameters and logits are float32.
  """

  num_classes: int = 1024
  backbone: str = "resnet18"
  width: int = 512
  bottleneck: int = 128
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> cosines f32[B,num_classes]; sows `penultimate`, the pooled features."""
    self.variable("batch_stats", "center", jnp.zeros, (self.num_classes,), jnp.float32)
    features = make_backbone(self.backbone, dtype=self.dtype, name="backbone")(image, train=train)
    x = features[-1].mean((1, 2))
    self.sow("intermediates", "penultimate", x.astype(jnp.float32))
    for i in (1, 2):
      x = nn.Dense(self.width, dtype=self.dtype, name=f"hidden{i}")(x)
      x = nn.gelu(BatchNorm(dtype=self.dtype, name=f"norm{i}")(x, train=train))
    x = nn.Dense(self.bottleneck, dtype=self.dtype, name="bottleneck_layer")(x)
    x = _unit(x.astype(jnp.float32), -1)
    init = nn.initializers.normal(1.0)
    return x @ _unit(self.param("head", init, (self.bottleneck, self.num_classes)), 0)


def _unit(x, axis):
  """x with length 1 along an axis; the gradient at 0 is finite."""
  square = (x**2).sum(axis, keepdims=True)
  # A select, as the gradient of `jnp.maximum` asks whether two roundings of one value are equal.
  return x * jax.lax.rsqrt(jnp.where(square < 1e-12, 1e-12, square))
