"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le, ICML 2019) without squeeze-and-excitation.

ReLU6 in place of swish, TensorFlow's "SAME" padding (an even size with stride 2 is padded at the
bottom and right only), batch norm with epsilon 1e-3. Its weights expect (image - 127) / 128 of
values up to 255, which is `data.mean` 127/255 and `data.std` 128/255 of images in [0,1].
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, conv_norm, dilate

# Repeats, kernel size, stride, expansion, output channels.
STAGES = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (2, 5, 2, 6, 40),
  (3, 3, 2, 6, 80),
  (3, 5, 1, 6, 112),
  (4, 5, 2, 6, 192),
  (1, 3, 1, 6, 320),
)


def _norm(dtype, name):
  return BatchNorm(1e-3, 0.01, dtype=dtype, name=name)


class MBConv(nn.Module):
  """Expansion, depthwise convolution, projection, and a shortcut where shapes agree.

  Attributes:
    kernel_size: of the depthwise convolution.
    stride: of the depthwise convolution.
    dilation: of the depthwise convolution.
    expansion: expanded channels by input channels.
    features: output channels.
    dtype: compute dtype.
  """

  kernel_size: int
  stride: int
  dilation: int
  expansion: int
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features]."""
    conv, inputs = partial(Conv, padding="SAME", dtype=self.dtype), x
    expanded = self.expansion * x.shape[-1]
    if self.expansion > 1:
      expand = conv(expanded, 1, name="expand_conv")
      x = nn.relu6(conv_norm(x, expand, _norm(self.dtype, "bn0"), train=train))
    depthwise = conv(
      expanded, self.kernel_size, self.stride, self.dilation, expanded, name="depthwise_conv"
    )
    x = nn.relu6(conv_norm(x, depthwise, _norm(self.dtype, "bn1"), train=train))
    project = conv(self.features, 1, name="project_conv")
    x = conv_norm(x, project, _norm(self.dtype, "bn2"), train=train)
    return x + inputs if self.stride == 1 and inputs.shape == x.shape else x


class EfficientNetLite0(nn.Module):
  """The convolutional part of EfficientNet-Lite0.

  Attributes:
    stages: rows of `STAGES`.
    output_stride: 32, or 16 or 8: the last strided blocks are dilated instead.
    dtype: compute dtype.
  """

  stages: tuple[tuple[int, ...], ...] = STAGES
  output_stride: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> features, index i at stride min(2^i, output_stride).

    Channels: 3 (the image itself), 16, 24, 40, 112 and 320, each the last of its stride.
    """
    stem = Conv(32, 3, 2, padding="SAME", dtype=self.dtype, name="conv_stem")
    x = nn.relu6(conv_norm(image, stem, _norm(self.dtype, "bn0"), train=train))
    features, index = [image], 0
    strides = dilate([s[2] for s in self.stages], 2, self.output_stride)
    for (repeats, size, nominal, expansion, width), (stride, first, rest) in zip(
      self.stages, strides, strict=True
    ):
      if nominal == 2:
        features.append(x)
      for j in range(repeats):
        x = MBConv(
          size,
          stride if j == 0 else 1,
          first if j == 0 else rest,
          expansion,
          width,
          dtype=self.dtype,
          name=f"blocks_{index}",
        )(x, train=train)
        index += 1
    return [*features, x]


class EfficientNetHead(nn.Module):
  """1x1 convolution to 1280 channels, average pooling, dropout 0.2, a dense layer.

  Attributes:
    num_classes: classes.
    dtype: compute dtype.
  """

  num_classes: int = 1000
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train: bool):
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,1280]."""
    conv = Conv(1280, 1, dtype=self.dtype, name="conv_head")
    x = conv_norm(features[-1], conv, _norm(self.dtype, "bn1"), train=train)
    x = nn.relu6(x).mean((1, 2))
    self.sow("intermediates", "penultimate", x.astype(jnp.float32))
    x = nn.Dropout(0.2, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x).astype(jnp.float32)


efficientnet_lite0 = EfficientNetLite0
