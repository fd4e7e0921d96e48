"""PSPNet (Zhao et al., CVPR 2017).

Computes the same as `segmentation_models_pytorch.PSPNet`, whose files `weights.load_torch` reads;
its backbone ends at stride 8 by fewer stages, here by dilation as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.models.backbones import make_backbone
from segjax.models.layers import ConvNorm, Layered, logits_layer

BINS = (1, 2, 3, 6)  # rows and columns of the pooled maps


class PSPDecoder(Layered):
  """Means over grids of 1x1 to 6x6 cells beside the features themselves, and a 1x1 convolution.

  The mean over the whole map has no norm: one value per channel is nothing to normalise by.

  Attributes:
    features: output channels.
    dropout: rate of whole channels, last.
  """

  features: int = 512
  dropout: float = 0.2

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,features]."""
    parts, size = [], x.shape[1:3]
    for i, bins in enumerate(BINS):
      norm = dict(norm="none") if bins == 1 else {}
      name = f"psp_blocks_{i}_pool_1"
      block = self.build(ConvNorm, x.shape[-1] // len(BINS), 1, name=name, **norm)
      y = block(ops.adaptive_avg_pool(x, (bins, bins)), train=train)
      parts.append(ops.resize_bilinear(y, size, corners=True))
    x = jnp.concatenate([*parts, x], -1)
    x = self.build(ConvNorm, self.features, 1, name="conv")(x, train=train)
    return nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)


class PSPNet(Layered):
  """A pyramid of pooled maps over the backbone's last features.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    output_stride: output stride of the backbone.
    features: channels before the logits.
    dropout: rate of whole channels, before the logits.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet50"
  output_stride: int = 8
  features: int = 512
  dropout: float = 0.2

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(self.backbone, output_stride=self.output_stride, like=self)
    x = backbone(image, train=train)[-1]
    x = self.build(PSPDecoder, self.features, self.dropout, name="decoder")(x, train=train)
    x = ops.wide(logits_layer(self, name="head", kernel_size=3)(x))
    return ops.resize_bilinear(x, image.shape[1:3], corners=True)
