"""UPerNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018).

Its head computes the same as that of Hugging Face's `transformers`, and its parameters have the
names of that library's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.models.backbones import make_backbone, pyramid
from segjax.models.layers import ConvNorm, Layered, logits_layer

BINS = (1, 2, 3, 6)  # rows and columns of the pooled maps


class UPerNetHead(Layered):
  """Pooled maps over the deepest features, a pyramid down to the finest, all levels fused.

  In training a batch of one image is an error: the mean's batch norm sees one value per channel.

  Attributes:
    num_classes: logits per pixel.
    features: channels of every part.
  """

  num_classes: int
  features: int = 512

  @nn.compact
  def __call__(self, levels: list[jax.Array], *, train: bool) -> jax.Array:
    """Maps [B,H_i,W_i,C_i], the largest first -> f32[B,H_0,W_0,num_classes]."""
    block, size = partial(self.build, ConvNorm, self.features), levels[-1].shape[1:3]
    parts = [levels[-1]]
    for i, bins in enumerate(BINS):
      y = ops.adaptive_avg_pool(levels[-1], (bins, bins))
      y = block(1, name=f"psp_modules_{i}_1")(y, train=train)
      parts.append(ops.resize_bilinear(y, size, antialias=False))
    x = block(name="bottleneck")(jnp.concatenate(parts, -1), train=train)
    outs = [x]
    for i in reversed(range(len(levels) - 1)):
      lateral = block(1, name=f"lateral_convs_{i}")(levels[i], train=train)
      x = lateral + ops.resize_bilinear(x, lateral.shape[1:3])
      outs.append(block(name=f"fpn_convs_{i}")(x, train=train))
    outs = [ops.resize_bilinear(y, levels[0].shape[1:3]) for y in reversed(outs)]
    x = block(name="fpn_bottleneck")(jnp.concatenate(outs, -1), train=train)
    return ops.wide(logits_layer(self, name="classifier")(x))


class UPerNet(Layered):
  """UPerNet over a backbone's features from stride 4 on.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    features: channels of the head.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet50"
  features: int = 512

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    levels = pyramid(make_backbone(self.backbone, like=self)(image, train=train), "UPerNet")
    head = self.build(UPerNetHead, self.num_classes, self.features, name="head")
    return ops.resize_bilinear(head(levels, train=train), image.shape[1:3])
