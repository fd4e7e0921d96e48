"""Sums over pixels of logits that are up-sampled a few rows at a time, and never stored whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from segjax.data.labels import IGNORE
from segjax.models.layers import resize_bilinear


def sum_over_rows(function, logits, label, *, rows=32):
  """What a function of the up-sampled logits and the labels gives, block of rows by block of rows.

  The backward pass makes each block anew, so full-size logits, probabilities and their gradients
  take the memory of a block alone.

  Args:
    function: (f32[B,rows,W,K], i32[B,rows,W]) -> tree of sums over pixels, in which 255 does not
      count.
    logits: f32[B,h,w,K], not larger than the labels.
    label: i32[B,H,W].
    rows: of a block.

  Returns:
    `function(resize_bilinear(logits, (H, W)), label)` but for the order of the sums.
  """
  small, (height, width) = logits.shape[1], label.shape[1:]
  blocks = -(-height // rows)
  with jax.ensure_compile_time_eval():
    identity = jnp.eye(small)[None, :, None]
    weights = np.asarray(resize_bilinear(identity, (height, 1)))[0, :, 0]  # [H,h]
  weights = np.pad(weights, ((0, blocks * rows - height), (0, 0))).reshape(blocks, rows, small)
  used = (weights != 0).any(1)  # coarse rows that a block needs, next to each other
  first, count = used.argmax(1), used.sum(1).max()
  index = np.minimum(first, small - count)[:, None] + np.arange(count)
  weights = np.take_along_axis(weights, index[:, None], 2)
  windows = resize_bilinear(logits, (small, width))[:, index]  # f32[B,blocks,count,W,K]
  label = jnp.pad(label, ((0, 0), (0, blocks * rows - height), (0, 0)), constant_values=IGNORE)
  label = label.reshape(len(label), blocks, rows, width)

  def of_block(weight, window, label):
    return function(jnp.einsum("rm,bmwk->brwk", weight, window, precision="highest"), label)

  @jax.checkpoint
  def add(total, block):
    return jax.tree.map(jnp.add, total, of_block(*block)), None

  rest = weights, jnp.moveaxis(windows, 1, 0), jnp.moveaxis(label, 1, 0)
  shapes = jax.eval_shape(of_block, *(x[0] for x in rest))
  nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.scan(add, nothing, rest)[0]
