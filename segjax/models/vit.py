"""A small vision transformer as a backbone (Dosovitskiy et al., ICLR 2021)."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax

from segjax import ops
from segjax.errors import UserError
from segjax.models.layers import Layered
from segjax.models.norms import apply_norm

NORM = partial(nn.LayerNorm, epsilon=1e-6)


class Block(Layered):
  """Self-attention and two dense layers, each after a layer norm and added to its input.

  Attributes:
    num_heads: heads.
    ratio: hidden channels over channels.
  """

  num_heads: int
  ratio: int = 4

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,N,C] -> [B,N,C]."""
    c = x.shape[-1]
    y = apply_norm(self.make_norm(c, "norm1", NORM), x, train=train)
    x = x + self.build(nn.MultiHeadDotProductAttention, self.num_heads, name="attn")(y, y)
    y = apply_norm(self.make_norm(c, "norm2", NORM), x, train=train)
    y = self.activated(self.build(nn.Dense, self.ratio * c, name="fc1")(y), nn.gelu)
    return x + self.build(nn.Dense, c, name="fc2")(y)


class ViT(Layered):
  """Patches, learned positions, blocks, a layer norm; without a class token.

  For decoders that want finer features than the patches', those of earlier blocks are enlarged
  bilinearly, as in DPT (Ranftl, Bochkovskiy, Koltun, ICCV 2021): the finer, the earlier.

  Positions are learned on a grid of `grid` x `grid` and enlarged bilinearly to the image's, so any
  size will do; an image that patches do not tile is extended at its edges.

  Attributes:
    patch: side of a patch in pixels, a power of 2.
    width: channels.
    depth: blocks.
    num_heads: heads.
    grid: grid of the positions.
  """

  patch: int = 8
  width: int = 192
  depth: int = 6
  num_heads: int = 3
  grid: int = 12

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """f32[B,H,W,C] -> features, index i at stride 2^i: the image, earlier blocks, the last."""
    p = self.patch
    if p < 2 or p & (p - 1):
      raise UserError(f"ViT: patch is {p}, expected a power of 2")
    x = ops.pad_to_multiple(image, p).astype(self.dtype)
    x = self.build(nn.Conv, self.width, (p, p), p, padding="VALID", name="patch_embed")(x)
    (_, h, w, c), init = x.shape, nn.initializers.normal(0.02)
    place = self.param("pos_embed", init, (self.grid, self.grid, c), self.param_dtype)
    x = x + jax.image.resize(place, (h, w, c), "linear").astype(self.dtype)[None]
    x = x.reshape(-1, h * w, c)
    blocks = []
    for i in range(self.depth):
      x = self.build(Block, self.num_heads, name=f"blocks_{i}")(x, train=train)
      blocks.append(x.reshape(-1, h, w, c))
    x = apply_norm(self.make_norm(c, "norm", NORM), blocks[-1], train=train)
    strides = p.bit_length() - 1
    fine = [
      ops.resize_bilinear(
        blocks[self.depth * i // strides], [-(-n // 2**i) for n in image.shape[1:3]]
      )
      for i in range(1, strides)
    ]
    return [image, *fine, x]


vit_tiny = ViT
