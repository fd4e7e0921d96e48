"""The training loop: data in, updates, evaluations, checkpoints, numbers and pictures out."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np

from segjax import config as config_lib
from segjax import models
from segjax.data import pipeline
from segjax.errors import Stopped, UserError
from segjax.pictures import panel, spread
from segjax.training import experiment as experiment_lib
from segjax.training import feeding, steps
from segjax.training import workdir as workdir_lib
from segjax.training.background import Background
from segjax.training.checkpoints import Checkpoints
from segjax.training.evaluation import add_sums, evaluate, example_panels
from segjax.training.profiling import Profile
from segjax.training.progress import Progress
from segjax.training.writers import Writers, read_metrics


def train(config, workdir, profile_steps=(), before_evaluation=None):
  """Trains an experiment, from where the workdir's last checkpoint left off.

  A run is a pure function of its config: killed anywhere and started again with the same
  workdir, it ends with the same parameters, bit for bit.

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
  try:
    return run.loop()
  except OSError as error:
    raise UserError(f"cannot write to {workdir.absolute()}: {error}") from error
  finally:
    run.close()


class _Run:
  """One call of `train`: the parts that the loop's steps share."""

  def __init__(self, config, workdir, profile_steps, before_evaluation):
    self.config, self.workdir = config, workdir
    self.before_evaluation = before_evaluation
    for name, least in (("log_steps", 1), ("data.batch_size", 1), ("data.threads", 0)):
      value = config_lib.flatten(config)[name]
      if value < least:
        raise UserError(f"{name} is {value}, expected at least {least}")
    steps.check_batch_size(config.data.batch_size, steps.make_mesh())
    self.train_source = feeding.make_source(config, "train", training=True)
    self.val_source = feeding.make_source(config, "val")
    labels = self.train_source.source.labels
    self.steps_per_epoch = max(len(self.train_source) // config.data.batch_size, 1)
    self.experiment = experiment_lib.build(config, labels, self.steps_per_epoch)

    def every(name, required=False):
      return config_lib.duration(config, name, self.steps_per_epoch, required=required)

    self.total = every("total", required=True)
    self.eval_every, self.save_every = every("eval", required=True), every("checkpoint")
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
    abstract = self.experiment.abstract_state()
    self.eval_step = self.experiment.eval_step()
    self._check_metric(abstract)
    data = workdir_lib.fingerprint(self.train_source, self.val_source, config.init_from)
    workdir_lib.prepare(config, workdir, labels, data, _megabytes(abstract) * 4)
    self.keep = config_lib.kept_steps(config, self.steps_per_epoch)
    best = dict(best_metric=config.best_metric, best_mode=config.best_mode)
    self.checkpoints = Checkpoints(workdir / "checkpoints", keep=self.keep, **best)
    self.first = self.checkpoints.step_of("latest") or 0
    trace = workdir / "profile"
    self.profile = Profile(profile_steps, trace, done=self.first, total=self.total)
    self.report = None
    if self.first:
      self.state = self.checkpoints.restore(self.first, abstract, self.iterator)
    else:
      self.state, self.report = self.experiment.init()
    rows = [r for r in read_metrics(workdir / "metrics.jsonl") if r["step"] <= self.first]
    self.has_rows = bool(rows)
    self.minutes_before = max((r.get("time/minutes", 0.0) for r in rows), default=0.0)
    self.writers = Writers(config.writers, workdir, first_step=self.first)
    self.painter = Background("pictures")
    self.pending = []  # (last step, steps, sums on the device) of a call, not fetched yet
    self.predict_step = self.experiment.predict_step()
    self.learning_rate = jax.jit(self.experiment.schedule)  # or each operation is compiled
    self.sums = None

  def loop(self):
    """Trains to the end; see `train`."""
    self._announce()
    if self.first >= self.total:
      print(f"{self.workdir}: the run is already at step {self.first}; nothing left to train")
      return self.state
    train_steps, data = {1: self.experiment.train_step(self.resident)}, ()
    if self.several > 1:
      train_steps[self.several] = self.experiment.train_step(self.resident, several=True)
    if self.resident:
      threads = self.config.data.threads
      data = (feeding.put_split(self.train_source, self.experiment.mesh, threads),)
    self.progress = Progress(
      self.total, self.first, self.steps_per_epoch, self.config.data.batch_size
    )
    self.started = time.perf_counter()
    with _StopSignals() as stop, self.profile as profile:
      step = self.first
      while step < self.total:
        profile.before(step + 1, self.state)
        count = self.several if step + self.several <= self._next_event(step) else 1
        batch = self._next_batch(count)
        self.state, sums = train_steps[count](self.state, *data, batch)
        step += count
        self.pending.append((step, count, sums))
        profile.after(step, self.state)
        self._after_step(step, stop)
    self._finish_writing()
    self._say_summary()
    if stop.signal:  # during the last step: nothing is left, but what comes after must not begin
      raise Stopped(stop.signal, step)
    return self.state

  def _next_event(self, step):
    """The next step after which something is due; no call goes beyond it."""
    every = [n for n in (self.eval_every, self.save_every, self.config.log_steps) if n]
    fixed = [k for k in (*self.keep, *self.profile.steps, self.total) if k > step]
    return min([*(step - step % n + n for n in every), *fixed])

  def _next_batch(self, count):
    batches = [next(self.iterator) for _ in range(count)]
    if count == 1:
      return steps.put_batch(batches[0], self.experiment.mesh)
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    return steps.put_batch(stacked, self.experiment.mesh, stacked=True)

  def _after_step(self, step, stop):
    stopping = stop.signal  # read once: one that comes from here on is for the next step
    evaluate = step % self.eval_every == 0 or step == self.total
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
      self.checkpoints.save(step, self.state, self.iterator, metrics)
    if stopping and step < self.total:
      self._finish_writing()
      raise Stopped(stopping, step)

  def _log(self, keep):
    """Fetches the sums of all but the newest `keep` calls and writes a row of their means."""
    count = len(self.pending) - keep
    if count <= 0:
      return
    ready, self.pending = jax.device_get(self.pending[:count]), self.pending[count:]
    task, window, norms = self.experiment.task, None, []
    for step, sums in _by_step(ready):
      norm = float(sums.pop("grad_norm"))
      loss = float(task.loss(sums))
      if not (math.isfinite(loss) and math.isfinite(norm)):
        raise UserError(self._not_finite(step, loss, norm))
      norms.append(norm)
      window = add_sums(window, sums)
    summary = task.summary(window)
    self.progress.update(step, summary["loss"])
    row = task.row(summary)
    row |= dict(grad_norm=float(np.mean(norms)), steps=len(norms))
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
      f"{self.workdir / 'checkpoints'}. A smaller schedule.learning_rate, a warm-up or "
      "optimizer.clip_norm=1 usually helps"
    )

  def _minutes(self):
    return self.minutes_before + (time.perf_counter() - self.started) / 60

  def _evaluate(self, step):
    exp = self.experiment
    batches = feeding.eval_batches(self.config, self.val_source)
    self.sums = evaluate(self.eval_step, self.state, batches, exp.mesh)
    np.savez(self.workdir / "val_sums.npz", step=step, **self.sums)
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

  def _check_metric(self, state):
    """Raises a UserError where an evaluation does not measure `config.best_metric`."""
    c, example = self.config, self.val_source[0]["label"]
    shape = (c.data.batch_size, *c.data.size)
    label = (*shape, *example.shape[2:]) if example.ndim >= 2 else shape[:1]
    batch = dict(
      image=jax.ShapeDtypeStruct((*shape, 3), np.uint8),
      label=jax.ShapeDtypeStruct(label, np.uint8),
      mask=jax.ShapeDtypeStruct(shape[:1], bool),
    )
    try:
      sums = jax.eval_shape(self.eval_step, state, batch)
    except UserError:
      raise
    except (TypeError, ValueError) as error:
      raise UserError(
        f"the model {c.model.name!r} does not fit the task {c.task.name!r}: "
        f"{str(error).splitlines()[0]}"
      ) from error
    nothing = {k: np.zeros(x.shape, x.dtype) for k, x in sums.items()}
    known = [f"val/{k}" for k in self.experiment.task.summary(nothing)]
    if c.best_metric not in known:
      raise UserError(f"best_metric {c.best_metric!r} is not measured; there is {', '.join(known)}")

  def _announce(self):
    exp, c = self.experiment, self.config
    count = models.count_params(self.state.params)
    info = dict(
      parameters=count,
      parameters_mb=count * 4 / 1e6,
      steps_per_epoch=self.steps_per_epoch,
      total_steps=self.total,
      train_examples=len(self.train_source),
      val_examples=len(self.val_source),
    )
    device = exp.mesh.devices.flat[0]
    print(f"{c.name} in {self.workdir}")
    print(f"  model       {c.model.name}: {count:,} parameters, {count * 4 / 1e6:.2f} MB")
    size = f"{c.data.size[0]}x{c.data.size[1]}"
    fit = f"random crops of {size}" if c.data.fit == "crop" else f"at {size}"
    how = dict(native="at their own sizes", crop="on their middle", resize="resized")
    if (c.data.fit, c.data.eval_fit) != ("resize", "resize"):
      fit += f", evaluated {how[c.data.eval_fit]}"
    print(
      f"  data        {c.data.source.name}: {len(self.train_source)} train and "
      f"{len(self.val_source)} val examples {fit}, classes {', '.join(exp.labels.names)}"
    )
    where = "kept on the device" if self.resident else "sent by the host"
    print(f"  feeding     {where} (data.feed={c.data.feed!r})")
    print(
      f"  steps       {self.steps_per_epoch} an epoch at batch {c.data.batch_size}, "
      f"{self.total} in all"
    )
    print(f"  devices     {exp.mesh.size} x {device.device_kind}")
    if exp.frozen:
      flat = flax.traverse_util.flatten_dict(self.state.params, sep="/")
      held = sum(flat[n].size for n in exp.frozen)
      print(f"  frozen      {held:,} of them, found by {c.freeze!r}")
    if self.report is not None:
      print(f"  initial     {c.init_from}: " + str(self.report).replace("\n", "\n" + " " * 14))
    if self.first:
      print(f"  resumes     from the checkpoint of step {self.first}", flush=True)
      if not self.has_rows:
        print(
          "  warning     metrics.jsonl has no rows: those of the steps before are lost", flush=True
        )
    if not self.has_rows:  # of a new run, or of one whose file was lost: reports need them
      self.writers.hparams(config_lib.flatten(c) | info)
      self.writers.scalars(self.first, {f"info/{k}": float(v) for k, v in info.items()})

  def _say_summary(self):
    task = self.experiment.task
    best = self.checkpoints.step_of("best")
    print(task.table(self.sums))
    kept = f"best {self.config.best_metric} at step {best}, kept with the latest"
    print(f"  trained for {self._minutes():.1f} minutes; {kept} in {self.workdir / 'checkpoints'}")

  def close(self):
    """Closes files and background threads."""
    self.painter.close()
    try:
      self.checkpoints.close()
    finally:
      self.writers.close()


def _by_step(calls):
  """(step, sums) of every step of some calls."""
  for last, count, sums in calls:
    for i in range(count):
      yield last - count + 1 + i, sums if count == 1 else {k: v[i] for k, v in sums.items()}


def _megabytes(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 1e6


class _StopSignals:
  """Notes SIGTERM and Ctrl-C in `signal`; a second Ctrl-C interrupts at once."""

  def __enter__(self):
    self.signal = 0
    self._old = {}
    try:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._note)
    except ValueError:  # not the main thread: signals are somebody else's
      pass
    return self

  def _note(self, number, _):
    if self.signal:
      raise KeyboardInterrupt
    self.signal = number
    print("stopping after this step; once more to stop at once", flush=True)

  def __exit__(self, *_):
    for number, handler in self._old.items():
      signal.signal(number, handler)
