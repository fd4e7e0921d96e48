"""Early stopping: a training ends when a metric of the evaluations improves no more.

The decision follows from the rows of the evaluations alone, so a resumed run stops where an
uninterrupted one does.
"""

from __future__ import annotations

import math


class EarlyStopping:
  """Counts evaluations since the best one.

  Attributes:
    metric: name of the metric; "" where nothing is stopped.
    since: evaluations since the last one that improved it.
    best: the value then; nan before the first.
    best_step: the step then.
  """

  def __init__(self, metric, *, mode, patience, min_delta=0.0):
    """Starts without evaluations.

    Args:
      metric: name of a scalar of an evaluation, such as "val/loss".
      mode: "max" or "min".
      patience: evaluations without an improvement after which a training ends; 0: it does not.
      min_delta: least change that is an improvement.
    """
    self.metric, self._patience, self._min_delta = metric if patience else "", patience, min_delta
    self._sign = 1 if mode == "max" else -1
    self.since, self.best, self.best_step = 0, math.nan, 0

  @classmethod
  def of(cls, config, rows=()):
    """That of a config, after the evaluations that a run has made.

    Args:
      config: ConfigDict of the run.
      rows: rows of its metrics.jsonl; of the rows of a step the last one counts.
    """
    c = config.early_stopping
    metric, mode = (c.metric, c.mode) if c.metric else (config.best_metric, config.best_mode)
    stopping = cls(metric, mode=mode, patience=c.patience, min_delta=c.min_delta)
    evaluated = {r["step"]: r for r in rows if metric in r}
    for step in sorted(evaluated):
      if not stopping.done:
        stopping.add(step, evaluated[step])
    return stopping

  def add(self, step, metrics):
    """Takes the scalars of an evaluation; one that is no finite number improves nothing."""
    value = metrics.get(self.metric)
    value = math.nan if value is None else value
    better = self._sign * (value - self.best) > self._min_delta
    if math.isfinite(value) and (better or math.isnan(self.best)):
      self.since, self.best, self.best_step = 0, value, step
    else:
      self.since += 1

  @property
  def done(self):
    """Whether the training ends."""
    return bool(self.metric) and self.since >= self._patience

  def text(self):
    """Why the training has ended, a sentence."""
    return (
      f"{self.metric} has not improved in {self.since} evaluations; its best is {self.best:.4f}, "
      f"at step {self.best_step}"
    )
