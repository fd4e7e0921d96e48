"""Costs of a model: size, FLOPs, memory, latency, throughput, compile time."""

from __future__ import annotations

import dataclasses
import statistics

import jax
import numpy as np

from segjax import textfiles
from segjax.benchmark.timing import compile_anew, peak_bytes, time_calls
from segjax.data import rasters
from segjax.errors import UserError, writing
from segjax.models.cost import static_cost
from segjax.training import steps


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of a model's inference on a device.

  Attributes:
    device: kind of device.
    size: (height, width) of the images, pixels.
    parameters: count.
    mb: size of float32 parameters, 10^6 bytes.
    gflops: GFLOPs of one image, by XLA's count before it optimises; a multiply-add is two.
    peak_mb: arguments, results and temporaries of the compiled program at batch 1, 10^6 bytes.
    compile_s: seconds that XLA takes to compile at batch 1; on a CPU the kernels of
      `segjax.ops.llvm` come before, about 0.07 s each the first time.
    latency_ms: median at batch 1.
    latency_spread_ms: between the quartiles.
    images_per_s: throughput, median at batch 8.
  """

  device: str
  size: tuple[int, int]
  parameters: int
  mb: float
  gflops: float
  peak_mb: float
  compile_s: float
  latency_ms: float
  latency_spread_ms: float
  images_per_s: float

  def save(self, file):
    """Writes JSON; a UserError names a file that cannot be written."""
    with writing(file):
      textfiles.write_state(file, dataclasses.asdict(self), indent=2)


def load(file):
  """The Cost that `save` wrote, or None where there is none, or a damaged one: measure it anew."""
  try:
    values = textfiles.read_state(file)
  except UserError:
    return None
  kinds = {f.name: (int, float) for f in dataclasses.fields(Cost)} | dict(device=str, size=list)
  if values.keys() != kinds.keys() or not all(isinstance(values[k], kinds[k]) for k in kinds):
    return None
  return Cost(**values | dict(size=tuple(values["size"])))


def measure(experiment, state, size, *, device=None, repeats=20, batch=8):
  """Measures inference: u8 images in, logits out, everything waited for.

  Args:
    experiment: training.experiment.Experiment.
    state: TrainState.
    size: (height, width) of the images, pixels.
    device: jax device; the default one if None.
    repeats: timed calls, after three that are not.
    batch: batch size of the throughput.

  Returns:
    Cost.
  """
  device = device or jax.devices()[0]
  data = experiment.config.data
  mesh = steps.make_mesh([device])
  predict = steps.make_predict_step(
    experiment.model, experiment.task, mesh=mesh, mean=data.mean, std=data.std
  )
  state = jax.device_put(state, steps.replicated(mesh))
  parameters, flops, _ = static_cost(experiment.model, size, data.channels)
  seconds, compiled = {}, {}
  for count in (1, batch):
    image = np.random.default_rng(0).integers(0, 256, (count, *size, data.channels))
    image = image.astype(rasters.of(data).kept)
    image = jax.device_put(image, steps.replicated(mesh))
    program, _ = compiled[count] = compile_anew(predict.lower(state, image))
    seconds[count] = time_calls(lambda p=program, x=image: p(state, x), repeats)
  quartiles = np.percentile(seconds[1], [25, 75])
  return Cost(
    device=device.device_kind,
    size=tuple(size),
    parameters=parameters,
    mb=parameters * 4 / 1e6,
    gflops=flops / 1e9,
    peak_mb=peak_bytes(compiled[1][0]) / 1e6,
    compile_s=compiled[1][1],
    latency_ms=1e3 * statistics.median(seconds[1]),
    latency_spread_ms=float(1e3 * (quartiles[1] - quartiles[0])),
    images_per_s=batch / statistics.median(seconds[batch]),
  )


def table(costs):
  """Text table, a row per device."""
  lines = []
  for c in costs:
    lines += [
      f"  {c.device}, {c.size[0]}x{c.size[1]} pixels",
      f"    parameters        {c.parameters:,} ({c.mb:.2f} MB)",
      f"    FLOPs             {c.gflops:.2f} G per image",
      f"    peak memory       {c.peak_mb:.0f} MB at batch 1",
      f"    compile time      {c.compile_s:.1f} s",
      f"    latency           {c.latency_ms:.1f} ms at batch 1"
      f" (quartiles {c.latency_spread_ms:.1f} ms apart)",
      f"    throughput        {c.images_per_s:.1f} images/s at batch 8",
    ]
  return "\n".join(lines)
