"""Counts of each image, the mean IoUs that follow from them, and their intervals over images."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from segjax.metrics.confusion import are_counts, class_counts, image_matrices
from segjax.metrics.counting import counts_of, mean_of_present, means_of_present, ratio

WORST = 0.05  # share of the images that `mean_iou_worst_images` is about


def image_counts(
  pred: ArrayLike, label: ArrayLike, *, num_classes: int, valid: ArrayLike | None = None
) -> jax.Array:
  """Counts pixels of each image and class. Of several batches they are put one after another.

  Args:
    pred: [B,H,W], class indices of any integer dtype or bool.
    label: [B,H,W], likewise; any value where `valid` is False.
    num_classes: number of classes C.
    valid: bool[B,H,W], True where the pixel is scored; None for all pixels.

  Returns:
    i32[B,C,3], pixels that are the class in both, in the truth, in the prediction. A pixel whose
    label or prediction is none of the classes is counted nowhere.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  return class_counts(image_matrices(pred, label, num_classes=num_classes, valid=valid))


def by_image(label, inside, num_classes):
  """Pixels of each class i32[B,C] where `inside`; labels i32[B,H,W], -1 for none."""
  batch = label.shape[0]
  image = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
  cell = jnp.where(inside & (label >= 0), image * num_classes + label, batch * num_classes)
  return counts_of(cell, batch * num_classes + 1)[:-1].reshape(batch, num_classes)


def mean_ious(counts: ArrayLike) -> dict[str, float]:
  """Mean IoUs of a data set, of its images, of its classes over images, and of its worst images.

  Wang et al., "Revisiting Evaluation Metrics for Semantic Segmentation", NeurIPS 2023. They count
  a class in an image where the truth has it, here also where the prediction alone has it. What
  neither has is left out, as is an image without a scored pixel.

  Args:
    counts: int[N,C,3] from `image_counts`.

  Returns:
    dict of floats in [0,1], or nan where nothing is scored:
    `mean_iou`: of each class over the pixels of all images, then over classes (the usual
      mean IoU); `mean_iou_images`: over the classes of each image, then over images;
    `mean_iou_classes`: over the images of each class, then over classes;
    `mean_iou_worst_images`: `mean_iou_images` of the worst 5 % of the images, at least one.

  Raises:
    ValueError: counts of another shape, or that are not whole numbers of 0 or more.

  >>> scores = mean_ious([[[4, 4, 4], [0, 0, 0]], [[1, 3, 2], [1, 1, 2]]])
  >>> {k: round(v, 4) for k, v in scores.items() if k != "mean_iou_worst_images"}
  {'mean_iou': 0.5625, 'mean_iou_images': 0.6875, 'mean_iou_classes': 0.5625}
  """
  counts = read_counts(counts, 3)
  each = _iou(counts)
  own = means_of_present(each)
  own = np.sort(own[~np.isnan(own)])
  worst = own[: max(1, int(WORST * len(own)))]
  return dict(
    mean_iou=mean_of_present(_iou(counts.sum(0))),
    mean_iou_images=mean_of_present(own),
    mean_iou_classes=mean_of_present(means_of_present(each.T)),
    mean_iou_worst_images=mean_of_present(worst),
  )


def image_ious(counts: ArrayLike) -> np.ndarray:
  """Mean IoU of each image over its classes, f64[N]; nan for an image without a scored pixel."""
  return means_of_present(_iou(read_counts(counts, 3)))


def bootstrap(
  rows: ArrayLike,
  statistic: Callable[[np.ndarray], float],
  *,
  samples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile interval of a statistic over images, which are drawn with replacement.

  Efron, Tibshirani, "An Introduction to the Bootstrap", 1993. It says how the score would vary with
  other images of the same kind, not with other seeds of the training.

  Args:
    rows: [N,...], a row per image: counts or values.
    statistic: function of such rows -> float.
    samples: how often N images are drawn.
    level: share of the samples within the interval, in (0,1).
    seed: random seed of numpy's generator; the same one gives the same interval.

  Returns:
    (low, high); nan where the statistic is nan in each sample. Samples where it is nan are left
    out.
  """
  rows, rng = np.asarray(rows), np.random.default_rng(seed)
  drawn = (rows[rng.integers(0, len(rows), len(rows))] for _ in range(samples))
  return interval(np.array([statistic(sample) for sample in drawn]), level)


def interval(values, level=0.95):
  """(low, high) of the values f64[S] of draws, nan left out; nan where there is nothing else."""
  values = values[~np.isnan(values)]
  if not values.size:
    return float("nan"), float("nan")
  low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def _iou(counts):
  """IoU f64[...] of counts [...,3]; nan where neither truth nor prediction has the class."""
  hit, truth, pred = np.moveaxis(counts, -1, 0)
  return ratio(hit, truth + pred - hit)


def read_counts(counts, kinds):
  """Counts int[N,C,kinds] as int64; a ValueError for another shape or negative ones."""
  counts = np.asarray(counts)
  if counts.ndim != 3 or counts.shape[-1] != kinds or not are_counts(counts):
    raise ValueError(
      f"counts has shape {counts.shape} and dtype {counts.dtype}; expected counts of pixels, whole "
      f"numbers of 0 or more, of shape [N,C,{kinds}]"
    )
  return counts.astype(np.int64)
