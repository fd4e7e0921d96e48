"""ResNet (He et al., CVPR 2016) and ResNeXt (Xie et al., CVPR 2017), torchvision's variants.

Submodules have torchvision's names with underscores for dots: `layer1_0/downsample_0`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, conv_norm, dilate


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut.

  Attributes:
    features: width of the stage; also the output channels.
    stride: of the first convolution.
    dilation: of the first convolution.
    next_dilation: of the second one.
    dtype: compute dtype.
  """

  features: int
  stride: int = 1
  dilation: int = 1
  next_dilation: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""
    conv, norm = partial(Conv, dtype=self.dtype), partial(BatchNorm, dtype=self.dtype)
    first = conv(self.features, 3, self.stride, self.dilation, name="conv1")
    y = nn.relu(conv_norm(x, first, norm(name="bn1"), train=train))
    second = conv(self.features, 3, dilation=self.next_dilation, name="conv2")
    y = conv_norm(y, second, norm(name="bn2"), train=train)
    return nn.relu(y + _shortcut(x, self.features, self.stride, conv, norm, train))


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride is in the 3x3 one (ResNet "v1.5").

  Attributes:
    features: width of the stage; the output has four times as many channels.
    stride: of the 3x3 convolution.
    dilation: of the 3x3 convolution.
    groups: of the 3x3 convolution.
    base_width: channels of a group at width 64.
    dtype: compute dtype.
  """

  features: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  base_width: int = 64
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),4*features]."""
    conv, norm = partial(Conv, dtype=self.dtype), partial(BatchNorm, dtype=self.dtype)
    width = self.features * self.base_width // 64 * self.groups
    y = nn.relu(conv_norm(x, conv(width, 1, name="conv1"), norm(name="bn1"), train=train))
    wide = conv(width, 3, self.stride, self.dilation, self.groups, name="conv2")
    y = nn.relu(conv_norm(y, wide, norm(name="bn2"), train=train))
    y = conv_norm(y, conv(4 * self.features, 1, name="conv3"), norm(name="bn3"), train=train)
    return nn.relu(y + _shortcut(x, 4 * self.features, self.stride, conv, norm, train))


def _shortcut(x, features, stride, conv, norm, train):
  """The input, projected where stride or channels differ; for use inside a compact module."""
  if stride == 1 and x.shape[-1] == features:
    return x
  projection = conv(features, 1, stride, name="downsample_0")
  return conv_norm(x, projection, norm(name="downsample_1"), train=train)


class ResNet(nn.Module):
  """The convolutional part of a ResNet or ResNeXt.

  Attributes:
    stages: blocks of each stage.
    bottleneck: three-layer blocks, else two-layer ones.
    groups: of the 3x3 convolutions; above 1 a ResNeXt, bottleneck only.
    base_width: channels of a group at width 64.
    output_stride: 32, or 16 or 8: the last stages are dilated in place of strided. The first
      block of a dilated stage keeps the dilation of the stage before, as torchvision does.
    dtype: compute dtype.
  """

  stages: tuple[int, ...] = (2, 2, 2, 2)
  bottleneck: bool = False
  groups: int = 1
  base_width: int = 64
  output_stride: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> features, index i at stride min(2^i, output_stride).

    Channels: 3 (the image itself), 64, then 64, 128, 256 and 512, times 4 with bottlenecks.
    """
    stem = Conv(64, 7, 2, dtype=self.dtype, name="conv1")
    x = nn.relu(conv_norm(image, stem, BatchNorm(dtype=self.dtype, name="bn1"), train=train))
    features = [image, x]
    x = ops.max_pool_3x3(x)
    for i, (count, (stride, first, rest)) in enumerate(
      zip(self.stages, dilate((1, 2, 2, 2), 4, self.output_stride), strict=True)
    ):
      for j in range(count):
        common = dict(
          features=64 * 2**i,
          stride=stride if j == 0 else 1,
          dilation=first if j == 0 else rest,
          dtype=self.dtype,
          name=f"layer{i + 1}_{j}",
        )
        if self.bottleneck:
          block = Bottleneck(groups=self.groups, base_width=self.base_width, **common)
        else:
          block = BasicBlock(next_dilation=first if j == 0 else rest, **common)
        x = block(x, train=train)
      features.append(x)
    return features


resnet18 = partial(ResNet, (2, 2, 2, 2))
resnet34 = partial(ResNet, (3, 4, 6, 3))
resnet50 = partial(ResNet, (3, 4, 6, 3), True)
resnet101 = partial(ResNet, (3, 4, 23, 3), True)
resnext50_32x4d = partial(ResNet, (3, 4, 6, 3), True, 32, 4)
resnext101_64x4d = partial(ResNet, (3, 4, 23, 3), True, 64, 4)
