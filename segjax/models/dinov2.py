"""DINOv2's vision transformers (Oquab et al., TMLR 2024), also with registers.

Registers: Darcet et al., "Vision Transformers Need Registers", ICLR 2024. Parameters have the names
of facebookresearch/dinov2 with underscores for dots (`blocks_0/mlp_fc1`), but that the fused `qkv`
is three layers; `weights.load_torch` also reads the names of `transformers`. Images are normalised
by ImageNet's mean and deviation.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax import ops
from segjax.errors import UserError
from segjax.models.layers import Layered
from segjax.models.lora import LoRADense
from segjax.models.norms import apply_norm

INIT = nn.initializers.normal(0.02)


class LayerScale(Layered):
  """Each channel times a parameter."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[...,C] -> [...,C]."""
    gamma = self.param("gamma", nn.initializers.ones, x.shape[-1:], self.param_dtype)
    return x * ops.per_channel(gamma.astype(self.dtype), x)


class Attention(Layered):
  """Self-attention of tokens; with LoRA on queries and values, as in its paper.

  Attributes:
    num_heads: heads; the channels are a multiple.
    key_bias: whether the keys have a bias.
  """

  num_heads: int
  key_bias: bool = True

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    rotation: tuple[jax.Array, jax.Array] | None = None,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """Attends.

    Args:
      x: [B,N,C].
      rotation: (cosines, sines), each [M,C//num_heads], by which queries and keys of the last M
        tokens are rotated; None: none are.
      mask: bool, of a shape that broadcasts to [B,num_heads,N,N]: whether a query (third axis) sees
        a key; None: all do.

    Returns:
      [B,N,C].
    """
    c, dense = x.shape[-1], partial(self.build, LoRADense, x.shape[-1])
    init = self.kernel_init or INIT

    def heads(name, rank, biased=True):
      y = dense(rank=rank, use_bias=biased, kernel_init=init, name=name)(x)
      return ops.split(y, 2, c // self.num_heads)

    query, key = heads("q", self.lora_rank), heads("k", 0, self.key_bias)
    value = heads("v", self.lora_rank)
    if rotation is not None:
      query, key = (_rotated(y, *rotation) for y in (query, key))
    width = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=width)
    scores = scores * (c // self.num_heads) ** -0.5
    if mask is not None:
      scores = jnp.where(mask, scores, jnp.finfo(width).min)
    weights = nn.softmax(scores).astype(self.dtype)
    x = jnp.einsum("bhqk,bkhc->bqhc", weights, value)
    return dense(kernel_init=init, name="proj")(x.reshape(*x.shape[:2], c))


def _rotated(x, cosine, sine):
  """Tokens [B,N,heads,C], of which the last M are rotated by angles given as [M,C]."""
  first, wide = x.shape[1] - cosine.shape[0], ops.wide(x[:, x.shape[1] - cosine.shape[0] :])
  half = x.shape[-1] // 2
  turned = jnp.concatenate([-wide[..., half:], wide[..., :half]], -1)
  cosine, sine = (y[None, :, None] for y in (cosine, sine))
  return jnp.concatenate([x[:, :first], (wide * cosine + turned * sine).astype(x.dtype)], 1)


class Block(Layered):
  """Attention and two dense layers, each after a norm, scaled and added to its input.

  Attributes:
    num_heads: see `Attention`.
    key_bias: see `Attention`.
    own_norm: maker of the norms, where `norm` is None.
  """

  num_heads: int
  key_bias: bool = True
  own_norm: partial = partial(nn.LayerNorm, epsilon=1e-6)

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    rotation: tuple[jax.Array, jax.Array] | None = None,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    """[B,N,C] -> [B,N,C]; for `rotation` and `mask` see `Attention`."""
    c, scale = x.shape[-1], partial(self.build, LayerScale)
    dense = partial(self.build, nn.Dense, kernel_init=self.kernel_init or INIT)
    y = apply_norm(self.make_norm(c, "norm1", self.own_norm), x, train=train)
    attention = self.build(Attention, self.num_heads, self.key_bias, name="attn")
    x = x + scale(name="ls1")(attention(y, rotation=rotation, mask=mask))
    y = apply_norm(self.make_norm(c, "norm2", self.own_norm), x, train=train)
    y = self.activated(dense(4 * c, name="mlp_fc1")(y), partial(nn.gelu, approximate=False))
    return x + scale(name="ls2")(dense(c, name="mlp_fc2")(y))


def embed(net: Layered, image: jax.Array) -> jax.Array:
  """Patches of images, [B,H,W,C] -> [B,h,w,width]; for use inside a compact net.

  An image that patches do not tile is extended at its edges.
  """
  x = ops.pad_to_multiple(image, net.patch).astype(net.dtype)
  conv = partial(net.build, nn.Conv, kernel_init=net.kernel_init or INIT)
  patch = (net.patch, net.patch)
  return conv(net.width, patch, patch, padding="VALID", name="patch_embed_proj")(x)


def joined(net: Layered, x: jax.Array, place: jax.Array | None = None) -> jax.Array:
  """Tokens of a net: the class token, the registers, the patches; for use inside a compact net.

  Args:
    net: with `width` and `registers`.
    x: [B,N,width], patches.
    place: [1,1,width], position of the class token, or None.

  Returns:
    [B,1+registers+N,width].
  """
  first = net.param("cls_token", INIT, (1, 1, net.width), net.param_dtype)
  tokens = [first if place is None else first + place]
  if net.registers:
    shape = (1, net.registers, net.width)
    tokens.append(net.param("register_tokens", INIT, shape, net.param_dtype))
  none = jnp.zeros_like(x[:, :1])  # gives the tokens the batch and its division over a mesh
  return jnp.concatenate([*(t.astype(net.dtype) + none for t in tokens), x], 1)


def neck(image: jax.Array, maps: list[jax.Array], output_stride: int) -> list:
  """The neck of a plain transformer, without parameters: its maps, resized bilinearly.

  Args:
    image: [B,H,W,C].
    maps: four maps [B,h,w,C] of the patches' grid, of earlier blocks first.
    output_stride: 8, 16 or 32.

  Returns:
    Features, index i at stride min(2^i, output_stride): the image, None, the four maps. Stride 16
    is the patches' own grid.

  Raises:
    UserError: another output stride.
  """
  if output_stride not in (8, 16, 32):
    raise UserError(f"output_stride is {output_stride!r}, expected 8, 16 or 32")
  features = [image, None]
  for i, x in enumerate(maps, 2):
    stride = min(2**i, output_stride)
    size = [-(-n // stride) for n in image.shape[1:3]]
    features.append(x if stride == 16 else ops.resize_bilinear(x, size))
  return features


def encode(
  net: Layered, x: jax.Array, grid: tuple[int, int], own_norm: partial, *, train: bool, **how
) -> list[jax.Array]:
  """Applies the blocks, and the last norm to four of them; for use inside a compact net.

  Args:
    net: with `depth` and `num_heads`.
    x: [B,N,C], tokens, those of the patches last.
    grid: (height, width) of the patches.
    own_norm: maker of the norms.
    train: see the net.
    **how: `key_bias` and `rotation` of `Attention`.

  Returns:
    The outputs after a quarter, two, three quarters and all of the blocks: four maps [B,h,w,C].
  """
  key_bias, rotation, maps = how.get("key_bias", True), how.get("rotation"), []
  norm = net.make_norm(x.shape[-1], "norm", own_norm)
  kept = [-(-net.depth * i // 4) for i in (1, 2, 3, 4)]
  for i in range(net.depth):
    block = net.build(Block, net.num_heads, key_bias, own_norm, name=f"blocks_{i}")
    x = block(x, train=train, rotation=rotation)
    for _ in range(kept.count(i + 1)):
      patches = x[:, x.shape[1] - grid[0] * grid[1] :]
      maps.append(ops.split(apply_norm(norm, patches, train=train), 1, grid[1]))
  return maps


class DinoV2(Layered):
  """A vision transformer of DINOv2 with a neck, see `neck`; the defaults are ViT-S/14.

  Positions are learned on a grid of `grid` x `grid` and resized to the image's bicubically, as the
  official code does: without antialias and by a factor that `pos_offset` makes a little larger, or
  with registers with antialias and by the exact factor.

  Attributes:
    width: channels.
    depth: blocks.
    num_heads: heads.
    patch: side of a patch in pixels.
    grid: grid of the positions.
    registers: register tokens.
    pos_offset: added to the image's grid before the factor is taken; None: 0.1, with registers 0.
    output_stride: 32; 16: the last features are the last block's on the patches' own grid; or 8.
  """

  width: int = 384
  depth: int = 12
  num_heads: int = 6
  patch: int = 14
  grid: int = 37
  registers: int = 0
  pos_offset: float | None = None
  output_stride: int = 32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list:
    """f32[B,H,W,C] -> features, see `neck`, each of `width` channels."""
    x, grid = self.tokens(image)
    return neck(image, encode(self, x, grid, Block.own_norm, train=train), self.output_stride)

  @nn.nowrap
  def tokens(self, image: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
    """Tokens [B,1+registers+h*w,width] of images [B,H,W,C], and (h, w); for use in `__call__`."""
    x = embed(self, image)
    shape = (1, 1 + self.grid**2, self.width)
    place = self.param("pos_embed", INIT, shape, self.param_dtype)
    x, grid = x + self.resized(place[:, 1:], x.shape[1:3]).astype(self.dtype), x.shape[1:3]
    return joined(self, x.reshape(x.shape[0], -1, self.width), place[:, :1]), grid

  @nn.nowrap
  def resized(self, place: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Positions [1,grid*grid,C] on another grid (height, width): [1,height,width,C]."""
    place = ops.split(ops.wide(place), 1, self.grid)
    if grid == place.shape[1:3]:
      return place
    offset = self.pos_offset
    offset = (0.0 if self.registers else 0.1) if offset is None else offset
    height, width = (_bicubic(n, self.grid, offset, bool(self.registers)) for n in grid)
    height, width = (jnp.asarray(weights, place.dtype) for weights in (height, width))
    return jnp.einsum("hH,wW,bHWc->bhwc", height, width, place, precision="highest")


def _bicubic(size, count, offset, antialias):
  """The matrix f64[size,count] of PyTorch's bicubic resize from `count` points to `size`."""
  step = count / (size + offset)
  middle = (np.arange(size) + 0.5) * step - 0.5
  if antialias:  # Keys's kernel, wider where the map shrinks; cut at the border
    weights = _cubic((np.arange(count) - middle[:, None]) / max(step, 1), -0.5)
    return weights / weights.sum(1, keepdims=True)
  out = np.zeros((size, count))
  for shift in range(-1, 3):  # the edge repeated
    at = np.floor(middle).astype(int) + shift
    np.add.at(out, (np.arange(size), np.clip(at, 0, count - 1)), _cubic(at - middle, -0.75))
  return out


def _cubic(x, a):
  x = np.abs(x)
  near = (a + 2) * x**3 - (a + 3) * x**2 + 1
  far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


_sizes = dict(
  vits14={}, vitb14=dict(width=768, num_heads=12), vitl14=dict(width=1024, depth=24, num_heads=16)
)
BACKBONES = {
  f"dinov2_{size}{end}": partial(DinoV2, registers=registers, **fields)
  for end, registers in (("", 0), ("_reg", 4))
  for size, fields in _sizes.items()
}
