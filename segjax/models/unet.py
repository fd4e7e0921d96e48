"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015), padded convolutions, two common forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError
from segjax.models import layers


class UNet(layers.Layered):
  """Encoder of double convolutions and pooling, decoder of up-sampling and skip connections.

  With its defaults the small road net (578,417 parameters; 529,457 with `skip=False`).
  `widths=(32, 64, 128, 256, 512), norm="batch", up="transposed3", up_keeps=False, up_relu=False,
  dropout=0.5, fit="resize"` is the aerial net (8,633,672 parameters for 8 classes).

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    widths: channels of each level; the last is the bottleneck. Depth is `len(widths) - 1`.
    up: "transposed2" (2x2, stride 2), "transposed3" (3x3, stride 2) or "bilinear" (then conv 3x3).
    up_keeps: the up-sampling keeps its input's channel count; else it gives the level's width.
    up_relu: a ReLU, or the `activation`, after the up-sampling.
    skip: concatenates the encoder's features of the same resolution.
    dropout: rate, before each decoder block.
    fit: an input that 2**depth does not divide is extended at its edges and the logits are cut
      ("pad"), or is resized to the next multiple and the logits are resized back ("resize").
    norm: after each 3x3 convolution, see `Layered`; None is "none".
    kernel_init: see `Layered`; biases start at 0.
  """

  num_classes: int = 1
  widths: tuple[int, ...] = (8, 16, 32, 64, 128)
  up: str = "transposed2"
  up_keeps: bool = True
  up_relu: bool = True
  skip: bool = True
  dropout: float = 0.0
  fit: str = "pad"
  norm: str | Callable | None = dataclasses.field(default="none", kw_only=True)
  kernel_init: str | Callable | None = dataclasses.field(default="glorot", kw_only=True)

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Segments images.

    Args:
      image: f32[B,H,W,C], any H and W.
      train: batch statistics from the batch and dropout on (needs a "dropout" rng).

    Returns:
      f32[B,H,W,num_classes], logits.
    """
    height, width = image.shape[1:3]
    *levels, bottom = self.widths
    x = self._fitted(image, 2 ** len(levels)).astype(self.dtype)
    features, block = [], partial(self.build, layers.DoubleConv, norm=self.norm or "none")
    for i, w in enumerate(levels):
      x = block(w, name=f"down{i + 1}")(x, train=train)
      features.append(x)
      x = ops.max_pool_2x2(x)
    x = block(bottom, name="bottom")(x, train=train)
    for i in reversed(range(len(levels))):
      x = self._upsampled(x, x.shape[-1] if self.up_keeps else levels[i], name=f"up{i + 1}")
      x = self.activated(x) if self.up_relu else x
      x = jnp.concatenate([x, features[i]], -1) if self.skip else x
      x = layers.Dropout(self.dropout)(x, train=train)
      x = block(levels[i], name=f"join{i + 1}")(x, train=train)
    x = ops.wide(self.build(layers.Conv, self.num_classes, 1, use_bias=True, name="head")(x))
    return (
      ops.resize_bilinear(x, (height, width)) if self.fit == "resize" else x[:, :height, :width]
    )

  def _fitted(self, image, multiple):
    if self.fit == "pad":
      return ops.pad_to_multiple(image, multiple)
    if self.fit == "resize":
      return ops.resize_bilinear(image, [-(-n // multiple) * multiple for n in image.shape[1:3]])
    raise UserError(f"UNet: fit is {self.fit!r}, expected 'pad' or 'resize'")

  def _upsampled(self, x, features, name):
    if self.up in ("transposed2", "transposed3"):
      size = int(self.up[-1])
      return self.build(layers.ConvTranspose, features, size, name=name)(x)
    if self.up == "bilinear":
      x = ops.resize_bilinear(x, (2 * x.shape[1], 2 * x.shape[2]))
      return self.build(layers.Conv, features, use_bias=True, name=name)(x)
    raise UserError(f"UNet: up is {self.up!r}, expected one of {', '.join(layers.UPSAMPLINGS)}")
