"""Shows what an experiment trains on. The first argument says what:

  python launch/analyze.py data --config=configs/unet_road.py:data=kitti_road
  python launch/analyze.py data --config=configs/unet_road.py --split=val
  python launch/analyze.py augment --config=configs/unet_road_strong.py

data: reads every example once and lists all broken files; prints the share of each class with
  weights for the loss, ready to paste; draws samples_<split>.png and classes_<split>.png.
augment: draws augment.png, some training examples and five augmented versions of each.

The pictures go to --output, by default runs/analysis-<name of the config>/.
Exit code: 0 done, 1 broken files (listed; the rest is analysed all the same) or another error.
"""

import sys
from pathlib import Path

from absl import flags

from segjax import cli
from segjax.errors import UserError, choose

CONFIG = cli.define_config()
SPLIT = flags.DEFINE_string("split", "train", "For data: train or val.")
OUTPUT = flags.DEFINE_string("output", None, "Folder; runs/analysis-<name>/ by default.")
SAMPLES = flags.DEFINE_integer("samples", 0, "Examples in a sheet; 0: 8 for data, 4 for augment.")
flags.declare_key_flag("config")


def data():
  from segjax.analysis import class_statistics, sheets
  from segjax.data import checks, sources

  config = required_config()
  split, threads = SPLIT.value, max(config.data.threads, 1)
  whole = sources.make(split=split, complete=False, **config.data.source)
  source, faults = checks.without_broken(whole, threads)
  title = f"{config.data.source.name}, {split}: {len(source)} examples"
  print(title)
  output = make_output(config)
  write_sheet(sheets.samples(source, SAMPLES.value or 8), output / f"samples_{split}.png")
  if len(source.labels):
    statistics = class_statistics.count(source, threads)
    print(class_statistics.table(statistics))
    chart = output / f"classes_{split}.png"
    draw = lambda f: class_statistics.bar_chart(statistics, source.labels, title, f)  # noqa: E731
    cli.writing(draw, chart)
    print(f"  written to {chart}")
    print("weights of the loss, median frequency (Eigen and Fergus 2015):")
    print(f"  {class_statistics.override(class_statistics.median_frequency_weights(statistics))}")
    print("or inverse logarithm (ENet, Paszke et al. 2016):")
    print(f"  {class_statistics.override(class_statistics.inverse_log_weights(statistics))}")
  if faults:
    raise UserError(checks.report(faults, len(whole)))


def augment():
  from segjax.analysis import sheets
  from segjax.augment import make_augment
  from segjax.data import sources

  config = required_config()
  change = make_augment(**config.augment)
  if change is None:
    raise UserError(
      "config.augment switches nothing on; try --config.augment.flip=0.5 or another config"
    )
  source = sources.make(split="train", **config.data.source)
  if config.task.name != "segmentation":
    raise UserError(f"augment draws images with masks; config.task.name is {config.task.name!r}")
  sheet = sheets.augmented(
    source, change, config.data.size, seed=config.seed, wanted=SAMPLES.value or 4
  )
  write_sheet(sheet, make_output(config) / "augment.png")


COMMANDS = {"data": data, "augment": augment}


def required_config():
  if CONFIG.value is None:
    raise UserError("--config is required; --help tells more")
  return CONFIG.value


def make_output(config):
  output = Path(OUTPUT.value or f"runs/analysis-{config.name}")
  cli.make_folder(output)
  return output


def write_sheet(picture, file):
  from PIL import Image

  cli.writing(Image.fromarray(picture).save, file)
  print(f"  written to {file}")


def take_command():
  """Takes the first argument off the command line, as flags end at what is not one."""
  given = sys.argv[1:2]
  return sys.argv.pop(1) if given and not given[0].startswith("-") else ""


def main():
  choose(COMMANDS, COMMAND, "command")()


if __name__ == "__main__":
  COMMAND = take_command()
  cli.run(main)
