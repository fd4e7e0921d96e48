"""Weights of classes that a rule makes of the train split's labels, once per run."""

from __future__ import annotations

import numpy as np

from segjax import losses, textfiles
from segjax.errors import UserError
from segjax.tasks import TASKS

FILE = "class_weights.json"  # in the folder of a run


def rule(loss):
  """The rule that `config.loss` names in `class_weights`, see `losses.class_weights`, or ""."""
  weights = loss.get("class_weights", ())
  return weights[0] if len(weights) == 1 and isinstance(weights[0], str) else ""


def count(config, source=None):
  """The weights of `config`'s rule, from all labels of the train split at their own sizes.

  Args:
    config: ConfigDict whose loss names a rule.
    source: source of the train split, see `segjax.data.sources`; None: it is made by the config.

  Returns:
    tuple of C floats; of classes that overlap see `MultiLabel`.

  Raises:
    UserError: no such rule, no scored label, or a file that cannot be read.
  """
  from segjax.data import checks  # what reads data needs more packages than a step does
  from segjax.training import input_pipeline

  source = source or input_pipeline.make_source(config, "train", training=True).source
  classes, overlapping = len(source.labels), source.labels.overlapping
  look = checks.mask_counts if overlapping else checks.label_histograms
  counts = look(source, max(config.data.threads, 1))[:, : classes + overlapping]
  if not counts.any():
    raise UserError(
      f"loss.class_weights={rule(config.loss)!r}: no label of the train split is scored, so "
      "there are no weights; check the masks and the ignore value of the data source"
    )
  if overlapping:  # the last column are scored pixels
    pairs = (np.stack([counts[:, -1] - own, own], 1) for own in counts[:, :-1].T)
    return tuple(_over_others(pair, rule(config.loss)) for pair in pairs)
  if TASKS[config.task.name].label_kind_of(config.task) == "class":
    counts = counts.sum(0, keepdims=True)  # an image of one class would have the share 1 of it
  return tuple(losses.class_weights(counts, rule(config.loss)).tolist())


def _over_others(counts, name):
  """Weight of a class over that of all else by a rule, from their pixels int[N,2], it the second.

  1 where one of them does not occur.
  """
  if not counts.any(0).all():
    return 1.0
  others, own = losses.class_weights(counts, name)
  return float(own / others)


def read(folder, name, labels):
  """The weights that a run's folder keeps.

  Args:
    folder: path of the run.
    name: result of `rule`.
    labels: LabelTable.

  Returns:
    tuple of C floats, or None without a rule, or where the folder has no weights by it.

  Raises:
    UserError: the file is damaged.
  """
  file = folder / FILE
  if not name or not file.is_file():
    return None
  found = textfiles.read_state(file)
  if found.get("rule") != name:
    return None
  weights = found.get("weights")
  names = list(labels.names)
  whole = isinstance(weights, dict) and list(weights) == names
  if not whole or not all(type(w) is float and np.isfinite(w) for w in weights.values()):
    raise UserError(
      f"{file}: found {str(found)[:80]!r}, expected a weight for each of the classes "
      f"{', '.join(names)}; {textfiles.MEND}"
    )
  return tuple(weights.values())


def write(folder, name, labels, weights):
  """Writes the weights of a rule beside the config; nothing without a rule. Args: see `read`."""
  if name:
    named = dict(zip(labels.names, map(float, weights), strict=True))
    textfiles.write_state(folder / FILE, dict(rule=name, weights=named), indent=2)
