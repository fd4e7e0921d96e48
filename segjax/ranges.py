"""The valid values of a config's fields, checked before anything is read or trained."""

from __future__ import annotations

import math
import os
from numbers import Real

from segjax import losses
from segjax.config import flatten
from segjax.data import rasters
from segjax.errors import UserError, choose
from segjax.fields import SHARED, THREE

INF = math.inf
MOST_EPOCHS = 10**9
# field: (least, most, text where the ends are not as the numbers say). Each element of a tuple is
# checked; nan is in no range. Fields of the source, the task and its loss, where they are there.
RANGES = {
  "seed": (0, 2**32 - 1),
  "total_steps": (0, INF),
  "total_epochs": (0, MOST_EPOCHS),
  "eval_steps": (0, INF),
  "eval_epochs": (0, MOST_EPOCHS),
  "checkpoint_steps": (0, INF),
  "checkpoint_epochs": (0, MOST_EPOCHS),
  "keep_steps": (1, INF),
  "keep_epochs": (0, MOST_EPOCHS),
  "log_steps": (1, INF),
  "steps_per_dispatch": (0, INF),
  "model.dropout": (0, "below 1"),
  "model.drop_path": (0, "below 1"),
  "data.size": (1, 2**16),
  "data.batch_size": (1, 2**20),
  "data.mean": (0, 1),
  "data.std": ("above 0", 1),
  "data.channels": (1, 1024),
  "data.eval_multiple": (1, 2**16),
  "data.eval_overlap": (0, 0.9),
  "data.threads": (0, 1024),
  "data.workers": (0, 1024),
  "data.cache_mb": (0, INF),
  "data.device_mb": (0, INF),
  "data.source.seed": (0, 2**32 - 1),
  "data.source.num_train": (1, 10**8),
  "data.source.num_val": (1, 10**8),
  "data.source.height": (16, 2**14),
  "data.source.width": (16, 2**14),
  "data.source.shift": (-(2**16), 2**16),
  "data.source.train_fraction": (0, 1),
  "data.source.split_seed": (0, 2**32 - 1),
  "mesh.data": (-1, INF),
  "mesh.space": (1, INF),
  "optimizer.accumulate_steps": (1, INF),
  "optimizer.momentum": (0, "below 1"),
  "optimizer.b1": (0, "below 1"),
  "optimizer.b2": (0, "below 1"),
  "optimizer.eps": ("above 0", INF),
  "optimizer.weight_decay": (0, INF),
  "optimizer.clip_norm": (0, INF),
  "schedule.learning_rate": (0, INF),
  "schedule.warmup_steps": (0, INF),
  "schedule.warmup_epochs": (0, MOST_EPOCHS),
  "schedule.factor": ("above 0", INF),
  "schedule.every_steps": (0, INF),
  "schedule.every_epochs": (0, MOST_EPOCHS),
  "schedule.milestone_steps": (0, INF),
  "schedule.milestone_epochs": (0, MOST_EPOCHS),
  "schedule.power": (0, INF),
  "schedule.peak_fraction": ("above 0", "below 1"),
  "aux_weight": (0, INF),
  "ema_decay": (0, "below 1"),
  "ema_decay_end": (0, 1),
  "early_stopping.patience": (0, INF),
  "early_stopping.min_delta": (0, INF),
  "pictures": (0, INF),
  "loss.cross_entropy": (0, INF),
  "loss.label_smoothing": (0, "below 1"),
  "loss.class_weights": (0, INF),
  "loss.focal": (0, INF),
  "loss.focal_gamma": (0, INF),
  "loss.ohem": (0, INF),
  "loss.ohem_share": ("above 0", 1),
  "loss.dice": (0, INF),
  "loss.jaccard": (0, INF),
  "loss.tversky": (0, INF),
  "loss.tversky_alpha": (0, INF),
  "loss.tversky_beta": (0, INF),
  "loss.tversky_gamma": ("above 0", INF),
  "loss.lovasz": (0, INF),
  "loss.boundary": (0, INF),
  "loss.attention": (0, INF),
  "loss.mask": (0, INF),
  "loss.no_object": (0, INF),
  "loss.l1": (0, INF),
  "loss.l2": (0, INF),
  "loss.content": (0, INF),
  "loss.style": (0, INF),
  "task.temperature": ("above 0", INF),
  "task.teacher_steps": (0, INF),
  "task.teacher_epochs": (0, MOST_EPOCHS),
  "task.mask_steps": (0, INF),
  "task.mask_epochs": (0, MOST_EPOCHS),
  "task.width": (1, INF),
  "model.widths": (1, 2**16),
}
LENGTHS = {"data.size": (2, "height, width")}
OF_CHANNELS = ("data.mean", "data.std")
FREE = {"data.mean": (-INF, INF), "data.std": ("above 0", INF)}  # of images that may leave [0,1]
WHOLE = ("data.size", "keep_steps", "schedule.milestone_steps", "model.widths")  # whole numbers


def check(config):
  """Raises a UserError for the first field whose value is in no range that makes sense."""
  flat, ranges = flatten(config), dict(RANGES)
  pixels = rasters.of(config.data)
  if pixels.may_leave_range:
    ranges |= FREE
  of_three = [f"optimizer.{name}" for name in SHARED]
  for field, value in flat.items():
    values = value if isinstance(value, tuple) else (value,)
    _check_shape(field, value, pixels)
    if field == "loss.class_weights" and any(isinstance(v, str) for v in values):
      _check_rule(values)
      continue
    if field in ranges and not (field in of_three and flat["optimizer.name"] not in THREE):
      least, most = ranges[field]
      for v in values:
        if not _inside(v, least, most):
          raise UserError(f"{field} is {value!r}, expected {_text(least, most, field)}")
  for field in ("best_mode", "early_stopping.mode"):
    if flat[field] not in ("max", "min"):
      raise UserError(f"{field} is {flat[field]!r}, expected 'max' or 'min'")
  weights = flat.get("loss.class_weights")  # of numbers, or the name of a rule
  if weights and not any(weights):
    raise UserError("loss.class_weights are all 0, expected one above 0")
  _check_memory(flat["data.batch_size"], flat["data.size"], pixels.channels)


def _check_rule(value):
  """Raises a UserError where class weights are a text that is no rule, or are mixed with one."""
  if len(value) > 1:
    raise UserError(
      f"loss.class_weights is {value!r}, expected a number per class or the name of one rule, such "
      "as ('median_frequency',)"
    )
  choose(losses.RULES, value[0], "rule for class weights")


def _check_shape(field, value, pixels):
  """Raises a UserError where a field lacks elements, or has some of another type."""
  names = value if field == "data.source.classes" and isinstance(value, tuple) else ()
  if not all(isinstance(name, str) for name in names):
    raise UserError(f"{field} is {value!r}, expected names, such as ('road', 'sky')")
  if field in OF_CHANNELS:
    _check_length(field, value, pixels)
  count, names = LENGTHS.get(field, (None, ""))
  wrong = count is not None and (not isinstance(value, tuple) or len(value) != count)
  wrong = wrong or (field in WHOLE and not _is_whole(value))
  wrong = wrong or (field == "model.widths" and not value)
  if wrong:
    what = "whole numbers" if field in WHOLE else "numbers"
    raise UserError(
      f"{field} is {value!r}, expected {f'{count} ' if count else ''}{what}"
      f"{f' ({names})' if names else ''}"
    )


def _is_whole(value):
  return isinstance(value, tuple) and all(type(v) is int for v in value)


def _check_length(field, value, pixels):
  """Raises a UserError where a field has neither a number for each channel nor one for all."""
  if isinstance(value, tuple) and len(value) in (1, pixels.channels):
    return
  what = "(red, green, blue), or one for all" if pixels.is_rgb else (
    "by data.channels, or one for all; launch/analyze.py data with this config prints them"
  )  # fmt: skip
  raise UserError(f"{field} is {value!r}, expected {pixels.channels} numbers {what}")


def _inside(value, least, most):
  if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
    return False
  above = value > 0 if least == "above 0" else value >= least
  return above and (value < 1 if most == "below 1" else value <= most)


def _text(least, most, field):
  several = field in LENGTHS or field in OF_CHANNELS
  numbers = "whole numbers" if field in WHOLE else "numbers" if several else "a number"
  if most == INF:
    return f"{numbers} {least if isinstance(least, str) else f'of at least {least}'}"
  if isinstance(least, str) or isinstance(most, str):
    low = least if isinstance(least, str) else f"from {least}"
    return f"{numbers} {low} and {most if isinstance(most, str) else f'up to {most}'}"
  return f"{numbers} from {least} to {most}"


def _check_memory(batch_size, size, channels):
  """Raises a UserError where a batch of images alone, in float32, exceeds the memory."""
  try:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, ValueError, OSError):  # no such figure on this system
    return
  needed = batch_size * size[0] * size[1] * channels * 4
  if needed > memory:
    raise UserError(
      f"data.batch_size={batch_size} images of data.size={size} take {needed / 1e9:.0f} GB, this "
      f"machine has {memory / 1e9:.0f} GB; lower one of them"
    )
