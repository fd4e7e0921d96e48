"""The simple encoder-decoder: two strided convolutions and one big up-sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.layers import Layered
from segjax.models.norms import apply_norm


class EncoderDecoder(Layered):
  """conv5x5/2 - ReLU - conv5x5/2 - ReLU - conv1x1 - bilinear to the input's size.

  With its defaults 53,761 parameters: the baseline that a U-Net has to beat.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    widths: channels of the strided convolutions.
    norm: after the strided convolutions, see `Layered`.
    kernel_init: see `Layered`; biases start at 0.
  """

  num_classes: int = 1
  widths: tuple[int, ...] = (32, 64)
  norm: str | Callable | None = dataclasses.field(default="none", kw_only=True)
  kernel_init: str | Callable | None = dataclasses.field(default="glorot", kw_only=True)

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W; `train` is for norms."""
    x, conv = image.astype(self.dtype), partial(self.build, nn.Conv)
    for i, w in enumerate(self.widths):
      biased = self.norm in ("none", None)
      x = conv(w, (5, 5), 2, use_bias=biased, name=f"conv{i + 1}")(x)
      norm = self.make_norm(w, f"norm{i + 1}", own="none")
      x = self.activated(apply_norm(norm, x, train=train))
    x = conv(self.num_classes, (1, 1), name="head")(x)
    return ops.resize_bilinear(ops.wide(x), image.shape[1:3])
