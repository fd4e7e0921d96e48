"""DPT (Ranftl, Bochkovskiy, Koltun, "Vision Transformers for Dense Prediction", ICCV 2021).

Neck and head compute the same as those of Hugging Face's `transformers` over a backbone whose maps
have several strides (there Swin V2), and their parameters have the names of that library's
checkpoints. A plain transformer's blocks get their strides from the neck of `dinov2` and `vit`, by
bilinear resizing in the place of DPT's learned one.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.backbones import make_backbone, pyramid
from segjax.models.conv import Conv
from segjax.models.layers import Layered, logits_layer


class Residual(Layered):
  """Two 3x3 convolutions, each after the nonlinearity, added to their input."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]."""
    y = x
    for i in ("1", "2"):
      conv = self.build(Conv, x.shape[-1], use_bias=True, name="convolution" + i)
      y = conv(self.activated(y))
    return x + y


class Fusion(Layered):
  """A level is added to the coarser ones' sum, which then is enlarged twice."""

  @nn.compact
  def __call__(self, x: jax.Array, level: jax.Array | None, size: tuple | None) -> jax.Array:
    """[B,H,W,C], twice, -> [B,*size,C]; twice the size where size is None."""
    if level is not None:
      x = x + self.build(Residual, name="residual_layer1")(level)
    x = self.build(Residual, name="residual_layer2")(x)
    size = size or [2 * n for n in x.shape[1:3]]
    x = ops.resize_bilinear(x, size, corners=True)
    return self.build(Conv, x.shape[-1], 1, use_bias=True, name="projection")(x)


class Neck(Layered):
  """Levels of falling size, fused from the coarsest on.

  Attributes:
    features: output channels.
  """

  features: int = 256

  @nn.compact
  def __call__(self, levels: list[jax.Array]) -> jax.Array:
    """Maps [B,H_i,W_i,C_i], the largest first -> [B,2*H_0,2*W_0,features]."""
    levels = [
      self.build(Conv, self.features, use_bias=self.norm == "none", name=f"convs_{i}")(level)
      for i, level in enumerate(levels)
    ]
    x, rest = levels[-1], [None, *levels[-2::-1]]
    for i, level in enumerate(rest):
      size = rest[i + 1].shape[1:3] if i + 1 < len(rest) else None
      x = self.build(Fusion, name=f"fusion_stage_layers_{i}")(x, level, size)
    return x


class DPTHead(Layered):
  """3x3 convolution, batch norm, ReLU, dropout, 1x1 convolution.

  Attributes:
    num_classes: logits per pixel.
    dropout: rate.
  """

  num_classes: int
  dropout: float = 0.1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> f32[B,H,W,num_classes]."""
    conv = self.build(Conv, x.shape[-1], use_bias=self.norm == "none", name="head_0")
    x = self.activated(self.normed(x, conv, "head_1", train=train))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return ops.wide(logits_layer(self, name="head_4")(x))


class DPT(Layered):
  """DPT over a backbone's features from stride 4 on.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    features: channels of neck and head.
    dropout: rate, before the logits.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet50"
  features: int = 256
  dropout: float = 0.1

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    levels = pyramid(make_backbone(self.backbone, like=self)(image, train=train), "DPT")
    x = self.build(Neck, self.features, name="neck")(levels)
    head = self.build(DPTHead, self.num_classes, self.dropout, name="head")
    return ops.resize_bilinear(head(x, train=train), image.shape[1:3], corners=True)
