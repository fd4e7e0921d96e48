"""The training loop: data in, updates, evaluations, checkpoints, numbers and pictures out."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import jax
import numpy as np

from segjax import config as config_lib
from segjax import models, ranges
from segjax.data import pipeline
from segjax.errors import Stopped, UserError
from segjax.pictures import panel, spread
from segjax.stopping import STOP
from segjax.training import coverage, feeding, header, initial, preflight, steps
from segjax.training import experiment as experiment_lib
from segjax.training import workdir as workdir_lib
from segjax.training.background import Background
from segjax.training.checkpoints import NOT_FINITE, Checkpoints, NotFinite, Position
from segjax.training.evaluation import (
  add_sums,
  evaluate,
  example_panels,
  read_sums,
  write_sums,
)
from segjax.training.profiling import Profile
from segjax.training.progress import Progress
from segjax.training.writers import Writers, read_metrics


def train(config, workdir, profile_steps=(), before_evaluation=None):
  """Trains an experiment, from where the workdir's last checkpoint left off.

  A run is a pure function of its config: killed anywhere and started again with the same
  workdir, it ends with the same parameters, bit for bit. Whatever ends it early, the state of the
  last step is saved before the error is raised, if it can be.

  Args:
    config: ConfigDict with the fields of `segjax.config.default`.
    workdir: folder of the run, made if need be.
    profile_steps: first and last step of a trace in `workdir/profile`, or none, see
      `segjax.training.profiling`.
    before_evaluation: called without arguments before each evaluation, when the steps so far are
      done; the rates of images leave its time out.

  Returns:
    The final TrainState.

  Raises:
    UserError: anything the user can mend; see the message.
    Stopped: after SIGTERM or Ctrl-C, when everything is saved.
  """
  workdir = Path(workdir)
  run = _Run(config, workdir, profile_steps, before_evaluation)
  first = jax.process_index() == 0
  with workdir_lib.locked(workdir) if first else contextlib.nullcontext():
    try:
      run.open()
      state = run.loop()
    except BaseException:
      with contextlib.suppress(Exception):  # the first error counts
        run.close()
      raise
    run.close()
  return state


class _Run:
  """One call of `train`: the parts that the loop's steps share."""

  def __init__(self, config, workdir, profile_steps, before_evaluation):
    """Checks the config and builds the parts that write nothing."""
    self.config, self.workdir = config, workdir
    self.before_evaluation = before_evaluation
    ranges.check(config)
    config_lib.check(config)
    steps.check_batch_size(config.data.batch_size, steps.make_mesh())
    self.train_source = feeding.make_source(config, "train", training=True)
    self.val_source = feeding.make_source(config, "val")
    labels = self.train_source.source.labels
    self.steps_per_epoch = max(len(self.train_source) // config.data.batch_size, 1)
    self.experiment = experiment_lib.build(config, labels, self.steps_per_epoch)
    preflight.check_labels(labels, self.experiment.task)

    def every(name, required=False):
      return config_lib.duration(config, name, self.steps_per_epoch, required=required)

    self.total = every("total", required=True)
    self.eval_every, self.save_every = every("eval", required=True), every("checkpoint")
    self.keep = config_lib.kept_steps(config, self.steps_per_epoch)
    self.resident = feeding.is_resident(config, self.train_source)
    self.several = feeding.steps_per_dispatch(config, self.resident)
    self.iterator = pipeline.train_iterator(
      self.train_source,
      batch_size=config.data.batch_size,
      seed=config.seed,
      crop=config.data.size if config.data.fit == "crop" else None,
      indices_only=self.resident,
      num_threads=config.data.threads,
      num_workers=config.data.workers,
      **feeding.processes(),
    )
    self.abstract = self.experiment.abstract_state()
    preflight.check_outputs(self.experiment, self.abstract)
    self.eval_step, self.predict_step = self.experiment.eval_step(), self.experiment.predict_step()
    example = self.val_source[0]["label"]
    preflight.check_metric(self.experiment, self.abstract, self.eval_step, example)
    self.profile_steps = profile_steps
    self.painter = self.checkpoints = self.writers = None
    self.pending = []  # (last step, steps, sums on the device) of a call, not fetched yet
    self.learning_rate = jax.jit(self.experiment.schedule)  # or each operation is compiled
    self.sums = None

  def open(self):
    """Prepares the folder, restores the state or makes a new one, opens what is written."""
    config, workdir = self.config, self.workdir
    labels = self.train_source.source.labels
    data = workdir_lib.fingerprint(self.train_source, self.val_source, config.init_from)
    workdir_lib.prepare(config, workdir, labels, data, _megabytes(self.abstract) * 4)
    best = dict(best_metric=config.best_metric, best_mode=config.best_mode)
    self.checkpoints = Checkpoints(workdir / "checkpoints", keep=self.keep, **best)
    self.first = self.checkpoints.step_of("latest") or 0
    trace = workdir / "profile"
    self.profile = Profile(self.profile_steps, trace, done=self.first, total=self.total)
    self.report, self.counted, warnings = None, bool(self.first), []
    if self.first:
      self.state = self.checkpoints.restore(self.first, self.abstract, self.iterator)
    else:
      warnings += self._check_labels()
      self.state, report = self.experiment.init()
      other = initial.compare_classes(
        config.init_from, config.init_part, labels, self.experiment.task
      )
      self.report = "\n".join(filter(None, (report and str(report), other)))
    rows = read_metrics(workdir / "metrics.jsonl") if self.first else []
    rows = [r for r in rows if r["step"] <= self.first]
    self.has_rows = bool(rows)
    self.has_info = any("info/steps_per_epoch" in r for r in rows)
    self.has_evaluation = any(r["step"] == self.first and "val/loss" in r for r in rows)
    self.minutes_before = max((r.get("time/minutes", 0.0) for r in rows), default=0.0)
    self.writers = Writers(config.writers, workdir, first_step=self.first)
    self.painter = Background("pictures")
    self.step, self.position = self.first, Position.of(self.iterator)
    self._announce(warnings)

  def _check_labels(self):
    """Warnings about what the splits lack; an error where a split has nothing to score."""
    sources = dict(train=self.train_source.source, val=self.val_source.source)
    needs, warnings = self.experiment.task.needs, []
    for split, source in sources.items():
      found, self.counted = coverage.count(self.config, split, source, needs)
      warnings += found
    return warnings + coverage.crops(self.config, *sources.values())

  def loop(self):
    """Trains to the end; see `train`."""
    self.started = time.perf_counter()
    self.progress = Progress(
      self.total, self.first, self.steps_per_epoch, self.config.data.batch_size
    )
    if self.first and self._evaluates(self.first):
      self._evaluate_again()
    if self.first >= self.total:
      self._finish_writing()
      print(f"{self.workdir}: the run is already at step {self.first}; nothing left to train")
      return self.state
    self.progress.say("  compiling   the first step; at the first start that takes half a minute")
    with STOP.patiently() as stop, self.profile as profile:
      try:
        self._train(stop, profile)
        self._finish_writing()
        self._say_summary()
      except Exception as error:
        if not isinstance(error, Stopped | NotFinite):
          self._rescue()
        raise
    if stop.signal:  # during the last step: nothing is left, but what comes after must not begin
      raise Stopped(stop.signal, self.step)
    return self.state

  def _evaluate_again(self):
    """Evaluates the restored state where its evaluation failed, or what it wrote was lost."""
    done = self.checkpoints.evaluated(self.first)
    whole = self.first < self.total or _step_of_sums(self.workdir) == self.first
    if not (done and whole and self.has_evaluation):
      metrics = self._evaluate(self.first)
      if not done:
        self.checkpoints.add_metrics(self.first, metrics)

  def _train(self, stop, profile):
    train_steps, data = {1: self.experiment.train_step(self.resident)}, ()
    if self.several > 1:
      train_steps[self.several] = self.experiment.train_step(self.resident, several=True)
    if self.resident:
      threads = self.config.data.threads
      data = (feeding.put_split(self.train_source, self.experiment.mesh, threads),)
    while self.step < self.total:
      step = self.step
      profile.before(step + 1, self.state)
      count = self.several if step + self.several <= self._next_event(step) else 1
      batch = self._next_batch(count)
      self.state, sums = train_steps[count](self.state, *data, batch)
      self.step, self.position = step + count, Position.of(self.iterator)
      self.pending.append((self.step, count, sums))
      profile.after(self.step, self.state)
      self._after_step(self.step, stop)

  def _rescue(self):
    """Saves the state of the last step after an error, unless it is saved, or not finite."""
    if self.step == self.first:
      return
    done = f"the state of step {self.step}"
    with contextlib.suppress(Exception):  # a pipe that is closed, perhaps
      try:
        with contextlib.suppress(UserError):  # of a save before, told by the error itself
          self.checkpoints.wait()
        if self.step not in self.checkpoints.steps():
          self._fetch(keep=0)
          self.checkpoints.save(self.step, self.state, self.position)
          self.checkpoints.wait()
      except Exception as error:
        good = self.checkpoints.step_of("latest")
        kept = f"the checkpoint of step {good} is kept" if good else "there is no checkpoint yet"
        why = str(error).split("\n")[0][:200]
        self.progress.say(f"  warning     {done} could not be saved ({why}); {kept}")
      else:
        self.progress.say(f"  saved       {done}; the same command resumes from it")

  def _next_event(self, step):
    """The next step after which something is due; no call goes beyond it."""
    every = [n for n in (self.eval_every, self.save_every, self.config.log_steps) if n]
    fixed = [k for k in (*self.keep, *self.profile.steps, self.total) if k > step]
    return min([*(step - step % n + n for n in every), *fixed])

  def _next_batch(self, count):
    try:
      batches = self._draw(count)
    except RuntimeError as error:
      if "Worker process was terminated" not in str(error):
        raise
      raise UserError(
        f"a process that reads data has ended ({error}); it may have run out of memory: lower "
        "data.workers, data.cache_mb or data.batch_size"
      ) from error
    if count == 1:
      return steps.put_batch(batches[0], self.experiment.mesh)
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    return steps.put_batch(stacked, self.experiment.mesh, stacked=True)

  def _draw(self, count):
    return [next(self.iterator) for _ in range(count)]

  def _evaluates(self, step):
    return step % self.eval_every == 0 or step == self.total

  def _after_step(self, step, stop):
    stop.check()
    stopping = stop.signal  # read once: one that comes from here on is for the next step
    evaluate = self._evaluates(step)
    save = evaluate or (self.save_every and step % self.save_every == 0) or step in self.keep
    save = save or stopping
    if save:
      self._log(keep=0)
    elif step % self.config.log_steps == 0:
      self._log(keep=1)  # the newest call is still running
    metrics = None
    if evaluate:
      if self.before_evaluation is not None:
        self.before_evaluation()
      metrics = self._evaluate(step)
      self.progress.skip_time()
    if save:
      self.checkpoints.save(step, self.state, self.position, metrics)
    if stopping and step < self.total:
      self._finish_writing()
      raise Stopped(stopping, step)

  def _fetch(self, keep):
    """[(step, sums, gradient norm)] of all but the newest `keep` calls; raises NotFinite."""
    count = max(len(self.pending) - keep, 0)
    ready, self.pending = jax.device_get(self.pending[:count]), self.pending[count:]
    out = []
    for step, sums in _by_step(ready):
      norm = float(sums.pop("grad_norm"))
      loss = float(self.experiment.task.loss(sums))
      if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(self._not_finite(step, loss, norm))
      out.append((step, sums, norm))
    return out

  def _log(self, keep):
    """Writes a row of the means of all but the newest `keep` calls."""
    fetched = self._fetch(keep)
    if not fetched:
      return
    task, window, step = self.experiment.task, None, fetched[-1][0]
    for _, sums, _ in fetched:
      window = add_sums(window, sums)
    summary = task.summary(window)
    self.progress.update(step, summary["loss"])
    row = task.row(summary)
    row |= dict(grad_norm=float(np.mean([norm for *_, norm in fetched])), steps=len(fetched))
    row["learning_rate"] = float(self.learning_rate(step - 1))
    values = {f"train/{k}": v for k, v in row.items()}
    values["time/images_per_s"] = self.progress.images_per_second
    values["time/minutes"] = self._minutes()
    self.writers.scalars(step, values)

  def _not_finite(self, step, loss, norm):
    good = self.checkpoints.step_of("latest")
    kept = f"the checkpoint of step {good} is kept" if good else "there is no checkpoint yet"
    return (
      f"not finite at step {step}: loss {loss}, gradient norm {norm}; {kept} in "
      f"{self.workdir / 'checkpoints'}. {NOT_FINITE}"
    )

  def _minutes(self):
    return self.minutes_before + (time.perf_counter() - self.started) / 60

  def _evaluate(self, step):
    exp = self.experiment
    batches = feeding.eval_batches(self.config, self.val_source)
    self.sums = evaluate(self.eval_step, self.state, batches, exp.mesh)
    write_sums(self.workdir, step, self.sums)
    if not self.counted:
      self.counted = True
      for warning in coverage.of_sums("val", exp.labels.names, self.sums):
        self.progress.say(f"  warning: {warning}")
    summary = exp.task.summary(self.sums)
    metrics = {f"val/{k}": v for k, v in summary.items()}
    self.writers.scalars(step, metrics | {"time/minutes": self._minutes()})
    if self.config.pictures:
      self._paint(step)
    text = "  ".join(f"{k} {v:.4f}" for k, v in exp.task.line(summary).items())
    self.progress.say(f"  val  step {step}  {text}")
    if exp.task.warning(summary):
      self.progress.say(f"  warning: {exp.task.warning(summary)}")
    return metrics

  def _paint(self, step):
    """Predicts fixed validation examples; they are drawn and written while training goes on."""
    chosen = spread(len(self.val_source), self.config.pictures)
    examples = [self.val_source[i] for i in chosen]
    outputs = [self.predict_step(self.state, e["image"][None]) for e in examples]
    jax.block_until_ready(outputs)  # as the rest of an evaluation, in no step's time
    self.painter.wait()
    names = [self.val_source.source.names[i] for i in chosen]
    self.painter.submit(self._write_panel, step, names, examples, outputs)

  def _write_panel(self, step, names, examples, outputs):
    rows = []
    for name, example, output in zip(names, examples, outputs, strict=True):
      first, *row = example_panels(self.experiment.task, output, example)
      rows.append([(f"{name}, step {step}", first[1]), *row])
    self.writers.images(step, {"val/examples": panel(rows)})

  def _finish_writing(self):
    self.checkpoints.wait()
    self.painter.wait()
    self.progress.close()

  def _announce(self, warnings):
    exp = self.experiment
    count = models.count_params(self.state.params)
    info = dict(
      parameters=count,
      parameters_mb=count * 4 / 1e6,
      steps_per_epoch=self.steps_per_epoch,
      total_steps=self.total,
      train_examples=len(self.train_source),
      val_examples=len(self.val_source),
    )
    if self.first and not self.has_rows:
      warnings = [*warnings, "metrics.jsonl has no rows: those of the steps before are lost"]
    header.show(
      exp,
      workdir=self.workdir,
      info=info,
      params=self.state.params,
      resident=self.resident,
      notes=header.notes_of(self.train_source.source, self.val_source.source),
      resumed=self.first,
      warnings=warnings,
      report=self.report,
    )
    if not self.has_info:  # of a new run, or of one whose file was lost: reports need them
      self.writers.hparams(config_lib.flatten(self.config) | info)
      self.writers.scalars(self.first, {f"info/{k}": float(v) for k, v in info.items()})

  def _say_summary(self):
    task, metric = self.experiment.task, self.config.best_metric
    best = self.checkpoints.step_of("best")
    print(task.table(self.sums))
    kept = f"best {metric} at step {best}, kept with the latest"
    if best is None:
      kept = f"no best checkpoint, as {metric} was never a number; the latest is kept"
    print(f"  trained for {self._minutes():.1f} minutes; {kept} in {self.workdir / 'checkpoints'}")

  def close(self):
    """Closes files and background threads; those that were opened."""
    with contextlib.ExitStack() as stack:
      for part in (self.writers, self.checkpoints, self.painter):  # from the last to the first
        if part is not None:
          stack.callback(part.close)


def _step_of_sums(workdir):
  """The step of the last evaluation's sums, or None where they cannot be read."""
  try:
    return int(read_sums(workdir)["step"])
  except UserError:
    return None


def _by_step(calls):
  """(step, sums) of every step of some calls."""
  for last, count, sums in calls:
    for i in range(count):
      yield last - count + 1 + i, sums if count == 1 else {k: v[i] for k, v in sums.items()}


def _megabytes(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e6
