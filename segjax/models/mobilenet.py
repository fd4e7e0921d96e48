"""MobileNetV3 (Howard et al., ICCV 2019), torchvision's variants.

Submodules have torchvision's names with underscores for dots: `features_4/block_0_0`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, conv_norm, dilate

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


class SqueezeExcite(nn.Module):
  """Channels scaled by a gate on their means (Hu et al., CVPR 2018).

  Attributes:
    squeezed: channels between the two dense layers.
    dtype: compute dtype.
  """

  squeezed: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B,H,W,C] -> [B,H,W,C]."""
    conv = partial(Conv, kernel_size=1, use_bias=True, dtype=self.dtype)
    gate = conv(self.squeezed, name="fc1")(x.mean((1, 2), keepdims=True))
    return x * nn.hard_sigmoid(conv(x.shape[-1], name="fc2")(nn.relu(gate)))


class ConvBlock(nn.Module):
  """Convolution (`0`), batch norm (`1`) and a nonlinearity; epsilon 1e-3, momentum 0.01.

  Attributes:
    features: output channels.
    kernel_size: of both axes.
    stride: of both axes.
    dilation: of both axes.
    groups: of channels.
    activation: applied last, or None.
    dtype: compute dtype.
  """

  features: int
  kernel_size: int = 1
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  activation: Any = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""
    conv = Conv(
      self.features, self.kernel_size, self.stride, self.dilation, self.groups, dtype=self.dtype,
      name="0",
    )  # fmt: skip
    norm = BatchNorm(1e-3, 0.01, dtype=self.dtype, name="1")
    x = conv_norm(x, conv, norm, train=train)
    return x if self.activation is None else self.activation(x)


class InvertedResidual(nn.Module):
  """Expansion, depthwise convolution, squeeze-and-excitation, projection.

  Attributes:
    kernel_size: of the depthwise convolution.
    expanded: channels of the depthwise convolution.
    features: output channels.
    squeeze: with squeeze-and-excitation.
    hard_swish: in place of ReLU.
    stride: of the depthwise convolution.
    dilation: of the depthwise convolution.
    dtype: compute dtype.
  """

  kernel_size: int
  expanded: int
  features: int
  squeeze: bool
  hard_swish: bool
  stride: int
  dilation: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""
    act = nn.hard_swish if self.hard_swish else nn.relu
    block, index, inputs = partial(ConvBlock, dtype=self.dtype), 0, x
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
      squeezed = _divisible(self.expanded / 4)
      x = SqueezeExcite(squeezed, dtype=self.dtype, name=f"block_{index}")(x)
    x = block(self.features, name=f"block_{index + 1}")(x, train=train)
    return x + inputs if self.stride == 1 and inputs.shape == x.shape else x


def _divisible(value, divisor=8):
  """The multiple of `divisor` nearest to `value`, not more than a tenth below it."""
  rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < 0.9 * value else rounded


class MobileNetV3(nn.Module):
  """The convolutional part of a MobileNetV3.

  Attributes:
    blocks: rows of `LARGE` or `SMALL`.
    output_stride: 32, or 16 or 8: the last strided blocks are dilated instead.
    dtype: compute dtype.
  """

  blocks: tuple[tuple, ...] = LARGE
  output_stride: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> features, index i at stride min(2^i, output_stride).

    Index 1 to 4 are the first blocks that reach their stride, as torchvision's LR-ASPP takes
    them; index 5 is the last 1x1 convolution (960 channels, small: 576).
    """
    block = partial(ConvBlock, activation=nn.hard_swish, dtype=self.dtype)
    x = block(16, 3, 2, name="features_0")(image, train=train)
    features, dilation = [image, x], 1
    strides = dilate([row[-1] for row in self.blocks], 2, self.output_stride)
    for i, (row, (stride, _, dilation)) in enumerate(zip(self.blocks, strides, strict=True)):
      # torchvision dilates the first block of a dilated stage already, unlike its ResNet.
      x = InvertedResidual(
        *row[:5], stride=stride, dilation=dilation, dtype=self.dtype, name=f"features_{i + 1}"
      )(x, train=train)
      if row[-1] == 2 and len(features) < 5:
        features.append(x)
    last = 6 * self.blocks[-1][2]
    return [*features, block(last, name=f"features_{len(self.blocks) + 1}")(x, train=train)]


class MobileNetV3Head(nn.Module):
  """Average pooling, a dense layer, hard swish, dropout 0.2, a dense layer.

  Attributes:
    hidden: width of the first dense layer: 1280, small 1024.
    num_classes: classes.
    dtype: compute dtype.
  """

  hidden: int = 1280
  num_classes: int = 1000
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train: bool):
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,hidden]."""
    x = nn.Dense(self.hidden, dtype=self.dtype, name="classifier_0")(features[-1].mean((1, 2)))
    x = nn.hard_swish(x)
    self.sow("intermediates", "penultimate", x.astype(jnp.float32))
    x = nn.Dropout(0.2, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.dtype, name="classifier_3")(x).astype(jnp.float32)


mobilenet_v3_large = partial(MobileNetV3, LARGE)
mobilenet_v3_small = partial(MobileNetV3, SMALL)
