"""ResNet (He et al., CVPR 2016) and ResNeXt (Xie et al., CVPR 2017), torchvision's variants.

Submodules have torchvision's names with underscores for dots: `layer1_0/downsample_0`. ResNet-D (He
et al., "Bag of Tricks for Image Classification", CVPR 2019) has timm's.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import Layered, dilate


class BasicBlock(Layered):
  """Two 3x3 convolutions and a shortcut.

  Attributes:
    features: width of the stage; also the output channels.
    stride: stride of the first convolution.
    dilation: dilation of the first convolution.
    next_dilation: dilation of the second one.
    pooled: see `ResNet`.
  """

  features: int
  stride: int = 1
  dilation: int = 1
  next_dilation: int = 1
  pooled: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""
    conv = partial(self.build, Conv, use_bias=self.norm == "none")
    first = conv(self.features, 3, self.stride, self.dilation, name="conv1")
    y = self.activated(self.normed(x, first, "bn1", train=train))
    second = conv(self.features, 3, dilation=self.next_dilation, name="conv2")
    y = self.normed(y, second, "bn2", train=train)
    return self.activated(y + _shortcut(self, x, self.features, conv, train))


class Bottleneck(Layered):
  """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride is in the 3x3 one (ResNet "v1.5").

  Attributes:
    features: width of the stage; the output has four times as many channels.
    stride: stride of the 3x3 convolution.
    dilation: dilation of the 3x3 convolution.
    groups: number of groups of the 3x3 convolution.
    base_width: channels of a group at width 64.
    pooled: see `ResNet`.
  """

  features: int
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  base_width: int = 64
  pooled: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),4*features]."""
    conv = partial(self.build, Conv, use_bias=self.norm == "none")
    width = self.features * self.base_width // 64 * self.groups
    y = self.activated(self.normed(x, conv(width, 1, name="conv1"), "bn1", train=train))
    wide = conv(width, 3, self.stride, self.dilation, self.groups, name="conv2")
    y = self.activated(self.normed(y, wide, "bn2", train=train))
    y = self.normed(y, conv(4 * self.features, 1, name="conv3"), "bn3", train=train)
    return self.activated(y + _shortcut(self, x, 4 * self.features, conv, train))


def _shortcut(block, x, features, conv, train):
  """The input, projected where stride or channels differ; for use inside a compact block."""
  if block.stride == 1 and x.shape[-1] == features:
    return x
  if block.pooled:
    x = _halved(x) if block.stride == 2 else x
    return block.normed(x, conv(features, 1, name="downsample_1"), "downsample_2", train=train)
  projection = conv(features, 1, block.stride, name="downsample_0")
  return block.normed(x, projection, "downsample_1", train=train)


def _halved(x):
  """Means of 2x2; at an odd edge those of the two there are, [B,H,W,C] -> [B,ceil(H/2),…,C]."""
  x = ops.pad_to_multiple(x, 2)
  return ops.split(ops.split(x, 2, 2), 1, 2).mean((2, 4))


class ResNet(Layered):
  """The convolutional part of a ResNet or ResNeXt.

  Attributes:
    stages: blocks of each stage.
    bottleneck: three-layer blocks, else two-layer ones.
    groups: number of groups of the 3x3 convolutions; above 1 a ResNeXt, bottleneck only.
    base_width: channels of a group at width 64.
    output_stride: 32, or 16 or 8: the last stages are dilated in place of strided. The first
      block of a dilated stage keeps the dilation of the stage before, as torchvision does.
    pooled: ResNet-D: a stem of three 3x3 convolutions, and shortcuts that halve a map by the mean
      of 2x2 before their projection; dilated stages have no such mean.
  """

  stages: tuple[int, ...] = (2, 2, 2, 2)
  bottleneck: bool = False
  groups: int = 1
  base_width: int = 64
  output_stride: int = 32
  pooled: bool = False

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """f32[B,H,W,C] -> features, index i at stride min(2^i, output_stride).

    Channels: the image's own, 64, then 64, 128, 256 and 512, times 4 with bottlenecks.
    """
    conv, x = partial(self.build, Conv, use_bias=self.norm == "none"), image
    for i, stride in ((0, 2), (3, 1)) if self.pooled else ():
      first = conv(32, 3, stride, name=f"conv1_{i}")
      x = self.activated(self.normed(x, first, f"conv1_{i + 1}", train=train))
    stem = conv(64, 3, name="conv1_6") if self.pooled else conv(64, 7, 2, name="conv1")
    x = self.activated(self.normed(x, stem, "bn1", train=train))
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
          pooled=self.pooled,
          name=f"layer{i + 1}_{j}",
        )
        if self.bottleneck:
          groups = dict(groups=self.groups, base_width=self.base_width)
          block = self.build(Bottleneck, **groups, **common)
        else:
          block = self.build(BasicBlock, next_dilation=first if j == 0 else rest, **common)
        x = block(x, train=train)
      features.append(x)
    return features


resnet18 = partial(ResNet, (2, 2, 2, 2))
resnet34 = partial(ResNet, (3, 4, 6, 3))
resnet50 = partial(ResNet, (3, 4, 6, 3), True)
resnet101 = partial(ResNet, (3, 4, 23, 3), True)
resnext50_32x4d = partial(ResNet, (3, 4, 6, 3), True, 32, 4)
resnext101_64x4d = partial(ResNet, (3, 4, 23, 3), True, 64, 4)
resnet18d = partial(resnet18, pooled=True)
resnet50d = partial(resnet50, pooled=True)
resnet101d = partial(resnet101, pooled=True)
