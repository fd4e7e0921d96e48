"""Analyses the data of an experiment and the results of a run. The first argument is a command:

  python launch/analyze.py data --config=configs/unet_road.py:data=kitti_road
  python launch/analyze.py augment --config=configs/unet_road_strong.py
  python launch/analyze.py crops --workdir=runs/kitti

Of a config:
data: reads every example of train and val and lists all broken files; prints the share of each
  class in train (or in --split) with weights for the loss, ready to paste, and of images of many
  channels or 16 bits the mean and deviation of each channel; draws samples_<split>.png and
  classes_<split>.png.
augment: augment.png, some training examples and five augmented versions of each, of random crops
  where the config trains on those.
Of a run (--workdir):
curves: curves.png, train and validation loss and accuracy.
crops: crops.png, for each class the best and the worst region of the validation set.
worst: worst.png, the validation images whose own mean IoU is the least, the worst first.
confusion: confusion.png, the normalised confusion matrix of the last evaluation.
examples: examples.csv, all train and validation examples by their loss, and examples.png, the
  first of them: labels that are wrong. Also the norm of the gradient of each, and with
  --workdirs=B,C, runs of other seeds, on how many pixels the runs differ; --by ranks by these.
stages: stages.png, fixed examples as an early, a middle and the last checkpoint see them; train
  with --config.keep_epochs=1,5 or so, which keeps checkpoints.
replay: repeats the step that was not finite and was kept (--config.nan_debug=True at the training):
  its batch, the terms of its loss, the first layers and the parameters that are not finite.
cost: parameters, FLOPs, memory, latency, throughput, compile time; cost.json.
features: the second-last layer at several epochs that were kept (--epochs=0,5,20, 0 being before
  training; by default the first, a middle and the last): features.png (PCA and t-SNE with kNN
  accuracy, linear probe and silhouette), neighbors.png (queries and their nearest neighbours),
  features.json. --stage=2: the backbone's stage at stride 2^2 instead, in files that are named
  after it; after rotation prediction such a stage separates the classes better than the last.

Pictures go to --output, by default runs/analysis-<name of the config>/, or figures/ of the run,
each as PNG and as PDF.
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
