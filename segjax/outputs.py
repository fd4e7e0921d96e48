"""The files of evaluation, which never replace those of other data."""

from __future__ import annotations

import re
from pathlib import Path

from segjax import hosts, textfiles
from segjax.errors import writing
from segjax.training import coverage, input_pipeline
from segjax.training.evaluation import evaluate
from segjax.training.writers import finite


def evaluate_run(workdir, experiment, state, data, split):
  """Evaluates a run on a split, and writes the scalars to a file of its folder.

  The file is evaluation_<split>_<step>.json, for other data than those of the training
  evaluation_<split>_<step>_<folder>_<digest>.json, so that neither replaces the other.

  Args:
    workdir: folder of the run.
    experiment: Experiment, from `restore`.
    state: TrainState, from `restore`.
    data: RunData.
    split: its name.

  Returns:
    (sums, path): the task's statistics, and the file.

  Raises:
    UserError: no label of the split is scored, or the file cannot be written.
  """
  batches = input_pipeline.eval_batches(experiment.config, data.source)
  sums = evaluate(experiment.eval_step(), state, batches, experiment.eval_mesh())
  return sums, write_scalars(workdir, experiment, state, data, split, sums)


def write_scalars(workdir, experiment, state, data, split, sums, more=None, seen=""):
  """Writes the scalars of an evaluation to the file of `evaluate_run`, and prints its warnings.

  Args:
    workdir, experiment, state, data, split: see `evaluate_run`.
    sums: the task's statistics of the split.
    more: further values for the file, dict, or None.
    seen: a text on how images were seen, in the file and its name; "": as the run is evaluated.

  Returns:
    Path of the file.
  """
  for warning in coverage.of_sums(split, experiment.labels.names, sums):
    print(f"  warning: {warning}")
  step = int(state.step)
  file = file_of(workdir, split, step, _suffix(data, seen))
  about = dict(
    step=step,
    checkpoint=f"checkpoints/{step}",
    split=split,
    examples=len(data.source),
    data=experiment.config.data.source.name,
    folder=data.folder,
    digest=data.digest,
    as_at_training=not data.changed and not seen,
  ) | (dict(view=seen) if seen else {})
  if not hosts.is_first():
    return file
  with writing(file):
    values = (more or {}) | finite(experiment.task.summary(sums))
    textfiles.write_state(file, about | values, indent=2)
  return file


def file_of(workdir, split, step, suffix=""):
  """The file of an evaluation's scalars; with a suffix, of other data than the run's own."""
  return Path(workdir) / f"evaluation_{split}_{step}{suffix}.json"


def _suffix(data, seen):
  """Suffix of the file that evaluates other data or sees them otherwise than the run does."""
  view = re.sub(r"[^\w.]+", "_", f"_{seen}") if seen else ""
  if not data.changed:
    return view
  name = re.sub(r"[^\w-]+", "_", Path(data.folder).name)[:40]
  return f"_{name}_{data.digest[:8]}{view}" if name else f"_{data.digest[:8]}{view}"
