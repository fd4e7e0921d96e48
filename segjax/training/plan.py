"""At which steps a training logs, evaluates, saves and ends."""

from __future__ import annotations

import dataclasses

from segjax import config as config_lib
from segjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Plan:
  """Durations in steps, counted from the start of the training.

  Attributes:
    total: steps of the training.
    log_every: steps between rows of training.
    eval_every: steps between evaluations.
    save_every: steps between checkpoints besides those at evaluations; 0 for none.
    keep: steps whose checkpoints stay.
  """

  total: int
  log_every: int
  eval_every: int
  save_every: int = 0
  keep: tuple[int, ...] = ()

  def evaluates(self, step):
    """Whether there is an evaluation after a step; a checkpoint follows each."""
    return step % self.eval_every == 0 or step == self.total

  def saves(self, step):
    """Whether there is a checkpoint after a step."""
    regular = self.save_every and step % self.save_every == 0
    return bool(self.evaluates(step) or regular or step in self.keep)

  def next_event(self, step, more=()):
    """The first step after `step` after which something is due; no call goes beyond it.

    Args:
      step: steps done.
      more: further steps at which a call must end.
    """
    every = [n for n in (self.eval_every, self.save_every, self.log_every) if n]
    fixed = [k for k in (*self.keep, *more, self.total) if k > step]
    return min([*(step - step % n + n for n in every), *fixed])


def make_plan(config, steps_per_epoch, until=0):
  """The plan of a config.

  Args:
    config: ConfigDict of an experiment.
    steps_per_epoch: steps per epoch, for durations in epochs.
    until: step at which the training ends before its length; 0: none.

  Raises:
    UserError: a duration is given twice, or is missing, or the training is too short for an update.
  """
  total = config_lib.duration(config, "total", steps_per_epoch, required=True)
  if total < (count := config.optimizer.get("accumulate_steps", 1)):
    raise UserError(
      f"optimizer.accumulate_steps is {count} and the training has {total} steps, so nothing would "
      "be updated; train longer, or accumulate fewer"
    )
  return Plan(
    total=min(total, until or total),
    log_every=config.log_steps,
    eval_every=config_lib.duration(config, "eval", steps_per_epoch, required=True),
    save_every=config_lib.duration(config, "checkpoint", steps_per_epoch),
    keep=config_lib.kept_steps(config, steps_per_epoch),
  )
