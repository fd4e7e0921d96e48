"""Evaluation: every example once; sums are added up on the host, rows of images put together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from segjax import hosts, textfiles
from segjax.errors import UserError
from segjax.pictures import displayed
from segjax.tasks.task import INDEX, ROWS
from segjax.training import array_files, devices, steps
from segjax.training.state import TrainState

__all__ = ["evaluate", "merge", "read_sums"]

SUMS = "val_sums.npz"  # of a run's last evaluation, in its folder


def merge(parts: Iterable[dict]) -> dict[str, np.ndarray] | None:
  """Statistics of parts of a split as those of all of it.

  Sums are added, counts in int64 and the rest in float64. Rows of images, whose names begin with
  `task.ROWS`, are put together in the order of their index; those of an index below 0, copies that
  fill up a batch, are left out. Parts may be batches or what several processes have seen.

  Args:
    parts: statistics of each part, all with the same names.

  Returns:
    dict of numpy arrays with the names of a part; None without parts.
  """
  total, lists = None, {}
  for sums in parts:
    wide = {k: _widened(np.asarray(v)) for k, v in sums.items() if not k.startswith(ROWS)}
    total = wide if total is None else {k: total[k] + v for k, v in wide.items()}
    for name in sums.keys() - wide.keys():
      lists.setdefault(name, []).append(np.asarray(sums[name]))
  if total is None:
    return None
  rows = {k: np.concatenate(v) for k, v in sorted(lists.items())}
  if INDEX in rows:
    order = np.argsort(rows[INDEX], kind="stable")
    order = order[rows[INDEX][order] >= 0]
    rows = {k: v[order] for k, v in rows.items()}
  return total | rows


def _widened(x):
  return x.astype(np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64)


def evaluate(
  eval_step: Callable[[TrainState, dict], dict],
  state: TrainState,
  batches: Iterable[dict],
  mesh: Mesh,
  on_host: Callable[[dict, dict], dict] | None = None,
) -> dict[str, np.ndarray]:
  """Statistics of a split in one pass, each example once.

  Args:
    eval_step: result of `eval_step.make_eval_step`.
    state: TrainState.
    batches: result of `pipeline.eval_batches`.
    mesh: mesh of the eval step; of several processes either all devices, or those of each, which
      then has batches of its own.
    on_host: function of the statistics of a batch and of the batch, both numpy, that gives the
      statistics to be merged; for what the host computes of predictions.

  Returns:
    dict of numpy sums, and of rows in the order of the examples, see the task's `statistics`.
  """
  alone = devices.is_local(mesh)
  state = devices.to_local(state, mesh) if alone else state

  def fetched(sums, batch):
    sums = jax.device_get(sums)
    return on_host(sums, batch) if on_host else sums

  def parts():  # each is fetched when the next one is at work
    running, last = None, None
    for batch in batches:
      previous, running = running, eval_step(state, steps.put_batch(batch, mesh))
      if previous is not None:
        yield fetched(previous, last)
      last = batch
    if running is not None:  # else this process has no example
      yield fetched(running, last)

  total = merge(parts())
  return _of_processes(total) if alone else total


def _of_processes(total):
  """The statistics of all processes, which have different examples."""
  plain = total and {k: (v.dtype.str, v.shape, v.tolist()) for k, v in total.items()}
  return merge(
    {k: np.array(v, dtype).reshape(shape) for k, (dtype, shape, v) in part.items()}
    for part in filter(None, hosts.exchange(plain))
  )


def write_sums(workdir, step, sums):
  """Writes the statistics of the evaluation at a step, whole or not at all."""
  array_files.write(workdir / SUMS, dict(step=step, **sums))


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
  advice = "restore it, or run the same training command again, which evaluates anew"
  sums = array_files.read(file, advice)
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
    example: {"image": u8[H,W,3] or f32[H,W,C], "label": as the task needs it}.

  Returns:
    list of (title, u8[H,W,3]), see the task's `pictures`.
  """
  label = example["label"]
  label = label if label.ndim == 3 else label.astype(np.int32)
  return task.pictures(displayed(example["image"]), jax.device_get(outputs), label)


def classes_seen(task, outputs, label):
  """See `Task.classes_seen`; the outputs are those of a predict step, waited for here."""
  return task.classes_seen(jax.device_get(outputs), label)
