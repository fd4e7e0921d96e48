"""The loss of mask classification: one query for each class, matched at the least cost.

Cheng, Schwing, Kirillov, "Per-Pixel Classification Is Not All You Need for Semantic Segmentation",
NeurIPS 2021; weights and parts as in Mask2Former (Cheng et al., CVPR 2022) and EoMT.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from segjax.class_index import class_index, counted
from segjax.ops import undivided, wide

LARGE = 1e4  # in the place of a cost that is no number


def match(cost: jax.Array, present: jax.Array) -> jax.Array:
  """Gives each target a query of its own so that the sum of the costs is the least there is.

  The Hungarian method (Kuhn, 1955; Munkres, 1957), exact but for float32's rounding, on the device.
  Its loop is optax's; within `jax.shard_map` it needs `check_vma=False`.

  Args:
    cost: f32[...,N,Q], cost of query q for target n, N <= Q.
    present: bool[...,N], False for targets that do not count; theirs says nothing.

  Returns:
    i32[...,N], the query of each target, all different.

  Raises:
    ValueError: more targets than queries.
  """
  targets, queries = cost.shape[-2:]
  if targets > queries:
    raise ValueError(f"match: {targets} targets for {queries} queries, expected no more targets")
  cost = jnp.nan_to_num(cost, nan=LARGE, posinf=LARGE, neginf=-LARGE)
  cost = undivided(jnp.where(present[..., None], cost, 0.0))

  def one(cost):
    target, query = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(targets, jnp.int32).at[target].set(query.astype(jnp.int32))

  for _ in range(cost.ndim - 2):
    one = jax.vmap(one)
  return one(cost)


def shares(mask: jax.Array, cells: tuple[int, int], cell: jax.Array | float) -> jax.Array:
  """The share of each cell of a grid that a mask covers.

  Args:
    mask: bool[B,H,W].
    cells: (rows, columns) of the grid, which begins at the top left corner.
    cell: height and width of a cell, pixels, perhaps no whole number.

  Returns:
    f32[B,rows,columns] in [0,1]; beyond the image nothing is covered.
  """

  def overlap(count, size):
    first, pixel = jnp.arange(count)[:, None] * cell, jnp.arange(size)
    inside = jnp.minimum(first + cell, pixel + 1) - jnp.maximum(first, pixel)
    return jnp.clip(inside, 0, None) / cell

  rows, columns = map(overlap, cells, mask.shape[1:])
  sums = partial(jnp.einsum, precision="highest")
  return sums("bhw,rh,sw->brs", mask.astype(jnp.float32), rows, columns)


def mask_classification(
  masks: jax.Array,
  classes: jax.Array,
  label: jax.Array,
  *,
  valid: jax.Array | None = None,
  cell: jax.Array | float | None = None,
  weights: tuple[float, float, float] = (2.0, 5.0, 5.0),
  no_object: float = 0.1,
) -> dict[str, jax.Array]:
  """Losses of queries, each a mask and a class, against the masks of the classes in an image.

  Each class in the image is a target and gets the query that costs least, see `match`; the other
  queries are to say "no object". Mask2Former looks at 12544 points drawn at random; here every cell
  counts, with the share of it that the class covers. Where an image has more classes than there are
  queries, the last classes are left out.

  Args:
    masks: f32[B,h,w,Q], logits of the masks.
    classes: f32[B,Q,K+1], logits of the classes, the last one of "no object".
    label: [B,H,W], class indices in [0,K) of any integer dtype.
    valid: bool[B,H,W], or None for all pixels.
    cell: height and width of a mask's cell, pixels of the label; None: H / h = W / w. Masks of an
      image that was extended go beyond it, so theirs is to be given.
    weights: of the class, the binary cross-entropy and Dice in the cost of a match.
    no_object: weight of a query without a target in the cross-entropy of the classes.

  Returns:
    dict of sums over each image, f32[B]: `cross_entropy` (nats) over queries, `weight`, the sum of
    their weights, `mask` (nats, binary cross-entropy, the mean over cells) and `dice` (in [0,1])
    over targets, and `targets`, their number. nan for an image with a label that is no class.

  Raises:
    TypeError: labels that are not integers.
    ValueError: without `cell`, masks of other proportions than the label.
  """
  masks, classes = wide(masks), wide(classes)
  (_, rows, columns, queries), count = masks.shape, classes.shape[-1] - 1
  label = class_index(label, count)
  height, width = label.shape[1:]
  if cell is None:
    if height * columns != width * rows:
      raise ValueError(
        f"mask_classification: masks of {rows}x{columns} cells for labels of {height}x{width} "
        "pixels (height x width), of other proportions; give `cell`, the side of a cell in pixels"
      )
    cell = height / rows
  valid = counted(valid, label.shape)
  number = jnp.arange(count)[:, None, None]
  present = ((label[:, None] == number) & valid[:, None]).any((2, 3))
  order = jnp.argsort(~present, axis=1)[:, : min(count, queries)]  # the present ones first
  present = jnp.take_along_axis(present, order, 1)
  grid = partial(shares, cells=(rows, columns), cell=cell)
  scored = grid(valid)
  target = jax.lax.map(lambda c: grid((label == c[:, None, None]) & valid), order.T)
  area, pixels = target.sum((2, 3)).T, scored.sum((1, 2))[:, None]  # of each target, of the image
  pixels = jnp.where(pixels > 0, pixels, 1.0)
  log_p = jax.nn.log_softmax(classes)

  log_own = jnp.take_along_axis(log_p.swapaxes(1, 2), order[..., None], 1)

  # Of every pair of a target and a query, [B,N,Q]; those of the matches are the losses.
  total, p = partial(jnp.einsum, precision="highest"), jax.nn.sigmoid(masks)
  positive = total("bhwq,nbhw->bnq", masks, target)
  bce = total("bhwq,bhw->bq", jax.nn.softplus(masks), scored)[:, None] - positive
  bce = bce / pixels[..., None]
  covered = total("bhwq,bhw->bq", p, scored)[:, None]
  overlap = total("bhwq,nbhw->bnq", p, target)
  dice = 1 - (2 * overlap + 1) / (covered + area[..., None] + 1)
  cost = -weights[0] * jnp.exp(log_own) + weights[1] * bce + weights[2] * dice
  query = match(jax.lax.stop_gradient(cost), present)
  matched = jax.nn.one_hot(query, queries, dtype=bce.dtype) * present[..., None]

  free = 1 - matched.sum(1)
  wrong = (valid & (label < 0)).any((1, 2))
  factor = jnp.where(wrong, jnp.nan, 1.0).astype(bce.dtype)
  nothing = no_object * (free * log_p[..., -1]).sum(1)
  return dict(
    cross_entropy=-factor * ((matched * log_own).sum((1, 2)) + nothing),
    weight=matched.sum((1, 2)) + no_object * free.sum(1),
    mask=factor * (matched * bce).sum((1, 2)),
    dice=factor * (matched * dice).sum((1, 2)),
    targets=present.sum(1),
  )
