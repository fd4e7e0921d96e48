"""A linear head, the measure of a pretrained backbone's features (Oquab et al., DINOv2, 2023)."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.backbones import make_backbone
from segjax.models.layers import Layered, logits_layer
from segjax.models.norms import apply_norm


class LinearHead(Layered):
  """Batch norm and a 1x1 convolution.

  Attributes:
    num_classes: logits per pixel.
  """

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> f32[B,H,W,num_classes]."""
    x = apply_norm(self.make_norm(x.shape[-1], "norm"), x, train=train)
    return ops.wide(logits_layer(self)(x))


class Linear(Layered):
  """Batch norm and one linear layer on the backbone's last features, up-sampled bilinearly.

  With `freeze="^backbone/"` in a config the backbone keeps its weights and is measured alone; give
  one with stochastic depth `drop_path=0`.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    output_stride: output stride of the backbone; 16 for DINOv2's and DINOv3's own patches.
  """

  num_classes: int = 21
  backbone: str | Callable = "vit_tiny"
  output_stride: int = 32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(self.backbone, output_stride=self.output_stride, like=self)
    head = self.build(LinearHead, self.num_classes, name="head")
    x = head(backbone(image, train=train)[-1], train=train)
    return ops.resize_bilinear(x, image.shape[1:3])
