"""The simple encoder-decoder: two strided convolutions and one big up-sampling."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax import ops
from segjax.models import layers


class EncoderDecoder(nn.Module):
  """conv5x5/2 - ReLU - conv5x5/2 - ReLU - conv1x1 - bilinear to the input's size.

  With its defaults 53,761 parameters: the baseline that a U-Net has to beat.

  Attributes:
    num_classes: logits a pixel: 1 for a sigmoid, the number of classes for a softmax.
    widths: channels of the strided convolutions.
    kernel_init: of all kernels, "glorot" or "he"; biases start at 0.
    dtype: compute dtype; parameters and logits are float32.
  """

  num_classes: int = 1
  widths: tuple[int, ...] = (32, 64)
  kernel_init: str = "glorot"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> logits f32[B,H,W,num_classes], any H and W; `train` changes nothing."""
    del train
    x = image.astype(self.dtype)
    for i, w in enumerate(self.widths):
      x = nn.relu(
        nn.Conv(
          w,
          (5, 5),
          strides=2,
          kernel_init=layers.initializer(self.kernel_init),
          dtype=self.dtype,
          name=f"conv{i + 1}",
        )(x)
      )
    x = nn.Conv(
      self.num_classes,
      (1, 1),
      kernel_init=layers.initializer(self.kernel_init),
      dtype=self.dtype,
      name="head",
    )(x)
    return ops.resize_bilinear(x.astype(jnp.float32), image.shape[1:3])
