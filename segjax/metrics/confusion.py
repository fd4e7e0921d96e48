"""The confusion matrix, scores of two classes by threshold, and what follows from their sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from segjax.class_index import class_index, counted
from segjax.metrics.counting import counts_of, mean_of_present, ratio, read_labels
from segjax.ops import wide

THRESHOLDS = 256  # score histograms hold this many bins; bin k starts at probability k / 256


def confusion_matrix(
  pred: ArrayLike, label: ArrayLike, *, num_classes: int, valid: ArrayLike | None = None
) -> jax.Array:
  """Counts pixels by (true class, predicted class).

  Pixels where `valid` is False land in no cell, so ignored regions and the padded tail of an
  evaluation cost nothing. Neither do pixels whose label or prediction is outside [0, num_classes):
  compare the matrix's sum with the number of valid pixels to find them. Counts are per batch; sum
  them on the host in int64, because a whole evaluation can exceed int32.

  Args:
    pred: [B,H,W], class indices of any integer dtype or bool.
    label: [B,H,W], likewise; any value where `valid` is False.
    num_classes: number of classes C, background included.
    valid: bool[B,H,W], True where the pixel is scored; None for all pixels.

  Returns:
    i32[C,C], pixels; row = truth, column = prediction.

  Raises:
    TypeError: labels or predictions that are not integers.
    ValueError: shapes that do not fit.

  >>> one = jnp.ones((1, 1, 3), int)
  >>> confusion_matrix(one, one, num_classes=2).tolist()
  [[0, 0], [0, 3]]
  """
  pred, label, scored = read_labels(pred, label, num_classes, valid)
  cells = num_classes * num_classes
  inside = scored & (pred >= 0) & (label >= 0)
  cell = jnp.where(inside, label * num_classes + pred, cells)
  return counts_of(cell, cells + 1)[:cells].reshape(num_classes, num_classes)


def image_matrices(
  pred: ArrayLike, label: ArrayLike, *, num_classes: int, valid: ArrayLike | None = None
) -> jax.Array:
  """`confusion_matrix` of each image; their sum is that of the batch.

  Args: see `confusion_matrix`.

  Returns:
    i32[B,C,C], pixels; row = truth, column = prediction.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  pred, label, scored = read_labels(pred, label, num_classes, valid)
  cells, batch = num_classes * num_classes, label.shape[0]
  inside = scored & (pred >= 0) & (label >= 0)
  image = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
  cell = jnp.where(inside, (image * num_classes + label) * num_classes + pred, batch * cells)
  counts = counts_of(cell, batch * cells + 1)[:-1]
  return counts.reshape(batch, num_classes, num_classes)


def class_counts(matrices: ArrayLike) -> jax.Array:
  """Pixels of each class in both, in the truth, in the prediction, see `image_counts`.

  Args:
    matrices: i32[...,C,C] from `image_matrices` or `confusion_matrix`.

  Returns:
    i32[...,C,3].
  """
  matrices = jnp.asarray(matrices)
  hit = jnp.diagonal(matrices, axis1=-2, axis2=-1)
  return jnp.stack([hit, matrices.sum(-1), matrices.sum(-2)], -1)


def score_histogram(
  probability: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None
) -> jax.Array:
  """Counts pixels by (true class, bin of the probability of class 1), for two classes.

  Args:
    probability: [B,H,W] in [0,1], of class 1, of any float dtype; values beyond fall into the first
      or the last bin.
    label: [B,H,W], 0 or 1, of any integer dtype or bool; any value where `valid` is False.
    valid: bool[B,H,W], True where the pixel is scored; None for all pixels.

  Returns:
    i32[2,256], pixels; bin k holds k/256 <= probability < (k+1)/256, the last bin also 1. Pixels
    with another label or a probability that is nan are counted in no bin.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  probability, label = jnp.asarray(probability), class_index(label, 2)
  if probability.shape != label.shape:
    raise ValueError(
      f"probability has shape {probability.shape}, label {label.shape}; expected the same"
    )
  probability = wide(probability)
  inside = counted(valid, label.shape) & (label >= 0) & ~jnp.isnan(probability)
  bins = (jnp.clip(probability, 0, 1) * THRESHOLDS).astype(jnp.int32)
  cell = jnp.where(inside, label * THRESHOLDS + jnp.minimum(bins, THRESHOLDS - 1), 2 * THRESHOLDS)
  return counts_of(cell, 2 * THRESHOLDS + 1)[:-1].reshape(2, THRESHOLDS)


def are_counts(values):
  """Whether an array holds whole numbers of 0 or more."""
  whole = values.dtype.kind in "biu" or (
    values.dtype.kind == "f" and np.isfinite(values).all() and (values == np.round(values)).all()
  )
  return whole and not (values.size and values.min() < 0)


def _whole(counts, name, shape):
  """Counts as int64 of the host; `shape` is their expected shape, for the message.

  Raises:
    ValueError: counts that are negative or not whole, or are no matrix.
  """
  counts = np.asarray(counts)
  if counts.ndim != 2 or counts.size == 0 or not are_counts(counts):
    raise ValueError(
      f"{name} has shape {counts.shape} and dtype {counts.dtype}; expected counts of pixels, whole "
      f"numbers of 0 or more, of shape {shape}"
    )
  return counts.astype(np.int64)


def summarize(matrix: ArrayLike) -> dict[str, float | np.ndarray]:
  """The IoU family from a confusion matrix.

  A class absent from truth and prediction is nan and left out of the means; a ratio whose
  denominator is 0 (the precision of a class never predicted) is nan too.

  Args:
    matrix: int[C,C], pixels; row = truth, column = prediction.

  Returns:
    dict of `pixel_accuracy`, `mean_iou`, `mean_class_recall`, `constant_accuracy` (of the best
    constant answer, that is, the share of the most frequent class) as floats and `iou`,
    `precision`, `recall`, `f1` as f64[C]; all in [0,1] or nan.

  Raises:
    ValueError: the matrix is not square, or has values that are negative or not whole.

  >>> summarize(np.array([[3, 1], [0, 0]]))["iou"].tolist()
  [0.75, 0.0]
  """
  matrix = _whole(matrix, "matrix", "[C,C]")
  if matrix.shape[0] != matrix.shape[1]:
    raise ValueError(f"matrix has shape {matrix.shape}; expected as many rows as columns")
  hit, truth, pred = np.diag(matrix), matrix.sum(1), matrix.sum(0)
  iou, recall = ratio(hit, truth + pred - hit), ratio(hit, truth)
  return dict(
    pixel_accuracy=float(ratio(hit.sum(), matrix.sum())),
    constant_accuracy=float(ratio(truth.max(), matrix.sum())),
    mean_iou=mean_of_present(iou),
    mean_class_recall=mean_of_present(recall),
    iou=iou,
    precision=ratio(hit, pred),
    recall=recall,
    f1=ratio(2 * hit, truth + pred),
  )


def max_f1(histogram: ArrayLike) -> tuple[float, float]:
  """Largest F1 of class 1 over the thresholds k/256, as the KITTI road benchmark's MaxF.

  Fritsch, Kuehnl, Geiger, "A New Performance Measure and Evaluation Benchmark for Road
  Detection Algorithms", ITSC 2013.

  Args:
    histogram: int[2,256] from `score_histogram`, summed.

  Returns:
    (f1, threshold): both floats in [0,1]; a pixel is positive if its probability is at least
    the threshold. Both are nan where there is no positive pixel at all.

  Raises:
    ValueError: another shape, or values that are negative or not whole.
  """
  false, true = _at_thresholds(histogram)
  f1 = ratio(2 * true, true + false + true[0])
  if np.isnan(f1).all() or true[0] == 0:
    return float("nan"), float("nan")
  best = int(np.nanargmax(f1))
  return float(f1[best]), best / THRESHOLDS


def average_precision(histogram: ArrayLike) -> float:
  """Area under the curve of precision over recall of class 1, as steps at the thresholds k/256.

  The sum over the thresholds, from the highest down, of the precision times what the recall gains;
  scikit-learn's `average_precision_score` of the scores k/256.

  Args:
    histogram: int[2,256] from `score_histogram`, summed.

  Returns:
    float in [0,1]; nan where there is no positive pixel at all.

  Raises:
    ValueError: another shape, or values that are negative or not whole.

  >>> scores = np.zeros((2, 256), int)
  >>> scores[1, 200], scores[0, 100], scores[1, 50] = 1, 1, 1
  >>> round(average_precision(scores), 4)
  0.8333
  """
  false, true = _at_thresholds(histogram)
  if true[0] == 0:
    return float("nan")
  gains = -np.diff(true, append=0)
  precision = np.divide(true, true + false, out=np.zeros(len(true)), where=true > 0)
  return float((precision * gains).sum() / true[0])


def _at_thresholds(histogram):
  """(false alarms, hits) i64[256] of a threshold at the beginning of each bin."""
  histogram = _whole(histogram, "histogram", f"(2, {THRESHOLDS})")
  if histogram.shape != (2, THRESHOLDS):
    raise ValueError(f"histogram has shape {histogram.shape}; expected (2, {THRESHOLDS})")
  return histogram[:, ::-1].cumsum(1)[:, ::-1]
