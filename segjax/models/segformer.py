"""SegFormer: a pyramid of transformer blocks and a head of per-pixel layers.

Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
NeurIPS 2021, https://arxiv.org/abs/2105.15203. Computes what Hugging Face's `transformers`
computes, and its parameters have the names of that library's checkpoints: with `.` and `/` read as
`_`, `segformer.encoder` is `backbone` and `decode_head` is `head`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from segjax import ops
from segjax.errors import choose
from segjax.models.conv import Conv
from segjax.models.layers import BatchNorm, MeanHead, conv_norm, logits_layer

# Epsilon of every norm is 1e-5: `transformers` ignores the 1e-6 of its configurations.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)
INIT = nn.initializers.normal(0.02)
Dense = partial(nn.Dense, kernel_init=INIT)


class Attention(nn.Module):
  """Self-attention whose keys and values come from a smaller map.

  Attributes:
    num_heads: heads; the input's channels are a multiple.
    reduction: the smaller map's stride, a convolution with kernel and stride `reduction`; 1: none.
    dtype: compute dtype; the softmax is in float32.
  """

  num_heads: int
  reduction: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B,H,W,C] -> [B,H,W,C]; a map smaller than `reduction` is first extended at its edges."""
    (b, h, w, c), r, small = x.shape, self.reduction, x
    if r > 1:
      small = ops.pad_to_least(x, r)
      reduce = nn.Conv(c, (r, r), r, padding="VALID", dtype=self.dtype, name="self_sr")
      small = LayerNorm(dtype=self.dtype, name="self_layer_norm")(reduce(small))

    def heads(x, name):
      return Dense(c, dtype=self.dtype, name=name)(x).reshape(b, -1, self.num_heads, size)

    size = c // self.num_heads
    query, key, value = heads(x, "self_query"), heads(small, "self_key"), heads(small, "self_value")
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
    weights = nn.softmax(scores * size**-0.5).astype(self.dtype)
    x = jnp.einsum("bhqk,bkhc->bqhc", weights, value).reshape(b, h, w, c)
    return Dense(c, dtype=self.dtype, name="output_dense")(x)


class MixFFN(nn.Module):
  """Two dense layers around a depthwise 3x3 convolution, which tells a pixel where it is.

  Attributes:
    ratio: hidden channels over input channels.
    dropout: rate, after the GELU and at the end.
    dtype: compute dtype.
  """

  ratio: int = 4
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,H,W,C]."""
    c, hidden = x.shape[-1], int(x.shape[-1] * self.ratio)
    x = Dense(hidden, dtype=self.dtype, name="dense1")(x)
    conv = Conv(hidden, 3, groups=hidden, use_bias=True, dtype=self.dtype, name="dwconv_dwconv")
    x = nn.gelu(conv(x), approximate=False)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = Dense(c, dtype=self.dtype, name="dense2")(x)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


class Block(nn.Module):
  """Attention and mix-FFN, each after a layer norm and added to its input.

  Attributes:
    num_heads: see `Attention`.
    reduction: see `Attention`.
    mlp_ratio: see `MixFFN`.
    drop_path: chance that a sample skips the attention, and again the mix-FFN.
    dropout: rate, after the attention and in the mix-FFN.
    dtype: compute dtype.
  """

  num_heads: int
  reduction: int = 1
  mlp_ratio: int = 4
  drop_path: float = 0.0
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,H,W,C]."""
    path = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)
    y = LayerNorm(dtype=self.dtype, name="layer_norm_1")(x)
    y = Attention(self.num_heads, self.reduction, self.dtype, name="attention")(y)
    x = x + path(nn.Dropout(self.dropout, deterministic=not train)(y))
    y = LayerNorm(dtype=self.dtype, name="layer_norm_2")(x)
    return x + path(MixFFN(self.mlp_ratio, self.dropout, self.dtype, name="mlp")(y, train=train))


class MiT(nn.Module):
  """Mix transformer, SegFormer's backbone; the defaults are MiT-B0.

  Strided convolutions are padded by half their kernel on all sides as in PyTorch; JAX's "SAME"
  pads less at the top and left, which shifts every feature.

  Attributes:
    depths: blocks of each stage.
    widths: channels of each stage.
    num_heads: attention heads of each stage.
    sr_ratios: of each stage, how much smaller the keys' and values' map is in each direction.
    mlp_ratios: of each stage, hidden channels of the mix-FFN over channels.
    patch_sizes: kernels of the convolutions that begin the stages.
    strides: their strides.
    drop_path: stochastic depth (Huang et al., ECCV 2016): the chance that a sample skips half a
      block grows linearly from 0 in the first block to this in the last.
    dropout: rate, in the blocks.
    dtype: compute dtype; parameters are float32.
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
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """Computes features.

    Args:
      image: f32[B,H,W,3], any H and W.
      train: stochastic depth and dropout on (need a "dropout" rng).

    Returns:
      A list whose entry i has stride 2**i, [B,ceil(H/2**i),ceil(W/2**i),C] in the compute dtype:
      the image as given, None (there is no stride 2), then the four stages.
    """
    features, x = [image, None], image.astype(self.dtype)
    rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
    conv = partial(Conv, use_bias=True, dtype=self.dtype)
    norm = partial(LayerNorm, dtype=self.dtype)
    for i, depth in enumerate(self.depths):
      size, stride, name = self.patch_sizes[i], self.strides[i], f"patch_embeddings_{i}"
      x = conv(self.widths[i], size, stride, name=name + "_proj")(x)
      x = norm(name=name + "_layer_norm")(x)
      common = self.num_heads[i], self.sr_ratios[i], self.mlp_ratios[i]
      for j in range(depth):
        block = Block(*common, next(rates), self.dropout, self.dtype, name=f"block_{i}_{j}")
        x = block(x, train=train)
      x = norm(name=f"layer_norm_{i}")(x)
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
MiTHead = partial(MeanHead, layer="classifier", kernel_init=INIT)


class Head(nn.Module):
  """The all-MLP head: a dense layer a stage, then all stages at the first's size, fused.

  Attributes:
    num_classes: logits a pixel.
    width: channels of each dense layer and of the fusion.
    dropout: rate, before the classifier.
    dtype: compute dtype.
  """

  num_classes: int
  width: int = 256
  dropout: float = 0.1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train: bool):
    """Maps [B,H_i,W_i,C_i], the largest first -> logits [B,H_0,W_0,num_classes]."""
    size, parts = features[0].shape[1:3], []
    for i, feature in enumerate(features):
      x = Dense(self.width, dtype=self.dtype, name=f"linear_c_{i}_proj")(feature)
      parts.append(ops.resize_bilinear(x, size))
    x = jnp.concatenate(parts[::-1], -1)  # the deepest stage comes first
    fuse = Conv(self.width, 1, dtype=self.dtype, name="linear_fuse")
    x = nn.relu(conv_norm(x, fuse, BatchNorm(dtype=self.dtype, name="batch_norm"), train=train))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return logits_layer(self.num_classes, self.dtype, name="classifier")(x)


class SegFormer(nn.Module):
  """A mix transformer and the all-MLP head.

  With its defaults SegFormer-B0 for Cityscapes (3,719,027 parameters).

  Attributes:
    num_classes: logits a pixel: 1 for a sigmoid, the number of classes for a softmax.
    backbone: "mit_b0" to "mit_b5", or a `MiT`, which brings its own `drop_path` and `dtype`.
    decoder_width: channels in the head; None: 256 for "mit_b0" and "mit_b1", else 768.
    dropout: rate, before the classifier.
    drop_path: stochastic depth of the backbone, see `MiT`.
    dtype: compute dtype; parameters and logits are float32.
  """

  num_classes: int = 19
  backbone: str | nn.Module = "mit_b0"
  decoder_width: int | None = None
  dropout: float = 0.1
  drop_path: float = 0.1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    """Segments images.

    Args:
      image: f32[B,H,W,3], any H and W; checkpoints expect ImageNet's mean 0 and deviation 1.
      train: batch statistics from the batch, dropout on and stochastic depth on (need a "dropout"
        rng).

    Returns:
      f32[B,H,W,num_classes], logits.
    """
    backbone = self.backbone
    if isinstance(backbone, str):
      backbone = choose(BACKBONES, backbone, "backbone")(
        drop_path=self.drop_path, dtype=self.dtype, name="backbone"
      )
    features = backbone(image, train=train)[2:]
    width = self.decoder_width or (256 if self.backbone in ("mit_b0", "mit_b1") else 768)
    head = Head(self.num_classes, width, self.dropout, self.dtype, name="head")
    logits = head(features, train=train).astype(jnp.float32)
    return ops.resize_bilinear(logits, image.shape[1:3])
