"""Pooling: exact, fast forms of max-pooling, and PyTorch's adaptive average.

XLA lowers the gradient of `nn.max_pool` to select-and-scatter, which takes a third of a U-Net's
step on a CPU. The forms here are maxima of strided slices with a gradient of their own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def _windows_2x2(x):
  """The four members of each 2x2 window, in the row-major order of the window."""
  h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  return [x[:, i:h:2, j:w:2] for i in (0, 1) for j in (0, 1)]


@jax.custom_vjp
def max_pool_2x2(x):
  """Largest value of each 2x2 window, stride 2; equals `nn.max_pool(x, (2, 2), (2, 2))`.

  The gradient goes to the first maximum of a window in row-major order, as XLA's
  select-and-scatter does (`jnp.maximum` alone would share it between equal values).

  Args:
    x: [B,H,W,C]; an odd last row or column is dropped, as with padding "VALID".

  Returns:
    [B,H//2,W//2,C], same dtype.
  """
  a, b, c, d = _windows_2x2(x)
  return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _max_pool_fwd(x):
  y = max_pool_2x2(x)
  return y, (x, y)


def _max_pool_bwd(residuals, g):
  x, y = residuals
  free, parts = jnp.ones_like(y, bool), []
  for member in _windows_2x2(x):
    hit = free & (member == y)
    parts.append(jnp.where(hit, g, 0))
    free = free & ~hit
  (n, h, w, c), (big_h, big_w) = y.shape, x.shape[1:3]
  grid = jnp.stack(parts, 3).reshape(n, h, w, 2, 2, c)
  out = grid.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c)
  return (jnp.pad(out, ((0, 0), (0, big_h - 2 * h), (0, big_w - 2 * w), (0, 0))),)


max_pool_2x2.defvjp(_max_pool_fwd, _max_pool_bwd)


@jax.custom_vjp
def max_pool_3x3(x):
  """Largest value of each 3x3 window, stride 2, one row of padding on each side.

  Equals `nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))` in value and gradient, and PyTorch's
  `MaxPool2d(3, 2, padding=1)` (without `ceil_mode`).

  Args:
    x: [B,H,W,C].

  Returns:
    [B,ceil(H/2),ceil(W/2),C], same dtype.
  """
  return _max_pool_3x3_fwd(x)[0]


def _max_pool_3x3_fwd(x):
  h, w = (-(-n // 2) for n in x.shape[1:3])
  lowest = jnp.array(-jnp.inf, x.dtype)
  pads = ((0, 0, 0), (1, 2 * h - x.shape[1], 0), (1, 2 * w - x.shape[2], 0), (0, 0, 0))
  x_padded = jax.lax.pad(x, lowest, pads)
  best, index = None, None
  for k in range(9):
    i, j = divmod(k, 3)
    tap = x_padded[:, i : i + 2 * h - 1 : 2, j : j + 2 * w - 1 : 2]
    if k == 0:
      best, index = tap, jnp.zeros(tap.shape, jnp.uint8)
    else:  # strictly larger: the first maximum in row-major order stays
      take = (tap > best) | jnp.isnan(tap)
      best, index = jnp.where(take, tap, best), jnp.where(take, jnp.uint8(k), index)
  return best, (index, x[:0])


def _max_pool_3x3_bwd(residuals, g):
  index, empty = residuals
  n, h, w, c = index.shape

  def hit(i, j):
    return jnp.where(index == 3 * i + j, g, 0)

  # Window i covers rows 2i-1, 2i and 2i+1: an even row is in one window, an odd one in two.
  def rows(i, j):
    part = hit(i, j)
    return jnp.pad(part[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0))) if i == 0 else part

  def columns(part):
    return jnp.pad(part[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))

  def member(odd_row, odd_column):
    taps = [[rows(i, j) for i in ((2, 0) if odd_row else (1,))] for j in range(3)]
    left, middle, right = (sum(t) for t in taps)
    return right + columns(left) if odd_column else middle

  parts = jnp.stack([member(i, j) for i in (0, 1) for j in (0, 1)], 3).reshape(n, h, w, 2, 2, c)
  out = parts.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c)
  return (out[:, : empty.shape[1], : empty.shape[2]],)


max_pool_3x3.defvjp(_max_pool_3x3_fwd, _max_pool_3x3_bwd)


def adaptive_avg_pool(x, size):
  """Means over a grid of `size` = (rows, columns) cells, [B,H,W,C] -> [B,rows,columns,C].

  Cells of PyTorch's `AdaptiveAvgPool2d`: cell i covers floor(i*H/rows) to ceil((i+1)*H/rows), so
  neighbours overlap where rows does not divide H.
  """

  def cells(n, m):
    weights = np.zeros((m, n), np.float32)
    for i in range(m):
      first, last = i * n // m, -(-(i + 1) * n // m)
      weights[i, first:last] = 1 / (last - first)
    return jnp.asarray(weights, x.dtype)

  rows, columns = (cells(n, m) for n, m in zip(x.shape[1:3], size, strict=True))
  return jnp.einsum("bhwc,rh,sw->brsc", x, rows, columns)
