"""A small classifier of small images: two convolutions and three dense layers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, conv_norm


class SmallCNN(nn.Module):
  """Groups of convolution, batch norm, ReLU and 2x2 max-pooling, for images such as 32x32.

  Attributes:
    widths: channels of each group.
    dtype: compute dtype.
  """

  widths: tuple[int, ...] = (32, 64)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> features, index i at stride 2^i: the image, then each group pooled.

    Pooling drops an odd row or column; an image under 2^groups pixels is extended at its edges.
    """
    x, features = ops.pad_to_least(image, 2 ** len(self.widths)), [image]
    for i, width in enumerate(self.widths):
      conv = Conv(width, dtype=self.dtype, name=f"conv{i + 1}")
      x = nn.relu(conv_norm(x, conv, BatchNorm(dtype=self.dtype, name=f"bn{i + 1}"), train=train))
      x = ops.max_pool_2x2(x)
      features.append(x)
    return features


class SmallCNNHead(nn.Module):
  """Adaptive pooling to 8x8 (nothing changes for 32x32 images) and three dense layers.

  Attributes:
    hidden: widths of the first dense layers.
    num_classes: classes.
    dtype: compute dtype.
  """

  hidden: tuple[int, ...] = (256, 128)
  num_classes: int = 1000
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train: bool):
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,hidden[-1]]."""
    del train
    x = ops.adaptive_avg_pool(features[-1], (8, 8))
    x = x.reshape(len(x), -1)
    for i, width in enumerate(self.hidden):
      x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"fc{i + 1}")(x))
    self.sow("intermediates", "penultimate", x.astype(jnp.float32))
    name = f"fc{len(self.hidden) + 1}"
    return nn.Dense(self.num_classes, dtype=self.dtype, name=name)(x).astype(jnp.float32)


small_cnn = SmallCNN
