"""Measures an experiment's speed, on data drawn at random.

  python launch/benchmark.py --config=configs/unet_road.py
  python launch/benchmark.py --config=configs/unet_flood.py --mode=infer --config.data.batch_size=8
  python launch/benchmark.py --config=configs/unet_road.py:data=kitti_road --mode=input
  python launch/benchmark.py --config=configs/unet_road.py --peer="python peer.py --model=..."

Modes: train and infer (one step at data.size and data.batch_size; no data needed), input (the data
pipeline alone), end_to_end (a whole training in a folder of its own: its wall time, and what a step
of it takes beside the step alone, which runs before each evaluation). --peer runs another program
in turn with ours (ours, theirs, ours, theirs ...) and prints the ratio; its last line must be a
JSON object with train_step_s or infer_s, seconds. Needs jax, flax, optax, ml_collections, absl and
numpy alone for train and infer.
"""

import json
import statistics
from pathlib import Path

from absl import flags

from segjax import cli
from segjax.errors import UserError, choose

CONFIG = cli.define_config()
MODE = flags.DEFINE_string("mode", "train", "train, infer, input or end_to_end.")
JSON = flags.DEFINE_string("json", None, "File for the figures.")
PEER = flags.DEFINE_string("peer", None, "Shell command of a program to compare with.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "With --peer: how often both are measured in turn.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Timed steps, after three that are not; of "
                               "end_to_end so many before each evaluation.")  # fmt: skip
CLASSES = flags.DEFINE_integer("classes", 0, "Of the random labels; 0: 2 with a sigmoid, else 8.")
flags.mark_flag_as_required("config")
flags.declare_key_flag("config")


def main():
  from segjax.analysis import benchmark

  config, mode = CONFIG.value, MODE.value
  choose(dict.fromkeys(benchmark.MODES), mode, "mode")
  if PEER.value and mode not in benchmark.PEER_KEYS:
    raise UserError(f"--peer compares train and infer, the mode is {mode!r}")
  if mode == "input":
    result = benchmark.measure_input(config)
  elif mode == "end_to_end":
    result = benchmark.measure_training(config, classes=CLASSES.value, repeats=REPEATS.value)
  else:
    program = benchmark.prepare(config, mode, CLASSES.value)
    result = benchmark.measure(program, config, mode, repeats=REPEATS.value)
    if PEER.value:
      pairs = benchmark.alternate(
        program, PEER.value, mode, rounds=ROUNDS.value, repeats=REPEATS.value
      )
      ratios = [ours / theirs for ours, theirs in pairs]
      result |= dict(pairs=pairs, ratio=statistics.median(ratios))
      for (ours, theirs), ratio in zip(pairs, ratios, strict=True):
        print(f"  ours {ours:.4f} s, theirs {theirs:.4f} s, ratio {ratio:.2f}")
  for key, value in result.items():
    print(f"  {key:<22}{value:.4g}" if isinstance(value, float) else f"  {key:<22}{value}")
  if JSON.value:
    cli.write_text(Path(JSON.value), json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
  cli.run(main)
