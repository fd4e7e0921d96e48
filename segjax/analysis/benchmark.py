"""How fast an experiment's steps are, on data that is drawn at random, and how near the machine."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax import models
from segjax.analysis.cost import compile_anew, peak_bytes, time_calls
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.models.cost import plain_flops
from segjax.training import experiment as experiment_lib
from segjax.training import steps

MODES = ("train", "infer", "input", "end_to_end")
# Seconds that the calls of a sample take on an accelerator, about.
SAMPLE = 0.1
# What `--peer` looks for in the other program's JSON, by mode.
PEER_KEYS = {"train": "train_step_s", "infer": "infer_s"}


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled step with its arguments, ready to be called again and again.

  Attributes:
    call: runs it once, without waiting for the result.
    steps: that a call makes.
    images: that a step works on.
    gflops: of a step in its plain forms, by XLA's count before it optimises; nan if unknown.
    gbytes: that a step's operations read and write on a device, 10^9, by XLA's count after it has
      fused them; nan if unknown, or if a call makes several.
    compile_s: seconds that XLA takes to compile, without the kernels of `segjax.ops.llvm`.
    peak_mb: arguments, results and temporaries, 10^6 bytes.
    parameters: of the net.
    devices: that share the work.
  """

  call: Any
  steps: int
  images: int
  gflops: float
  gbytes: float
  compile_s: float
  peak_mb: float
  parameters: int
  devices: int

  def seconds(self, repeats):
    """Seconds a step of each of `repeats` samples, see `time_samples`."""
    return [t / self.steps for t in time_samples(self.call, repeats)]


def time_samples(call, repeats):
  """Seconds a call of each of `repeats` samples.

  On a CPU a sample is one call, and is waited for. On an accelerator it is as many as take a tenth
  of a second, queued one after the other as a training does: to wake up for the result of each
  takes a millisecond and more on a virtual machine, in which the device would stand still.
  """
  count = 1
  if jax.default_backend() != "cpu":
    count = max(1, round(SAMPLE / min(time_calls(call, 3))))

  def sample():
    for _ in range(count):
      out = call()
    return out

  return [t / count for t in time_calls(sample, repeats)]


def prepare(config, mode, classes=0):
  """Compiles the train or inference step of a config, without its data.

  Train steps come `steps_per_dispatch` to a call where that is above 1, of images on the device.

  Args:
    config: ConfigDict of an experiment; images have `data.size`, batches `data.batch_size`.
    mode: "train" or "infer".
    classes: of the labels; 0: 2 with a sigmoid, else 8.

  Returns:
    Program.
  """
  count = classes or (2 if config.task.get("sigmoid") else 8)
  labels = default_table(tuple(f"class{i}" for i in range(count)))
  config.init_from = ""  # weights change no speed
  exp = experiment_lib.build(config, labels)
  whole, split = steps.replicated(exp.mesh), steps.batched(exp.mesh)
  state, _ = exp.init()
  parameters = models.count_params(state.params)
  size, batch_size = tuple(config.data.size), config.data.batch_size
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (batch_size, *size, 3)).astype(np.uint8)
  if mode == "train":
    steps.check_batch_size(batch_size, steps.make_mesh())
  if mode == "infer":
    args = (jax.device_put(image, whole),)
  else:
    shapes = dict(mask=(batch_size, *size), target=image.shape)
    shape = shapes.get(exp.task.label_kind_of(config.task), (batch_size,))
    values = 1 if exp.task.label_kind == "nothing" else count
    label = rng.integers(0, values, shape).astype(np.uint8)
    batch = dict(image=image, label=label, mask=np.ones(batch_size, bool))
    args = (jax.device_put(batch, split),)

  def single(exp):
    return steps.unbound(exp.train_step() if mode == "train" else exp.predict_step())

  (step, first), several = single(exp), 1
  on_cpu = dataclasses.replace(exp, mesh=steps.make_mesh(jax.devices("cpu")[:1]))
  abstract = jax.eval_shape(lambda *x: x, *first, state, *args)
  flops = plain_flops(single(on_cpu)[0], *abstract)
  if mode == "train" and config.steps_per_dispatch > 1:
    several = config.steps_per_dispatch
    step, _ = steps.unbound(exp.train_step(data_on_device=True, multi_step=True))
    split_on_device = jax.device_put(dict(image=image, label=label), whole)
    index = np.tile(np.arange(batch_size, dtype=np.int32), (several, 1))
    index = jax.device_put(dict(index=index), steps.batched(exp.mesh, stacked=True))
    args = split_on_device, index
  compiled, compile_s = compile_anew(step.lower(*first, state, *args))
  held = [state]

  def call():
    out = compiled(*first, held[0], *args)
    if mode == "train":  # the old state is donated
      held[0] = out[0]
    return out

  moved = compiled.cost_analysis() or {} if several == 1 else {}
  gbytes = moved.get("bytes accessed", math.nan) / 1e9
  devices = exp.mesh.size if mode == "train" else 1
  peak_mb = peak_bytes(compiled) / 1e6
  return Program(
    call, several, batch_size, flops / 1e9, gbytes, compile_s, peak_mb, parameters, devices
  )


def matrix_rate(dtype="float32", size=None, repeats=10):
  """GFLOP/s of a large matrix product on the default device, the best of some."""
  # Large enough that the call itself takes no part of the time.
  size = size or (2048 if jax.default_backend() == "cpu" else 8192)
  x = jax.random.normal(jax.random.key(0), (size, size), dtype)  # constants may be faster
  product = jax.jit(lambda a, b: a @ b)
  return 2 * size**3 / min(time_samples(lambda: product(x, x), repeats)) / 1e9


def memory_rate(megabytes=256, repeats=10):
  """GB/s that the default device reads and writes in a large array, the best of some."""
  add = jax.jit(lambda a: a + 1, donate_argnums=0)
  held = [jnp.zeros(int(megabytes * 1e6) // 4, jnp.float32)]

  def call():
    held[0] = add(held[0])
    return held[0]

  return 2 * held[0].nbytes / min(time_samples(call, repeats)) / 1e9


def measure(program, config, mode, *, repeats=20):
  """Times a Program.

  Returns:
    dict ready for JSON: `seconds` (median), `seconds_spread` (between the quartiles),
    `images_per_s`, `compile_s`, `gflops` of a step in its plain forms, `gflops_per_s`,
    `matrix_gflops_per_s` of a device measured just before, `share` of it on all `devices`,
    `gbytes` that a device moves, `memory_gbytes_per_s` likewise, `floor_s` (the longer of the FLOPs
    and the bytes at these rates), `peak_mb`, `parameters`, `device`, and what was measured. On a
    CPU `ops.llvm.winograd` takes fewer products than the plain form, so a share may be above 1.
  """
  rate = matrix_rate(config.model.get("dtype", "float32"))
  memory = memory_rate()
  times = program.seconds(repeats)
  median = statistics.median(times)
  low, high = np.percentile(times, [25, 75])
  return dict(
    mode=mode,
    name=config.name,
    size=list(config.data.size),
    batch_size=config.data.batch_size,
    steps_per_dispatch=program.steps,
    dtype=str(config.model.get("dtype", "float32")),
    device=jax.devices()[0].device_kind,
    devices=program.devices,
    jax=jax.__version__,
    parameters=program.parameters,
    seconds=median,
    seconds_spread=float(high - low),
    images_per_s=program.images / median,
    compile_s=program.compile_s,
    gflops=program.gflops,
    gflops_per_s=program.gflops / median,
    matrix_gflops_per_s=rate,
    share=program.gflops / median / (rate * program.devices),
    gbytes=program.gbytes,
    memory_gbytes_per_s=memory,
    floor_s=max(program.gflops / (rate * program.devices), program.gbytes / memory),
    peak_mb=program.peak_mb,
  )


def run_peer(command, mode):
  """Seconds of another program's step, from the JSON object that its last line of output is.

  Args:
    command: of a shell.
    mode: "train" or "infer".

  Raises:
    UserError: the program fails, or its last line is no JSON with the key that is looked for.
  """
  key = PEER_KEYS[mode]
  done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
  lines = done.stdout.strip().splitlines()
  if done.returncode or not lines:
    tail = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise UserError(f"--peer {command!r} ended with {done.returncode}: {tail}")
  try:
    return float(json.loads(lines[-1])[key])
  except (ValueError, KeyError, TypeError):
    raise UserError(
      f"--peer {command!r}: its last line is {lines[-1][:80]!r}, expected JSON with {key!r}"
    ) from None


def alternate(program, command, mode, *, rounds=3, repeats=10):
  """Ours and another program's seconds, in turn: [(ours, theirs), ...], a pair a round."""
  pairs = []
  for _ in range(rounds):
    ours = statistics.median(program.seconds(repeats))
    pairs.append((ours, run_peer(command, mode)))
  return pairs


def measure_training(config, *, classes=0, repeats=20):
  """Times a whole training in a folder of its own, and its step alone before each evaluation.

  A machine that others share is not equally fast all the time, so the two are measured in turn.

  Returns:
    dict of `seconds` (of the training, compilation and evaluations included, the steps alone not),
    `step_s` (mean over the steps after the first row of `metrics.jsonl`, with feeding, logging,
    pictures and checkpoints but without evaluations; nan of less than two rows), `bare_step_s`
    (mean of `repeats` steps on one batch at each evaluation), and `overhead`, the share by which it
    is exceeded.
  """
  from segjax import training
  from segjax.training.writers import read_metrics

  step_alone = prepare(config.copy_and_resolve_references(), "train", classes)
  alone, apart = [], 0.0

  def before_evaluation():
    nonlocal apart
    start = time.perf_counter()
    alone.extend(step_alone.seconds(repeats))
    apart += time.perf_counter() - start

  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    training.train(config, Path(folder), before_evaluation=before_evaluation)
    seconds = time.perf_counter() - start - apart
    rows = [r for r in read_metrics(Path(folder) / "metrics.jsonl") if "train/steps" in r][1:]
  images = [r["train/steps"] * config.data.batch_size for r in rows]
  taken = sum(n / r["time/images_per_s"] for n, r in zip(images, rows, strict=True))
  step = taken / sum(images) * config.data.batch_size if rows else math.nan
  bare = statistics.mean(alone)
  return dict(
    mode="end_to_end",
    name=config.name,
    seconds=seconds,
    step_s=step,
    bare_step_s=bare,
    overhead=step / bare - 1,
  )


def measure_input(config, *, batches=50):
  """Images per second of the train pipeline alone: decode, fit, batch; nothing cached.

  Returns:
    dict of `images_per_s` and the settings.
  """
  from segjax.data import pipeline
  from segjax.training import input_pipeline

  config.data.cache_mb = 0
  source = input_pipeline.make_source(config, "train", training=True)
  data = config.data
  iterator = pipeline.train_iterator(
    source,
    batch_size=data.batch_size,
    seed=config.seed,
    crop=data.size if data.fit == "crop" else None,
    num_threads=data.threads,
    num_workers=data.workers,
  )
  next(iterator)
  start = time.perf_counter()
  for _ in range(batches):
    next(iterator)
  taken = time.perf_counter() - start
  return dict(
    mode="input",
    name=config.name,
    size=list(data.size),
    batch_size=data.batch_size,
    threads=data.threads,
    workers=data.workers,
    images_per_s=batches * data.batch_size / taken,
  )
