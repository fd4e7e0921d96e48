"""DeepLabv3 (Chen et al., arXiv 1706.05587) and DeepLabv3+ (Chen et al., ECCV 2018)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.models.backbones import feature_at, make_backbone
from segjax.models.fcn import sow_aux
from segjax.models.layers import ConvNorm, Layered, logits_layer


class ASPP(Layered):
  """Atrous spatial pyramid pooling: parallel convolutions of several rates, and the image's mean.

  In training a batch of one image is an error: the mean's batch norm sees one value per channel.

  Attributes:
    features: channels of each branch.
    out_features: channels of the 1x1 convolution over all branches.
    rates: dilations of the 3x3 branches; there is always a 1x1 branch.
    dropout: rate, last.
  """

  features: int = 256
  out_features: int = 256
  rates: tuple[int, ...] = (12, 24, 36)
  dropout: float = 0.5

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,out_features]."""
    block = partial(self.build, ConvNorm)
    branches = [block(self.features, 1, name="branch0")(x, train=train)]
    for i, rate in enumerate(self.rates):
      branches.append(block(self.features, 3, rate, name=f"branch{i + 1}")(x, train=train))
    mean = block(self.features, 1, name="pool")(x.mean((1, 2), keepdims=True), train=train)
    branches.append(jnp.broadcast_to(mean, branches[0].shape))
    x = block(self.out_features, 1, name="project")(jnp.concatenate(branches, -1), train=train)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


class DeepLabHead(Layered):
  """ASPP or nothing, 3x3 convolution, batch norm, ReLU, 1x1 convolution.

  Attributes:
    num_classes: logits per pixel.
    features: channels of the head; 0 for those of its input.
    aspp: whether the head has ASPP.
    rates: dilation rates of ASPP.
  """

  num_classes: int
  features: int = 256
  aspp: bool = True
  rates: tuple[int, ...] = (12, 24, 36)

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> f32[B,H,W,num_classes]."""
    width = self.features or x.shape[-1]
    if self.aspp:
      x = self.build(ASPP, 256, width, self.rates, name="aspp")(x, train=train)
    x = self.build(ConvNorm, width, name="conv")(x, train=train)
    return ops.wide(logits_layer(self)(x))


class DeepLabV3(Layered):
  """ASPP on the backbone's last features, bilinear up-sampling.

  Its defaults are torchvision's `deeplabv3_resnet50` (with `output_stride=16`,
  `backbone="mobilenet_v3_large"` and `aux_index=3` its `deeplabv3_mobilenet_v3_large`);
  `output_stride=32, head_features=0` is the plain form without dilation, whose head keeps the
  backbone's width.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    output_stride: output stride of the backbone.
    aspp: whether the head has ASPP.
    rates: dilations of ASPP.
    head_features: channels of the head; 0 for the backbone's.
    aux: a second head; sows `aux_logits`, f32[B,H,W,num_classes].
    aux_index: index of the features that the second head takes.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet50"
  output_stride: int = 8
  aspp: bool = True
  rates: tuple[int, ...] = (12, 24, 36)
  head_features: int = 256
  aux: bool = False
  aux_index: int = 4

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(self.backbone, output_stride=self.output_stride, like=self)
    features = backbone(image, train=train)
    fields = self.num_classes, self.head_features, self.aspp, self.rates
    head = self.build(DeepLabHead, *fields, name="head")
    if self.aux:
      x = feature_at(features, self.aux_index, "the auxiliary head")
      sow_aux(self, x, image.shape[1:3], train)
    return ops.resize_bilinear(head(features[-1], train=train), image.shape[1:3])


class DeepLabV3PlusHead(Layered):
  """ASPP, joined at stride 4 with fine features, and two 3x3 convolutions.

  Attributes:
    num_classes: logits per pixel.
    rates: dilations of ASPP.
    features: channels.
    fine_features: channels that the stride-4 features are reduced to.
  """

  num_classes: int
  rates: tuple[int, ...] = (6, 12, 18)
  features: int = 256
  fine_features: int = 48

  @nn.compact
  def __call__(self, x: jax.Array, fine: jax.Array, *, train: bool) -> jax.Array:
    """Deep [B,h,w,C] and fine [B,H,W,c] features -> f32[B,H,W,num_classes]."""
    block = partial(self.build, ConvNorm)
    aspp = self.build(ASPP, self.features, self.features, self.rates, name="aspp")
    x = ops.resize_bilinear(aspp(x, train=train), fine.shape[1:3])
    fine = block(self.fine_features, 1, name="fine")(fine, train=train)
    x = jnp.concatenate([x, fine], -1)
    for i in (1, 2):
      x = block(self.features, name=f"conv{i}")(x, train=train)
    return ops.wide(logits_layer(self)(x))


class DeepLabV3Plus(Layered):
  """DeepLabv3 with a decoder over stride-4 features.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    output_stride: output stride of the backbone.
    rates: dilations of ASPP.
    aux: a second head on the features of index 4; sows `aux_logits`, f32[B,H,W,num_classes].
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet50"
  output_stride: int = 16
  rates: tuple[int, ...] = (6, 12, 18)
  aux: bool = False

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(self.backbone, output_stride=self.output_stride, like=self)
    features = backbone(image, train=train)
    head = self.build(DeepLabV3PlusHead, self.num_classes, self.rates, name="head")
    if self.aux:
      sow_aux(self, feature_at(features, 4, "the auxiliary head"), image.shape[1:3], train)
    x = head(features[-1], feature_at(features, 2, "DeepLabV3Plus"), train=train)
    return ops.resize_bilinear(x, image.shape[1:3])
