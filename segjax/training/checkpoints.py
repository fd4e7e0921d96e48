"""Checkpoints of state and data iterator, asynchronous: the best, the latest, chosen ones."""

from __future__ import annotations

import dataclasses
import json
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
from segjax.training.background import Background


class Checkpoints:
  """Folder of checkpoints; writing goes on in the background until `wait`.

  A checkpoint appears under its step's number only when it is complete, so a killed process
  leaves the one before.

  Attributes:
    folder: path.
  """

  def __init__(self, folder, *, best_metric, best_mode, keep=(), read_only=False):
    """Opens the folder, made if need be.

    Args:
      folder: path.
      best_metric: name of the scalar that decides which checkpoint is best.
      best_mode: "max" or "min".
      keep: steps whose checkpoints stay as well.
      read_only: whether nothing is to be written.
    """
    if best_mode not in ("max", "min"):
      raise UserError(f"best_mode is {best_mode!r}, expected 'max' or 'min'")
    self.folder = folder
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
    # Orbax makes folders and gathers arrays before its own threads take over, and the device would
    # wait for that. Processes must save in step with each other, so they do it at once.
    self._saver = Background("checkpoints") if jax.process_count() == 1 else None

  def _writing(self):
    return _WriteErrors(self.folder)

  def save(self, step, state, iterator, metrics=None):
    """Starts writing and returns; the state may be donated at once, and the iterator go on.

    Raises:
      UserError: the checkpoint before this could not be written.
    """
    self._wait_for_saver()
    what = step, _copy(state), _Position.of(iterator), metrics
    if self._saver is None:
      self._save(*what)
    else:
      self._saver.submit(self._save_from_host, *what)

  def _save_from_host(self, step, state, *rest):
    # Orbax takes twice the CPU time for arrays on a device, each of which it asks where it lies.
    self._save(step, jax.device_get(state), *rest)

  def _save(self, step, state, position, metrics):
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=CheckpointSave(position))
    with self._writing():
      self._manager.save(step, args=args, metrics=metrics, force=True)

  def _wait_for_saver(self):
    """Until orbax has what was handed to it; raises what it raised."""
    if self._saver is not None:
      self._saver.wait()

  def wait(self):
    """Blocks until everything is on disk."""
    self._wait_for_saver()
    with self._writing():
      self._manager.wait_until_finished()

  def close(self):
    """Waits and gives the resources back."""
    try:
      self._wait_for_saver()
    finally:
      if self._saver is not None:
        self._saver.close()
      with self._writing():
        self._manager.close()

  def steps(self):
    """Steps of all checkpoints there are, increasing."""
    self._wait_for_saver()
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
    more = {} if iterator is None else dict(data=CheckpointRestore(iterator))
    return self._read(step, lambda: like, **more)

  def restore_arrays(self, step):
    """The state of whatever net, trained on whatever devices, as nested dicts on one device."""
    folder = self.folder.absolute() / str(step) / "state"
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def like():
      with ocp.StandardCheckpointer() as reader:
        tree = reader.metadata(folder).item_metadata.tree
      return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    return self._read(step, like)

  def _read(self, step, like, **more):
    try:
      args = ocp.args.Composite(state=ocp.args.StandardRestore(like()), **more)
      return self._manager.restore(step, args=args)["state"]
    except (OSError, ValueError, KeyError) as error:
      why = " ".join(str(error).split())[:300]
      raise UserError(
        f"{self.folder}/{step}: the checkpoint does not fit the model or is damaged ({why})"
      ) from error


@jax.jit
def _copy(state):
  """Arrays of their own, by one call for all."""
  return jax.tree.map(jnp.copy, state)


@dataclasses.dataclass(frozen=True)
class _Position:
  """Where a data iterator stood when it was saved, in place of itself."""

  state: bytes

  @classmethod
  def of(cls, iterator):
    state = iterator.get_state()
    return cls(state if isinstance(state, bytes) else json.dumps(state, indent=4).encode())

  def get_state(self):
    """See grain's iterators."""
    return self.state


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
