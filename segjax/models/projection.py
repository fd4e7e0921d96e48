"""A backbone with the projection that self-supervised losses compare."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.models.backbones import make_backbone
from segjax.models.layers import Layered
from segjax.models.norms import apply_norm


class Projection(Layered):
  """Backbone, mean over positions, two dense layers.

  Attributes:
    num_classes: width of the projection.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    width: number of channels of the layer between.
  """

  num_classes: int = 128
  backbone: str | Callable = "resnet18"
  width: int = 512

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> f32[B,num_classes]; sows `penultimate`, the pooled features f32[B,C]."""
    features = make_backbone(self.backbone, like=self)(image, train=train)
    x = features[-1].mean((1, 2))
    self.sow("intermediates", "penultimate", ops.wide(x))
    x = self.activated(self.build(nn.Dense, self.width, name="hidden")(x))
    return ops.wide(self.build(nn.Dense, self.num_classes, name="head")(x))


class Prototypes(Layered):
  """A backbone whose normalised projection is compared with prototypes, DINO's head.

  Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, with batch
  norm in the head, an option there: features of random convolutions are nearly the same for all
  images, and without it much of a short training passes before prototypes separate them. The
  prototypes have length 1. The batch statistics hold `center`, f32[num_classes], which
  `segjax.tasks.dino` moves.

  Attributes:
    num_classes: prototypes.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    width: number of channels of the two hidden layers.
    bottleneck: width of the normalised projection.
  """

  num_classes: int = 1024
  backbone: str | Callable = "resnet18"
  width: int = 512
  bottleneck: int = 128

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> cosines f32[B,num_classes]; sows `penultimate`, the pooled features."""
    stored = jnp.promote_types(self.param_dtype, jnp.float32)
    self.variable("batch_stats", "center", jnp.zeros, (self.num_classes,), stored)
    features = make_backbone(self.backbone, like=self)(image, train=train)
    x = features[-1].mean((1, 2))
    self.sow("intermediates", "penultimate", ops.wide(x))
    for i in (1, 2):
      x = self.build(nn.Dense, self.width, name=f"hidden{i}")(x)
      x = apply_norm(self.make_norm(self.width, f"norm{i}"), x, train=train)
      x = self.activated(x, nn.gelu)
    x = self.build(nn.Dense, self.bottleneck, name="bottleneck_layer")(x)
    x = _unit(ops.wide(x), -1)
    init, shape = nn.initializers.normal(1.0), (self.bottleneck, self.num_classes)
    return x @ _unit(ops.wide(self.param("head", init, shape, self.param_dtype)), 0)


def _unit(x, axis):
  """x with length 1 along an axis; the gradient at 0 is finite."""
  square = (x**2).sum(axis, keepdims=True)
  # A select, as the gradient of `jnp.maximum` asks whether two roundings of one value are equal.
  return x * jax.lax.rsqrt(jnp.where(square < 1e-12, 1e-12, square))
