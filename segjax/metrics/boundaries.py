"""Boundary IoU and boundary F: how well outlines agree, by counts of each image and class.

Pixels that are not valid are of no class, in the truth and in the prediction, and so is what lies
outside the image: where a region meets them both have an outline. An image that was extended and is
not valid there therefore counts as it would alone, if its own width of the outline is given.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from segjax.metrics.counting import mean_of_present, means_of_present, ratio, read_labels
from segjax.metrics.per_image import by_image, read_counts
from segjax.ops import undivided


def boundary_width(height: int, width: int) -> int:
  """Width of the outline for boundary IoU: 0.02 of the image's diagonal, 1 pixel at least."""
  return max(1, round(0.02 * float(np.hypot(height, width))))


def contour_tolerance(height: int, width: int) -> int:
  """Distance that boundary F forgives: 0.008 of the image's diagonal, rounded up, pixels."""
  return int(np.ceil(0.008 * float(np.hypot(height, width))))


def _read(pred, label, num_classes, valid):
  pred, label, valid = read_labels(pred, label, num_classes, valid)
  return [undivided(jnp.where(valid, x, -1), (1, 2)) for x in (pred, label)]


def boundary_counts(
  pred: ArrayLike,
  label: ArrayLike,
  *,
  num_classes: int,
  valid: ArrayLike | None = None,
  width: ArrayLike | None = None,
) -> jax.Array:
  """Counts for boundary IoU: pixels of the outlines of each class within its regions.

  Cheng et al., "Boundary IoU", CVPR 2021: the outline of a region is what d erosions by 3x3 pixels
  take away; the image's border counts.

  Args:
    pred: [B,H,W], class indices of any integer dtype or bool.
    label: [B,H,W], likewise; any value where `valid` is False.
    num_classes: number of classes C.
    valid: bool[B,H,W], True where the pixel is scored; None for all pixels.
    width: d in pixels, int or int[B], for images of other sizes than the array's; None:
      `boundary_width` of the array.

  Returns:
    i32[B,C,3]: pixels in both outlines, in that of the truth, in that of the prediction.
    `mean_ious` reads them: `mean_iou` is then over the outlines of all images.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  pred, label = _read(pred, label, num_classes, valid)
  batch, height, across = label.shape
  width = boundary_width(height, across) if width is None else width
  width = jnp.broadcast_to(jnp.asarray(width, jnp.int32), (batch,))
  outlines = [jnp.where(_near_another(x, width), x, -1) for x in (label, pred)]
  both = jnp.where(outlines[0] == outlines[1], outlines[0], -1)
  return jnp.stack([by_image(x, x >= 0, num_classes) for x in (both, *outlines)], -1)


def _near_another(label, width):
  """Where a window of 2 d + 1 pixels has another class or a pixel of none: bool[B,H,W].

  A pixel lies in its region's outline just there, so no mask per class is made.
  """

  def grow(i, ends):
    # Both ends one pixel further; an image whose width is reached stays.
    low, high = ends
    for axis in (1, 2):
      low = _neighbours(low, axis, jnp.minimum, -1)
      high = _neighbours(high, axis, jnp.maximum, jnp.iinfo(jnp.int32).max)
    open_ = (i < width)[:, None, None]
    return jnp.where(open_, low, ends[0]), jnp.where(open_, high, ends[1])

  low, high = jax.lax.fori_loop(0, width.max(), grow, (label, label))
  return (low != label) | (high != label)


def _neighbours(x, axis, choose, outside):
  """`choose` of each value and its two neighbours along an axis; `outside` beyond the image."""
  edge = jnp.full_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis), outside)
  before = jnp.concatenate([edge, jax.lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
  after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), edge], axis)
  return choose(x, choose(before, after))


def contour_counts(
  pred: ArrayLike,
  label: ArrayLike,
  *,
  num_classes: int,
  valid: ArrayLike | None = None,
  tolerance: ArrayLike | None = None,
) -> jax.Array:
  """Counts for boundary F: pixels of the contours of each class, and those that have a match.

  Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation"
  (DAVIS), CVPR 2016: a pixel is in the contour if one to its right, below, or both differs from it;
  it matches if a pixel of the other contour is no further than the tolerance.

  Args:
    pred: [B,H,W], class indices of any integer dtype or bool.
    label: [B,H,W], likewise; any value where `valid` is False.
    num_classes: number of classes C.
    valid: bool[B,H,W], True where the pixel is scored; None for all pixels.
    tolerance: pixels, int or int[B], for images of other sizes than the array's; None:
      `contour_tolerance` of the array.

  Returns:
    i32[B,C,4]: matched and all pixels of the prediction's contour, then of the truth's.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  pred, label = _read(pred, label, num_classes, valid)
  batch, height, across = label.shape
  tolerance = contour_tolerance(height, across) if tolerance is None else tolerance
  tolerance = jnp.broadcast_to(jnp.asarray(tolerance, jnp.int32), (batch,))

  def of_class(c):
    own, true = _contour(pred == c), _contour(label == c)
    pairs = own & _within(true, tolerance), own, true & _within(own, tolerance), true
    return jnp.stack([x.sum((1, 2), dtype=jnp.int32) for x in pairs], -1)

  nothing = jnp.zeros_like(jnp.stack([label[:, 0, 0]] * 4, -1))  # divided as the batch is

  def one(c):  # most of many classes are in no image of a batch
    there = ((pred == c) | (label == c)).any()
    return jax.lax.cond(there, of_class, lambda c: nothing, c)

  return jnp.moveaxis(jax.lax.map(one, jnp.arange(num_classes)), 0, 1)


def _contour(mask):
  """Where a pixel differs from the next one along the row, the column or the diagonal."""
  right = jnp.pad(mask[:, :, 1:] != mask[:, :, :-1], ((0, 0), (0, 0), (0, 1)))
  below = jnp.pad(mask[:, 1:] != mask[:, :-1], ((0, 0), (0, 1), (0, 0)))
  both = jnp.pad(mask[:, 1:, 1:] != mask[:, :-1, :-1], ((0, 0), (0, 1), (0, 1)))
  return right | below | both


def _within(mask, radius):
  """Where a pixel of the mask bool[B,H,W] is within radius i32[B], Euclidean."""
  height, width = mask.shape[1:]
  x = jnp.arange(width, dtype=jnp.int32)[None, None]
  far = jnp.int32(2**14)  # whose square, and one more, is in int32
  before = jax.lax.cummax(jnp.where(mask, x, -far), axis=2)
  after = jax.lax.cummin(jnp.where(mask, x, width + far), axis=2, reverse=True)
  square = jnp.square(jnp.minimum(jnp.minimum(x - before, after - x), far))
  most = jnp.square(radius)[:, None, None]
  rows = jnp.arange(height, dtype=jnp.int32)[None, :, None]

  def look(dy, near):
    for row in (rows - dy, rows + dy):
      there = jnp.take(square, jnp.clip(row[0, :, 0], 0, height - 1), axis=1)
      near |= (row >= 0) & (row < height) & (there + dy * dy <= most)
    return near

  return jax.lax.fori_loop(0, radius.max() + 1, look, jnp.zeros_like(mask))


def boundary_f(counts: ArrayLike) -> dict[str, float | np.ndarray]:
  """Boundary F of each class over its images, and its mean over classes.

  F is 2 P R / (P + R) of each image, P the matched share of the prediction's contour and R that of
  the truth's. A contour that only one of them has scores 0; what neither has is left out (DAVIS
  counts 1).

  Args:
    counts: int[N,C,4] from `contour_counts`.

  Returns:
    dict of `mean_boundary_f`, float, and `boundary_f`, f64[C], both in [0,1] or nan.
  """
  each = means_of_present(boundary_f_of_images(counts).T)
  return dict(mean_boundary_f=mean_of_present(each), boundary_f=each)


def boundary_f_of_images(counts: ArrayLike) -> np.ndarray:
  """Boundary F of each image and class, f64[N,C] in [0,1]; nan where neither has a contour.

  Args:
    counts: int[N,C,4] from `contour_counts`.
  """
  matched, own, found, true = np.moveaxis(read_counts(counts, 4), -1, 0)
  precision, recall = np.nan_to_num(ratio(matched, own)), np.nan_to_num(ratio(found, true))
  f = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
  return np.where(own + true > 0, f, np.nan)
