"""Checks before a training for faults that would end it late or spoil it silently."""

from __future__ import annotations

import inspect
import re

import jax
import numpy as np

from segjax import config as config_lib
from segjax import ranges
from segjax.data import rasters
from segjax.errors import UserError, did_you_mean
from segjax.training import devices, writers

# Starts and ends of the names of scalars that are better the smaller, or the larger, they are.
FALLING = re.compile(r"^(loss|l1|l2|content|style)$|_error$")
RISING = re.compile(r"iou|f1|accuracy|psnr|ssim|precision|recall|max_f|dice")


def check_config(config):
  """Raises a UserError for fields with a wrong value, before any data are read."""
  ranges.check(config)
  config_lib.check(config)
  writers.check(config.writers)
  devices.check(config)


def directions(config):
  """Sentences about metrics whose best value the config seeks at the wrong end.

  Args:
    config: ConfigDict of an experiment.
  """
  fields = [("best_metric", config.best_metric, "best_mode", config.best_mode)]
  stops = config.early_stopping
  if stops.patience and stops.metric:
    fields.append(("early_stopping.metric", stops.metric, "early_stopping.mode", stops.mode))
  found = []
  for field, metric, mode_field, mode in fields:
    name = metric.removeprefix("val/").partition("/")[0]
    right = "min" if FALLING.search(name) else "max" if RISING.search(name) else mode
    if mode != right:
      found.append(
        f"{field} is {metric!r} and {mode_field} is {mode!r}: its worst value counts as the best; "
        f"set {mode_field}={right!r}"
      )
  return found


def without_effect(config):
  """Sentences about fields that change nothing, such as parts of a schedule beyond the end.

  Args:
    config: ConfigDict of an experiment.
  """
  s, found = config.schedule, []
  for unit in ("epochs", "steps"):
    total = config[f"total_{unit}"]
    starts = {f"schedule.warmup_{unit}": s[f"warmup_{unit}"]}
    if s.name == "step":
      starts[f"schedule.every_{unit}"] = s[f"every_{unit}"]
    if s.name == "multi_step":
      starts[f"schedule.milestone_{unit}"] = max(s[f"milestone_{unit}"], default=0)
    late = {field: value for field, value in starts.items() if value >= total}
    if (kept := max(config[f"keep_{unit}"], default=0)) > total:
      late[f"keep_{unit}"] = kept
    if total:
      found += [
        f"{field} is {value:g} and total_{unit} {total:g}: the training ends before it counts"
        for field, value in late.items()
      ]
  if config.early_stopping.metric and not config.early_stopping.patience:
    found.append(
      "early_stopping.metric is set, and early_stopping.patience is 0: nothing stops early"
    )
  if config.ema_decay_end and not config.ema_decay:
    found.append("ema_decay_end is set, and ema_decay is 0: no average is kept")
  return found


def check_experiment(experiment, label):
  """Raises a UserError for a net that does not fit its task or its data; it computes shapes alone.

  Args:
    experiment: Experiment.
    label: label of an example, for its shape.
  """
  check_labels(experiment.labels, experiment.task)
  check_loss(experiment.config.loss)
  check_arguments(experiment)
  state = experiment.abstract_state()
  check_outputs(experiment, state)
  check_metric(experiment, state, experiment.eval_step(), label)


def check_loss(fields):
  """Raises a UserError for fields of the loss that weigh or smooth a term that it does not have."""
  if fields.get("cross_entropy", 1):
    return
  weighted = fields.get("class_weights") and not fields.get("dice_weighted")
  for name, given in (
    ("class_weights", weighted), ("label_smoothing", fields.get("label_smoothing"))
  ):  # fmt: skip
    if given:
      raise UserError(
        f"loss.{name} is for the cross-entropy, and loss.cross_entropy is 0; set that above 0, or "
        f"leave loss.{name} out"
      )


def check_labels(labels, task):
  """Raises a UserError for classes that a training could not distinguish.

  Args:
    labels: LabelTable of the data.
    task: the trained task.
  """
  for what, values in (("name", labels.names), ("colour", [c for _, c in labels.classes])):
    twice = [v for i, v in enumerate(values) if v in values[:i]]
    if twice and (what == "name" or task.label_kind in ("mask", "masks")):
      where = ", ".join(str(i) for i, v in enumerate(values) if v == twice[0])
      raise UserError(
        f"the data has two classes of one {what}, {twice[0]!r} (classes {where} of 0 to "
        f"{len(labels) - 1}); give each its own in classes.txt or data.source.classes"
      )
  if task.label_kind == "mask" and len(labels) < 2:
    raise UserError(
      f"the data has one class, {', '.join(labels.names)}, so every answer is right; add the "
      "background as a class"
    )


def check_arguments(experiment):
  """Raises a UserError where the net does not take the arguments that the task gives it."""
  c, task = experiment.config, experiment.task
  image = jax.ShapeDtypeStruct((1, *c.data.size, c.data.channels), np.float32)
  inputs = jax.eval_shape(lambda x: task.prepare(None, x, None, train=False)[0], image)
  inputs = inputs if isinstance(inputs, tuple) else (inputs,)
  try:
    inspect.signature(experiment.model.__call__).bind(*inputs, train=False)
  except TypeError as error:
    called = f"net({', '.join(['image', *['...'] * (len(inputs) - 1)])}, train=False)"
    raise UserError(
      f"{_does_not_fit(c)}: it cannot be called as the task does, {called} ({error})"
    ) from None


def _does_not_fit(config):
  return f"the model {config.model.name!r} does not fit the task {config.task.name!r}"


def check_outputs(experiment, state):
  """Raises a UserError where the net does not answer as the task asks; a net's own error stays.

  Args:
    experiment: Experiment.
    state: TrainState of arrays or ShapeDtypeStructs.
  """
  c, task = experiment.config, experiment.task
  size = tuple(c.data.size)
  image = jax.ShapeDtypeStruct((1, *size, c.data.channels), rasters.of(c.data).kept)
  outputs = jax.eval_shape(experiment.predict_step(), state, image)
  outputs = outputs.get("logits") if isinstance(outputs, dict) else outputs
  channels = task.num_outputs
  of_pixels = dict.fromkeys(("mask", "masks", "target"), (1, *size, channels))
  wanted = of_pixels | {"class": (1, channels)}
  found = getattr(outputs, "shape", None)
  if task.label_kind in wanted and found is not None and found != wanted[task.label_kind]:
    raise UserError(
      f"{_does_not_fit(c)}: for an image of {size[0]}x{size[1]} it gives an array of shape "
      f"{found}, the task needs {wanted[task.label_kind]}"
    )


def check_metric(experiment, state, eval_step, label):
  """Raises a UserError where an evaluation does not measure a metric that the config names.

  Args:
    experiment: Experiment.
    state: TrainState of arrays or ShapeDtypeStructs.
    eval_step: eval step of the experiment.
    label: label of an example, for its shape.
  """
  c = experiment.config
  shape = (c.data.batch_size, *c.data.size)
  labels = (*shape, *label.shape[2:]) if label.ndim >= 2 else shape[:1]
  batch = dict(
    image=jax.ShapeDtypeStruct((*shape, c.data.channels), rasters.of(c.data).kept),
    label=jax.ShapeDtypeStruct(labels, np.uint8),
    valid=jax.ShapeDtypeStruct(shape[:1], bool),
  )
  sums = jax.eval_shape(eval_step, state, batch)
  nothing = {k: np.zeros(x.shape, x.dtype) for k, x in sums.items()}
  known = [f"val/{k}" for k in experiment.task.summary(nothing)]
  stops = c.early_stopping
  asked = {"best_metric": c.best_metric, "early_stopping.metric": stops.patience and stops.metric}
  for field, metric in asked.items():
    if metric and metric not in known:
      hint = did_you_mean(metric, known)
      raise UserError(f"{field} {metric!r} is not measured{hint}; there is {', '.join(known)}")
