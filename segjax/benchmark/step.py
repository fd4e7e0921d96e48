"""How fast an experiment's step is, on data that is drawn at random, and how near the machine."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import jax
import numpy as np

from segjax import models
from segjax.benchmark.machine import matrix_rate, memory_rate
from segjax.benchmark.timing import compile_anew, peak_bytes, time_samples
from segjax.data import rasters
from segjax.data.labels import default_table
from segjax.models.cost import plain_flops
from segjax.training import class_balance, steps
from segjax.training import devices as devices_lib
from segjax.training import experiment as experiment_lib


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled step with its arguments, ready to be called again and again.

  Attributes:
    call: runs it once, without waiting for the result.
    steps: number of steps of a call.
    images: number of images of a step.
    gflops: GFLOPs of a step in its plain forms, by XLA's count before it optimises; nan if unknown.
    gbytes: 10^9 bytes that a step's operations read and write on a device, by XLA's count
      after it has fused them; nan if unknown, or if a call makes several.
    compile_s: seconds that XLA takes to compile, without the kernels of `segjax.ops.llvm`.
    peak_mb: arguments, results and temporaries, 10^6 bytes.
    parameters: number of parameters of the net.
    devices: number of devices that share the work.
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
    """Seconds per step of each of `repeats` samples, see `time_samples`."""
    return [t / self.steps for t in time_samples(self.call, repeats)]


def prepare(config, mode, classes=0):
  """Compiles the train or inference step of a config, without its data.

  Train steps come `steps_per_dispatch` to a call where that is above 1, of images on the device.

  Args:
    config: ConfigDict of an experiment; images have `data.size`, batches `data.batch_size`.
    mode: "train" or "infer".
    classes: number of classes of the labels; 0: 2 with a sigmoid, else 8.

  Returns:
    Program.
  """
  count = classes or (2 if config.task.get("sigmoid") else 8)
  labels = default_table(tuple(f"class{i}" for i in range(count)))
  config.init_from = ""  # weights change no speed
  weights = (1.0,) * count if class_balance.rule(config.loss) else None  # without its data
  exp = experiment_lib.build(config, labels, class_weights=weights)
  whole = steps.replicated(exp.mesh)
  state, _ = exp.init()
  parameters = models.count_params(state.params)
  size, batch_size = tuple(config.data.size), config.data.batch_size
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (batch_size, *size, config.data.channels))
  image = image.astype(rasters.of(config.data).kept)
  if mode == "train":
    devices_lib.check(config)
  if mode == "infer":
    args = (jax.device_put(image, whole),)
  else:
    shapes = dict.fromkeys(("mask", "masks"), (batch_size, *size)) | dict(target=image.shape)
    shape = shapes.get(exp.task.label_kind_of(config.task), (batch_size,))
    values = 1 if exp.task.label_kind == "nothing" else count
    label = rng.integers(0, values, shape).astype(np.uint8)
    batch = dict(image=image, label=label, valid=np.ones(batch_size, bool))
    args = (steps.put_batch(batch, exp.mesh),)

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
