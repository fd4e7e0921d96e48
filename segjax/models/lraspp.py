"""LR-ASPP, the light head of MobileNetV3 (Howard et al., ICCV 2019)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.models.backbones import feature_at, make_backbone
from segjax.models.conv import Conv
from segjax.models.layers import ConvNorm, logits_layer


class LRASPPHead(nn.Module):
  """Deep features gated by their mean, scored beside stride-8 features.

  Attributes:
    num_classes: logits a pixel.
    features: channels of the deep branch.
    dtype: compute dtype.
  """

  num_classes: int
  features: int = 128
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, fine, *, train: bool):
    """Deep [B,h,w,C] and fine [B,H,W,c] features -> f32[B,H,W,num_classes]."""
    gate = Conv(self.features, 1, dtype=self.dtype, name="scale")(x.mean((1, 2), keepdims=True))
    x = ConvNorm(self.features, 1, dtype=self.dtype, name="cbr")(x, train=train)
    x = ops.resize_bilinear(x * jax.nn.sigmoid(gate), fine.shape[1:3])
    low = logits_layer(self.num_classes, self.dtype, name="low_classifier")(fine)
    high = logits_layer(self.num_classes, self.dtype, name="high_classifier")(x)
    return low.astype(jnp.float32) + high.astype(jnp.float32)


class LRASPP(nn.Module):
  """LR-ASPP; its defaults are torchvision's `lraspp_mobilenet_v3_large`.

  Attributes:
    num_classes: logits a pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`.
    output_stride: of the backbone.
    dtype: compute dtype; parameters and logits are float32.
  """

  num_classes: int = 21
  backbone: str = "mobilenet_v3_large"
  output_stride: int = 16
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(
      self.backbone, output_stride=self.output_stride, dtype=self.dtype, name="backbone"
    )
    features = backbone(image, train=train)
    head = LRASPPHead(self.num_classes, dtype=self.dtype, name="head")
    x = head(features[-1], feature_at(features, 3, "LRASPP"), train=train)
    return ops.resize_bilinear(x, image.shape[1:3])
