"""A small vision transformer as a backbone (Dosovitskiy et al., ICLR 2021)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError


class Block(nn.Module):
  """Self-attention and two dense layers, each after a layer norm and added to its input.

  Attributes:
    num_heads: heads.
    ratio: hidden channels over channels.
    dtype: compute dtype.
  """

  num_heads: int
  ratio: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B,N,C] -> [B,N,C]."""
    norm = partial(nn.LayerNorm, epsilon=1e-6, dtype=self.dtype)
    y = norm(name="norm1")(x)
    x = x + nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype, name="attn")(y, y)
    y = nn.Dense(self.ratio * x.shape[-1], dtype=self.dtype, name="fc1")(norm(name="norm2")(x))
    return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(nn.gelu(y))


class ViT(nn.Module):
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
    grid: of the positions.
    dtype: compute dtype.
  """

  patch: int = 8
  width: int = 192
  depth: int = 6
  num_heads: int = 3
  grid: int = 12
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """f32[B,H,W,3] -> features, index i at stride 2^i: the image, earlier blocks, the last."""
    del train
    p = self.patch
    if p < 2 or p & (p - 1):
      raise UserError(f"ViT: patch is {p}, expected a power of 2")
    x = ops.pad_to_multiple(image, p).astype(self.dtype)
    x = nn.Conv(self.width, (p, p), p, padding="VALID", dtype=self.dtype, name="patch_embed")(x)
    _, h, w, c = x.shape
    place = self.param("pos_embed", nn.initializers.normal(0.02), (self.grid, self.grid, c))
    x = x + jax.image.resize(place, (h, w, c), "linear").astype(self.dtype)
    x = x.reshape(-1, h * w, c)
    blocks = []
    for i in range(self.depth):
      x = Block(self.num_heads, dtype=self.dtype, name=f"blocks_{i}")(x)
      blocks.append(x.reshape(-1, h, w, c))
    x = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(blocks[-1])
    strides = p.bit_length() - 1
    fine = [
      ops.resize_bilinear(
        blocks[self.depth * i // strides], [-(-n // 2**i) for n in image.shape[1:3]]
      )
      for i in range(1, strides)
    ]
    return [image, *fine, x]


vit_tiny = ViT
