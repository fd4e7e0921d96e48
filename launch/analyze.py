"""Analyses the data of an experiment or the results of a run. The first argument is a command:

  python launch/analyze.py data --config=configs/unet_road.py:data=kitti_road
  python launch/analyze.py augment --config=configs/unet_road_strong.py
  python launch/analyze.py crops --workdir=runs/kitti

Of a config: data (every file checked, classes counted, samples drawn), augment. Of a run: curves,
crops (best and worst regions), worst (images), confusion, examples (labels that are wrong), stages
of its training, replay (of a step that was not finite), cost, features. launch/README.md has
more on each. Pictures go to --output, by default runs/analysis-CONFIG-FOLDER/, or
figures/ of the run, each as PNG and as PDF.
Exit code: 0 done, 1 broken files (listed; the rest is analysed all the same) or another error.
"""

import sys

from absl import flags

from segjax import cli

cli.define_config()
flags.DEFINE_string("split", None, "For data: train or val; by default train, and the files of val "
  "are checked too.")  # fmt: skip
flags.DEFINE_string("workdir", None, "Folder of a run.")
flags.DEFINE_string("checkpoint", "latest", "For crops, worst, cost, examples: latest, best or a "
  "step.")  # fmt: skip
flags.DEFINE_string("folder", "", "Where the data of the run lies now, if it has moved.")
flags.DEFINE_string("output", None, "Folder of the results.")
flags.DEFINE_integer("samples", 0, "Examples in a sheet; 0: 8 for data and worst, 4 for augment, "
  "3 for stages, 12 for examples. For features: images, or crops or pixels of each class; 0: 1000, "
  "of crops and pixels at most 20 per image.")  # fmt: skip
flags.DEFINE_list("workdirs", [], "For examples: folders of further runs.")
flags.DEFINE_string("by", "loss", "For examples: loss, grad_norm or disagreement.")
flags.DEFINE_list("epochs", [], "For features: epochs whose checkpoints were kept.")
flags.DEFINE_string("metric", "cosine", "For features: cosine or euclidean distances.")
flags.DEFINE_integer("stage", None, "For features: stage of the backbone; 0: the image.")
flags.DEFINE_list("queries", [], "For features: examples of the val split, by index.")
flags.declare_key_flag("config")


def take_command():
  """Takes the first argument off the command line, as flags end at the first other argument."""
  given = sys.argv[1:2]
  return sys.argv.pop(1) if given and not given[0].startswith("-") else ""


def main():
  from segjax.analysis import commands

  commands.run(COMMAND, flags.FLAGS.flag_values_dict())


if __name__ == "__main__":
  COMMAND = take_command()
  cli.run(main)
