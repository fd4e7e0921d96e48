"""A segmenter that is asked for one class at a time and attends to where it is."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError
from segjax.models.backbones import feature_at, make_backbone
from segjax.models.conv import Conv
from segjax.models.deeplab import DeepLabV3PlusHead
from segjax.models.layers import Layered

KINDS = ("additive", "dot", "scaled_dot")


class ClassAttention(Layered):
  """Attention of a class query over a feature map; keys are of its layer norm.

  Attributes:
    kind: "additive" (Bahdanau et al., ICLR 2015), "dot" (Luong et al., EMNLP 2015) or
      "scaled_dot" (Vaswani et al., NeurIPS 2017).
    width: channels of query and keys.
  """

  kind: str = "scaled_dot"
  width: int = 256

  @nn.compact
  def __call__(self, query: jax.Array, x: jax.Array) -> jax.Array:
    """Weights of positions.

    Args:
      query: f32[B,Q,K], one-hot classes.
      x: [B,H,W,C], features.

    Returns:
      f32[B,Q,H,W], weights above 0 that add up to 1 over the positions.
    """
    # Scores differ by about one at first, whatever the kind and the features' scale: with less an
    # additive attention hardly begins, with more the softmax holds on to a few positions.
    normal = nn.initializers.normal(self.width**-0.5 if self.kind == "dot" else 1.0)
    init = self.kernel_init or normal
    q = self.build(nn.Dense, self.width, kernel_init=init, name="query")(query)
    x = self.build(nn.LayerNorm, name="norm")(x)
    k = self.build(Conv, self.width, 1, use_bias=True, name="key")(x)
    if self.kind == "additive":
      both = jnp.tanh(q[:, :, None, None] + k[:, None])
      scores = self.build(nn.Dense, 1, use_bias=False, name="score")(both)[..., 0]
    elif self.kind in KINDS:
      scores = jnp.einsum("bqc,bhwc->bqhw", q, k)
      scores = scores / self.width**0.5 if self.kind == "scaled_dot" else scores
    else:
      raise UserError(f"attention is {self.kind!r}, expected one of {', '.join(KINDS)}")
    flat = ops.wide(scores).reshape(*scores.shape[:2], -1)
    return jax.nn.softmax(flat, -1).reshape(scores.shape)


class AttentionSegmenter(Layered):
  """Backbone, attention of the asked class over its features, DeepLabv3+ decoder, one mask.

  The features are multiplied by their attention weight times the number of positions, so that
  uniform attention changes nothing.

  Attributes:
    num_classes: classes that can be asked for.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`.
    attention: "additive", "dot" or "scaled_dot".
    width: channels of query and keys.
    rates: dilations of the decoder's ASPP.
  """

  num_classes: int = 6
  backbone: str | Callable = "resnet18"
  attention: str = "scaled_dot"
  width: int = 256
  rates: tuple[int, ...] = (6, 12, 18)

  @nn.compact
  def __call__(self, image: jax.Array, query: jax.Array | None = None, *, train: bool) -> jax.Array:
    """Segments images by class.

    Args:
      image: f32[B,H,W,C], any H and W.
      query: i32[B], the class asked of each image; None asks for every class in turn.
      train: batch statistics from the batch and dropout on (needs a "dropout" rng).

    Returns:
      f32[B,H,W,num_classes], a logit for each class's mask against all else, or with a query
      f32[B,H,W,1], that of the asked class. Sows `attention`, f32[B,Q,h,w].
    """
    backbone = make_backbone(self.backbone, like=self)
    features = backbone(image, train=train)
    x, fine = features[-1], feature_at(features, 2, "AttentionSegmenter")
    classes = jnp.broadcast_to(jnp.arange(self.num_classes), (image.shape[0], self.num_classes))
    asked = jax.nn.one_hot(classes if query is None else query[:, None], self.num_classes)
    attention = self.build(ClassAttention, self.attention, self.width, name="class_attention")
    weights = attention(asked, x)
    self.sow("intermediates", "attention", weights)
    count = asked.shape[1]
    positions = x.shape[1] * x.shape[2]
    x = x[:, None] * (weights * positions).astype(self.dtype)[..., None]
    x = x.reshape(-1, *x.shape[2:])
    head = self.build(DeepLabV3PlusHead, 1, self.rates, name="head")
    x = head(x, jnp.repeat(fine, count, 0), train=train)
    x = ops.resize_bilinear(x, image.shape[1:3])[..., 0]
    return x.reshape(-1, count, *image.shape[1:3]).transpose(0, 2, 3, 1)
