"""Times an exported file; its last line is the JSON that `launch/benchmark.py --peer` reads.

  python -m segjax.export.benchmark road.onnx --batch=4
  python -m segjax.export.benchmark road.onnx --config=configs/unet_road.py
  python launch/benchmark.py --config=configs/unet_road.py --mode=infer \\
    --peer="python -m segjax.export.benchmark road.onnx --config=configs/unet_road.py"

With --config the file is written first where it is missing, of the config's net with drawn weights,
as speed needs no training, and of one batch size, by default that of the config.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from segjax.export import batches, open_model

# Of a norm. With a scale of 1 the values of a residual net grow from block to block, until its
# probabilities are decided by rounding.
VALUES = dict(scale=0.7, var=1.0)


def main() -> None:
  """Prints one line for people and one of JSON."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("file", type=Path)
  parser.add_argument("--config", help="config whose net is written to the file, if it is missing")
  parser.add_argument(
    "--batch", type=int, default=0, help="images of a call; 0: the config's, or 1"
  )
  parser.add_argument("--classes", type=int, default=0, help="as of launch/benchmark.py")
  parser.add_argument("--repeats", type=int, default=20)
  given = parser.parse_args()
  if not given.file.exists() and given.config:
    write(given.file, given.config, given.batch, given.classes)
  model = open_model(given.file)
  batch = model.batch or given.batch or (batch_of(given.config) if given.config else 1)
  samples = time_calls(model, batch, given.repeats)
  seconds = statistics.median(samples)
  print(f"{given.file}: {batch} images of {model.size[0]}x{model.size[1]} in {seconds:.4f} s")
  print(json.dumps(dict(infer_s=seconds)))


def batch_of(spec: str) -> int:
  """The batch size of a config file, with an argument after a colon if it takes one."""
  from segjax import config as config_lib

  return config_lib.read(spec).data.batch_size


def time_calls(model, batch: int, repeats: int) -> list[float]:
  """Seconds of `repeats` calls, after three that are not timed.

  Args:
    model: a `segjax.inference.Model` of one size.
    batch: images of a call.
    repeats: timed calls.
  """
  images = batches.noise(batch, model.size, model.pixels)
  samples = []
  for _ in range(3 + repeats):
    start = time.perf_counter()
    model.probabilities(images)
    samples.append(time.perf_counter() - start)
  return samples[3:]


def write(file: Path, spec: str, batch: int, classes: int) -> None:
  """Writes the net of a config with drawn weights.

  Args:
    file: path; ".onnx" or ".stablehlo".
    spec: config file, with an argument after a colon if it takes one.
    batch: images of a call; 0: the config's.
    classes: number of classes; 0: 2 with a sigmoid, else 8.
  """
  from segjax import config as config_lib
  from segjax.data.labels import default_table
  from segjax.export import command
  from segjax.training import experiment as experiment_lib
  from segjax.training.state import TrainState

  config = config_lib.read(spec)
  count = classes or (2 if config.task.get("sigmoid") else 8)
  config.init_from = ""
  labels = default_table(tuple(f"class{i}" for i in range(count)))
  experiment = experiment_lib.build(config, labels, class_weights=(1.0,) * count)
  shapes, size = experiment.abstract_state(), tuple(config.data.size)
  variables = drawn(dict(params=shapes.params, batch_stats=shapes.batch_stats))
  state = TrainState(np.int32(0), opt_state=None, **variables)
  batch = batch or config.data.batch_size
  about = command.about_net(experiment, state, size=size, batch=batch)
  form, images = file.suffix.removeprefix("."), batches.noise(batch, size, about.pixels)
  command.write_net(file, experiment, state, form=form, about=about, images=images)


def drawn(shapes: dict) -> dict:
  """Weights near those of an initialiser, whose compilation takes minutes for a large net.

  Args:
    shapes: {"params": …, "batch_stats": …} of shapes and dtypes.
  """
  import flax.traverse_util

  rng, found = np.random.default_rng(0), {}
  for path, x in flax.traverse_util.flatten_dict(shapes, keep_empty_nodes=True).items():
    if not hasattr(x, "shape"):
      found[path] = x
    elif x.ndim >= 2:
      fan = max(int(np.prod(x.shape[:-1])), 1)
      found[path] = rng.normal(0, (2 / fan) ** 0.5, x.shape).astype(np.float32)
    else:
      found[path] = np.full(x.shape, VALUES.get(path[-1], 0.0), np.float32)
  return flax.traverse_util.unflatten_dict(found)


if __name__ == "__main__":
  main()
