"""LR-ASPP, the light head of MobileNetV3 (Howard et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.backbones import feature_at, make_backbone
from segjax.models.conv import Conv
from segjax.models.layers import ConvNorm, Layered, logits_layer


class LRASPPHead(Layered):
  """Deep features gated by their mean, scored beside stride-8 features.

  Attributes:
    num_classes: logits per pixel.
    features: channels of the deep branch.
  """

  num_classes: int
  features: int = 128

  @nn.compact
  def __call__(self, x: jax.Array, fine: jax.Array, *, train: bool) -> jax.Array:
    """Deep [B,h,w,C] and fine [B,H,W,c] features -> f32[B,H,W,num_classes]."""
    gate = self.build(Conv, self.features, 1, name="scale")(x.mean((1, 2), keepdims=True))
    x = self.build(ConvNorm, self.features, 1, name="cbr")(x, train=train)
    x = ops.resize_bilinear(x * jax.nn.sigmoid(gate), fine.shape[1:3])
    low = logits_layer(self, name="low_classifier")(fine)
    high = logits_layer(self, name="high_classifier")(x)
    return ops.wide(low) + ops.wide(high)


class LRASPP(Layered):
  """LR-ASPP; its defaults are torchvision's `lraspp_mobilenet_v3_large`.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    output_stride: output stride of the backbone.
  """

  num_classes: int = 21
  backbone: str | Callable = "mobilenet_v3_large"
  output_stride: int = 16

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(self.backbone, output_stride=self.output_stride, like=self)
    features = backbone(image, train=train)
    head = self.build(LRASPPHead, self.num_classes, name="head")
    x = head(features[-1], feature_at(features, 3, "LRASPP"), train=train)
    return ops.resize_bilinear(x, image.shape[1:3])
