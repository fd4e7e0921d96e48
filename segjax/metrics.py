"""Segmentation metrics from summed counts: count on the device, sum on the host, divide once.

Labels and predictions may have any integer dtype or bool, on any platform. A value outside the
classes is counted in no cell.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from segjax.class_index import class_index, counted
from segjax.ops import by_platform, undivided, wide

__all__ = [
  "colorfulness",
  "confusion_matrix",
  "max_f1",
  "psnr",
  "score_histogram",
  "ssim",
  "summarize",
  "unit_deviation",
  "unit_moments",
]

SPREAD = 2**16  # cells that an accelerator counts into, so many copies of each as these hold
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
  pred = class_index(pred, num_classes, name="pred")
  label = class_index(label, num_classes)
  if pred.shape != label.shape:
    raise ValueError(f"pred has shape {pred.shape}, label {label.shape}; expected the same")
  cells = num_classes * num_classes
  inside = counted(valid, label.shape) & (pred >= 0) & (label >= 0)
  cell = jnp.where(inside, label * num_classes + pred, cells)
  return _counts(cell, cells + 1)[:cells].reshape(num_classes, num_classes)


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
  return _counts(cell, 2 * THRESHOLDS + 1)[:-1].reshape(2, THRESHOLDS)


def _counts(cell, length):
  """How often each of 0 ... length - 1 occurs in i32[...], i32[length].

  Accelerators add to a cell one at a time, so there neighbours are counted in copies of their own.
  """
  copies = max(SPREAD // length, 1)

  def shared(cell, length=length):
    return jnp.bincount(cell, length=length).astype(jnp.int32)

  def spread(cell):
    copy = jnp.arange(cell.size, dtype=jnp.int32) % copies
    return shared(cell * copies + copy, length * copies).reshape(length, copies).sum(1)

  return by_platform(undivided(cell).ravel(), cpu=shared, default=spread)


def _whole(counts, name, shape):
  """Counts as int64 of the host; `shape` is what the message expects of them.

  Raises:
    ValueError: counts that are negative or not whole, or are no matrix.
  """
  counts = np.asarray(counts)
  whole = counts.dtype.kind in "biu" or (
    counts.dtype.kind == "f" and np.isfinite(counts).all() and (counts == np.round(counts)).all()
  )
  if counts.ndim != 2 or not whole or counts.size == 0 or counts.min() < 0:
    raise ValueError(
      f"{name} has shape {counts.shape} and dtype {counts.dtype}; expected counts of pixels, whole "
      f"numbers of 0 or more, of shape {shape}"
    )
  return counts.astype(np.int64)


def _ratio(a, b):
  """a / b in float64, nan where b is 0."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def _mean_of_present(values):
  """Mean of the values that are not nan; nan when there are none."""
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else float("nan")


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
  iou, recall = _ratio(hit, truth + pred - hit), _ratio(hit, truth)
  return dict(
    pixel_accuracy=float(_ratio(hit.sum(), matrix.sum())),
    constant_accuracy=float(_ratio(truth.max(), matrix.sum())),
    mean_iou=_mean_of_present(iou),
    mean_class_recall=_mean_of_present(recall),
    iou=iou,
    precision=_ratio(hit, pred),
    recall=recall,
    f1=_ratio(2 * hit, truth + pred),
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
  # Suffix sums: positives and false alarms at threshold k are everything in bins k and above.
  histogram = _whole(histogram, "histogram", f"(2, {THRESHOLDS})")
  if histogram.shape != (2, THRESHOLDS):
    raise ValueError(f"histogram has shape {histogram.shape}; expected (2, {THRESHOLDS})")
  false, true = histogram[:, ::-1].cumsum(1)[:, ::-1]
  f1 = _ratio(2 * true, true + false + true[0])
  if np.isnan(f1).all() or true[0] == 0:
    return float("nan"), float("nan")
  best = int(np.nanargmax(f1))
  return float(f1[best]), best / THRESHOLDS


def unit_moments(vectors: jax.Array, mask: jax.Array) -> jax.Array:
  """What `unit_deviation` needs of a batch of vectors, to be summed over batches.

  Args:
    vectors: f32[B,D]; they are scaled to length 1.
    mask: bool[B], False for vectors that do not count.

  Returns:
    f32[2,D]: sums of the unit vectors and of their squares.
  """
  vectors = wide(vectors)
  unit = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
  return jnp.stack([unit, unit**2], 0).sum(1, where=mask[:, None])


def unit_deviation(moments: ArrayLike, count: float) -> float:
  """How far unit vectors spread: 1 where they fill the sphere, 0 where all are alike.

  The root of the summed variances of their components; Chen and He ("Exploring Simple Siamese
  Representation Learning", CVPR 2021) watch its share of a component for collapse.

  Args:
    moments: f32[2,D], summed `unit_moments`.
    count: of vectors.
  """
  mean, square = np.asarray(moments, np.float64) / max(float(count), 1.0)
  return float(np.sqrt(np.maximum(square - mean**2, 0).sum()))


def _picture(image):
  """A picture as float32, or as it is where that is wider.

  Raises:
    TypeError: integers, whose range is not known and whose differences wrap round.
  """
  image = jnp.asarray(image)
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise TypeError(f"image has dtype {image.dtype}; expected floats in [0,1], e.g. image / 255")
  return wide(image)


def psnr(image: ArrayLike, truth: ArrayLike) -> jax.Array:
  """Peak signal-to-noise ratio of each image, dB.

  Args:
    image: f32[B,H,W,C] in [0,1].
    truth: likewise.

  Returns:
    f32[B]; 100 where the images are equal to within 1e-10.
  """
  image, truth = _picture(image), _picture(truth)
  error = jnp.square(image - truth).mean((1, 2, 3))
  return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def ssim(image: ArrayLike, truth: ArrayLike) -> jax.Array:
  """Structural similarity of each image (Wang et al., IEEE TIP 2004), the mean over channels.

  Gaussian window of 11x11 pixels with a standard deviation of 1.5, population covariances, and
  the mean over the places where the window lies inside the image.

  Args:
    image: f32[B,H,W,C] in [0,1], at least 11x11 pixels.
    truth: likewise.

  Returns:
    f32[B] in [-1,1].
  """
  image, truth = _picture(image), _picture(truth)
  if min(image.shape[1:3]) < 11:
    raise ValueError(f"ssim needs images of at least 11x11 pixels, found {image.shape[1:3]}")
  weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  weights = jnp.array(weights / weights.sum(), image.dtype)

  def blur(x):
    for axis in (1, 2):
      size = x.shape[axis] - 10
      taps = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(11)]
      x = sum(w * tap for w, tap in zip(weights, taps, strict=True))
    return x

  x, y = blur(image), blur(truth)
  xx, yy, xy = blur(image**2) - x**2, blur(truth**2) - y**2, blur(image * truth) - x * y
  c1, c2 = 0.01**2, 0.03**2
  score = (2 * x * y + c1) * (2 * xy + c2) / ((x**2 + y**2 + c1) * (xx + yy + c2))
  return score.mean((1, 2, 3))


def colorfulness(image: ArrayLike) -> jax.Array:
  """How colourful each image is (Hasler and Suesstrunk, SPIE 2003): 0 grey, 109 extremely so.

  Args:
    image: f32[B,H,W,3], sRGB in [0,1].

  Returns:
    f32[B].
  """
  image = _picture(image)
  red, green, blue = (255 * image[..., i] for i in range(3))
  pair = jnp.stack([red - green, (red + green) / 2 - blue])
  mean, deviation = pair.mean((2, 3)), pair.std((2, 3))
  return jnp.linalg.norm(deviation, axis=0) + 0.3 * jnp.linalg.norm(mean, axis=0)
