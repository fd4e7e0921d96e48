"""Swin transformers (Liu et al., ICCV 2021): attention within windows that shift.

Computes the same as torchvision. Parameters have the names of microsoft/Swin-Transformer with
underscores for dots (`layers_0_blocks_0/mlp_fc1`), but that the fused `qkv` is three layers;
`weights.load_torch` also reads those of torchvision, timm and `transformers`. Images are normalised
by ImageNet's mean and deviation.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax import ops
from segjax.models.layers import Layered, MeanHead
from segjax.models.norms import apply_norm

NORM = partial(nn.LayerNorm, epsilon=1e-5)
INIT = nn.initializers.truncated_normal(0.02)
# Added to scores between parts that only the shift brings into one window.
FAR = -100.0


class WindowAttention(Layered):
  """Self-attention within windows of a map, with a bias for each relative position.

  Attributes:
    num_heads: heads; the channels are a multiple.
    window: side of a window.
    shift: how far windows are shifted, where a map is larger than one.
  """

  num_heads: int
  window: int = 7
  shift: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]; the map is extended by zeros to whole windows."""
    (_, h, w, c), side = x.shape, self.window
    x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
    shifts = [self.shift if n > side else 0 for n in x.shape[1:3]]
    full = x.shape[1:3]
    x = _windows(jnp.roll(x, [-s for s in shifts], (1, 2)), side)
    dense = partial(self.build, nn.Dense, c, kernel_init=self.kernel_init or INIT)
    query, key, value = (
      ops.split(dense(name=name)(x), 3, c // self.num_heads) for name in ("q", "k", "v")
    )
    width = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bnqhc,bnkhc->bnhqk", query, key, preferred_element_type=width)
    shape = ((2 * side - 1) ** 2, self.num_heads)
    table = self.param("relative_position_bias_table", INIT, shape, self.param_dtype)
    bias = table.astype(width)[_relative(side)].transpose(2, 0, 1)[None, None]
    scores = scores * (c // self.num_heads) ** -0.5 + bias
    if any(shifts):
      scores = scores + jnp.asarray(_apart(full, side, shifts), width)
    weights = nn.softmax(scores).astype(self.dtype)
    x = jnp.einsum("bnhqk,bnkhc->bnqhc", weights, value).reshape(*x.shape[:3], c)
    x = _joined(dense(name="proj")(x), full, side)
    return jnp.roll(x, shifts, (1, 2))[:, :h, :w]


def _windows(x, side):
  """[B,H,W,C] -> [B,windows,side*side,C]."""
  x = ops.split(ops.split(x, 2, side), 1, side).transpose(0, 1, 3, 2, 4, 5)
  return _merge(_merge(x, 3), 1)


def _joined(x, size, side):
  """The inverse of `_windows` for maps of a size, (height, width)."""
  x = ops.split(ops.split(x, 2, side), 1, size[1] // side).transpose(0, 1, 3, 2, 4, 5)
  return _merge(_merge(x, 3), 1)


def _merge(x, axis):
  """Two neighbouring axes as one; a reshape of several pairs is not divided over a mesh."""
  return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


def _relative(side):
  """Row of the table of biases for each pair of positions: int[side*side,side*side]."""
  y, x = np.mgrid[:side, :side].reshape(2, -1)
  y, x = (a[:, None] - a[None] + side - 1 for a in (y, x))
  return y * (2 * side - 1) + x


def _apart(size, side, shifts):
  """[1,windows,1,side*side,side*side]: `FAR` for pairs that were not neighbours before a shift."""
  parts = np.zeros((1, *size, 1))
  for axis, (n, shift) in enumerate(zip(size, shifts, strict=True), 1):
    part = (np.arange(n) >= n - shift) * (shift > 0)
    parts = parts * 2 + part.reshape([-1 if a == axis else 1 for a in range(4)])
  rows = parts.shape[1] // side, side, parts.shape[2] // side, side
  parts = parts.reshape(rows).transpose(0, 2, 1, 3).reshape(-1, side * side)
  return np.where(parts[:, :, None] != parts[:, None], FAR, 0)[None, :, None]


class Block(Layered):
  """Attention in windows and two dense layers, each after a norm and added to its input.

  Attributes:
    num_heads: see `WindowAttention`.
    window: likewise.
    shift: likewise.
    drop_path: chance that a sample skips the attention, and again the dense layers.
  """

  num_heads: int
  window: int = 7
  shift: int = 0
  drop_path: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]."""
    c, dense = x.shape[-1], partial(self.build, nn.Dense, kernel_init=self.kernel_init or INIT)
    path = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)
    fields = self.num_heads, self.window, self.shift
    y = apply_norm(self.make_norm(c, "norm1", NORM), x, train=train)
    x = x + path(self.build(WindowAttention, *fields, name="attn")(y))
    y = apply_norm(self.make_norm(c, "norm2", NORM), x, train=train)
    y = self.activated(dense(4 * c, name="mlp_fc1")(y), partial(nn.gelu, approximate=False))
    return x + path(dense(c, name="mlp_fc2")(y))


class Swin(Layered):
  """The backbone of a Swin transformer; the defaults are Swin-T.

  Images and maps that the next stride does not tile are extended, images at their edges, maps by
  zeros.

  Attributes:
    depths: blocks of each stage.
    width: channels of the first stage; each further one has twice as many.
    num_heads: attention heads of each stage.
    window: side of a window of attention.
    drop_path: stochastic depth: grows linearly from 0 in the first block to this in the last.
  """

  depths: tuple[int, ...] = (2, 2, 6, 2)
  width: int = 96
  num_heads: tuple[int, ...] = (3, 6, 12, 24)
  window: int = 7
  drop_path: float = 0.2

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list:
    """f32[B,H,W,C] -> features, index i at stride 2^i: the image, None, the four stages.

    The last one has passed the norm before the classifier.
    """
    init, features = self.kernel_init or INIT, [image, None]
    x = ops.pad_to_multiple(image, 4).astype(self.dtype)
    conv = self.build(
      nn.Conv, self.width, (4, 4), 4, padding="VALID", kernel_init=init, name="patch_embed_proj"
    )
    x = apply_norm(self.make_norm(self.width, "patch_embed_norm", NORM), conv(x), train=train)
    rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
    for i, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True)):
      if i:
        x = self._merged(x, f"layers_{i - 1}_downsample", train)
      for j in range(depth):
        shift = self.window // 2 if j % 2 else 0
        fields = heads, self.window, shift, next(rates)
        x = self.build(Block, *fields, name=f"layers_{i}_blocks_{j}")(x, train=train)
      features.append(x)
    features[-1] = apply_norm(self.make_norm(x.shape[-1], "norm", NORM), x, train=train)
    return features

  def _merged(self, x, name, train):
    """Four neighbours become one position of twice the channels."""
    c = x.shape[-1]
    x = jnp.pad(x, ((0, 0), *((0, n % 2) for n in x.shape[1:3]), (0, 0)))
    x = ops.split(ops.split(x, 2, 2), 1, 2).transpose(0, 1, 3, 4, 2, 5)
    x = _merge(_merge(x, 4), 3)
    x = apply_norm(self.make_norm(4 * c, name + "_norm", NORM), x, train=train)
    dense = partial(self.build, nn.Dense, kernel_init=self.kernel_init or INIT)
    return dense(2 * c, use_bias=self.norm == "none", name=name + "_reduction")(x)


SwinHead = partial(MeanHead, own_init=INIT)
BACKBONES = {
  "swin_t": Swin,
  "swin_s": partial(Swin, depths=(2, 2, 18, 2), drop_path=0.3),
  "swin_b": partial(Swin, depths=(2, 2, 18, 2), width=128, num_heads=(4, 8, 16, 32), drop_path=0.5),
}
