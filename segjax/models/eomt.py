"""EoMT (Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025).

A plain vision transformer sees queries among its tokens in its last blocks; each query gives a mask
and a class. Computes the same as `EomtForUniversalSegmentation` of Hugging Face's `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError, choose
from segjax.models import dinov2
from segjax.models.conv import Conv
from segjax.models.layers import ConvTranspose, Layered
from segjax.models.norms import apply_norm

GELU = partial(nn.gelu, approximate=False)
POWER = 0.9  # of the decay by which the masks of the attention vanish


class Upscale(Layered):
  """2x2 transposed convolution, GELU, depthwise 3x3 convolution, layer norm."""

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,2H,2W,C]."""
    c, init = x.shape[-1], self.kernel_init or "lecun"
    x = self.build(ConvTranspose, c, 2, kernel_init=init, name="conv1")(x)
    biased = self.norm == "none"
    conv = self.build(Conv, c, groups=c, use_bias=biased, kernel_init=init, name="conv2")
    own = partial(nn.LayerNorm, epsilon=1e-6)
    return self.normed(self.activated(x, GELU), conv, "layernorm2d", train=train, own=own)


class EoMTHead(Layered):
  """Masks and classes of the queries among a transformer's tokens.

  Attributes:
    num_classes: classes besides "no object".
    queries: tokens that are queries, the first ones.
    upscale: how often the patches' map is doubled.
  """

  num_classes: int
  queries: int
  upscale: int

  @nn.compact
  def __call__(
    self, x: jax.Array, grid: tuple[int, int], *, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """[B,N,C], those of the patches last -> masks f32[B,s*h,s*w,Q], classes f32[B,Q,K+1]."""
    y, c = x[:, : self.queries], x.shape[-1]
    dense = partial(self.build, nn.Dense)
    classes = dense(self.num_classes + 1, name="class_predictor")(y)
    for i in (1, 2, 3):
      y = dense(c, name=f"mask_head_fc{i}")(y)
      y = self.activated(y, GELU) if i < 3 else y
    fine = ops.split(x[:, x.shape[1] - grid[0] * grid[1] :], 1, grid[1])
    for i in range(self.upscale):
      fine = self.build(Upscale, name=f"upscale_block_block_{i}")(fine, train=train)
    width = jnp.promote_types(fine.dtype, jnp.float32)
    masks = jnp.einsum("bqc,bhwc->bhwq", y, fine, preferred_element_type=width)
    return masks, ops.wide(classes)


class QueryViT(dinov2.DinoV2):
  """A `DinoV2` whose last blocks also see queries.

  Attributes:
    blocks: number of those blocks.
  """

  blocks: int = 3

  @nn.compact
  def __call__(
    self, image: jax.Array, queries: jax.Array, head: Callable, shares: list, *, train: bool
  ) -> list[tuple[jax.Array, jax.Array]]:
    """Predictions before each of the last blocks, where they mask its attention, and the last.

    Args:
      image: f32[B,H,W,C].
      queries: [1,Q,C].
      head: (tokens, grid) -> (masks, classes).
      shares: for each of the last blocks the share of the queries whose attention is masked, or
        None for no masks.
      train: whether the masked queries are drawn (needs a "dropout" rng); else they are all of
        them where the share is 1.
    """
    x, grid = self.tokens(image)
    norm = self.make_norm(x.shape[-1], "norm", dinov2.Block.own_norm)
    normed, found = partial(apply_norm, norm, train=train), []
    for i in range(self.depth):
      mask, late = None, i - (self.depth - self.blocks)
      if late == 0:
        none = jnp.zeros_like(x[:, :1])  # gives the queries the batch and its division over a mesh
        x = jnp.concatenate([queries.astype(x.dtype) + none, x], 1)
      if late >= 0 and shares[late] is not None:
        found.append(head(normed(x), grid))
        mask = self._mask(found[-1][0], x, grid, shares[late], train)
      block = self.build(dinov2.Block, self.num_heads, name=f"blocks_{i}")
      x = block(x, train=train, mask=mask)
    return [*found, head(normed(x), grid)]

  def _mask(self, masks, x, grid, share, train):
    """bool[B,1,N,N]: a masked query sees of the patches those within its mask."""
    masks = ops.resize_bilinear(jax.lax.stop_gradient(masks), grid, antialias=False)
    count, (b, n, _), patches = masks.shape[-1], x.shape, grid[0] * grid[1]
    sees = (masks > 0).reshape(b, patches, count).swapaxes(1, 2)
    if train:
      free = jax.random.uniform(self.make_rng("dropout"), (b, count, 1)) >= share
    else:
      free = jnp.asarray(share) < 1
    others = jnp.ones((b, count, n - patches), bool)
    rows = jnp.concatenate([others, sees | free], 2)
    return jnp.concatenate([rows, jnp.ones((b, n - count, n), bool)], 1)[:, None]


class EoMT(Layered):
  """Encoder-only mask transformer; logits are the logarithms of its semantic scores.

  A score is the sum over the queries of the probability of the class times that of the mask. Sows
  `masks`, f32[B,h,w,queries], and `classes`, f32[B,queries,num_classes+1], of each prediction, and
  `cell`, the height and width in pixels of a mask's cell, for `losses.mask_classification`.

  Attributes:
    num_classes: classes; there is no form with a sigmoid.
    backbone: "dinov2_vits14" or another of `dinov2.BACKBONES`; or a partial of `dinov2.DinoV2`.
    queries: number of queries.
    blocks: last blocks of the backbone, which see the queries.
    upscale: how often the map of the patches is doubled for the masks.
  """

  num_classes: int = 21
  backbone: str | Callable = "dinov2_vits14_reg"
  queries: int = 100
  blocks: int = 3
  upscale: int = 2

  @nn.compact
  def __call__(
    self, image: jax.Array, progress: jax.Array | float | None = None, *, train: bool
  ) -> jax.Array:
    """Segments images.

    Args:
      image: f32[B,H,W,C], any H and W.
      progress: how far the masks of the attention have vanished, from 0, in which every query sees
        only the patches within its mask, to 1, none; from block to block one after another. None:
        none, as in prediction.
      train: see `QueryViT`.

    Returns:
      f32[B,H,W,num_classes], logits.
    """
    maker = self.backbone
    maker = choose(dinov2.BACKBONES, maker, "backbone") if isinstance(maker, str) else maker
    if getattr(maker, "func", maker) is not dinov2.DinoV2:
      raise UserError(f"EoMT: backbone is {maker!r}, expected a partial of dinov2.DinoV2")
    own = partial(QueryViT, *getattr(maker, "args", ()), **getattr(maker, "keywords", {}))
    vit = self.build(own, blocks=self.blocks, name="backbone")
    init = nn.initializers.normal(1.0)
    queries = self.param("query", init, (1, self.queries, vit.width), self.param_dtype)
    parts = self.num_classes, self.queries, self.upscale
    head = partial(self.build(EoMTHead, *parts, name="head"), train=train)
    shares = [self._share(i, progress) for i in range(self.blocks)]
    found = vit(image, queries, head, shares, train=train)
    for masks, classes in found:
      self.sow("intermediates", "masks", masks)
      self.sow("intermediates", "classes", classes)
    cell = vit.patch / 2**self.upscale
    self.sow("intermediates", "cell", jnp.asarray(cell, found[-1][0].dtype))
    size = [-(-n // vit.patch) * vit.patch for n in image.shape[1:3]]
    masks = ops.resize_bilinear(masks, size)[:, : image.shape[1], : image.shape[2]]
    objects = nn.softmax(classes)[..., :-1]
    scores = jnp.einsum("bhwq,bqk->bhwk", nn.sigmoid(masks), objects)
    return jnp.log(scores + 1e-9)

  def _share(self, block, progress):
    """Share of the queries that are masked: each block's falls to 0 in a time of its own."""
    if progress is None:
      return None
    left = (block + 2) - progress * (self.blocks + 2)
    return jnp.clip(left, 0, 1) ** POWER
