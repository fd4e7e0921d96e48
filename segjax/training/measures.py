"""What an evaluation counts beyond the task's statistics: boundaries, calibration, surfaces.

All of it comes from the same pass over the images: `of_batch` makes a function for the evaluation
step, `on_host` one for what the host counts, and `with_tolerances` prepares the batches.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from segjax import metrics
from segjax.data.labels import IGNORE
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
    task: a segmentation task.
    boundaries: whether to count boundaries; the batches come from `with_tolerances`.
    calibration: whether to count calibration; of tasks whose outputs are logits.
    temperature: divides the logits for a second calibration, `CALIBRATED`, or None.
    fit: whether to sum up what `metrics.fit_temperature` needs.
    maps: whether to give the predicted label maps too, for `on_host`.
  """

  def measure(outputs, label, batch):
    valid = (label != IGNORE) & batch["valid"][:, None, None]
    pred, sums = task.predict(outputs), {}
    how = dict(num_classes=len(task.classes), valid=valid)
    if boundaries:
      sums[BOUNDARIES] = metrics.boundary_counts(pred, label, width=batch["width"], **how)
      tolerance = batch["tolerance"]
      sums[CONTOURS] = metrics.contour_counts(pred, label, tolerance=tolerance, **how)
    if calibration:
      sums |= _named(CALIBRATION, metrics.calibration_sums(outputs, label, valid=valid))
    if temperature is not None:
      cooled = metrics.calibration_sums(outputs / temperature, label, valid=valid)
      sums |= _named(CALIBRATED, cooled)
    if fit:
      sums[SLOPES] = metrics.temperature_sums(outputs, label, valid=valid)
    if maps:
      sums[PRED] = pred.astype(jnp.uint8)
    return sums

  return measure


def on_host(task, tolerance):
  """A function of (statistics, batch) that turns label maps into surface scores, for `evaluate`.

  Args:
    task: a segmentation task.
    tolerance: pixels, see `metrics.surface_scores`.
  """

  def surfaces(sums, batch):
    pred, rows = sums.pop(PRED), []
    for index, found, truth in zip(sums[INDEX], pred, batch["label"], strict=True):
      valid = (truth != IGNORE) & (index >= 0)
      how = dict(num_classes=len(task.classes), valid=valid, tolerance=tolerance)
      rows.append(metrics.surface_scores(found, truth, **how))
    return sums | {name: np.stack([r[key] for r in rows]) for key, name in SURFACES.items()}

  return surfaces


def _named(prefix, sums):
  return {f"{prefix}/{name}": value for name, value in sums.items()}


def calibration_of(sums, prefix):
  """`metrics.calibration` of the sums under `CALIBRATION` or `CALIBRATED`; None without them."""
  own = {k.removeprefix(f"{prefix}/"): v for k, v in sums.items() if k.startswith(f"{prefix}/")}
  return metrics.calibration(own) if own else None
