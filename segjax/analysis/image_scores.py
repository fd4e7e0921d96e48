"""Scores of a split from the rows of its images, and their intervals over images.

All scores follow from weights of the images, 1 each for the score itself. Drawn with replacement,
an image has the weight of how often it was drawn; so many draws are a few matrix products.
"""

from __future__ import annotations

import functools

import numpy as np

from segjax import metrics
from segjax.metrics.counting import means_of_present, ratio
from segjax.metrics.per_image import WORST, interval
from segjax.tasks.segmentation import COUNTS
from segjax.tasks.task import ROWS
from segjax.training.measures import BOUNDARIES, CONTOURS, SURFACES

SAMPLES, LEVEL = 1000, 0.95  # draws of the images, and the share of them within an interval
MEANS = {
  "mean_iou": "mean IoU, pixels of all images",
  "mean_iou_images": "mean IoU of images",
  "mean_iou_classes": "mean IoU of classes over images",
  "mean_iou_worst_images": "mean IoU of the worst 5 % of images",
  "mean_boundary_iou": "boundary IoU",
  "mean_boundary_f": "boundary F",
  "mean_surface_dice": "surface Dice",
  "mean_hd95": "HD95, pixels",
}


def rows_of(sums):
  """The rows of images among the statistics of an evaluation, a dict; {} where there are none."""
  return {name: np.asarray(v) for name, v in sums.items() if name.startswith(ROWS)}


@functools.lru_cache(maxsize=1)
def draws(count, *, samples=SAMPLES):
  """How often each of `count` images is drawn, f64[samples,count], as `metrics.bootstrap` draws."""
  rng = np.random.default_rng(0)
  drawn = [rng.integers(0, count, count) for _ in range(samples)]
  return np.array([np.bincount(d, minlength=count) for d in drawn], np.float64)


def scores(rows, classes, weights=None):
  """Scores of images that count by weights.

  Args:
    rows: dict of [N,...], see `tasks.segmentation.COUNTS` and `training.measures`; `COUNTS` must be
      there.
    classes: names of the C classes.
    weights: f64[S,N], whole numbers; None: 1 each.

  Returns:
    dict of f64[S], of floats without weights, nan where nothing is scored: those of `MEANS` that
    the rows allow, and of each class `iou/<class>`, `f1/<class>`, `boundary_iou/<class>` ...
  """
  counts = np.asarray(rows[COUNTS], np.int64)
  w = np.ones((1, len(counts))) if weights is None else weights
  hit, truth, pred = _sums(w, counts)
  of_images = ratio(counts[..., 0], counts[..., 1] + counts[..., 2] - counts[..., 0])
  own = means_of_present(of_images)
  each = dict(iou=ratio(hit, truth + pred - hit), f1=ratio(2 * hit, truth + pred))
  out = dict(
    mean_iou=means_of_present(each["iou"]),
    mean_iou_images=_means(w, own[:, None])[:, 0],
    mean_iou_classes=means_of_present(_means(w, of_images)),
    mean_iou_worst_images=_worst(w, own),
  )
  if BOUNDARIES in rows:
    hit, truth, pred = _sums(w, rows[BOUNDARIES])
    each["boundary_iou"] = ratio(hit, truth + pred - hit)
  if CONTOURS in rows:
    each["boundary_f"] = _means(w, metrics.boundary_f_of_images(rows[CONTOURS]))
  for name, key in SURFACES.items():
    if key in rows:  # HD95 is infinite where one alone has the class
      each[name] = _means(w, np.where(np.isinf(rows[key]), np.nan, rows[key]))
  out |= {f"mean_{k}": means_of_present(v) for k, v in each.items() if f"mean_{k}" in MEANS}
  for name, values in each.items():
    out |= {f"{name}/{c}": v for c, v in zip(classes, values.T, strict=True)}
  return {k: float(v[0]) for k, v in out.items()} if weights is None else out


def _sums(weights, counts):
  """Weighted sums over images of int[N,C,K], as K arrays f64[S,C]."""
  counts = np.asarray(counts, np.float64)
  return np.moveaxis(
    (weights @ counts.reshape(len(counts), -1)).reshape(-1, *counts.shape[1:]), -1, 0
  )


def _means(weights, values):
  """Weighted means f64[S,C] over images of f64[N,C], without nan."""
  present = ~np.isnan(values)
  return ratio(weights @ np.where(present, values, 0.0), weights @ present)


def _worst(weights, own):
  """Means f64[S] over the worst images of f64[N], see `metrics.mean_ious`."""
  order = np.argsort(own)
  order = order[~np.isnan(own[order])]
  w, own = weights[:, order], own[order]
  wanted = np.maximum(np.floor(WORST * w.sum(1)), 1)
  before = np.cumsum(w, 1) - w
  taken = np.clip(wanted[:, None] - before, 0, w)
  return ratio(taken @ own, taken.sum(1))


def intervals(rows, classes, **how):
  """95 % intervals of `scores` over images.

  Args:
    rows: see `scores`.
    classes: likewise.
    **how: `samples` of `draws`.

  Returns:
    dict of name -> (low, high).
  """
  found = scores(rows, classes, draws(len(rows[COUNTS]), **how))
  return {name: interval(values, LEVEL) for name, values in found.items()}


def worst_first(rows):
  """(order, scores): indices of images by their mean IoU, the worst first, and all mean IoUs.

  Images without a scored pixel are left out of the order.
  """
  own = metrics.image_ious(rows[COUNTS])
  order = np.argsort(own, kind="stable")
  return order[~np.isnan(own[order])], own
