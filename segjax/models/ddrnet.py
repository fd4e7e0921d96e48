"""DDRNet (Hong, Pan, Sun, Jia, "Deep Dual-Resolution Networks for Real-Time and Accurate Semantic
Segmentation of Road Scenes", arXiv 2101.06085; IEEE Transactions on ITS 2023).

Submodules have the names of the authors' repository, ydhongHIT/DDRNet, with underscores for dots.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import Layered, logits_layer
from segjax.models.norms import apply_norm


class NormConv(Layered):
  """Batch norm, a nonlinearity and a bias-free convolution.

  Attributes:
    features: output channels.
    kernel_size: size of both axes.
    names: names of norm and convolution.
  """

  features: int
  kernel_size: int = 1
  names: tuple[str, str] = ("0", "2")

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,features]."""
    norm, conv = self.names
    x = self.activated(apply_norm(self.make_norm(x.shape[-1], norm), x, train=train))
    biased = self.norm == "none"
    return self.build(Conv, self.features, self.kernel_size, use_bias=biased, name=conv)(x)


class Block(Layered):
  """A residual block: two 3x3 convolutions, or a 3x3 one between two of 1x1.

  Attributes:
    features: output channels.
    stride: stride of the first 3x3 convolution.
    bottleneck: three convolutions, the inner ones of half the channels.
  """

  features: int
  stride: int = 1
  bottleneck: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,ceil(H/stride),ceil(W/stride),features], without a last nonlinearity."""
    conv = partial(self.build, Conv, use_bias=self.norm == "none")
    inner = self.features // 2
    layers = [(self.features, 3, self.stride), (self.features, 3, 1)]
    if self.bottleneck:
      layers = [(inner, 1, 1), (inner, 3, self.stride), (self.features, 1, 1)]
    y = x
    for i, fields in enumerate(layers, 1):
      y = self.activated(y) if i > 1 else y
      y = self.normed(y, conv(*fields, name=f"conv{i}"), f"bn{i}", train=train)
    if self.stride > 1 or x.shape[-1] != self.features:
      shortcut = conv(self.features, 1, self.stride, name="downsample_0")
      x = self.normed(x, shortcut, "downsample_1", train=train)
    return x + y


class DAPPM(Layered):
  """Deep aggregation pyramid pooling: the map and its pools, each fused with the ones before.

  In training a batch of one image is an error: the mean's batch norm sees one value per channel.

  Attributes:
    width: channels of each branch.
    features: output channels.
  """

  width: int = 128
  features: int = 128

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,features]."""

    def block(features, size, name, names=("0", "2")):
      return partial(self.build(NormConv, features, size, names, name=name), train=train)

    parts = [block(self.width, 1, "scale0")(x)]
    pools = [ops.avg_pool(x, 2), ops.avg_pool(x, 4), ops.avg_pool(x, 8)]
    for i, pooled in enumerate([*pools, x.mean((1, 2), keepdims=True)], 1):
      y = block(self.width, 1, f"scale{i}", ("1", "3"))(pooled)
      y = ops.resize_bilinear(y, x.shape[1:3]) + parts[-1]
      parts.append(block(self.width, 3, f"process{i}")(y))
    fused = block(self.features, 1, "compression")(jnp.concatenate(parts, -1))
    return fused + block(self.features, 1, "shortcut")(x)


class DDRHead(Layered):
  """Batch norm, ReLU, 3x3 convolution, batch norm, ReLU, 1x1 convolution.

  Attributes:
    num_classes: logits per pixel.
    features: channels between the convolutions.
  """

  num_classes: int
  features: int = 64

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> f32[B,H,W,num_classes]."""
    for i, size in enumerate((x.shape[-1], self.features), 1):
      x = self.activated(apply_norm(self.make_norm(size, f"bn{i}"), x, train=train))
      if i == 1:
        biased = self.norm == "none"
        x = self.build(Conv, self.features, use_bias=biased, name="conv1")(x)
    return ops.wide(logits_layer(self, name="conv2")(x))


class DDRNet(Layered):
  """Two branches, one that stays at stride 8 and one down to stride 64, which exchange their maps.

  With its defaults DDRNet-23-slim, a net for real time; `width=64, head_width=128` is DDRNet-23.

  Attributes:
    num_classes: logits per pixel: 1 for a sigmoid, the number of classes for a softmax.
    width: channels of the stem; those of the stages are multiples.
    pool_width: channels of a branch of the pyramid pooling.
    head_width: channels in the heads.
    aux: a second head on the fine branch; sows `aux_logits`, f32[B,H,W,num_classes].
  """

  num_classes: int = 19
  width: int = 32
  pool_width: int = 128
  head_width: int = 64
  aux: bool = False

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,H,W,num_classes], any H and W."""
    w, act, size = self.width, self.activated, image.shape[1:3]

    def convs(x, name, *layers, biased=self.norm == "none"):
      """Convolutions (features, size, stride) with norms, a nonlinearity between them."""
      for i, fields in enumerate(layers):
        x = act(x) if i else x
        conv = self.build(Conv, *fields, use_bias=biased, name=f"{name}_{3 * i}")
        x = self.normed(x, conv, f"{name}_{3 * i + 1}", train=train)
      return x

    def stage(x, name, features, count=2, stride=1, bottleneck=False):
      for i in range(count):
        x = act(x) if i else x
        fields = features, 1 if i else stride, bottleneck
        x = self.build(Block, *fields, name=f"{name}_{i}")(x, train=train)
      return x

    def fine_sized(x):
      return ops.resize_bilinear(x, fine.shape[1:3])

    x = act(convs(image, "conv1", (w, 3, 2), (w, 3, 2), biased=True))
    x = stage(x, "layer1", w)
    x = act(stage(act(x), "layer2", 2 * w, stride=2))
    deep, fine = stage(x, "layer3", 4 * w, stride=2), stage(x, "layer3_", 2 * w)
    x = deep + convs(act(fine), "down3", (4 * w, 3, 2))
    fine = fine + fine_sized(convs(act(deep), "compression3", (2 * w, 1, 1)))
    if self.aux:
      head = self.build(DDRHead, self.num_classes, self.head_width, name="seghead_extra")
      self.sow("intermediates", "aux_logits", ops.resize_bilinear(head(fine, train=train), size))
    deep, fine = stage(act(x), "layer4", 8 * w, stride=2), stage(act(fine), "layer4_", 2 * w)
    x = deep + convs(act(fine), "down4", (4 * w, 3, 2), (8 * w, 3, 2))
    fine = fine + fine_sized(convs(act(deep), "compression4", (2 * w, 1, 1)))
    fine = stage(act(fine), "layer5_", 4 * w, 1, bottleneck=True)
    x = stage(act(x), "layer5", 16 * w, 1, stride=2, bottleneck=True)
    x = self.build(DAPPM, self.pool_width, 4 * w, name="spp")(x, train=train)
    head = self.build(DDRHead, self.num_classes, self.head_width, name="final_layer")
    return ops.resize_bilinear(head(fine + fine_sized(x), train=train), size)
