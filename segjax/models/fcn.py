"""Fully convolutional nets (Long, Shelhamer, Darrell, CVPR 2015), and torchvision's head."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError
from segjax.models.backbones import feature_at, make_backbone
from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, conv_norm, logits_layer


class FCNHead(nn.Module):
  """3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout 0.1, 1x1 convolution.

  Attributes:
    num_classes: logits a pixel.
    dtype: compute dtype.
  """

  num_classes: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> f32[B,H,W,num_classes]."""
    conv = Conv(x.shape[-1] // 4, dtype=self.dtype, name="conv")
    x = nn.relu(conv_norm(x, conv, BatchNorm(dtype=self.dtype, name="norm"), train=train))
    x = nn.Dropout(0.1, deterministic=not train)(x)
    return logits_layer(self.num_classes, self.dtype)(x).astype(jnp.float32)


class FCN(nn.Module):
  """torchvision's FCN: its head on dilated features, bilinear up-sampling.

  Attributes:
    num_classes: logits a pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`.
    output_stride: of the backbone.
    aux: a second head on the features of index 4; sows `aux_logits`, f32[B,H,W,num_classes].
    dtype: compute dtype; parameters and logits are float32.
  """

  num_classes: int = 21
  backbone: str = "resnet50"
  output_stride: int = 8
  aux: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(
      self.backbone, output_stride=self.output_stride, dtype=self.dtype, name="backbone"
    )
    features = backbone(image, train=train)
    head = FCNHead(self.num_classes, self.dtype, name="head")
    if self.aux:
      sow_aux(self, feature_at(features, 4, "the auxiliary head"), image.shape[1:3], train)
    return ops.resize_bilinear(head(features[-1], train=train), image.shape[1:3])


def sow_aux(net, x, size, train):
  """Sows the logits of an auxiliary `FCNHead` on features x; for use inside a compact net."""
  head = FCNHead(net.num_classes, net.dtype, name="aux_head")
  net.sow("intermediates", "aux_logits", ops.resize_bilinear(head(x, train=train), size))


class FCN32s(nn.Module):
  """Scores of the stride-32 features, up-sampled 32 times.

  With `finest` the scores of finer features are added, as in the paper's FCN-16s and FCN-8s; over a
  VGG those are the last ones before the pooling that would halve them, where the paper takes what
  the pooling before gave.

  Attributes:
    num_classes: logits a pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`.
    hidden: width of the two convolutions (7x7 and 1x1, with dropout 0.5) before the scores,
      4096 in the paper; 0 for none, a 1x1 convolution on the features as head.
    finest: stride of the finest features whose scores are added: 32, 16 or 8.
    dtype: compute dtype; parameters and logits are float32.
  """

  num_classes: int = 21
  backbone: str = "vgg16"
  hidden: int = 0
  finest: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> logits f32[B,H,W,num_classes], any H and W.

    Scores are doubled in size bilinearly, the initial state of the paper's learned up-sampling.
    """
    if self.finest not in (32, 16, 8):
      raise UserError(f"finest is {self.finest}, expected 32, 16 or 8")
    backbone = make_backbone(self.backbone, dtype=self.dtype, name="backbone")
    features = backbone(image, train=train)
    x = feature_at(features, 5, type(self).__name__)
    for i, size in enumerate((7, 1) if self.hidden else ()):
      conv = Conv(self.hidden, size, use_bias=True, dtype=self.dtype, name=f"fc{i + 6}")
      x = nn.Dropout(0.5, deterministic=not train)(nn.relu(conv(x)))
    x = logits_layer(self.num_classes, self.dtype, name="head")(x).astype(jnp.float32)
    for index in range(4, self.finest.bit_length() - 2, -1):
      skip = feature_at(features, index, type(self).__name__)
      score = logits_layer(self.num_classes, self.dtype, name=f"score{2**index}")(skip)
      x = ops.resize_bilinear(x, skip.shape[1:3]) + score.astype(jnp.float32)
    return ops.resize_bilinear(x, image.shape[1:3])


class FCN16s(FCN32s):
  """`FCN32s` with the scores of the stride-16 features added."""

  finest: int = 16


class FCN8s(FCN32s):
  """`FCN32s` with the scores of the stride-16 and stride-8 features added."""

  finest: int = 8
