"""The training loop: data in, updates, evaluations, checkpoints, numbers and pictures out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from segjax import config as config_lib
from segjax import hosts, models
from segjax.claims import TakenOver
from segjax.data import contents
from segjax.errors import Stopped, UserError
from segjax.stopping import STOP
from segjax.training import (
  class_balance,
  coverage,
  header,
  initial,
  input_pipeline,
  nan_debug,
  preflight,
  receipt,
)
from segjax.training import experiment as experiment_lib
from segjax.training import workdir as workdir_lib
from segjax.training.checkpoints import Checkpoints, NotFinite
from segjax.training.early_stopping import EarlyStopping
from segjax.training.evaluation import step_of_sums
from segjax.training.evaluator import Evaluator
from segjax.training.log import Log
from segjax.training.plan import make_plan
from segjax.training.position import Position
from segjax.training.profiling import Profile
from segjax.training.progress import Progress
from segjax.training.state import TrainState
from segjax.training.writers import Writers, read_metrics

__all__ = ["train"]


def train(  # noqa: PLR0912, PLR0915
  config: ConfigDict,
  workdir: str | os.PathLike,
  profile_steps: Sequence[int] = (),
  before_evaluation: Callable[[], None] | None = None,
  until: int = 0,
) -> TrainState:
  """Trains an experiment, from where the workdir's last checkpoint left off.

  A run is a pure function of its config: killed anywhere and started again with the same
  workdir, it ends with the same parameters, bit for bit. After an error and after a first Ctrl-C
  or SIGTERM the state of the last step is saved, if it is finite; a second Ctrl-C ends at once.

  Args:
    config: ConfigDict with the fields of `segjax.config.default`.
    workdir: folder of the run, made if need be.
    profile_steps: first and last step of a trace in `workdir/profile`, or none, see
      `segjax.training.profiling`.
    before_evaluation: called without arguments before each evaluation, when the steps so far are
      done; the rates of images leave its time out.
    until: step after which this call evaluates, saves and ends, within a longer training; 0: none.

  Returns:
    The final TrainState.

  Raises:
    UserError: anything the user can mend; see the message.
    Stopped: after SIGTERM or Ctrl-C, when everything is saved.
  """
  workdir = Path(workdir)

  # ---------------------------------------------------------------------- data
  preflight.check_config(config)
  train_source = input_pipeline.make_source(config, "train", training=True)
  val_source = input_pipeline.make_source(config, "val")
  labels = train_source.source.labels
  on_device = input_pipeline.is_on_device(config, train_source)
  per_call = input_pipeline.steps_per_dispatch(config, on_device)
  iterator = input_pipeline.train_iterator(config, train_source, on_device)
  steps_per_epoch = len(train_source) // config.data.batch_size
  plan = make_plan(config, steps_per_epoch, until)

  # ---------------------------------------------------------------------- model, optimiser, state
  rule = class_balance.rule(config.loss)
  class_weights = hosts.of_first(workdir_lib.kept_class_weights, rule, workdir, labels)
  if class_weights is None and rule:
    class_weights = hosts.of_first(class_balance.count, config, train_source.source)
  experiment = experiment_lib.build(config, labels, steps_per_epoch, class_weights)
  task, mesh = experiment.task, experiment.mesh
  preflight.check_experiment(experiment, val_source[0]["label"])
  abstract, eval_step = experiment.abstract_state(), experiment.eval_step()

  with _closing_all() as stack:
    opened = lambda part: stack.enter_context(contextlib.closing(part))  # noqa: E731

    # -------------------------------------------------------------------- workdir and restore
    hosts.of_first(workdir_lib.check_apart, workdir, train_source)
    held = []  # by process 0
    hosts.of_first(lambda: held.append(stack.enter_context(workdir_lib.locked(workdir))))
    fingerprint = workdir_lib.fingerprint(train_source, val_source, config.init_from)
    workdir_lib.check_processes(config, fingerprint)
    of_run = labels, fingerprint, _megabytes(abstract) * 4, getattr(task, "class_weights", ())
    hosts.of_first(workdir_lib.prepare, config, workdir, *of_run)
    checkpoints = opened(Checkpoints.of_run(workdir, config, keep=plan.keep))
    first = hosts.of_first(checkpoints.step_of, "latest") or 0
    profile = Profile(profile_steps, workdir / "profile", done=first, total=plan.total)
    report, warnings, counted = None, [], True
    sources = train_source.source, val_source.source
    if first:
      state = checkpoints.restore(first, abstract, iterator)
    else:
      warnings, counted = hosts.of_first(coverage.at_start, config, *sources, task.label_kind)
      warnings += preflight.directions(config) + preflight.without_effect(config)
      state, report = experiment.init()
      classes = initial.compare_classes(config.init_from, config.init_part, labels, task)
      report = "\n".join(filter(None, (report and str(report), classes)))
    rows = hosts.of_first(read_metrics, workdir / "metrics.jsonl") if first else []
    rows = [r for r in rows if r["step"] <= first]
    writers = opened(Writers(config.writers, workdir, first_step=first))
    info = _info(state, plan, steps_per_epoch, train_source, val_source)
    if first and not rows:
      warnings.append("metrics.jsonl has no rows: those of the steps before are lost")
    header.print_header(
      experiment,
      workdir=workdir,
      info=info,
      params=state.params,
      data_on_device=on_device,
      notes=contents.notes_of(*sources),
      resumed=first,
      warnings=warnings,
      report=report,
    )
    if not any("info/steps_per_epoch" in r for r in rows):  # reports need them
      metrics = tuple(dict.fromkeys((config.best_metric, "val/loss")))
      writers.hparams(config_lib.flatten(config) | info, metrics)
      writers.scalars(first, {f"info/{k}": float(v) for k, v in info.items()})

    # -------------------------------------------------------------------- steps
    minutes = max((r.get("time/minutes", 0.0) for r in rows), default=0.0)
    progress = Progress(plan.total, first, steps_per_epoch, config.data.batch_size, minutes)
    shown = dict(writers=writers, progress=progress)
    log = Log(task, experiment.schedule, every=plan.log_every, checkpoints=checkpoints, **shown)
    evaluator = opened(Evaluator(experiment, eval_step, val_source, workdir, counted, **shown))
    stops = EarlyStopping.of(config, rows)
    if first and plan.evaluates(first):
      ended = first >= plan.total or stops.done
      again = _evaluate_again(state, first, ended, rows, workdir, checkpoints, evaluator)
      stops = EarlyStopping.of(config, [*rows, dict(again, step=first)]) if again else stops
    if first >= plan.total or stops.done:
      _finish_writing(checkpoints, evaluator, progress)
      why = f" ({stops.text()})" if stops.done else ""
      print(f"{workdir}: the run is already at step {first}; nothing left to train{why}")
      return state
    hosts.of_first(receipt.write, workdir, config, fingerprint, first)
    progress.print("  compiling   the first step; at the first start that takes half a minute")
    train_steps = {1: experiment.train_step(on_device)}
    if config.nan_debug:
      train_steps[1] = nan_debug.watched(train_steps[1], task, workdir)
    if per_call > 1:
      train_steps[per_call] = experiment.train_step(on_device, multi_step=True)
    split = ()
    if on_device:
      split = (input_pipeline.put_split(train_source, mesh, config.data.threads),)

    # -------------------------------------------------------------------- loop
    step, position, signalled = first, Position.of(iterator), hosts.stops(STOP)
    with STOP.patiently(but=hosts.of_jax()) as stop, profile:
      try:
        while step < plan.total and not stops.done:
          profile.before(step + 1, state)
          count = per_call if step + per_call <= plan.next_event(step, profile.steps) else 1
          batch = input_pipeline.next_batch(iterator, count, mesh)
          state, sums = train_steps[count](state, *split, batch)
          step, position = step + count, Position.of(iterator)
          profile.after(step, state)
          log.add(step, count, sums)
          stop.check()
          stopping = signalled()  # asked once: one that comes from here on is for the next step
          if plan.saves(step) or stopping:
            for claim in held:
              claim.check()
            log.write()
            metrics = None
            if plan.evaluates(step):
              if before_evaluation is not None:
                before_evaluation()
              metrics = evaluator.run(state, step)
              stops.add(step, metrics)
              progress.skip_time()
            for claim in held:
              claim.check()
            checkpoints.save(step, state, position, metrics)
          if stopping and step < plan.total:
            _finish_writing(checkpoints, evaluator, progress)
            raise Stopped(stopping, step)
        _finish_writing(checkpoints, evaluator, progress)
        if stops.done:
          print(f"  stopped     early: {stops.text()}")
        header.print_summary(
          task, evaluator.sums, progress.minutes(), config.best_metric, checkpoints
        )
      except Exception as error:
        alone = jax.process_count() == 1  # others may not have come to this error
        if step > first and alone and not isinstance(error, Stopped | NotFinite | TakenOver):
          _rescue(step, state, position, log, checkpoints, progress, held)
        raise
    if stop.signal:  # during the last step: no step is left, but the work after it must not begin
      raise Stopped(stop.signal, step)
  return state


@contextlib.contextmanager
def _closing_all():
  """An ExitStack; after an error, errors in closing are dropped: the first one counts.

  After an error that others of several processes may not have nothing is closed, as that would wait
  for them.
  """
  with contextlib.ExitStack() as stack:
    try:
      yield stack
    except BaseException as error:
      if jax.process_count() > 1 and not getattr(error, "of_all", False):
        stack.pop_all()
        raise
      with contextlib.suppress(Exception):
        stack.close()
      raise


def _evaluate_again(state, step, ended, rows, workdir, checkpoints, evaluator):
  """Evaluates a restored state where its evaluation failed, or its files were lost.

  Args:
    ended: whether the training is over, whose sums must then be there.

  Returns:
    The scalars, or None where nothing was missing.
  """
  done = checkpoints.evaluated(step)
  whole = not ended or hosts.of_first(step_of_sums, workdir) == step
  if done and whole and any(r["step"] == step and "val/loss" in r for r in rows):
    return None
  metrics = evaluator.run(state, step)
  if not done:
    checkpoints.add_metrics(step, metrics)
  return metrics


def _rescue(step, state, position, log, checkpoints, progress, held):
  """Saves the state of the last step after an error, unless it is saved, or not finite."""
  done = f"the state of step {step}"
  with contextlib.suppress(Exception):  # a pipe that is closed, perhaps
    try:
      with contextlib.suppress(UserError):  # of a save before, which is the error itself
        checkpoints.wait()
      for claim in held:
        claim.check()
      if step not in checkpoints.steps():
        log.check()
        checkpoints.save(step, state, position)
        checkpoints.wait()
    except Exception as error:
      why = str(error).split("\n")[0][:200]
      kept = checkpoints.latest_text()
      progress.print(f"  warning     {done} could not be saved ({why}); {kept}")
    else:
      progress.print(f"  saved       {done}; the same command resumes from it")


def _finish_writing(checkpoints, evaluator, progress):
  """Waits until checkpoints and pictures are written, and ends the bar."""
  checkpoints.wait()
  evaluator.wait()
  progress.close()


def _info(state, plan, steps_per_epoch, train_source, val_source):
  """The figures of a run that its header and its first row have."""
  count = models.count_params(state.params)
  return dict(
    parameters=count,
    parameters_mb=count * 4 / 1e6,
    steps_per_epoch=steps_per_epoch,
    total_steps=plan.total,
    train_examples=len(train_source),
    val_examples=len(val_source),
  )


def _megabytes(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e6
