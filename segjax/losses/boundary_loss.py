"""The boundary loss, and the distance maps that it needs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.class_index import class_index, counted
from segjax.losses import arguments
from segjax.losses.pixelwise import class_probabilities
from segjax.ops import undivided


def boundary(logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None) -> jax.Array:
  """Boundary loss of each pixel, in pixels: the mean over classes of p times the signed distance.

  Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019. It is linear in
  the probabilities and negative where the prediction is right, so it goes with another loss and a
  small weight, such as 0.01. With one logit only the positive class counts.

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.

  Returns:
    f32[B,H,W], 0 where not `valid`. A label that counts and is none of the classes gives nan at its
    pixel, and counts as a pixel of another class elsewhere.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  classes = max(jnp.shape(logits)[-1], 2)
  logits, index, scored, factor = arguments.read(logits, label, valid)
  p, first = class_probabilities(logits), 1 if logits.shape[-1] == 1 else 0
  index = jnp.where(jnp.isnan(factor), -1, index)
  distance = _signed(index, jnp.arange(first, classes), scored)
  loss = (p[..., first:] * distance).mean(-1)
  return jnp.where(scored, loss * factor, 0.0)


def signed_distances(
  label: ArrayLike, *, num_classes: int, valid: ArrayLike | None = None
) -> jax.Array:
  """Distance of each pixel to the nearest one on the other side of each class's boundary.

  Exact Euclidean distances between pixels, made on the device, so that they follow the augmented
  labels. Outside a class d to its nearest pixel, inside -(d - 1) to the nearest pixel of another
  class, as Kervadec et al. have it. Pixels that are not valid lie on neither side. Time grows with
  height x width^2 per class.

  Args:
    label: [B,H,W], class indices of any integer dtype or bool; other values are of no class.
    num_classes: C.
    valid: bool[B,H,W], or None for all pixels.

  Returns:
    f32[B,H,W,C], pixels; 0 where not valid, and everywhere for a class that no or every valid pixel
    of the image has.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.

  >>> signed_distances(jnp.array([[[0, 0, 1, 1, 1]]]), num_classes=2)[0, 0, :, 1].tolist()
  [2.0, 1.0, 0.0, -1.0, -2.0]
  """
  label = class_index(label, num_classes)
  return _signed(label, jnp.arange(num_classes), counted(valid, label.shape))


def _signed(label, classes, valid):
  """`signed_distances` of the classes i32[C] to i32[B,H,W], -1 for no class."""
  label, valid = (undivided(x, (1, 2)) for x in (label, valid))
  inside = (label[:, None] == classes[None, :, None, None]) & valid[:, None]
  outside = valid[:, None] & ~inside
  away = jnp.where(inside, 1 - _distance(outside), _distance(inside))
  both = inside.any((2, 3), keepdims=True) & outside.any((2, 3), keepdims=True)
  return jnp.moveaxis(jnp.where(both & valid[:, None], away, 0.0), 1, -1)


@jax.jit  # which fuses the last line; else an array of H x W x W values is made
def _distance(inside):
  """Distance of each pixel to the nearest one that is True, f32[...,H,W]; inf where there is none.

  First along the columns, then the least over each row of the sum of both squares.
  """
  height, width = inside.shape[-2:]
  axis = inside.ndim - 2
  x = jnp.arange(width, dtype=jnp.float32)
  y = jnp.expand_dims(jnp.arange(height, dtype=jnp.float32)[:, None], range(axis))
  above = jax.lax.cummax(jnp.where(inside, y, -jnp.inf), axis=axis)
  below = jax.lax.cummin(jnp.where(inside, y, jnp.inf), axis=axis, reverse=True)
  column = jnp.square(jnp.minimum(y - above, below - y))
  row = jnp.expand_dims(jnp.square(x[:, None] - x[None]), range(axis + 1))
  return jnp.sqrt((column[..., None, :] + row).min(-1))
