"""SegFormer: a pyramid of transformer blocks and a head of per-pixel layers.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021, https://arxiv.org/abs/2105.15203. Computes the same as Hugging Face's `transformers`
computes, and its parameters have the names of that library's checkpoints: with `.` and `/` read as
`_`, `segformer.encoder` is `backbone` and `decode_head` is `head`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax import ops
from segjax.errors import choose
from segjax.models.conv import Conv
from segjax.models.layers import Layered, MeanHead, logits_layer
from segjax.models.norms import apply_norm

# Epsilon of every norm is 1e-5: `transformers` ignores the 1e-6 of its configurations.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)
INIT = nn.initializers.normal(0.02)


def _dense(part, features, name):
  return part.build(nn.Dense, features, kernel_init=part.kernel_init or INIT, name=name)


def _normed(part, x, name, train):
  return apply_norm(part.make_norm(x.shape[-1], name, LayerNorm), x, train=train)


class Attention(Layered):
  """Self-attention whose keys and values come from a smaller map.

  Attributes:
    num_heads: heads; the input's channels are a multiple.
    reduction: the smaller map's stride, a convolution with kernel and stride `reduction`; 1: none.
  """

  num_heads: int
  reduction: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]; a map smaller than `reduction` is first extended at its edges."""
    (b, _, w, c), r, small = x.shape, self.reduction, x
    if r > 1:
      small = ops.pad_to_least(x, r)
      reduce = self.build(nn.Conv, c, (r, r), r, padding="VALID", name="self_sr")
      small = _normed(self, reduce(small), "self_layer_norm", train)

    def heads(x, name):
      return ops.split(_dense(self, c, name)(x).reshape(b, -1, c), 2, size)

    size = c // self.num_heads
    query, key, value = heads(x, "self_query"), heads(small, "self_key"), heads(small, "self_value")
    width = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=width)
    weights = nn.softmax(scores * size**-0.5).astype(self.dtype)
    x = jnp.einsum("bhqk,bkhc->bqhc", weights, value).reshape(b, -1, c)
    return _dense(self, c, "output_dense")(ops.split(x, 1, w))


class MixFFN(Layered):
  """Two dense layers around a depthwise 3x3 convolution, which encodes the position of a pixel.

  Attributes:
    ratio: hidden channels over input channels.
    dropout: rate, after the GELU and at the end.
  """

  ratio: int = 4
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]."""
    c, hidden = x.shape[-1], int(x.shape[-1] * self.ratio)
    x = _dense(self, hidden, "dense1")(x)
    conv = self.build(Conv, hidden, 3, groups=hidden, use_bias=True, name="dwconv_dwconv")
    x = self.activated(conv(x), partial(nn.gelu, approximate=False))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = _dense(self, c, "dense2")(x)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


class Block(Layered):
  """Attention and mix-FFN, each after a layer norm and added to its input.

  Attributes:
    num_heads: see `Attention`.
    reduction: see `Attention`.
    mlp_ratio: see `MixFFN`.
    drop_path: chance that a sample skips the attention, and again the mix-FFN.
    dropout: rate, after the attention and in the mix-FFN.
  """

  num_heads: int
  reduction: int = 1
  mlp_ratio: int = 4
  drop_path: float = 0.0
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]."""
    path = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)
    y = _normed(self, x, "layer_norm_1", train)
    y = self.build(Attention, self.num_heads, self.reduction, name="attention")(y, train=train)
    x = x + path(nn.Dropout(self.dropout, deterministic=not train)(y))
    y = _normed(self, x, "layer_norm_2", train)
    mlp = self.build(MixFFN, self.mlp_ratio, self.dropout, name="mlp")
    return x + path(mlp(y, train=train))


class MiT(Layered):
  """Mix transformer, SegFormer's backbone; the defaults are MiT-B0.

  Strided convolutions are padded by half their kernel on all sides as in PyTorch; JAX's "SAME"
  pads less at the top and left, which shifts every feature.

  Attributes:
    depths: blocks of each stage.
    widths: channels of each stage.
    num_heads: attention heads of each stage.
    sr_ratios: for each stage, how much smaller the keys' and values' map is in each
      direction.
    mlp_ratios: for each stage, hidden channels of the mix-FFN over channels.
    patch_sizes: kernels of the convolutions that begin the stages.
    strides: their strides.
    drop_path: stochastic depth (Huang et al., ECCV 2016): the chance that a sample skips half a
      block grows linearly from 0 in the first block to this in the last.
    dropout: rate, in the blocks.
  """

  depths: tuple[int, ...] = (2, 2, 2, 2)
  widths: tuple[int, ...] = (32, 64, 160, 256)
  num_heads: tuple[int, ...] = (1, 2, 5, 8)
  sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
  mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
  patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
  strides: tuple[int, ...] = (4, 2, 2, 2)
  drop_path: float = 0.1
  dropout: float = 0.0

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list[jax.Array]:
    """Computes features.

    Args:
      image: f32[B,H,W,C], any H and W.
      train: stochastic depth and dropout on (need a "dropout" rng).

    Returns:
      A list whose entry i has stride 2**i, [B,ceil(H/2**i),ceil(W/2**i),C] in the compute dtype:
      the image as given, None (there is no stride 2), then the four stages.
    """
    features, x = [image, None], image.astype(self.dtype)
    rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
    for i, depth in enumerate(self.depths):
      size, stride, name = self.patch_sizes[i], self.strides[i], f"patch_embeddings_{i}"
      x = self.build(Conv, self.widths[i], size, stride, use_bias=True, name=name + "_proj")(x)
      x = _normed(self, x, name + "_layer_norm", train)
      common = self.num_heads[i], self.sr_ratios[i], self.mlp_ratios[i]
      for j in range(depth):
        block = self.build(Block, *common, next(rates), self.dropout, name=f"block_{i}_{j}")
        x = block(x, train=train)
      x = _normed(self, x, f"layer_norm_{i}", train)
      features.append(x)
    return features


# From `MiT`'s fields to a `MiT`. All have MLP ratios of 4, as the released weights have.
_wide = partial(MiT, widths=(64, 128, 320, 512))
mit_b0 = partial(MiT)
mit_b1 = partial(_wide, depths=(2, 2, 2, 2))
mit_b2 = partial(_wide, depths=(3, 4, 6, 3))
mit_b3 = partial(_wide, depths=(3, 4, 18, 3))
mit_b4 = partial(_wide, depths=(3, 8, 27, 3))
mit_b5 = partial(_wide, depths=(3, 6, 40, 3))
BACKBONES = {
  f"mit_b{i}": mit for i, mit in enumerate((mit_b0, mit_b1, mit_b2, mit_b3, mit_b4, mit_b5))
}
# As `transformers` classifies images.
MiTHead = partial(MeanHead, layer="classifier", own_init=INIT)


class Head(Layered):
  """The all-MLP head: a dense layer per stage, then all stages at the first's size, fused.

  Attributes:
    num_classes: logits per pixel.
    width: channels of each dense layer and of the fusion.
    dropout: rate, before the classifier.
  """

  num_classes: int
  width: int = 256
  dropout: float = 0.1

  @nn.compact
  def __call__(self, features: list[jax.Array], *, train: bool) -> jax.Array:
    """Maps [B,H_i,W_i,C_i], the largest first -> logits [B,H_0,W_0,num_classes]."""
    size, parts = features[0].shape[1:3], []
    for i, feature in enumerate(features):
      x = _dense(self, self.width, f"linear_c_{i}_proj")(feature)
      parts.append(ops.resize_bilinear(x, size))
    x = jnp.concatenate(parts[::-1], -1)  # the deepest stage comes first
    fuse = self.build(Conv, self.width, 1, use_bias=self.norm == "none", name="linear_fuse")
    x = self.activated(self.normed(x, fuse, "batch_norm", train=train))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return logits_layer(self, name="classifier")(x)


class SegFormer(Layered):
  """A mix transformer and the all-MLP head.

  With its defaults SegFormer-B0 for Cityscapes (3,719,027 parameters).

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: "mit_b0" to "mit_b5"; a module, which brings all its fields; or a function, such
      as `partial(MiT, depths=(1, 1, 1, 1))`. Its features from stride 4 on are used.
    decoder_width: channels in the head; None: 256 for "mit_b0" and "mit_b1", else 768.
    dropout: rate, before the classifier.
    drop_path: stochastic depth of the backbone, see `MiT`.
  """

  num_classes: int = 19
  backbone: str | Callable = "mit_b0"
  decoder_width: int | None = None
  dropout: float = 0.1
  drop_path: float = 0.1

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """Segments images.

    Args:
      image: f32[B,H,W,C], any H and W; checkpoints expect ImageNet's mean 0 and deviation 1.
      train: batch statistics from the batch, dropout on and stochastic depth on (need a "dropout"
        rng).

    Returns:
      f32[B,H,W,num_classes], logits.
    """
    backbone = self.backbone
    if isinstance(backbone, str):
      backbone = choose(BACKBONES, backbone, "backbone")
    if getattr(backbone, "func", backbone) is MiT:
      given = getattr(backbone, "args", ()), getattr(backbone, "keywords", {})
      own = inspect.signature(MiT).bind_partial(*given[0], **given[1]).arguments
      backbone = partial(MiT, **dict(drop_path=self.drop_path) | own)
    if not isinstance(backbone, nn.Module):
      backbone = self.build(backbone, name="backbone")
    features = backbone(image, train=train)[2:]
    width = self.decoder_width or (256 if self.backbone in ("mit_b0", "mit_b1") else 768)
    head = self.build(Head, self.num_classes, width, self.dropout, name="head")
    return ops.resize_bilinear(ops.wide(head(features, train=train)), image.shape[1:3])
