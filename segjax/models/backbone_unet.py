"""A U-Net decoder over a backbone's features."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.models.backbones import make_backbone
from segjax.models.layers import DoubleConv, Layered, logits_layer


class BackboneUNet(Layered):
  """U-Net (Ronneberger, Fischer, Brox, MICCAI 2015) with a backbone as its encoder.

  Features are up-sampled bilinearly to the actual size of the next finer ones, concatenated with
  them, and pass two 3x3 convolutions with batch norm. A stride that the backbone lacks (a MiT has
  no stride 2) has no skip connection; neither has the image itself.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    widths: channels of the decoder's levels from the deepest on, one for each halving of stride
      that the backbone has; the rest is unused.
    skip: concatenates the backbone's features.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet18"
  widths: tuple[int, ...] = (256, 128, 64, 32, 16)
  skip: bool = True

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    backbone = make_backbone(self.backbone, like=self)
    features = backbone(image, train=train)
    x, height, width, i = features[-1], *image.shape[1:3], len(features) - 1
    for i, channels in zip(reversed(range(len(features) - 1)), self.widths, strict=False):
      fine = features[i]
      size = (-(-height // 2**i), -(-width // 2**i)) if fine is None else fine.shape[1:3]
      x = ops.resize_bilinear(x, size)
      if self.skip and fine is not None and fine is not image:
        x = jnp.concatenate([x, fine], -1)
      init = self.kernel_init or "he"
      block = self.build(DoubleConv, channels, kernel_init=init, name=f"join{i}")
      x = block(x, train=train)
    x = ops.wide(logits_layer(self, name="head")(x))
    if i == 0:  # the image's size, or that of a tiny one that the backbone extended
      return x[:, :height, :width]
    return ops.resize_bilinear(x, (height, width))
