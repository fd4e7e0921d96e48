"""U-Net++ (Zhou et al., DLMIA 2018; IEEE Transactions on Medical Imaging 2020).

Computes the same as `segmentation_models_pytorch.UnetPlusPlus`, whose files `weights.load_torch`
reads.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.models.backbones import make_backbone
from segjax.models.layers import ConvNorm, Layered, logits_layer


class Node(Layered):
  """Two 3x3 convolutions over a coarser map at twice its size, and over finer ones.

  Attributes:
    features: output channels.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, skips: list, *, train: bool) -> jax.Array:
    """[B,h,w,C] and maps [B,H,W,C_i], perhaps none -> [B,H,W,features]."""
    size = skips[0].shape[1:3] if skips else None
    x = jnp.concatenate([ops.resize_nearest(x, size), *skips], -1)
    for i in ("1", "2"):
      x = self.build(ConvNorm, self.features, name="conv" + i)(x, train=train)
    return x


class NestedDecoder(Layered):
  """U-Nets of every depth over the same features, each node seeing all the earlier ones of its row.

  Node `x_d_r` stands in row r, which counts from the deepest pair of features on; `x_r_r` is the
  first of its row, and `x_0_r` the last, of the deepest U-Net.

  Attributes:
    widths: channels of the last node of each row, one for each halving of stride that the backbone
      has; the rest is unused. The other nodes have the channels of the features of their row.
  """

  widths: tuple[int, ...] = (256, 128, 64, 32, 16)

  @nn.compact
  def __call__(self, features: list, *, train: bool) -> jax.Array:
    """A backbone's features, the image first -> [B,H,W,widths[-1]]."""
    maps = [*features[:0:-1], None]  # the deepest first, nothing at stride 1
    rows, made = min(len(self.widths), len(maps) - 1), {}
    for column in range(rows):
      for row in range(column, rows):
        skip, d = maps[row + 1], row - column
        if row == len(maps) - 2 and d:
          continue  # the image's row has the last node of the deepest U-Net alone
        beside = [made[e, row] for e in range(d + 1, row + 1) if (e, row) in made]
        beside += [] if skip is None else [skip]
        width = self.widths[row] if d == 0 or skip is None else skip.shape[-1]
        node = self.build(Node, width, name=f"blocks_x_{d}_{row}")
        made[d, row] = node(made[d, row - 1] if column else maps[row], beside, train=train)
    return made[0, rows - 1]


class UNetPlusPlus(Layered):
  """U-Net++ with a backbone as its encoder.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    widths: channels of the decoder's rows from the deepest on, one for each halving of stride
      that the backbone has; the rest is unused.
  """

  num_classes: int = 21
  backbone: str | Callable = "resnet34"
  widths: tuple[int, ...] = (256, 128, 64, 32, 16)

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    features = make_backbone(self.backbone, like=self)(image, train=train)
    x = self.build(NestedDecoder, self.widths, name="decoder")(features, train=train)
    x = ops.wide(logits_layer(self, name="head", kernel_size=3)(x))
    return ops.cut_or_enlarge(x, image.shape[1:3])
