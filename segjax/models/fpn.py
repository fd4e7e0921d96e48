"""Semantic FPN (Kirillov, Girshick, He, Dollar, "Panoptic Feature Pyramid Networks", CVPR 2019).

Computes the same as `segmentation_models_pytorch.FPN`, whose files `weights.load_torch` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.backbones import make_backbone, pyramid
from segjax.models.conv import Conv
from segjax.models.layers import ConvNorm, Layered, logits_layer


class FPNDecoder(Layered):
  """A pyramid of features from the deepest down, each level enlarged to the finest, and their sum.

  Attributes:
    width: channels of the pyramid.
    features: channels of the sum.
    dropout: rate of whole channels, last.
  """

  width: int = 256
  features: int = 128
  dropout: float = 0.2

  @nn.compact
  def __call__(self, levels: list[jax.Array], *, train: bool) -> jax.Array:
    """Maps [B,H_i,W_i,C_i], the largest first -> [B,H_0,W_0,features]."""
    groups = partial(nn.GroupNorm, num_groups=32, epsilon=1e-5)  # also of 32 channels
    norm = "group" if self.features % 32 else groups
    sizes, x, total = [level.shape[1:3] for level in levels], None, 0
    for i in reversed(range(len(levels))):
      name = f"p{i + 2}" if x is None else f"p{i + 2}_skip_conv"
      lateral = self.build(Conv, self.width, 1, use_bias=True, name=name)(levels[i])
      y = x = lateral if x is None else ops.resize_nearest(x, sizes[i]) + lateral
      for j in range(max(i, 1)):
        name = f"seg_blocks_{len(levels) - 1 - i}_block_{j}_block"
        y = self.build(ConvNorm, self.features, own_norm=norm, name=name)(y, train=train)
        if i:
          y = ops.resize_bilinear(y, sizes[i - 1 - j], corners=True)
      total += y
    drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)
    return drop(total)


class FPN(Layered):
  """A feature pyramid over a backbone's features from stride 4 on.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    width: channels of the pyramid.
    features: channels of the sum of its levels.
    dropout: rate of whole channels, before the logits.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet34"
  width: int = 256
  features: int = 128
  dropout: float = 0.2

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    levels = pyramid(make_backbone(self.backbone, like=self)(image, train=train), "FPN")
    fields = self.width, self.features, self.dropout
    x = self.build(FPNDecoder, *fields, name="decoder")(levels, train=train)
    x = ops.wide(logits_layer(self, name="head")(x))
    return ops.resize_bilinear(x, image.shape[1:3], corners=True)
