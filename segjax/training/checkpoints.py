"""Checkpoints of state and data iterator, asynchronous: the best, the latest, chosen ones."""

from __future__ import annotations

import contextlib
import math

import jax
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointSave
from orbax.checkpoint.checkpoint_managers import (
  AnyPreservationPolicy,
  BestN,
  CustomSteps,
  LatestN,
)

from segjax import hosts, textfiles
from segjax.errors import UserError, fault_of_machine, writing
from segjax.training import checkpoint_files
from segjax.training.background import Background
from segjax.training.position import Position, set_position
from segjax.training.trees import all_finite, by_name, copy


class NotFinite(UserError):
  """Training has diverged; nothing of it is saved. Processes have the same numbers."""

  of_all = True


NOT_FINITE = "A smaller schedule.learning_rate, a warm-up or optimizer.clip_norm=1 usually helps"


class Checkpoints:
  """Folder of checkpoints; writing continues in the background until `wait`.

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
      keep: steps whose checkpoints stay too.
      read_only: whether nothing is to be written.
    """
    if best_mode not in ("max", "min"):
      raise UserError(f"best_mode is {best_mode!r}, expected 'max' or 'min'")
    self.folder = folder
    self._metric, self._sign = best_metric, 1 if best_mode == "max" else -1
    best = BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False)
    self._options = ocp.CheckpointManagerOptions(
      preservation_policy=AnyPreservationPolicy([LatestN(1), best, CustomSteps(keep)]),
      best_fn=self._score,
      create=not read_only,
      read_only=read_only,
      cleanup_tmp_directories=not read_only,
    )
    self._without_sums = None  # step of a checkpoint whose checksums are still to be written
    self._open()
    # Orbax makes folders and gathers arrays before its own threads take over, and the device would
    # wait for that. Processes must save in step with each other, so they do it at once.
    self._saver = Background("checkpoints") if jax.process_count() == 1 else None

  @classmethod
  def of_run(cls, workdir, config, **how):
    """The checkpoints of a run.

    Args:
      workdir: path of the run.
      config: its ConfigDict.
      **how: `keep` or `read_only`.
    """
    best = dict(best_metric=config.best_metric, best_mode=config.best_mode)
    return cls(workdir / "checkpoints", **best, **how)

  def _score(self, metrics):
    """The value by which a checkpoint is the best; -inf where the metric is no finite number."""
    value = metrics.get(self._metric)
    known = isinstance(value, int | float) and math.isfinite(value)
    return self._sign * value if known else -math.inf

  def _open(self):
    self._check_metrics()
    with contextlib.nullcontext() if self._options.read_only else self._writing():
      self._manager = ocp.CheckpointManager(self.folder.absolute(), options=self._options)

  def _writing(self):
    return writing(
      f"checkpoints to {self.folder.absolute()}",
      "free some space, check the permissions, or choose another --workdir (complete checkpoints "
      "in it stay as they are)",
    )

  def save(self, step, state, iterator, metrics=None):
    """Starts writing and returns; the state may be donated and the iterator advanced at once.

    Args:
      step: updates done.
      state: TrainState, or any tree of arrays.
      iterator: iterator of the data, or its Position.
      metrics: scalars of the evaluation at this step, or None.

    Raises:
      UserError: the checkpoint before this could not be written.
      NotFinite: its state was not finite, so it was not written.
    """
    self._wait_for_saver()
    what = step, copy(state), Position.of(iterator), metrics
    if self._saver is None:
      self._check_finite(step, state)
      self._save(*what)
    else:
      self._saver.submit(self._save_from_host, *what)

  def evaluated(self, step):
    """Whether a checkpoint has the scalars of an evaluation."""
    return self._manager.metrics(step) is not None

  def add_metrics(self, step, metrics):
    """Gives a checkpoint that was saved before its evaluation the scalars of it."""
    self.wait()
    folder = self.folder / str(step) / "metrics"
    with self._writing():
      hosts.of_first(self._write_metrics, folder, metrics)
      self._manager.close()
    self._open()

  @staticmethod
  def _write_metrics(folder, metrics):
    folder.mkdir(exist_ok=True)
    textfiles.write_json(folder / "metrics", metrics)
    if (folder.parent / checkpoint_files.SUMS).is_file():
      checkpoint_files.write_sums(folder.parent)

  def _save_from_host(self, step, state, *rest):
    # Orbax takes twice the CPU time for arrays on a device, each of which it asks where it lies.
    self._save(step, jax.device_get(state), *rest)

  def _save(self, step, state, position, metrics):
    if self._saver is not None:
      self._check_finite(step, state)
    self._without_sums = step
    items = dict(state=ocp.args.StandardSave(state), data=CheckpointSave(position))
    with self._writing():
      args = ocp.args.Composite(**items)
      self._manager.save(step, args=args, metrics=metrics, force=True)
      if self._saver is not None:  # this is its thread, which may wait
        self._finish()

  def _finish(self):
    """Waits until orbax is ready, and adds the checksums of what it has written."""
    self._manager.wait_until_finished()
    if self._without_sums is not None and jax.process_index() == 0:
      checkpoint_files.write_sums(self.folder / str(self._without_sums))
    self._without_sums = None

  def _check_finite(self, step, state):
    """Raises NotFinite for parameters or running statistics that are; no checkpoint is replaced."""
    checked = {k: x for k, x in by_name(state).items() if not k.startswith("opt_state")}
    for name, finite in all_finite(checked).items():
      if not finite:
        raise NotFinite(
          f"not finite after step {step}: {name}; the checkpoint before it is kept in "
          f"{self.folder}. {NOT_FINITE}"
        )

  def _wait_for_saver(self):
    """Waits until orbax has the state; raises its errors."""
    if self._saver is not None:
      self._saver.wait()
    elif self._without_sums is not None:
      with self._writing():
        self._finish()

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

    There is no best one as long as the metric was not a finite number.

    Raises:
      UserError: a step that is not there.
    """
    steps = self.steps()
    if which == "latest":
      return steps[-1] if steps else None
    if which == "best":
      scores = {s: self._score(self._manager.metrics(s) or {}) for s in steps}
      scored = [s for s in steps if scores[s] > -math.inf]
      return max(scored, key=lambda s: (scores[s], s)) if scored else None
    if str(which).isdigit() and int(which) in steps:
      return int(which)
    have = ", ".join(map(str, steps)) or "none"
    raise UserError(f"no checkpoint {which!r} in {self.folder}; there is 'best', 'latest', {have}")

  def latest_text(self):
    """The checkpoint that a run that ends now keeps, a clause of a message."""
    step = self.step_of("latest")
    return f"the checkpoint of step {step} is kept" if step else "there is no checkpoint yet"

  def restore(self, step, like, iterator=None):
    """Reads a checkpoint.

    Args:
      step: number of an existing checkpoint.
      like: state of arrays or ShapeDtypeStructs with the shapes and shardings to restore to.
      iterator: data iterator to set to its saved position, or None to leave it.

    Returns:
      The state.

    Raises:
      UserError: the checkpoint is damaged, or of another net.
    """
    saved, wanted = (by_name(t) for t in (self._saved_tree(step), like))
    for name in sorted(saved.keys() | wanted.keys()):
      there, here = (
        f"{x[name].dtype}{list(x[name].shape)}" if name in x else "nothing" for x in (saved, wanted)
      )
      if there != here:
        raise UserError(
          f"{self.folder}/{step}: the checkpoint does not fit the model: {name} is {there} there, "
          f"{here} in the model; use the config and the version that it was trained with"
        )
    state = self._read(step, like)
    if iterator is not None:
      try:
        set_position(iterator, self.folder / str(step) / "data")
      except Exception as error:
        raise self._damaged(step, error) from error
    return state

  def restore_arrays(self, step):
    """The state of whatever net, trained on whatever devices, as nested dicts on one device."""
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), self._saved_tree(step)
    )
    return self._read(step, like)

  def _read(self, step, like):
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
    try:
      return self._manager.restore(step, args=args)["state"]
    except Exception as error:
      if (self.folder / str(step) / checkpoint_files.SUMS).is_file():
        raise  # the files are as they were saved, so the fault is ours
      raise self._damaged(step, error) from error

  # -------------------------------------------------------------------------- damage

  def _saved_tree(self, step):
    """Shapes and dtypes of the arrays in a checkpoint whose files are as they were saved."""
    folder = self.folder.absolute() / str(step)
    try:
      hosts.of_first(self._check_files, step)
      with ocp.StandardCheckpointer() as reader:
        return reader.metadata(folder / "state").item_metadata.tree
    except UserError:
      raise
    except Exception as error:
      raise self._damaged(step, error) from error

  def _check_files(self, step):
    try:
      checkpoint_files.check(self.folder.absolute() / str(step))
    except Exception as error:
      raise self._damaged(step, error) from error

  def _check_metrics(self):
    """Raises a UserError where the scalars of a checkpoint's evaluation are damaged."""
    for step in checkpoint_files.steps_in(self.folder):  # not what orbax has left half written
      try:
        checkpoint_files.check_metrics(self.folder / str(step))
      except Exception as error:
        raise self._damaged(step, error) from error

  def _damaged(self, step, error):
    """The UserError for an error in reading a checkpoint."""
    if line := fault_of_machine(error):
      return UserError(line)
    folder = self.folder / str(step)
    if not folder.is_dir():
      return UserError(
        f"{folder}: the checkpoint is no longer there; a training that runs removes older ones. "
        "Start this again"
      )
    names = map(str, checkpoint_files.steps_in(self.folder))
    others = [name for name in names if name != folder.name]
    whole = [name for name in others if checkpoint_files.is_whole(self.folder / name)]
    move = f"move it away (mv {folder} {self.folder.parent}/damaged_{step})"
    use = (
      f"whole are those of steps {', '.join(whole)}: use one of them, or {move} and start the same "
      f"training again, which then resumes from step {whole[-1]}"
      if whole
      else f"there is no whole one; {move} and start the same training again, from the beginning"
    )
    why = " ".join(str(error).split())[:160]
    return UserError(f"{folder}: the checkpoint is damaged ({type(error).__name__}: {why}); {use}")
