"""Pooling: exact, fast forms of max-pooling, and PyTorch's adaptive average.

XLA lowers the gradient of `nn.max_pool` to select-and-scatter, which takes a third of a U-Net's
step on a CPU. The forms here are maxima of strided slices with a derivative of their own.

The derivative follows the index of the maximum. XLA may compute an input twice, in fusions that
round differently, so a comparison of the input with the maximum may find no equal and drop the
gradient, and an index that is computed twice may name two members or none. One reduction of values
and indices together therefore decides, which XLA never repeats, and everything else reads its
index.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.shapes import mix_rows_and_columns, split


def _later(one, other):
  """The larger of two (value, index): nan above all, of equal values the first, of nans the last.

  The order is PyTorch's, and does not depend on which of the two comes first.
  """
  (v, i), (u, j) = one, other
  nans = jnp.isnan(u) & jnp.isnan(v)
  larger = (u > v) | jnp.isnan(u) | ((u == v) & (j < i))
  take = jnp.where(nans, j > i, larger)
  return jnp.where(take, u, v), jnp.where(take, j, i)


def _maximum(members):
  """Value and index of the largest member of each window.

  Args:
    members: index -> [B,h,w,C], the member of every window.

  Returns:
    ([B,h,w,C], u8[B,h,w,C]).
  """
  pairs = [(x, jnp.full(x.shape, index, jnp.uint8)) for index, x in members.items()]
  middle = len(pairs) // 2
  halves = [functools.reduce(_later, part) for part in (pairs[:middle], pairs[middle:])]
  values, indices = (jnp.stack(both) for both in zip(*halves, strict=True))
  lowest = jnp.array(-jnp.inf, values.dtype), jnp.uint8(255)
  return jax.lax.reduce((values, indices), lowest, _later, (0,))


def _selected(index, blocks, codes):
  """Sum over 2x2 blocks [B,h,2,w,2,C] of the values whose code, [[4],[4]], is the index's."""
  codes = np.array(codes, np.uint8).reshape(1, 1, 2, 1, 2, 1)
  hit = index[:, :, None, :, None] == codes
  return jax.lax.reduce_sum(jnp.where(hit, blocks, 0), (2, 4))


def _in_blocks(x):
  """[B,2h,2w,C] -> [B,h,2,w,2,C]."""
  return split(split(x, 2, 2), 1, 2)


def _members_2x2(x):
  """The members of each 2x2 window by their index, in the row-major order of the window."""
  h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  return {2 * i + j: x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)}


@jax.custom_jvp
def max_pool_2x2(x: jax.Array) -> jax.Array:
  """Largest value of each 2x2 window, stride 2; equals `nn.max_pool(x, (2, 2), (2, 2))`.

  The gradient of a window goes to one member, the first maximum in row-major order, as XLA's
  select-and-scatter does (`jnp.maximum` alone would share it between equal values).

  Args:
    x: [B,H,W,C]; an odd last row or column is dropped, as with padding "VALID".

  Returns:
    [B,H//2,W//2,C], same dtype; nan where a member is.
  """
  a, b, c, d = _members_2x2(x).values()
  return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _tangent_2x2(index, t):
  """The tangent of each window's maximum: that of the member which the index names."""
  h, w = index.shape[1:3]
  blocks = _in_blocks(t[:, : 2 * h, : 2 * w])
  return _selected(index, blocks, ((0, 1), (2, 3)))


def _padded(x, fill):
  """x with a row and column before it, and after it as many as complete windows and blocks."""
  after = (2 * (-(-size // 2)) + 1 - size for size in x.shape[1:3])
  pads = ((0, 0, 0), *((1, n, 0) for n in after), (0, 0, 0))
  return jax.lax.pad(x, jnp.array(fill, x.dtype), pads)


def _members_3x3(x):
  """The members of each 3x3 window: 4 * row + column of the window -> member."""
  h, w = (-(-size // 2) for size in x.shape[1:3])
  least = -jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min
  x, last = _padded(x, least), (2 * h - 1, 2 * w - 1)
  return {
    4 * i + j: x[:, i : i + last[0] : 2, j : j + last[1] : 2] for i in range(3) for j in range(3)
  }


@jax.custom_jvp
def max_pool_3x3(x: jax.Array) -> jax.Array:
  """Largest value of each 3x3 window, stride 2, one row of padding on each side.

  Equals `nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))` in value and gradient, and PyTorch's
  `MaxPool2d(3, 2, padding=1)` (without `ceil_mode`).

  Args:
    x: [B,H,W,C].

  Returns:
    [B,ceil(H/2),ceil(W/2),C], same dtype; nan where a member is.
  """
  return functools.reduce(jnp.maximum, _members_3x3(x).values())


def _tangent_3x3(index, t):
  """See `_tangent_2x2`."""
  h, w = index.shape[1:3]
  # In a window of -inf alone the padding before the image is the first maximum: step back into it.
  row = jnp.maximum(index // 4, (jnp.arange(h) == 0)[None, :, None, None])
  column = jnp.maximum(index % 4, (jnp.arange(w) == 0)[None, None, :, None])
  index = 4 * row + column
  # Windows overlap: window i has both rows of block i and the first of block i + 1. Its transpose
  # adds a pixel's windows by columns, each the sum of its rows.
  blocks = _in_blocks(_padded(t, 0))
  parts = []
  for j in (0, 1):
    columns = blocks[:, :, :, j : j + w]
    for i in (0, 1):
      codes = [[4 * (2 * i + r) + 2 * j + s for s in (0, 1)] for r in (0, 1)]
      parts.append(_selected(index, columns[:, i : i + h], codes))
  return sum(parts)


def _define_derivatives(pool, members, tangent):
  """Gives a max-pool derivatives of every order, all of which read the index of one reduction."""

  @jax.custom_jvp
  def decide(x):
    return _maximum(members(x))

  @decide.defjvp
  def _(primals, tangents):
    y, index = decide(*primals)
    return (y, index), (tangent(index, *tangents), np.zeros(index.shape, jax.dtypes.float0))

  @pool.defjvp
  def _(primals, tangents):
    y, index = decide(*primals)
    return y, tangent(index, *tangents)


_define_derivatives(max_pool_2x2, _members_2x2, _tangent_2x2)
_define_derivatives(max_pool_3x3, _members_3x3, _tangent_3x3)


def adaptive_avg_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Means over a grid of `size` = (rows, columns) cells, [B,H,W,C] -> [B,rows,columns,C].

  Cells of PyTorch's `AdaptiveAvgPool2d`: cell i covers floor(i*H/rows) to ceil((i+1)*H/rows), so
  neighbours overlap where rows does not divide H. Means of integers are float32.
  """

  def cells(n, m):
    weights = np.zeros((m, n))
    for i in range(m):
      first, last = i * n // m, -(-(i + 1) * n // m)
      weights[i, first:last] = 1 / (last - first)
    return weights

  return mix_rows_and_columns(x, *map(cells, x.shape[1:3], size))


def avg_pool(x: jax.Array, stride: int) -> jax.Array:
  """Sums over windows of 2 * stride + 1 pixels by the pixels of a window, zeros beyond the image.

  PyTorch's `AvgPool2d(2 * stride + 1, stride, padding=stride)`, [B,H,W,C] ->
  [B,ceil(H/stride),ceil(W/stride),C]; float32 of integers.
  """

  def windows(n):
    centers = stride * np.arange(-(-n // stride))
    return (np.abs(centers[:, None] - np.arange(n)) <= stride) / (2 * stride + 1)

  return mix_rows_and_columns(x, *map(windows, x.shape[1:3]))
