"""Fully convolutional nets (Long, Shelhamer, Darrell, CVPR 2015), and torchvision's head."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from segjax import ops
from segjax.errors import UserError
from segjax.models.backbones import feature_at, make_backbone
from segjax.models.conv import Conv
from segjax.models.layers import Layered, logits_layer


class FCNHead(Layered):
  """3x3 convolution to a quarter of the channels, batch norm, ReLU, dropout 0.1, 1x1 convolution.

  Attributes:
    num_classes: logits per pixel.
  """

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> f32[B,H,W,num_classes]."""
    conv = self.build(Conv, x.shape[-1] // 4, use_bias=self.norm == "none", name="conv")
    x = self.activated(self.normed(x, conv, "norm", train=train))
    x = nn.Dropout(0.1, deterministic=not train)(x)
    return ops.wide(logits_layer(self)(x))


class FCN(Layered):
  """torchvision's FCN: its head on dilated features, bilinear up-sampling.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    output_stride: output stride of the backbone.
    aux: a second head on the features of index 4; sows `aux_logits`, f32[B,H,W,num_classes].
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet50"
  output_stride: int = 8
  aux: bool = False

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(self.backbone, output_stride=self.output_stride, like=self)
    features = backbone(image, train=train)
    head = self.build(FCNHead, self.num_classes, name="head")
    if self.aux:
      sow_aux(self, feature_at(features, 4, "the auxiliary head"), image.shape[1:3], train)
    return ops.resize_bilinear(head(features[-1], train=train), image.shape[1:3])


def sow_aux(net: Layered, x: jax.Array, size: tuple[int, int], train: bool) -> None:
  """Sows the logits of an auxiliary `FCNHead` on features x; for use inside a compact net."""
  head = net.build(FCNHead, net.num_classes, name="aux_head")
  net.sow("intermediates", "aux_logits", ops.resize_bilinear(head(x, train=train), size))


class FCN32s(Layered):
  """Scores of the stride-32 features, up-sampled 32 times.

  With `finest` the scores of finer features are added, as in the paper's FCN-16s and FCN-8s; over a
  VGG those are the last ones before the pooling that would halve them, where the paper takes the
  output of the pooling before.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    hidden: width of the two convolutions (7x7 and 1x1, with dropout 0.5) before the scores,
      4096 in the paper; 0 for none, a 1x1 convolution on the features as head.
    finest: stride of the finest features whose scores are added: 32, 16 or 8.
  """

  num_classes: int = 21
  backbone: str | Callable = "vgg16"
  hidden: int = 0
  finest: int = 32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W.

    Scores are doubled in size bilinearly, the initial state of the paper's learned up-sampling.
    """
    if self.finest not in (32, 16, 8):
      raise UserError(f"finest is {self.finest}, expected 32, 16 or 8")
    backbone = make_backbone(self.backbone, like=self)
    features = backbone(image, train=train)
    x = feature_at(features, 5, type(self).__name__)
    for i, size in enumerate((7, 1) if self.hidden else ()):
      conv = self.build(Conv, self.hidden, size, use_bias=True, name=f"fc{i + 6}")
      x = nn.Dropout(0.5, deterministic=not train)(self.activated(conv(x)))
    x = ops.wide(logits_layer(self, name="head")(x))
    for index in range(4, self.finest.bit_length() - 2, -1):
      skip = feature_at(features, index, type(self).__name__)
      score = logits_layer(self, name=f"score{2**index}")(skip)
      x = ops.resize_bilinear(x, skip.shape[1:3]) + ops.wide(score)
    return ops.resize_bilinear(x, image.shape[1:3])


class FCN16s(FCN32s):
  """`FCN32s` with the scores of the stride-16 features added."""

  finest: int = 16


class FCN8s(FCN32s):
  """`FCN32s` with the scores of the stride-16 and stride-8 features added."""

  finest: int = 8
