"""DPT (Ranftl, Bochkovskiy, Koltun, "Vision Transformers for Dense Prediction", ICCV 2021).

Neck and head compute the same as those of Hugging Face's `transformers` for nets without a readout
of the class token, and their parameters have the names of that library's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.backbones import make_backbone, pyramid
from segjax.models.conv import Conv
from segjax.models.layers import ConvTranspose, Layered, logits_layer


class Reassemble(Layered):
  """A 1x1 convolution, then four times the size, twice, the same or half, by the level.

  Attributes:
    features: output channels.
    level: 0, 1, 2 or 3.
  """

  features: int
  level: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B,H,W,C] -> [B,H',W',features]."""
    x = self.build(Conv, self.features, 1, use_bias=True, name="projection")(x)
    if self.level < 2:
      size, init = 4 // 2**self.level, self.kernel_init or "he_normal"
      fields = dict(kernel_init=init, name="resize")
      return self.build(ConvTranspose, self.features, size, size, **fields)(x)
    if self.level == 2:
      return x
    return self.build(Conv, self.features, stride=2, use_bias=True, name="resize")(x)


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
  """Levels of four strides, fused from the coarsest on.

  Maps that are all of one size, as a plain transformer's blocks are, become maps of four strides by
  learned convolutions first.

  Attributes:
    features: output channels.
    widths: channels of the four levels that one size becomes.
  """

  features: int = 256
  widths: tuple[int, ...] = (96, 192, 384, 768)

  @nn.compact
  def __call__(self, levels: list[jax.Array]) -> jax.Array:
    """Maps [B,H_i,W_i,C_i], the largest first -> [B,2*H_0,2*W_0,features]."""
    if len(levels) == 4 and len({x.shape[1:3] for x in levels}) == 1:
      stage = "reassemble_stage_layers_"
      parts = [self.build(Reassemble, w, i, name=f"{stage}{i}") for i, w in enumerate(self.widths)]
      levels = [part(level) for part, level in zip(parts, levels, strict=True)]
    levels = [
      self.build(Conv, self.features, name=f"convs_{i}")(level) for i, level in enumerate(levels)
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
    widths: see `Neck`.
    dropout: rate, before the logits.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet50"
  features: int = 256
  widths: tuple[int, ...] = (96, 192, 384, 768)
  dropout: float = 0.1

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    levels = pyramid(make_backbone(self.backbone, like=self)(image, train=train), "DPT")
    x = self.build(Neck, self.features, self.widths, name="neck")(levels)
    head = self.build(DPTHead, self.num_classes, self.dropout, name="head")
    return ops.resize_bilinear(head(x, train=train), image.shape[1:3], corners=True)
