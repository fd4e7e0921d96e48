"""What an evaluation counts beyond the task's statistics: boundaries, calibration, surfaces.

All of it comes from the same pass over the images: `of_batch` makes a function for the evaluation
step, `on_host` one for what the host counts, and `with_tolerances` prepares the batches. Classes
that overlap are counted by the same functions, each as the one class of a label map.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from segjax import metrics
from segjax.data import label_sets
from segjax.data.labels import IGNORE
from segjax.metrics.counting import sum_of
from segjax.tasks.task import INDEX, ROWS

BOUNDARIES, CONTOURS, PRED = (f"{ROWS}{name}" for name in ("boundaries", "contours", "pred"))
SURFACES = dict(surface_dice=f"{ROWS}surface_dice", hd95=f"{ROWS}hd95")
CALIBRATION, CALIBRATED = "calibration", "calibrated"  # begin names of sums
SLOPES, TEMPERATURE = "temperature_slopes", "temperature"


def with_tolerances(batches):
  """Batches of an evaluation with "width" and "tolerance", i32[B], see `metrics.boundary_counts`.

  They are those of the images' own sizes, where these were extended.
  """
  for batch in batches:
    size = (batch["image"].shape[1:3],) * len(batch["image"])
    sizes = batch.get("size", size)
    more = dict(
      width=np.array([metrics.boundary_width(*s) for s in sizes], np.int32),
      tolerance=np.array([metrics.contour_tolerance(*s) for s in sizes], np.int32),
    )
    yield {k: v for k, v in batch.items() if k != "size"} | more


def of_batch(task, *, boundaries=True, calibration=True, temperature=None, fit=False, maps=False):
  """A function of (outputs, label, batch) -> statistics, for `eval_step.make_eval_step`.

  Args:
    task: a segmentation task, also into classes that overlap.
    boundaries: whether to count boundaries; the batches come from `with_tolerances`.
    calibration: whether to count calibration; of tasks whose outputs are logits.
    temperature: divides the logits for a second calibration, `CALIBRATED`, or None.
    fit: whether to sum up what `metrics.fit_temperature` needs.
    maps: whether to give the predicted label maps or masks too, for `on_host`.
  """

  def measure(outputs, label, batch):
    valid = (label != IGNORE) & batch["valid"][:, None, None]
    pred, truth, sums = task.predict(outputs), _truth(task, label), {}
    how = dict(classes=len(task.classes), valid=valid)
    if boundaries:
      width, tolerance = batch["width"], batch["tolerance"]
      sums[BOUNDARIES] = _count(metrics.boundary_counts, pred, truth, width=width, **how)
      sums[CONTOURS] = _count(metrics.contour_counts, pred, truth, tolerance=tolerance, **how)
    if calibration:
      sums |= _named(CALIBRATION, _calibrate(outputs, truth, valid))
    if temperature is not None:
      sums |= _named(CALIBRATED, _calibrate(outputs / temperature, truth, valid))
    if fit:
      sums[SLOPES] = metrics.temperature_sums(outputs, label, valid=valid)
    if maps:
      sums[PRED] = pred.astype(jnp.uint8)
    return sums

  return measure


def _truth(task, label):
  """Labels i32[B,H,W] of classes, or of classes that overlap their masks bool[B,H,W,C]."""
  overlapping = task.label_kind == "masks"
  return label_sets.split(label, len(task.classes)) if overlapping else label


def _planes(masks):
  return jnp.moveaxis(masks, -1, 0)


def _count(counts, pred, truth, *, classes, **how):
  """Counts i32[B,C,K] by a function of label maps, of maps [B,H,W] or of masks bool[B,H,W,C]."""
  if truth.ndim == 3:
    return counts(pred, truth, num_classes=classes, **how)
  one = lambda pair: counts(*pair, num_classes=1, **how)[:, 0]  # noqa: E731
  maps = tuple(_planes(jnp.where(masks, 0, -1)) for masks in (pred, truth))
  return jnp.moveaxis(jax.lax.map(one, maps), 0, 1)


def _calibrate(logits, truth, valid):
  """`metrics.calibration_sums`; with masks the answer to each class of a pixel counts by itself."""
  if truth.ndim == 3:
    return metrics.calibration_sums(logits, truth, valid=valid)
  sums = jax.lax.map(
    lambda pair: metrics.calibration_sums(pair[0][..., None], pair[1], valid=valid),
    (_planes(logits), _planes(truth)),
  )
  return dict(
    confidence_bins=sum_of(sums["confidence_bins"]),
    confidence_offset=sums["confidence_offset"].sum(0),
    class_bins=jnp.moveaxis(sums["class_bins"][:, :, 1], 0, 1),
    class_offset=sums["class_offset"][:, 1],
  )


def on_host(task, tolerance):
  """A function of (statistics, batch) that turns predictions into surface scores, for `evaluate`.

  Args:
    task: a segmentation task, also into classes that overlap.
    tolerance: pixels, see `metrics.surface_scores`.
  """

  def surfaces(sums, batch):
    rows, labels = [], dict(zip(np.asarray(batch["index"]).tolist(), batch["label"], strict=True))
    for index, pred in zip(sums[INDEX], sums.pop(PRED), strict=True):
      label = labels[int(index)]
      valid = (label != IGNORE) & (index >= 0)
      found = _surfaces(pred, _truth(task, label), len(task.classes), valid, tolerance)
      rows.append(found)
    return sums | {name: np.stack([r[key] for r in rows]) for key, name in SURFACES.items()}

  return surfaces


def _surfaces(pred, truth, classes, valid, tolerance):
  """`metrics.surface_scores` of label maps [H,W], or of masks bool[H,W,C]."""
  how = dict(valid=valid, tolerance=tolerance)
  if truth.ndim == 2:
    return metrics.surface_scores(pred, truth, num_classes=classes, **how)
  each = [
    metrics.surface_scores(pred[..., c] == 0, ~truth[..., c], num_classes=1, **how)
    for c in range(classes)
  ]
  return {key: np.concatenate([scores[key] for scores in each]) for key in SURFACES}


def _named(prefix, sums):
  return {f"{prefix}/{name}": value for name, value in sums.items()}


def calibration_of(sums, prefix):
  """`metrics.calibration` of the sums under `CALIBRATION` or `CALIBRATED`; None without them."""
  own = {k.removeprefix(f"{prefix}/"): v for k, v in sums.items() if k.startswith(f"{prefix}/")}
  return metrics.calibration(own) if own else None
