"""A backbone with the projection that self-supervised losses compare."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.backbones import make_backbone


class Projection(nn.Module):
  """Backbone, mean over positions, two dense layers.

  Attributes:
    num_outputs: width of the projection.
    backbone: a key of `BACKBONES`.
    width: of the layer between.
    dtype: compute dtype; parameters and projections are float32.
  """

  num_outputs: int = 128
  backbone: str = "resnet18"
  width: int = 512
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> f32[B,num_outputs]; sows `penultimate`, the pooled features f32[B,C]."""
    features = make_backbone(self.backbone, dtype=self.dtype, name="backbone")(image, train=train)
    x = features[-1].mean((1, 2))
    self.sow("intermediates", "penultimate", x.astype(jnp.float32))
    x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="hidden")(x))
    x = nn.Dense(self.num_outputs, dtype=self.dtype, name="head")(x)
    return x.astype(jnp.float32)
