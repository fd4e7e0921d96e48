"""The commands of launch/analyze.py, a function each."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

from segjax import config as config_lib
from segjax import errors, textfiles
from segjax.analysis import (
  channel_statistics,
  charts,
  class_statistics,
  examples,
  features,
  figures,
  predictions,
  regions,
  sheets,
  worst_images,
)
from segjax.augment import make_augment
from segjax.benchmark import cost as cost_lib
from segjax.data import checks, contents, limits, rasters, sources
from segjax.errors import UserError, choose
from segjax.training import (
  evaluation,
  input_pipeline,
  nan_debug,
  restore,
)
from segjax.training.writers import finite

SPLITS = ("train", "val")


def run(command, given):
  """Runs a command, and prints the names of its files.

  Args:
    command: one of `COMMANDS`.
    given: {flag of launch/analyze.py: its value}; a command takes those that its function has as
      arguments.

  Raises:
    UserError: no such command, it needs a flag that is None, or an error of the command.
  """
  function = choose(COMMANDS, command, "command")
  taken = {name: given[name] for name in inspect.signature(function).parameters}
  for name in {"config", "workdir"} & taken.keys():
    if taken[name] is None:
      raise UserError(f"--{name} is required; --help says more")
  if "workdir" in taken:
    taken["workdir"] = Path(taken["workdir"])
  function(**taken)


# ---------------------------------------------------------------------------- of a config


def data(config, split, output, samples):
  """Reads every example; prints the shares of the classes and all broken files; draws samples.

  Without a split the shares and samples are those of train, and the files of val are checked too.
  """
  others = () if split else SPLITS[1:]
  split = split or SPLITS[0]
  threads = max(config.data.threads, 1)
  pixels = rasters.of(config.data)
  limits.set_limit(config.data.max_pixels)
  how = dict(complete=False, pixels=pixels, **config.data.source)
  whole = sources.make(split=split, **how)
  source, faults = checks.without_broken(whole, threads)
  title = f"{config.data.source.name}, {split}: {len(source)} examples"
  print(title)
  for note in contents.notes_of(whole):
    print(f"  note: {note}")
  folder = _folder(output or _name_of(config))
  _write(sheets.samples(source, samples or 8), folder / f"samples_{split}.png")
  if source.labels.overlapping:
    print(class_statistics.table_of_masks(source, threads))
  elif len(source.labels):
    statistics = class_statistics.count(source, threads)
    print(class_statistics.table(statistics))
    chart = folder / f"classes_{split}.png"
    class_statistics.bar_chart(statistics, source.labels, title, chart)
    print(f"  written to {chart}")
    print(class_statistics.proposal(statistics))
  if not pixels.is_rgb:
    print(f"images of {pixels.text}")
    print(channel_statistics.text(*channel_statistics.measure(source, threads)))
  faults += checks.orphans(whole)
  texts = [checks.report(faults, len(whole))] if faults else []
  for other in others:
    try:
      source = sources.make(split=other, **how)
    except UserError as error:
      texts.append(str(error))
      continue
    if found := [fault for fault in checks.check(source, threads) if fault not in faults]:
      texts.append(f"{other}: {checks.report(found, len(source))}")
  if texts:
    raise UserError("\n".join(texts))


def augment(config, output, samples):
  """Draws training examples beside augmented versions of them."""
  change = make_augment(**config.augment)
  if change is None:
    raise UserError(
      "config.augment switches nothing on; try --config.augment.flip=0.5 or another config"
    )
  source = input_pipeline.make_source(config, "train", training=True).source
  how = dict(seed=config.seed, crop=config.data.fit == "crop", wanted=samples or 4)
  sheet = sheets.augmented(source, change, config.data.size, **how)
  _write(sheet, _folder(output or _name_of(config)) / "augment.png")


# ---------------------------------------------------------------------------- of a run


def curves(workdir, output):
  """Draws the curves of training and validation."""
  name = config_lib.load(workdir / "config.json").name
  file = figures.curves(workdir, name, _run_folder(workdir, output) / "curves.png")
  if file is None:
    raise UserError(f"{workdir}: nothing was evaluated yet; train longer")
  print(f"  written to {file}")


def crops(workdir, output, checkpoint, folder):
  """Draws for each class the best and the worst region of the validation set."""
  predictor = predictions.Predictor(workdir, checkpoint, _moved(workdir, folder))
  found = regions.best_and_worst(predictor, len(predictor.labels))
  for name, pair in zip(predictor.labels.names, found, strict=True):
    texts = (f"{r.iou:.3f} in {r.name}" if r else "none" for r in pair)
    print("  {:<16} best {:<36} worst {}".format(name, *texts))
  _write(regions.picture(found, predictor.labels), _run_folder(workdir, output) / "crops.png")


def worst(workdir, output, checkpoint, folder, samples):
  """Draws the images of the validation set whose own mean IoU is the least."""
  found = worst_images.find(workdir, checkpoint, _moved(workdir, folder), samples or 8)
  for name, score in found.scores:
    print(f"  {score:.4f}  {name}")
  _write(found.picture, _run_folder(workdir, output) / "worst.png")


def confusion(workdir, output):
  """Draws the confusion matrix of the last evaluation."""
  sums, names = evaluation.read_sums(workdir), restore.run(workdir)[0].task.classes
  if "matrix" not in sums:
    raise UserError(
      f"{workdir}: its task counts no classes that exclude each other, so none is confused"
    )
  if sums["matrix"].shape != (len(names),) * 2:
    raise UserError(f"{workdir}: val_sums.npz is not of the {len(names)} classes of labels.json")
  title = f"{workdir.name}, step {int(sums['step'])}"
  file = _run_folder(workdir, output) / "confusion.png"
  charts.confusion(sums["matrix"], names, title, file)
  print(f"  written to {file}")


def rank_examples(workdir, workdirs, output, checkpoint, folder, samples, by):
  """Ranks the labelled examples of both splits: those with wrong labels come first."""
  if by == "disagreement" and not workdirs:
    raise UserError("--by=disagreement needs further runs of other seeds, --workdirs=A,B")
  choose(dict.fromkeys(examples.SCORES), by, "score")
  runs = examples.read_runs([workdir, *map(Path, workdirs)], checkpoint)
  config, moved = runs[0][0].config, _moved(workdir, folder)
  sources = {s: restore.data_of_run(workdir, config, s, moved=moved).source for s in SPLITS}
  scored = [s for split, source in sources.items() for s in examples.score(runs, split, source)]
  ranked = examples.rank(scored, by)
  for place, one in enumerate(ranked[: samples or 12], 1):
    print(f"  {examples.caption(place, one)}")
  target = _run_folder(workdir, output)
  with errors.writing(target):
    textfiles.write_csv(target / "examples.csv", examples.rows(ranked))
  print(f"  written to {target / 'examples.csv'}")
  _write(examples.sheet(ranked, runs[0], sources, samples or 12), target / "examples.png")


def replay(workdir):
  """Repeats the step that `config.nan_debug` has kept, and says where it is not finite."""
  experiment = restore.build(workdir)
  kept = nan_debug.read(workdir / nan_debug.FILE, experiment.abstract_state())
  print("\n".join(nan_debug.report(experiment, *kept)))


def stages(workdir, output, folder, samples):
  """Draws fixed examples as an early, a middle and the last checkpoint see them."""
  moved = _moved(workdir, folder)
  picture, steps = predictions.stages(workdir, moved=moved, wanted=samples or 3)
  print(f"  checkpoints of steps {', '.join(map(str, steps))}")
  _write(picture, _run_folder(workdir, output) / "stages.png")


def cost(workdir, output, checkpoint):
  """Measures size, FLOPs, memory and time of the net."""
  experiment, state = restore.run(workdir, checkpoint)
  measured = cost_lib.measure(experiment, state, experiment.config.data.size)
  print(cost_lib.table([measured]))
  file = _run_folder(workdir, output) / "cost.json"
  measured.save(file)
  print(f"  written to {file}")


def feature_stages(workdir, output, folder, samples, epochs, metric, stage, queries):
  """Scores and draws the features of a layer at several epochs."""
  from segjax.analysis import feature_pictures, separation  # scikit-learn takes seconds to import

  epochs, queries = _numbers(float, "epochs", epochs), _numbers(int, "queries", queries)
  config = config_lib.load(workdir / "config.json")
  pair = features.sources_of(workdir, _moved(workdir, folder))
  per_epoch = max(len(pair[0]) // config.data.batch_size, 1)
  how = dict(stages=[stage])
  if samples:  # of small sets more of each image
    how |= dict(limit=samples, per_image=None)
  rows, vectors = {}, []
  for step in _steps(restore.checkpoint_steps(workdir), epochs, per_epoch):
    restored = features.restore(workdir, step)
    (train,), (val,) = (features.extract(*restored, s, **how) for s in pair)
    vectors.append(val.vectors)
    found = rows[f"epoch {step / per_epoch:g}"] = separation.scores(train, val, metric=metric)
    text = "  ".join(f"{k} {v:.4f}" for k, v in found.items())
    print(f"  epoch {step / per_epoch:g} (step {step})  {text}", flush=True)
  captions = [
    f"kNN {r['knn_accuracy']:.3f}, linear {r['linear_accuracy']:.3f}, "
    f"silhouette {r['silhouette']:.3f}" for r in rows.values()
  ]  # fmt: skip
  target, suffix = _run_folder(workdir, output), "" if stage is None else f"_stage{stage}"
  file = target / f"features{suffix}.png"
  embedded = feature_pictures.embed(vectors, seed=config.seed)
  table = pair[1].source.labels
  feature_pictures.scatter(embedded, val.labels, table, list(rows), captions, file)
  if len(set(val.labels.tolist())) < 2:
    print("  the examples have one class, so there is nothing to score; only pictures are drawn")
  numbers = {epoch: finite(row) for epoch, row in rows.items()}
  scores = target / f"features{suffix}.json"
  with errors.writing(scores):
    scores.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
  print(f"  written to {file}")
  how = dict(queries=queries or 6, metric=metric)
  picture = feature_pictures.neighbor_picture(train, val, *pair, **how)
  _write(picture, target / f"neighbors{suffix}.png")


def _numbers(kind, flag, texts):
  """The numbers of a flag; a UserError for texts that are none, or below 0."""
  try:
    found = [kind(text) for text in texts]
  except ValueError:
    found = [-1]
  if not all(0 <= number < math.inf for number in found):
    example = "0,5,20" if flag == "epochs" else "0,3,7"
    raise UserError(f"--{flag}={','.join(texts)}: expected numbers from 0 on, such as {example}")
  return found


def _steps(kept, epochs, per_epoch):
  """The steps of the epochs that were asked for, or the first, a middle and the last kept."""
  if not kept:
    raise UserError("the run has no checkpoint yet; train it further")
  if not epochs:
    return predictions.early_middle_last(kept)
  steps = [round(e * per_epoch) for e in epochs]
  lost = [e for e, s in zip(epochs, steps, strict=True) if s and s not in kept]
  if lost:
    have = ", ".join(f"{s / per_epoch:g}" for s in kept)
    raise UserError(
      f"epoch {lost[0]:g}: its checkpoint was not kept, those of {have} were; train with "
      "--config.keep_epochs=1,5,20 or so"
    )
  return steps


COMMANDS = {
  "data": data,
  "augment": augment,
  "curves": curves,
  "crops": crops,
  "worst": worst,
  "confusion": confusion,
  "examples": rank_examples,
  "replay": replay,
  "stages": stages,
  "cost": cost,
  "features": feature_stages,
}


def _moved(workdir, folder):
  """Where the data of a run lie now, see `restore.moved_to`."""
  return restore.moved_to(config_lib.load(workdir / "config.json"), folder)


def _name_of(config):
  """The folder of pictures of a config: of other data another one."""
  folder = config.data.source.get("folder")
  return f"runs/analysis-{config.name}" + (f"-{Path(folder).absolute().name}" if folder else "")


def _run_folder(workdir, output):
  return _folder(output or workdir / "figures")


def _folder(path):
  folder = Path(path)
  with errors.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
  return folder


def _write(picture, file):
  figures.write_picture(picture, file)
  print(f"  written to {file}")
