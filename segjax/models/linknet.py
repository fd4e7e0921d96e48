"""LinkNet (Chaurasia and Culurciello, VCIP 2017).

Computes the same as `segmentation_models_pytorch.Linknet`, whose files `weights.load_torch` reads.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from segjax import ops
from segjax.models.backbones import make_backbone
from segjax.models.layers import ConvNorm, ConvTranspose, Layered, logits_layer
from segjax.models.norms import apply_norm


class LinkBlock(Layered):
  """1x1 convolution to a quarter of the channels, 4x4 transposed one, 1x1 convolution.

  Attributes:
    features: output channels.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,2H,2W,features]."""
    few = x.shape[-1] // 4
    x = self.build(ConvNorm, few, 1, name="block_0")(x, train=train)
    x = self.build(DoublingNorm, few, name="block_1")(x, train=train)
    return self.build(ConvNorm, self.features, 1, name="block_2")(x, train=train)


class DoublingNorm(Layered):
  """A 4x4 transposed convolution with stride 2, batch norm and a nonlinearity.

  Attributes:
    features: output channels.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,2H,2W,features]."""
    init = self.kernel_init or "he_normal"
    x = self.build(ConvTranspose, self.features, 4, kernel_init=init, name="conv")(x)
    return self.activated(apply_norm(self.make_norm(self.features, "norm"), x, train=train))


class LinknetDecoder(Layered):
  """A block for each halving of size, whose output the backbone's features are added to.

  Attributes:
    features: channels of the last block's output, which has no features to add.
  """

  features: int = 32

  @nn.compact
  def __call__(self, features: list, *, train: bool) -> jax.Array:
    """A backbone's features, the image first -> [B,H,W,features]."""
    *finer, x = features[1:]
    for i, fine in enumerate((*finer[::-1], None)):
      last = i == len(finer)
      width = self.features if last else x.shape[-1] if fine is None else fine.shape[-1]
      x = self.build(LinkBlock, width, name=f"blocks_{i}")(x, train=train)
      if fine is not None:
        x = _cut(x, fine.shape[1:3]) + fine
    return x


def _cut(x, size):
  """x without the row and column too much; resized where it is not as large or twice as large."""
  height, width = size
  if all(n <= m <= n + 1 for n, m in zip(size, x.shape[1:3], strict=True)):
    return x[:, :height, :width]
  return ops.resize_bilinear(x, size)


class Linknet(Layered):
  """A light decoder over a backbone, whose features are added, not concatenated.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`. A stride that it lacks (a MiT has no stride 2) adds nothing.
    features: channels before the logits.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet34"
  features: int = 32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    features = make_backbone(self.backbone, like=self)(image, train=train)
    x = self.build(LinknetDecoder, self.features, name="decoder")(features, train=train)
    return ops.cut_or_enlarge(ops.wide(logits_layer(self, name="head")(x)), image.shape[1:3])
