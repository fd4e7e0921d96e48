"""MobileNetV3 (Howard et al., ICCV 2019), torchvision's variants.

Submodules have torchvision's names with underscores for dots: `features_4/block_0_0`.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, Layered, dilate, multiple_of_8

# Kernel size, expanded channels, output channels, squeeze-and-excitation, hard swish, stride.
LARGE = (
  (3, 16, 16, False, False, 1),
  (3, 64, 24, False, False, 2),
  (3, 72, 24, False, False, 1),
  (5, 72, 40, True, False, 2),
  (5, 120, 40, True, False, 1),
  (5, 120, 40, True, False, 1),
  (3, 240, 80, False, True, 2),
  (3, 200, 80, False, True, 1),
  (3, 184, 80, False, True, 1),
  (3, 184, 80, False, True, 1),
  (3, 480, 112, True, True, 1),
  (3, 672, 112, True, True, 1),
  (5, 672, 160, True, True, 2),
  (5, 960, 160, True, True, 1),
  (5, 960, 160, True, True, 1),
)
SMALL = (
  (3, 16, 16, True, False, 2),
  (3, 72, 24, False, False, 2),
  (3, 88, 24, False, False, 1),
  (5, 96, 40, True, True, 2),
  (5, 240, 40, True, True, 1),
  (5, 240, 40, True, True, 1),
  (5, 120, 48, True, True, 1),
  (5, 144, 48, True, True, 1),
  (5, 288, 96, True, True, 2),
  (5, 576, 96, True, True, 1),
  (5, 576, 96, True, True, 1),
)


class SqueezeExcite(Layered):
  """Channels scaled by a gate on their means (Hu et al., CVPR 2018).

  Attributes:
    squeezed: channels between the two dense layers.
  """

  squeezed: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]."""
    conv = partial(self.build, Conv, kernel_size=1, use_bias=True)
    gate = conv(self.squeezed, name="fc1")(x.mean((1, 2), keepdims=True))
    return x * nn.hard_sigmoid(conv(x.shape[-1], name="fc2")(nn.relu(gate)))


class ConvBlock(Layered):
  """Convolution (`0`), batch norm (`1`) and a nonlinearity; epsilon 1e-3, momentum 0.01.

  Attributes:
    features: output channels.
    kernel_size: size of both axes.
    stride: stride of both axes.
    dilation: dilation of both axes.
    groups: number of groups of channels.
    activation: applied last, or None for none.
  """

  features: int
  kernel_size: int = 1
  stride: int = 1
  dilation: int = 1
  groups: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""
    shape = self.features, self.kernel_size, self.stride, self.dilation, self.groups
    conv = self.build(Conv, *shape, use_bias=self.norm == "none", name="0")
    x = self.normed(x, conv, "1", train=train, own=partial(BatchNorm, 1e-3, 0.01))
    return x if self.activation is None else self.activated(x)


class InvertedResidual(Layered):
  """Expansion, depthwise convolution, squeeze-and-excitation, projection.

  Attributes:
    kernel_size: size of the depthwise convolution.
    expanded: channels of the depthwise convolution.
    features: output channels.
    squeeze: whether it has squeeze-and-excitation.
    hard_swish: in place of ReLU, where `activation` is None.
    stride: stride of the depthwise convolution.
    dilation: dilation of the depthwise convolution.
  """

  kernel_size: int
  expanded: int
  features: int
  squeeze: bool
  hard_swish: bool
  stride: int
  dilation: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""
    act = self.activation or (nn.hard_swish if self.hard_swish else nn.relu)
    block, index, inputs = partial(self.build, ConvBlock), 0, x
    if self.expanded != x.shape[-1]:
      x = block(self.expanded, activation=act, name="block_0")(x, train=train)
      index = 1
    x = block(
      self.expanded,
      self.kernel_size,
      self.stride,
      self.dilation,
      groups=self.expanded,
      activation=act,
      name=f"block_{index}",
    )(x, train=train)
    if self.squeeze:
      index += 1
      squeezed = multiple_of_8(self.expanded / 4)
      x = self.build(SqueezeExcite, squeezed, name=f"block_{index}")(x)
    x = block(self.features, activation=None, name=f"block_{index + 1}")(x, train=train)
    return x + inputs if self.stride == 1 and inputs.shape == x.shape else x


class MobileNetV3(Layered):
  """The convolutional part of a MobileNetV3.

  Attributes:
    blocks: rows of `LARGE` or `SMALL`.
    output_stride: 32, or 16 or 8: the last strided blocks are dilated instead.
  """

  blocks: tuple[tuple, ...] = LARGE
  output_stride: int = 32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """f32[B,H,W,C] -> features, index i at stride min(2^i, output_stride).

    Index 1 to 4 are the first blocks that reach their stride, as torchvision's LR-ASPP takes
    them; index 5 is the last 1x1 convolution (960 channels, small: 576).
    """
    block = partial(self.build, ConvBlock, activation=self.activation or nn.hard_swish)
    x = block(16, 3, 2, name="features_0")(image, train=train)
    features, dilation = [image, x], 1
    strides = dilate([row[-1] for row in self.blocks], 2, self.output_stride)
    for i, (row, (stride, _, dilation)) in enumerate(zip(self.blocks, strides, strict=True)):
      # torchvision dilates the first block of a dilated stage already, unlike its ResNet.
      fields = dict(stride=stride, dilation=dilation, name=f"features_{i + 1}")
      x = self.build(InvertedResidual, *row[:5], **fields)(x, train=train)
      if row[-1] == 2 and len(features) < 5:
        features.append(x)
    last = 6 * self.blocks[-1][2]
    return [*features, block(last, name=f"features_{len(self.blocks) + 1}")(x, train=train)]


class MobileNetV3Head(Layered):
  """Average pooling, a dense layer, hard swish, dropout 0.2, a dense layer.

  Attributes:
    hidden: width of the first dense layer: 1280, small 1024.
    num_classes: classes.
  """

  hidden: int = 1280
  num_classes: int = 1000

  @nn.compact
  def __call__(self, features: list[jax.Array], *, train: bool) -> jax.Array:
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,hidden]."""
    x = self.build(nn.Dense, self.hidden, name="classifier_0")(features[-1].mean((1, 2)))
    x = self.activated(x, nn.hard_swish)
    self.sow("intermediates", "penultimate", ops.wide(x))
    x = nn.Dropout(0.2, deterministic=not train)(x)
    return ops.wide(self.build(nn.Dense, self.num_classes, name="classifier_3")(x))


mobilenet_v3_large = partial(MobileNetV3, LARGE)
mobilenet_v3_small = partial(MobileNetV3, SMALL)
