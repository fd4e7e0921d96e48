"""EfficientNet-Lite: EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation.

ReLU6 in place of swish, TensorFlow's "SAME" padding (an even size with stride 2 is padded at the
bottom and right only), batch norm with epsilon 1e-3. Its weights expect (image - 127) / 128 of
values up to 255, which is `data.mean` 127/255 and `data.std` 128/255 of images in [0,1].
"""

from __future__ import annotations

import math
from functools import partial

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, Layered, dilate, multiple_of_8

# Repeats, kernel size, stride, expansion, output channels; of Lite0.
STAGES = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (2, 5, 2, 6, 40),
  (3, 3, 2, 6, 80),
  (3, 5, 1, 6, 112),
  (4, 5, 2, 6, 192),
  (1, 3, 1, 6, 320),
)


NORM = partial(BatchNorm, 1e-3, 0.01)


class MBConv(Layered):
  """Expansion, depthwise convolution, projection, and a shortcut where shapes agree.

  Attributes:
    kernel_size: size of the depthwise convolution.
    stride: stride of the depthwise convolution.
    dilation: dilation of the depthwise convolution.
    expansion: expanded channels by input channels.
    features: output channels.
  """

  kernel_size: int
  stride: int
  dilation: int
  expansion: int
  features: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""
    conv = partial(self.build, Conv, padding="SAME", use_bias=self.norm == "none")
    normed = partial(self.normed, own=NORM, train=train)
    expanded, inputs = self.expansion * x.shape[-1], x
    if self.expansion > 1:
      expand = conv(expanded, 1, name="expand_conv")
      x = self.activated(normed(x, expand, "bn0"), nn.relu6)
    depthwise = conv(
      expanded, self.kernel_size, self.stride, self.dilation, expanded, name="depthwise_conv"
    )
    x = self.activated(normed(x, depthwise, "bn1"), nn.relu6)
    project = conv(self.features, 1, name="project_conv")
    x = normed(x, project, "bn2")
    return x + inputs if self.stride == 1 and inputs.shape == x.shape else x


class EfficientNetLite0(Layered):
  """The convolutional part of EfficientNet-Lite0; with other stages of a larger one.

  Attributes:
    stages: rows of `STAGES`.
    output_stride: 32, or 16 or 8: the last strided blocks are dilated instead.
  """

  stages: tuple[tuple[int, ...], ...] = STAGES
  output_stride: int = 32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """f32[B,H,W,C] -> features, index i at stride min(2^i, output_stride).

    Channels of Lite0: the image's own, 16, 24, 40, 112 and 320, each the last of its stride.
    """
    biased = self.norm == "none"
    stem = self.build(Conv, 32, 3, 2, padding="SAME", use_bias=biased, name="conv_stem")
    x = self.activated(self.normed(image, stem, "bn0", train=train, own=NORM), nn.relu6)
    features, index = [image], 0
    strides = dilate([s[2] for s in self.stages], 2, self.output_stride)
    for (repeats, size, nominal, expansion, width), (stride, first, rest) in zip(
      self.stages, strides, strict=True
    ):
      if nominal == 2:
        features.append(x)
      for j in range(repeats):
        x = self.build(
          MBConv,
          size,
          stride if j == 0 else 1,
          first if j == 0 else rest,
          expansion,
          width,
          name=f"blocks_{index}",
        )(x, train=train)
        index += 1
    return [*features, x]


class EfficientNetHead(Layered):
  """1x1 convolution to 1280 channels, average pooling, dropout, a dense layer.

  Attributes:
    num_classes: classes.
    dropout: rate.
  """

  num_classes: int = 1000
  dropout: float = 0.2

  @nn.compact
  def __call__(self, features: list[jax.Array], *, train: bool) -> jax.Array:
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,1280]."""
    conv = self.build(Conv, 1280, 1, use_bias=self.norm == "none", name="conv_head")
    x = self.normed(features[-1], conv, "bn1", train=train, own=NORM)
    x = self.activated(x, nn.relu6).mean((1, 2))
    self.sow("intermediates", "penultimate", ops.wide(x))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return ops.wide(self.build(nn.Dense, self.num_classes, name="fc")(x))


def _scaled(depth, width=1.0):
  """`STAGES` with more repeats in all but the first and the last, and more channels in all."""
  ends = (0, len(STAGES) - 1)
  return tuple(
    (repeats if i in ends else math.ceil(repeats * depth), *row, multiple_of_8(channels * width))
    for i, (repeats, *row, channels) in enumerate(STAGES)
  )


efficientnet_lite0 = EfficientNetLite0
efficientnet_lite1 = partial(EfficientNetLite0, _scaled(1.1))
efficientnet_lite2 = partial(EfficientNetLite0, _scaled(1.2, 1.1))
