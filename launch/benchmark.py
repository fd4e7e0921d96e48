"""Measures an experiment's speed, on data drawn at random.

  python launch/benchmark.py --config=configs/unet_road.py
  python launch/benchmark.py --config=configs/unet_flood.py --mode=infer --config.data.batch_size=8
  python launch/benchmark.py --config=configs/unet_road.py:data=kitti_road --mode=input
  python launch/benchmark.py --config=configs/unet_road.py --peer="python peer.py --model=..."

Modes: train and infer (one step at data.size and data.batch_size; no data needed), input (the data
pipeline alone), end_to_end (a whole training in a folder of its own: its wall time, and the time of
a step beside that of the step alone, which runs before each evaluation). --peer runs another
program in turn with ours (ours, theirs, ours, theirs ...) and prints the ratio; its last line must
be a JSON object with train_step_s or infer_s, seconds. Needs jax, flax, optax, ml_collections, absl
and numpy alone for train and infer.
"""

from pathlib import Path

from absl import flags

from segjax import cli

CONFIG = cli.define_config()
MODE = flags.DEFINE_string("mode", "train", "train, infer, input or end_to_end.")
JSON = flags.DEFINE_string("json", None, "File for the figures.")
PEER = flags.DEFINE_string("peer", None, "Shell command of a program to compare with.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "With --peer: how often both are measured in turn.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Timed steps, after three that are not; of "
                               "end_to_end so many before each evaluation.")  # fmt: skip
CLASSES = flags.DEFINE_integer("classes", 0, "Number of classes; 0: 2 with a sigmoid, else 8.")
flags.mark_flag_as_required("config")
flags.declare_key_flag("config")


def main():
  from segjax.benchmark import command

  command.run(
    CONFIG.value,
    MODE.value,
    peer=PEER.value,
    rounds=ROUNDS.value,
    repeats=REPEATS.value,
    classes=CLASSES.value,
    file=Path(JSON.value) if JSON.value else None,
  )


if __name__ == "__main__":
  cli.run(main)
