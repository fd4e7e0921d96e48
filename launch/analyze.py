"""Shows what an experiment trains on, and what a run has learned. The first argument says what:

  python launch/analyze.py data --config=configs/unet_road.py:data=kitti_road
  python launch/analyze.py augment --config=configs/unet_road_strong.py
  python launch/analyze.py crops --workdir=runs/kitti

Of a config:
data: reads every example and lists all broken files; prints the share of each class with weights
  for the loss, ready to paste; draws samples_<split>.png and classes_<split>.png.
augment: draws augment.png, some training examples and five augmented versions of each, of random
  crops where the config trains on those.
Of a run (--workdir):
curves: curves.png, train and validation loss and accuracy.
crops: crops.png, for each class the best and the worst region of the validation set.
confusion: confusion.png, the normalised confusion matrix of the last evaluation.
stages: stages.png, fixed examples as an early, a middle and the last checkpoint see them; train
  with --config.keep_epochs=1,5 or so, which keeps checkpoints.
cost: parameters, FLOPs, memory, latency, throughput, compile time; cost.json.
features: what the second-last layer says at several epochs that were kept (--epochs=0,5,20, 0
  being before training; by default the first, a middle and the last): features.png (PCA and t-SNE
  with kNN accuracy, linear probe and silhouette), neighbors.png (queries and their nearest
  neighbours), features.json. --stage=2: of the backbone's stage at stride 2^2 instead, in files
  that are named after it; after rotation prediction such a one says more than the last.

Pictures go to --output, by default runs/analysis-<name of the config>/, or figures/ of the run,
each as PNG and as PDF.
Exit code: 0 done, 1 broken files (listed; the rest is analysed all the same) or another error.
"""

import sys
from pathlib import Path

from absl import flags

from segjax import cli
from segjax.errors import UserError, choose

CONFIG = cli.define_config()
SPLIT = flags.DEFINE_string("split", "train", "For data: train or val.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "For crops: latest, best, or a step.")
FOLDER = flags.DEFINE_string("folder", "", "Where the data of the run lies now, if it has moved.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the results.")
SAMPLES = flags.DEFINE_integer(
  "samples",
  0,
  "Examples in a sheet; 0: 8 for data, 4 for augment, 3 for stages. For features: images, or crops "
  "or pixels of each class; 0: 1000, of crops and pixels no more than 20 an image.",
)
EPOCHS = flags.DEFINE_list("epochs", [], "For features: epochs whose checkpoints were kept.")
METRIC = flags.DEFINE_string("metric", "cosine", "For features: cosine or euclidean distances.")
STAGE = flags.DEFINE_integer("stage", None, "For features: of the backbone; 0 is the image.")
QUERIES = flags.DEFINE_list("queries", [], "For features: examples of the val split, by index.")
flags.declare_key_flag("config")


def data():
  from segjax.analysis import class_statistics, sheets
  from segjax.data import checks, sources
  from segjax.training import header

  config = required_config()
  split, threads = SPLIT.value, max(config.data.threads, 1)
  whole = sources.make(split=split, complete=False, **config.data.source)
  source, faults = checks.without_broken(whole, threads)
  title = f"{config.data.source.name}, {split}: {len(source)} examples"
  print(title)
  for note in header.notes_of(whole):
    print(f"  note: {note}")
  output = make_output(config)
  write_sheet(sheets.samples(source, SAMPLES.value or 8), output / f"samples_{split}.png")
  if len(source.labels):
    statistics = class_statistics.count(source, threads)
    print(class_statistics.table(statistics))
    chart = output / f"classes_{split}.png"
    class_statistics.bar_chart(statistics, source.labels, title, chart)
    print(f"  written to {chart}")
    print(class_statistics.proposal(statistics))
  faults += checks.orphans(whole)
  if faults:
    raise UserError(checks.report(faults, len(whole)))


def augment():
  from segjax.analysis import sheets
  from segjax.augment import make_augment
  from segjax.training import input_pipeline

  config = required_config()
  change = make_augment(**config.augment)
  if change is None:
    raise UserError(
      "config.augment switches nothing on; try --config.augment.flip=0.5 or another config"
    )
  source = input_pipeline.make_source(config, "train", training=True).source
  how = dict(seed=config.seed, crop=config.data.fit == "crop", wanted=SAMPLES.value or 4)
  sheet = sheets.augmented(source, change, config.data.size, **how)
  write_sheet(sheet, make_output(config) / "augment.png")


def curves():
  from segjax import config as config_lib
  from segjax.analysis import figures

  workdir = required_workdir()
  name = config_lib.load(workdir / "config.json").name
  file = figures.curves(workdir, name, run_output(workdir) / "curves.png")
  if file is None:
    raise UserError(f"{workdir}: nothing was evaluated yet; train longer")
  print(f"  written to {file}")


def crops():
  from segjax.analysis import predictions, regions

  workdir = required_workdir()
  predictor = predictions.Predictor(workdir, CHECKPOINT.value, moved(workdir))
  found = regions.best_and_worst(predictor, len(predictor.labels))
  for name, pair in zip(predictor.labels.names, found, strict=True):
    texts = (f"{r.iou:.3f} in {r.name}" if r else "none" for r in pair)
    print("  {:<16} best {:<36} worst {}".format(name, *texts))
  write_sheet(regions.picture(found, predictor.labels), run_output(workdir) / "crops.png")


def confusion():
  from segjax.analysis import charts
  from segjax.training import evaluation, restore

  workdir = required_workdir()
  sums, names = evaluation.read_sums(workdir), restore.run(workdir)[0].task.classes
  if "matrix" not in sums:
    raise UserError(f"{workdir}: its task has no classes, so there is no confusion of them")
  if sums["matrix"].shape != (len(names),) * 2:
    raise UserError(f"{workdir}: val_sums.npz is not of the {len(names)} classes of labels.json")
  title = f"{workdir.name}, step {int(sums['step'])}"
  out = run_output(workdir) / "confusion.png"
  charts.confusion(sums["matrix"], names, title, out)
  print(f"  written to {out}")


def stages():
  from segjax.analysis import predictions

  workdir = required_workdir()
  picture, steps = predictions.stages(workdir, moved=moved(workdir), wanted=SAMPLES.value or 3)
  print(f"  checkpoints of steps {', '.join(map(str, steps))}")
  write_sheet(picture, run_output(workdir) / "stages.png")


def cost():
  from segjax.analysis import cost as cost_lib
  from segjax.training import restore

  workdir = required_workdir()
  experiment, state = restore.run(workdir, CHECKPOINT.value)
  measured = cost_lib.measure(experiment, state, experiment.config.data.size)
  print(cost_lib.table([measured]))
  file = run_output(workdir) / "cost.json"
  measured.save(file)
  print(f"  written to {file}")


def features():
  import json

  from segjax import config as config_lib
  from segjax.analysis import features as lib
  from segjax.training import restore
  from segjax.training.writers import finite

  workdir = required_workdir()
  config = config_lib.load(workdir / "config.json")
  sources = lib.sources_of(workdir, moved(workdir))
  per_epoch = max(len(sources[0]) // config.data.batch_size, 1)
  steps, rows, stages = _stages(restore.checkpoint_steps(workdir), per_epoch), {}, []
  for step in steps:
    restored, how = lib.restore(workdir, step), dict(stages=[STAGE.value])
    if SAMPLES.value:  # of small sets more of each image
      how |= dict(limit=SAMPLES.value, per_image=None)
    (train,), (val,) = (lib.extract(*restored, s, **how) for s in sources)
    stages.append(val.vectors)
    found = lib.scores(train, val, metric=METRIC.value)
    rows[f"epoch {step / per_epoch:g}"] = found
    text = "  ".join(f"{k} {v:.4f}" for k, v in found.items())
    print(f"  epoch {step / per_epoch:g} (step {step})  {text}", flush=True)
  captions = [
    f"kNN {r['knn_accuracy']:.3f}, linear {r['linear_accuracy']:.3f}, "
    f"silhouette {r['silhouette']:.3f}" for r in rows.values()
  ]  # fmt: skip
  output, table = run_output(workdir), sources[1].source.labels
  of_stage = "" if STAGE.value is None else f"_stage{STAGE.value}"
  file = output / f"features{of_stage}.png"
  embedded = lib.embed(stages, seed=config.seed)
  lib.scatter(embedded, val.labels, table, list(rows), captions, file)
  if len(set(val.labels.tolist())) < 2:
    print("  the examples have one class, so there is nothing to score; only pictures are drawn")
  numbers = {epoch: finite(row) for epoch, row in rows.items()}
  cli.write_text(output / f"features{of_stage}.json", json.dumps(numbers, indent=2) + "\n")
  print(f"  written to {file}")
  picture = lib.neighbor_picture(
    train, val, *sources, queries=[int(q) for q in QUERIES.value] or 6, metric=METRIC.value
  )
  write_sheet(picture, output / f"neighbors{of_stage}.png")


def _stages(kept, per_epoch):
  """The steps of the epochs that were asked for, or the first, a middle and the last kept."""
  from segjax.analysis.predictions import early_middle_last

  if not EPOCHS.value:
    return early_middle_last(kept)
  steps = [round(float(e) * per_epoch) for e in EPOCHS.value]
  lost = [e for e, s in zip(EPOCHS.value, steps, strict=True) if s and s not in kept]
  if lost:
    have = ", ".join(f"{s / per_epoch:g}" for s in kept)
    raise UserError(
      f"epoch {lost[0]}: its checkpoint was not kept, those of {have} were; train with "
      "--config.keep_epochs=1,5,20 or so"
    )
  return steps


COMMANDS = {
  "data": data,
  "augment": augment,
  "curves": curves,
  "crops": crops,
  "confusion": confusion,
  "stages": stages,
  "cost": cost,
  "features": features,
}


def required_workdir():
  if WORKDIR.value is None:
    raise UserError("--workdir is required; --help tells more")
  return Path(WORKDIR.value)


def moved(workdir):
  from segjax import config as config_lib
  from segjax.training import restore

  return restore.moved_to(config_lib.load(workdir / "config.json"), FOLDER.value)


def run_output(workdir):
  output = Path(OUTPUT.value or workdir / "figures")
  cli.make_folder(output)
  return output


def required_config():
  if CONFIG.value is None:
    raise UserError("--config is required; --help tells more")
  return CONFIG.value


def make_output(config):
  output = Path(OUTPUT.value or f"runs/analysis-{config.name}")
  cli.make_folder(output)
  return output


def write_sheet(picture, file):
  from segjax.analysis.figures import write_picture

  write_picture(picture, file)
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
