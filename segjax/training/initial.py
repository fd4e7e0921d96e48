"""Where initial weights come from."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import jax
import numpy as np

from segjax import config as config_lib
from segjax import weights
from segjax.errors import UserError, did_you_mean
from segjax.tasks import TASKS
from segjax.training import experiment as experiment_lib
from segjax.training.checkpoints import Checkpoints


def load_initial(init_from, part, variables):
  """Replaces the initial values of a net.

  Args:
    init_from: a key of `weights.PRETRAINED` (ImageNet weights of a pip package), a torch or
      safetensors file, that of `weights.save` too, or the workdir of a segjax run, whose best
      checkpoint is taken, else its latest; of DINO the latest, as the loss of a teacher that
      collapses is the lowest.
    part: "all", or the submodule to load alone, "backbone" as a rule.
    variables: {"params": …, "batch_stats": …}, the initial ones.

  Returns:
    (variables, weights.Report).

  Raises:
    UserError: no such file, nothing in it that fits, or a shape that cannot fit.
  """
  only = "" if part == "all" else part
  if only and only not in variables["params"]:
    raise UserError(
      f"init_part is {part!r}, but the net has {', '.join(variables['params'])}; expected 'all' or "
      "one of them"
    )
  if init_from in weights.PRETRAINED:
    return weights.load_torch(weights.find_pretrained(init_from), variables, only=only)
  path = Path(config_lib.expand_home(init_from))
  if path.is_dir():
    source = _read_run(path)
    return weights.load_variables(source, variables, only=only, where=str(path))
  if not path.is_file():
    raise UserError(
      f"init_from {init_from!r}: no such file or folder; expected a torch or safetensors file, the "
      f"workdir of a run, or one of {', '.join(weights.PRETRAINED)}"
      f"{did_you_mean(init_from, weights.PRETRAINED)}"
    )
  if weights.is_saved(path):
    return weights.load_variables(weights.load(path)[0], variables, only=only, where=str(path))
  return weights.load_torch(path, variables, only=only)


def compare_classes(init_from, part, labels, task):
  """Compares the classes of a run, or of its file, whose head is taken with those of the data.

  Args:
    init_from: see `load_initial`.
    part: likewise.
    labels: LabelTable of the data.
    task: the trained task.

  Returns:
    A sentence where the head was trained for as many other classes, or "".

  Raises:
    UserError: it was trained for the same classes in another order.
  """
  if part == "backbone" or not init_from:
    return ""
  name, theirs = _task_and_classes(Path(config_lib.expand_home(init_from)))
  other, kind, ours = TASKS.get(name), task.label_kind, list(labels.names)
  if kind not in ("mask", "masks", "class") or other is None or other.label_kind != kind:
    return ""  # the head of another task answers another question
  if theirs == ours or len(theirs) != len(ours):
    return ""  # a head of another size is not taken
  names = f"{', '.join(theirs)}; here they are {', '.join(ours)}"
  if sorted(theirs) == sorted(ours):
    raise UserError(
      f"init_from {init_from!r} has the same classes in another order: {names}. Bring "
      "those of the data into the run's order, or take the backbone alone (init_part='backbone')"
    )
  return f"its head was trained for other classes: {names}"


def _task_and_classes(path):
  """(name of the task, names of the classes) of a run or of its file; (None, []) of others."""
  if (path / "labels.json").is_file():
    names = experiment_lib.load_labels(path / "labels.json").names
    return config_lib.load(path / "config.json").task.name, list(names)
  if path.is_file() and weights.is_saved(path):
    about = weights.load(path)[2]
    return about.get("task"), about.get("classes", [])
  return None, []


def fingerprint(init_from):
  """Hash of initial weights, 16 hexadecimal digits, which shows whether they have changed.

  Args:
    init_from: see `load_initial`.

  Returns:
    str, or None where there is no such file or folder, or it is a package's and so does not change.
  """
  path = Path(config_lib.expand_home(init_from))
  if not init_from or init_from in weights.PRETRAINED or not path.exists():
    return None
  digest = hashlib.sha256()
  if path.is_dir():
    for place, value in jax.tree_util.tree_leaves_with_path(_read_run(path)):
      digest.update(jax.tree_util.keystr(place).encode())
      digest.update(np.asarray(value).tobytes())
  else:
    with path.open("rb") as file:
      while block := file.read(2**20):
        digest.update(block)
  return digest.hexdigest()[:16]


def _read_run(workdir):
  """The variables that a run evaluates with, of whatever net."""
  config = config_lib.load(workdir / "config.json")
  wanted = ("latest",) if TASKS[config.task.name].uses_ema_teacher else ("best", "latest")
  with contextlib.closing(Checkpoints.of_run(workdir, config, read_only=True)) as checkpoints:
    steps = [s for s in map(checkpoints.step_of, wanted) if s is not None]
    if not steps:
      raise UserError(
        f"{workdir}: no checkpoints/<step> in it; expected the workdir of a segjax run"
      )
    state = checkpoints.restore_arrays(steps[0])
  ema = state["ema_params"] is not None
  return dict(
    params=state["ema_params" if ema else "params"],
    batch_stats=state["ema_batch_stats" if ema else "batch_stats"] or {},
  )
