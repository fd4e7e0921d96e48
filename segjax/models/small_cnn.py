"""A small classifier of small images: two convolutions and three dense layers."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import Layered


class SmallCNN(Layered):
  """Groups of convolution, batch norm, ReLU and 2x2 max-pooling, for images such as 32x32.

  Attributes:
    widths: channels of each group.
  """

  widths: tuple[int, ...] = (32, 64)

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """f32[B,H,W,C] -> features, index i at stride 2^i: the image, then each group pooled.

    Pooling drops an odd row or column; an image under 2^groups pixels is extended at its edges.
    """
    x, features = ops.pad_to_least(image, 2 ** len(self.widths)), [image]
    for i, width in enumerate(self.widths):
      conv = self.build(Conv, width, use_bias=self.norm == "none", name=f"conv{i + 1}")
      x = self.activated(self.normed(x, conv, f"bn{i + 1}", train=train))
      x = ops.max_pool_2x2(x)
      features.append(x)
    return features


class SmallCNNHead(Layered):
  """Adaptive pooling to 8x8 (nothing changes for 32x32 images) and three dense layers.

  Attributes:
    hidden: widths of the first dense layers.
    num_classes: classes.
  """

  hidden: tuple[int, ...] = (256, 128)
  num_classes: int = 1000

  @nn.compact
  def __call__(self, features: list[jax.Array], *, train: bool) -> jax.Array:
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,hidden[-1]]."""
    del train
    x, dense = ops.adaptive_avg_pool(features[-1], (8, 8)), partial(self.build, nn.Dense)
    x = x.reshape(len(x), -1)
    for i, width in enumerate(self.hidden):
      x = self.activated(dense(width, name=f"fc{i + 1}")(x))
    self.sow("intermediates", "penultimate", ops.wide(x))
    return ops.wide(dense(self.num_classes, name=f"fc{len(self.hidden) + 1}")(x))


small_cnn = SmallCNN
