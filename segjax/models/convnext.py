"""ConvNeXt (Liu et al., CVPR 2022) and ConvNeXt V2 (Woo et al., CVPR 2023).

Parameters have the names of facebookresearch/ConvNeXt with underscores for dots
(`stages_0_0/dwconv`); `weights.load_torch` also reads those of torchvision, timm and
`transformers`. Images are normalised by ImageNet's mean and deviation.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax import ops
from segjax.models.conv import Conv
from segjax.models.layers import Layered
from segjax.models.norms import apply_norm

NORM = partial(nn.LayerNorm, epsilon=1e-6)
INIT = nn.initializers.truncated_normal(0.02)


class ResponseNorm(Layered):
  """Global response normalisation: channels compete by their norms over the map."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]."""
    zeros, shape = nn.initializers.zeros, x.shape[-1:]
    gamma = self.param("gamma", zeros, shape, self.param_dtype)
    beta = self.param("beta", zeros, shape, self.param_dtype)
    square = (ops.wide(x) ** 2).sum((1, 2), keepdims=True)
    # A root whose gradient is finite at 0.
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    share = (length / (length.mean(-1, keepdims=True) + 1e-6)).astype(self.dtype)
    gamma, beta = (ops.per_channel(v.astype(self.dtype), x) for v in (gamma, beta))
    return gamma * (x * share) + beta + x


class Block(Layered):
  """Depthwise 7x7 convolution, norm, two dense layers, added to the input.

  Attributes:
    responses: `ResponseNorm` between the dense layers (V2), else a factor for each channel (V1).
    drop_path: chance that a sample skips the block.
  """

  responses: bool = False
  drop_path: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,C]."""
    c, init = x.shape[-1], self.kernel_init or INIT
    conv = self.build(Conv, c, 7, groups=c, use_bias=True, kernel_init=init, name="dwconv")
    y = apply_norm(self.make_norm(c, "norm", NORM), conv(x), train=train)
    dense = partial(self.build, nn.Dense, kernel_init=init)
    y = self.activated(dense(4 * c, name="pwconv1")(y), partial(nn.gelu, approximate=False))
    if self.responses:
      y = self.build(ResponseNorm, name="grn")(y)
    y = dense(c, name="pwconv2")(y)
    if not self.responses:
      gamma = self.param("gamma", nn.initializers.constant(1e-6), (c,), self.param_dtype)
      y = y * ops.per_channel(gamma.astype(self.dtype), y)
    return x + nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), deterministic=not train)(y)


class ConvNeXt(Layered):
  """The convolutional part of a ConvNeXt; the defaults are ConvNeXt-Tiny.

  A map that a strided convolution does not tile is extended at its edges.

  Attributes:
    depths: blocks of each stage.
    widths: channels of each stage.
    responses: see `Block`.
    drop_path: stochastic depth: grows linearly from 0 in the first block to this in the last.
  """

  depths: tuple[int, ...] = (3, 3, 9, 3)
  widths: tuple[int, ...] = (96, 192, 384, 768)
  responses: bool = False
  drop_path: float = 0.1

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list:
    """f32[B,H,W,C] -> features, index i at stride 2^i: the image, None, the four stages."""
    features, x = [image, None], image.astype(self.dtype)
    rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
    for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
      size, name = 2 if i else 4, f"downsample_layers_{i}"
      if i:
        x = apply_norm(self.make_norm(x.shape[-1], name + "_0", NORM), x, train=train)
      init = self.kernel_init or INIT
      conv = partial(self.build, nn.Conv, padding="VALID", kernel_init=init)
      x = conv(width, (size, size), size, name=f"{name}_{min(i, 1)}")(ops.pad_to_multiple(x, size))
      if not i:
        x = apply_norm(self.make_norm(width, name + "_1", NORM), x, train=train)
      for j in range(depth):
        block = self.build(Block, self.responses, next(rates), name=f"stages_{i}_{j}")
        x = block(x, train=train)
      features.append(x)
    return features


class NormHead(Layered):
  """Classifier of a backbone's last features: their mean, a norm and a dense layer.

  Attributes:
    num_classes: classes.
  """

  num_classes: int = 1000

  @nn.compact
  def __call__(self, features: list, *, train: bool) -> jax.Array:
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,C]."""
    x = features[-1].mean((1, 2))
    x = apply_norm(self.make_norm(x.shape[-1], "final_norm", NORM), x, train=train)
    self.sow("intermediates", "penultimate", ops.wide(x))
    init = self.kernel_init or INIT
    return ops.wide(self.build(nn.Dense, self.num_classes, kernel_init=init, name="fc")(x))


_small = dict(depths=(3, 3, 27, 3))
_base = _small | dict(widths=(128, 256, 512, 1024))
_large = _small | dict(widths=(192, 384, 768, 1536))
_v2 = partial(ConvNeXt, responses=True)
BACKBONES = {
  "convnext_tiny": ConvNeXt,
  "convnext_small": partial(ConvNeXt, **_small),
  "convnext_base": partial(ConvNeXt, **_base),
  "convnext_large": partial(ConvNeXt, **_large),
  "convnextv2_atto": partial(_v2, depths=(2, 2, 6, 2), widths=(40, 80, 160, 320)),
  "convnextv2_nano": partial(_v2, depths=(2, 2, 8, 2), widths=(80, 160, 320, 640)),
  "convnextv2_tiny": _v2,
  "convnextv2_base": partial(_v2, **_base),
}
