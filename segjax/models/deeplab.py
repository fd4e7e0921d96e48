"""DeepLabv3 (Chen et al., arXiv 1706.05587) and DeepLabv3+ (Chen et al., ECCV 2018)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax import ops
from segjax.models.backbones import feature_at, make_backbone
from segjax.models.fcn import sow_aux
from segjax.models.layers import ConvNorm, logits_layer


class ASPP(nn.Module):
  """Atrous spatial pyramid pooling: parallel convolutions of several rates, and the image's mean.

  In training a batch of one image is an error: the mean's batch norm sees one value a channel.

  Attributes:
    features: channels of each branch.
    out_features: channels of the 1x1 convolution over all branches.
    rates: dilations of the 3x3 branches; there is always a 1x1 branch.
    dropout: rate, last.
    dtype: compute dtype.
  """

  features: int = 256
  out_features: int = 256
  rates: tuple[int, ...] = (12, 24, 36)
  dropout: float = 0.5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,H,W,out_features]."""
    block = partial(ConvNorm, dtype=self.dtype)
    branches = [block(self.features, 1, name="branch0")(x, train=train)]
    for i, rate in enumerate(self.rates):
      branches.append(block(self.features, 3, rate, name=f"branch{i + 1}")(x, train=train))
    mean = block(self.features, 1, name="pool")(x.mean((1, 2), keepdims=True), train=train)
    branches.append(jnp.broadcast_to(mean, branches[0].shape))
    x = block(self.out_features, 1, name="project")(jnp.concatenate(branches, -1), train=train)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


class DeepLabHead(nn.Module):
  """ASPP or nothing, 3x3 convolution, batch norm, ReLU, 1x1 convolution.

  Attributes:
    num_classes: logits a pixel.
    features: channels of the head; 0 for those of its input.
    aspp: with ASPP.
    rates: of ASPP.
    dtype: compute dtype.
  """

  num_classes: int
  features: int = 256
  aspp: bool = True
  rates: tuple[int, ...] = (12, 24, 36)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> f32[B,H,W,num_classes]."""
    width = self.features or x.shape[-1]
    if self.aspp:
      x = ASPP(256, width, self.rates, dtype=self.dtype, name="aspp")(x, train=train)
    x = ConvNorm(width, dtype=self.dtype, name="conv")(x, train=train)
    return logits_layer(self.num_classes, self.dtype)(x).astype(jnp.float32)


class DeepLabV3(nn.Module):
  """ASPP on the backbone's last features, bilinear up-sampling.

  Its defaults are torchvision's `deeplabv3_resnet50` (with `output_stride=16`,
  `backbone="mobilenet_v3_large"` and `aux_index=3` its `deeplabv3_mobilenet_v3_large`);
  `output_stride=32, head_features=0` is the plain form without dilation, whose head keeps the
  backbone's width.

  Attributes:
    num_classes: logits a pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`.
    output_stride: of the backbone.
    aspp: with ASPP.
    rates: dilations of ASPP.
    head_features: channels of the head; 0 for the backbone's.
    aux: a second head; sows `aux_logits`, f32[B,H,W,num_classes].
    aux_index: of the features that the second head takes.
    dtype: compute dtype; parameters and logits are float32.
  """

  num_classes: int = 21
  backbone: str = "resnet50"
  output_stride: int = 8
  aspp: bool = True
  rates: tuple[int, ...] = (12, 24, 36)
  head_features: int = 256
  aux: bool = False
  aux_index: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(
      self.backbone, output_stride=self.output_stride, dtype=self.dtype, name="backbone"
    )
    features = backbone(image, train=train)
    head = DeepLabHead(
      self.num_classes, self.head_features, self.aspp, self.rates, self.dtype, name="head"
    )
    if self.aux:
      x = feature_at(features, self.aux_index, "the auxiliary head")
      sow_aux(self, x, image.shape[1:3], train)
    return ops.resize_bilinear(head(features[-1], train=train), image.shape[1:3])


class DeepLabV3PlusHead(nn.Module):
  """ASPP, joined at stride 4 with fine features, and two 3x3 convolutions.

  Attributes:
    num_classes: logits a pixel.
    rates: dilations of ASPP.
    features: channels.
    fine_features: channels that the stride-4 features are reduced to.
    dtype: compute dtype.
  """

  num_classes: int
  rates: tuple[int, ...] = (6, 12, 18)
  features: int = 256
  fine_features: int = 48
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, fine, *, train: bool):
    """Deep [B,h,w,C] and fine [B,H,W,c] features -> f32[B,H,W,num_classes]."""
    block = partial(ConvNorm, dtype=self.dtype)
    aspp = ASPP(self.features, self.features, self.rates, dtype=self.dtype, name="aspp")
    x = ops.resize_bilinear(aspp(x, train=train), fine.shape[1:3])
    fine = block(self.fine_features, 1, name="fine")(fine, train=train)
    x = jnp.concatenate([x, fine], -1)
    for i in (1, 2):
      x = block(self.features, name=f"conv{i}")(x, train=train)
    return logits_layer(self.num_classes, self.dtype)(x).astype(jnp.float32)


class DeepLabV3Plus(nn.Module):
  """DeepLabv3 with a decoder over stride-4 features.

  Attributes:
    num_classes: logits a pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`.
    output_stride: of the backbone.
    rates: dilations of ASPP.
    aux: a second head on the features of index 4; sows `aux_logits`, f32[B,H,W,num_classes].
    dtype: compute dtype; parameters and logits are float32.
  """

  num_classes: int = 21
  backbone: str = "resnet50"
  output_stride: int = 16
  rates: tuple[int, ...] = (6, 12, 18)
  aux: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(
      self.backbone, output_stride=self.output_stride, dtype=self.dtype, name="backbone"
    )
    features = backbone(image, train=train)
    head = DeepLabV3PlusHead(self.num_classes, self.rates, dtype=self.dtype, name="head")
    if self.aux:
      sow_aux(self, feature_at(features, 4, "the auxiliary head"), image.shape[1:3], train)
    x = head(features[-1], feature_at(features, 2, "DeepLabV3Plus"), train=train)
    return ops.resize_bilinear(x, image.shape[1:3])
