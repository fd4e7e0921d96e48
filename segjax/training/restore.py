"""Finished runs: restoring them, and the data that they are used on."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from segjax import config as config_lib
from segjax import textfiles
from segjax.data.sources import TEST
from segjax.errors import UserError, choose
from segjax.tasks import TASKS
from segjax.training import class_balance, input_pipeline
from segjax.training import experiment as experiment_lib
from segjax.training import workdir as workdir_lib
from segjax.training.checkpoints import Checkpoints
from segjax.training.experiment import Experiment
from segjax.training.state import TrainState

__all__ = ["RunData", "checkpoint_steps", "data_of_run", "moved_to", "run"]


def _checkpoints(workdir, config):
  """Context with the checkpoints of a run, to be read."""
  return contextlib.closing(Checkpoints.of_run(workdir, config, read_only=True))


def checkpoint_steps(workdir: str | os.PathLike) -> list[int]:
  """Steps of the checkpoints in a run's folder, increasing.

  Args:
    workdir: folder of a run.

  Raises:
    UserError: no run in the folder.
  """
  workdir = Path(workdir)
  with _checkpoints(workdir, config_lib.load(workdir / "config.json")) as checkpoints:
    return checkpoints.steps()


def build(workdir: Path) -> Experiment:
  """Builds the experiment of a run, which needs no checkpoint.

  Args:
    workdir: folder of a run.

  Raises:
    UserError: no run in the folder.
  """
  config = config_lib.load(workdir / "config.json")
  labels = experiment_lib.load_labels(workdir / "labels.json")
  weights = class_balance.read(workdir, class_balance.rule(config.loss), labels)
  kept = workdir / "data.json"
  of_data = textfiles.read_state(kept, workdir_lib.DATA_KEYS) if kept.exists() else {}
  count, *_ = of_data.get("train") or [1]
  per_epoch = max(count // config.data.batch_size, 1)  # for durations in epochs
  return experiment_lib.build(config, labels, per_epoch, weights)


def run(
  workdir: str | os.PathLike, checkpoint: str | int = "latest"
) -> tuple[Experiment, TrainState]:
  """Restores the experiment of a run and the state of a checkpoint.

  Args:
    workdir: folder of a run.
    checkpoint: "latest", "best" or a step.

  Returns:
    (Experiment, TrainState).

  Raises:
    UserError: no run in the folder, or no such checkpoint.
  """
  workdir = Path(workdir)
  experiment = build(workdir)
  with _checkpoints(workdir, experiment.config) as checkpoints:
    step = checkpoints.step_of(checkpoint)
    if step is None:
      instead = "" if checkpoint == "latest" else ", or take 'latest'"
      raise UserError(f"{workdir}: no {checkpoint} checkpoint yet; train longer{instead}")
    return experiment, checkpoints.restore(step, experiment.abstract_state())


def checkpoint_text(workdir, step):
  """Which checkpoint of a run is used, and which other one could be: words for people.

  Args:
    workdir: of a run.
    step: of the restored state.
  """
  workdir = Path(workdir)
  config = config_lib.load(workdir / "config.json")
  with _checkpoints(workdir, config) as checkpoints:
    steps = {which: checkpoints.step_of(which) for which in ("latest", "best")}
  names = dict(latest="latest", best=f"best by {config.best_metric}")
  own = [f"the {names[k]}" for k, s in steps.items() if s == step]
  others = [f"the {names[k]} is of step {s}" for k, s in steps.items() if s not in (step, None)]
  text = ", ".join(filter(None, (f"checkpoint of step {step}", " and ".join(own))))
  return f"{text} ({'; '.join(others)})" if others else text


# ---------------------------------------------------------------------------- data of a run


@dataclasses.dataclass(frozen=True)
class RunData:
  """A split that a run is used on.

  Attributes:
    source: source of its examples, made to fit as in the run's evaluation.
    folder: where its files lie; empty where they are drawn.
    digest: 16 hex digits over the contents of its files, or over its names where it has no files.
    changed: how it differs from the data that the run was trained with, a sentence; empty where it
      does not.
  """

  source: Any
  folder: str
  digest: str
  changed: str


def data_of_run(
  workdir: str | os.PathLike,
  config: ConfigDict,
  split: str,
  *,
  moved: Mapping[str, str] | tuple = (),
  labelled: bool = True,
) -> RunData:
  """The data that a run is used on; every place that puts a run beside data gets it here.

  Data with other contents than those of the training are taken, and a printed line says so.

  Args:
    workdir: folder of the run.
    config: ConfigDict of the run; not changed.
    split: "train", "val" or "test".
    moved: fields of `config.data.source` for data in another folder now, see `moved_to`.
    labelled: see `input_pipeline.make_source`.

  Returns:
    RunData.

  Raises:
    UserError: the classes are not the run's, by name and order; or see
      `input_pipeline.make_source`.
  """
  workdir, config, moved = Path(workdir), copy.deepcopy(config), dict(moved)
  elsewhere = any(v and v != config.data.source.get(k) for k, v in moved.items())
  config.data.source.update(moved)
  _check_set(workdir, config.data.source.get("dataset", ""))
  source = input_pipeline.make_source(config, split, labelled=labelled)
  labels = experiment_lib.load_labels(workdir / "labels.json")
  task = choose(TASKS, config.task.name, "task")
  if task.label_kind_of(config.task) in ("mask", "masks", "class"):
    workdir_lib.check_classes(workdir, labels, source.source.labels)
  names = workdir_lib.names_of(source)
  contents = workdir_lib.contents_of(source)
  changed = _difference(workdir, split, names, contents, elsewhere)
  if changed:
    print(f"  warning: {changed}", flush=True)
  return RunData(source, _root(source, config), contents or names[1], changed)


def _check_set(workdir, dataset):
  """Raises a UserError for a TFDS set of another host, such as "huggingface:a/b"."""
  if re.match(r"[\w-]+:(?![\d*])", dataset):
    raise UserError(
      f"{workdir}: its data are the TFDS set {dataset!r}, which may be loaded from the network; "
      "only the command line of a training can ask for that. Prepare the set under a name without "
      "':'"
    )


def moved_to(config: ConfigDict, folder: str | os.PathLike | None) -> dict[str, str]:
  """Fields of `config.data.source` for data in another folder now.

  Args:
    config: ConfigDict of the run.
    folder: path; None or empty for data that have not moved.

  Returns:
    {field: folder}, or {} without a folder.
  """
  name = "data_dir" if "data_dir" in config.data.source else "folder"
  return {name: str(folder)} if folder else {}


def _difference(workdir, split, names, contents, elsewhere):
  """How a split differs from that of the training, by the run's data.json: a sentence or ""."""
  file = workdir / "data.json"
  trained = textfiles.read_state(file, workdir_lib.DATA_KEYS) if file.exists() else {}
  before = trained.get("contents")
  before = before.get(split) if isinstance(before, dict) else None
  if trained.get(split, names) != names:
    return (
      f"the {split} split has other examples than at the training (number and hash of their "
      f"names: {trained[split]} then, {names} now)"
    )
  if None not in (before, contents):
    return "" if before == contents else (
      f"images or labels of the {split} split are not those of the training (hash of their "
      f"contents: {before} then, {contents} now)"
    )  # fmt: skip
  if elsewhere and contents and split == TEST:
    return "the test split lies in another folder than the data of the training"
  if elsewhere and contents:
    return (
      f"whether the {split} split is that of the training is not known: the run is of a version "
      "that kept no hash of the contents"
    )
  return ""


def _root(source, config):
  """The folder of a source's files, or an empty text."""
  while not hasattr(source, "root") and hasattr(source, "source"):
    source = source.source
  root = getattr(source, "root", config.data.source.get("data_dir", ""))
  return str(Path(root).absolute()) if root else ""
