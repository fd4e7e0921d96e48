"""Evaluation: every example once, sums added up on the host."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from segjax import hosts, textfiles
from segjax.errors import UserError, writing
from segjax.training import devices, steps
from segjax.training.state import TrainState

__all__ = ["evaluate", "read_sums"]

SUMS = "val_sums.npz"  # of a run's last evaluation, in its folder
# Exceptions of NumPy for an .npz file that is cut or altered.
DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error,
          NotImplementedError)  # fmt: skip


def add_sums(total, sums):
  """Adds statistics on the host: counts in int64, the rest in float64."""
  wide = {
    k: np.asarray(v, np.int64 if np.issubdtype(np.asarray(v).dtype, np.integer) else np.float64)
    for k, v in sums.items()
  }
  return wide if total is None else {k: total[k] + v for k, v in wide.items()}


def evaluate(
  eval_step: Callable[[TrainState, dict], dict],
  state: TrainState,
  batches: Iterable[dict],
  mesh: Mesh,
) -> dict[str, np.ndarray]:
  """Sums of the task's statistics over all batches, each example once.

  Args:
    eval_step: result of `steps.make_eval_step`.
    state: TrainState.
    batches: result of `pipeline.eval_batches`.
    mesh: mesh of the eval step; of several processes either all devices, or those of each, which
      then has batches of its own.

  Returns:
    dict of numpy sums, see the task's `statistics`.
  """
  total, running = None, None
  alone = devices.is_local(mesh)
  state = devices.to_local(state, mesh) if alone else state
  for batch in batches:
    previous, running = running, eval_step(state, steps.put_batch(batch, mesh))
    if previous is not None:
      total = add_sums(total, jax.device_get(previous))
  if running is not None:  # else this process has no example
    total = add_sums(total, jax.device_get(running))
  return _sum_of_processes(total) if alone else total


def _sum_of_processes(total):
  """The sums of all processes, which have different examples."""
  plain = total and {k: (v.dtype.str, v.tolist()) for k, v in total.items()}
  whole = None
  for part in filter(None, hosts.exchange(plain)):
    whole = add_sums(whole, {k: np.array(v, dtype) for k, (dtype, v) in part.items()})
  return whole


def write_sums(workdir, step, sums):
  """Writes the statistics of the evaluation at a step, whole or not at all."""

  def write(part):
    with part.open("wb") as file:
      np.savez(file, step=step, **sums)

  with writing(f"to {workdir.absolute()}"):
    textfiles.replace(workdir / SUMS, write)


def read_sums(workdir: str | os.PathLike) -> dict[str, np.ndarray]:
  """The statistics of a training's last evaluation, with its "step".

  Args:
    workdir: folder of a run.

  Returns:
    dict of numpy sums, see the task's `statistics`.

  Raises:
    UserError: there was none yet, or its file is damaged.
  """
  file = Path(workdir) / SUMS
  if not file.is_file():
    raise UserError(f"no {file}; the run was not evaluated yet")
  try:
    with zipfile.ZipFile(file) as archive:
      broken = archive.testzip()  # np.load compares no checksum of what it does not read
    if broken:
      raise zipfile.BadZipFile(f"{broken} is not what was written")
    with np.load(file) as saved:
      sums = {name: saved[name] for name in saved.files}
  except DAMAGE as error:
    raise UserError(
      f"{file}: damaged ({type(error).__name__}: {error}); restore it, or run the "
      "same training command again, which evaluates anew"
    ) from None
  if "step" not in sums:
    raise UserError(f"{file}: no 'step' in it; {textfiles.MEND}")
  return sums


def step_of_sums(workdir):
  """The step of the last evaluation's sums, or None where they cannot be read."""
  try:
    return int(read_sums(workdir)["step"])
  except UserError:
    return None


def example_panels(task, outputs, example):
  """Pictures of one example and of its prediction.

  Args:
    task: a task of `segjax.tasks`.
    outputs: outputs of a predict step for this example alone, waited for here.
    example: {"image": u8[H,W,3], "label": as the task needs it}.

  Returns:
    list of (title, u8[H,W,3]), see the task's `pictures`.
  """
  label = example["label"]
  label = label if label.ndim == 3 else label.astype(np.int32)
  return task.pictures(example["image"], jax.device_get(outputs), label)


def classes_seen(task, outputs, label):
  """Label values in the pictures of an example, 255 for what is not scored; for their legend.

  Args:
    task: of `segjax.tasks`.
    outputs: of a predict step for this example alone.
    label: as the task needs it.

  Returns:
    set of ints, empty where the task shows no classes in colours.
  """
  if not task.class_colors:
    return set()
  pred = np.asarray(task.predict(jax.device_get(outputs)))
  return {*np.unique(pred).tolist(), *np.unique(label).tolist()}
