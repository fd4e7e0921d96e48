"""Checkpoints of state and data iterator, asynchronous: the best, the latest, chosen ones."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointRestore, CheckpointSave
from orbax.checkpoint.checkpoint_managers import (
  AnyPreservationPolicy,
  BestN,
  CustomSteps,
  LatestN,
)

from segjax.errors import UserError


class Checkpoints:
  """Folder of checkpoints; writing goes on in the background until `wait`.

  A checkpoint appears under its step's number only when it is complete, so a killed process
  leaves the one before.

  Attributes:
    folder: path.
    best_metric: name of the scalar that decides which checkpoint is best.
    best_mode: "max" or "min".
  """

  def __init__(self, folder, *, best_metric, best_mode, keep=(), read_only=False):
    """Opens the folder, made if need be; checkpoints of the steps in `keep` stay as well."""
    if best_mode not in ("max", "min"):
      raise UserError(f"best_mode is {best_mode!r}, expected 'max' or 'min'")
    self.folder = folder
    self.best_metric = best_metric
    sign = 1 if best_mode == "max" else -1

    def score(metrics):
      value = metrics.get(best_metric, math.nan)
      return -math.inf if math.isnan(value) else sign * value

    self._score = score
    best = BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
    policy = AnyPreservationPolicy([LatestN(1), best, CustomSteps(keep)])
    options = ocp.CheckpointManagerOptions(
      preservation_policy=policy,
      best_fn=score,
      create=not read_only,
      read_only=read_only,
      cleanup_tmp_directories=not read_only,
    )
    with self._writing():
      self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

  def _writing(self):
    return _WriteErrors(self.folder)

  def save(self, step, state, iterator, metrics=None):
    """Starts writing; returns once the values are copied, so the state may be donated."""
    state = jax.tree.map(jnp.copy, state)
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=CheckpointSave(iterator)),
        metrics=metrics,
        force=True,
      )

  def wait(self):
    """Blocks until everything is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  def close(self):
    """Waits and gives the resources back."""
    with self._writing():
      self._manager.close()

  def steps(self):
    """Steps of all checkpoints there are, increasing."""
    return sorted(self._manager.all_steps())

  def step_of(self, which):
    """Step of the "latest" or "best" checkpoint, or of a number; None where there is none.

    Raises:
      UserError: a step that is not there.
    """
    steps = self.steps()
    if which == "latest":
      return steps[-1] if steps else None
    if which == "best":
      scores = {s: self._manager.metrics(s) for s in steps}
      scored = [s for s in steps if scores[s] is not None]
      return max(scored, key=lambda s: (self._score(scores[s]), s)) if scored else None
    if str(which).isdigit() and int(which) in steps:
      return int(which)
    have = ", ".join(map(str, steps)) or "none"
    raise UserError(f"no checkpoint {which!r} in {self.folder}; there is 'best', 'latest', {have}")

  def restore(self, step, like, iterator=None):
    """Reads a checkpoint.

    Args:
      step: number of an existing checkpoint.
      like: state of arrays or ShapeDtypeStructs with the shapes and shardings to restore to.
      iterator: data iterator to set to its saved position, or None to leave it.

    Returns:
      The state.
    """
    args = dict(state=ocp.args.StandardRestore(like))
    if iterator is not None:
      args["data"] = CheckpointRestore(iterator)
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**args))["state"]
    except (OSError, ValueError, KeyError) as error:
      why = " ".join(str(error).split())[:300]
      raise UserError(
        f"{self.folder}/{step}: the checkpoint does not fit the model or is damaged ({why})"
      ) from error


class _WriteErrors:
  """Turns the errors of a full or read-only folder, however orbax wraps them, into a UserError."""

  def __init__(self, folder):
    self.folder = folder

  def __enter__(self):
    return self

  def __exit__(self, kind, error, _):
    if isinstance(error, UserError) or not isinstance(error, Exception):
      return False
    raise UserError(
      f"cannot write checkpoints to {self.folder.absolute()}: {error}; free some space, check the "
      "permissions, or choose another --workdir (complete checkpoints in it stay as they are)"
    ) from error
