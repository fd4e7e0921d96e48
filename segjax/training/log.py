"""The rows of training in metrics.jsonl: means over the steps since the row before."""

from __future__ import annotations

import math

import jax
import numpy as np

from segjax.training.checkpoints import NOT_FINITE, NotFinite
from segjax.training.evaluation import merge
from segjax.training.progress import peak_memory


class Log:
  """Sums of steps until they stand in a row.

  The sums of a call are fetched after the next call has been dispatched, so that the device need
  not wait for the host: the row of steps 1 to 10 is written while step 11 runs.
  """

  def __init__(self, task, schedule, *, every, writers, progress, checkpoints):
    """Starts without steps.

    Args:
      task: a task of `segjax.tasks`.
      schedule: step -> learning rate.
      every: a row ends at each multiple of so many steps.
      writers: Writers of the rows.
      progress: Progress, which prints a line for each row.
      checkpoints: Checkpoints of the run, for the message of an error.
    """
    self._task, self._every = task, every
    self._learning_rate = jax.jit(schedule)  # or each operation is compiled
    self._writers, self._progress, self._checkpoints = writers, progress, checkpoints
    self._calls = []  # (last step, steps, sums on the device) of each call without a row

  def add(self, step, count, sums):
    """Takes a call that has been dispatched; writes the row of those before it where one ends.

    Args:
      step: last step of the call.
      count: steps of the call.
      sums: sums of the train step, on the device; of more steps than one with a leading axis.

    Raises:
      NotFinite: a loss or a gradient is not finite.
    """
    due = bool(self._calls) and self._calls[-1][0] % self._every == 0
    self._calls.append((step, count, sums))
    if due:
      self._write(len(self._calls) - 1)

  def write(self):
    """Writes the row of all steps that have none yet, if there are some; see `add`."""
    if self._calls:
      self._write(len(self._calls))

  def check(self):
    """Raises NotFinite where a step without a row is not finite; the step gets no row."""
    self._fetch(len(self._calls))

  def _fetch(self, count):
    """[(step, sums, gradient norm)] of the steps of the first `count` calls."""
    ready, self._calls = jax.device_get(self._calls[:count]), self._calls[count:]
    out = []
    for step, sums in _by_step(ready):
      norm = float(sums.pop("grad_norm"))
      loss = float(self._task.loss(sums))
      if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(
          f"not finite at step {step}: loss {loss}, gradient norm {norm}; "
          f"{self._checkpoints.latest_text()} in {self._checkpoints.folder}. {NOT_FINITE}. With "
          "--config.nan_debug=True the same command keeps the step for launch/analyze.py replay"
        )
      out.append((step, sums, norm))
    return out

  def _write(self, count):
    fetched = self._fetch(count)
    window = merge(sums for _, sums, _ in fetched)
    step, summary = fetched[-1][0], self._task.summary(window)
    self._progress.update(step, summary["loss"])
    row = self._task.row(summary)
    row |= dict(grad_norm=float(np.mean([norm for *_, norm in fetched])), steps=len(fetched))
    row["learning_rate"] = float(self._learning_rate(step - 1))  # of the last update
    values = {f"train/{k}": v for k, v in row.items()}
    values["time/images_per_s"] = self._progress.images_per_second
    values["time/minutes"] = self._progress.minutes()
    if memory := peak_memory():
      values["memory/peak_gb"], values["memory/limit_gb"] = memory
    self._writers.scalars(step, values)


def _by_step(calls):
  """(step, sums) of every step of some calls."""
  for last, count, sums in calls:
    for i in range(count):
      yield last - count + 1 + i, sums if count == 1 else {k: v[i] for k, v in sums.items()}
