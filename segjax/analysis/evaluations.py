"""The work of launch/evaluate.py: all scores of a checkpoint on a split, as text and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from segjax import hosts, metrics, outputs
from segjax.analysis import baseline, image_scores, score_files, views
from segjax.analysis.image_scores import MEANS
from segjax.errors import UserError
from segjax.export import evaluation
from segjax.inference import command
from segjax.tasks import PIXELWISE, SEGMENTING
from segjax.tasks.segmentation import COUNTS
from segjax.training import input_pipeline, measures, restore, temperature
from segjax.training.evaluation import evaluate
from segjax.training.measures import CALIBRATED, CALIBRATION, SLOPES, TEMPERATURE
from segjax.training.writers import finite

VIEW = "--mode, --tiles, --overlap and --tta"
SURFACE_TOLERANCE = 1.0  # pixels that surface Dice forgives
RULES = (
  "A class that neither truth nor prediction has, in an image or in the split, is left out.",
  "Where one of them alone has it, surface Dice is 0, and HD95 has no value and is left out.",
)


def run_or_file(
  workdir, file, config, *, view, split="val", folder=None, checkpoint="latest", **scores
):
  """Evaluates a run, see `run`, or an exported file, see `export.evaluation.run`.

  Args:
    workdir: folder of the run; or None.
    file: exported file; or None.
    config: of an exported file, the spec of its data; of a run, see `cli.define_own_code`.
    view: how an image is seen, see `inference.command.view_of`.
    split: "train", "val" or "test".
    folder: where the data lie now, or other data.
    checkpoint: of a run: "latest", "best" or a step.
    **scores: of a run: which scores there are beyond the usual ones, {flag: bool}.

  Raises:
    UserError: neither or both of a folder and a file, flags of the other, or see the functions.
  """
  view = command.view_of(**view)
  if bool(workdir) == bool(file):
    raise UserError("give either --workdir, the folder of a run, or --model, an exported file")
  if workdir:
    run(workdir, split=split, checkpoint=checkpoint, folder=folder, view=view, **scores)
    return
  if view or any(scores.values()):
    raise UserError(f"{', '.join(f'--{name}' for name in scores)} and {VIEW} are for --workdir")
  evaluation.run(file, config, folder=folder, split=split)


def run(
  workdir, *, split="val", checkpoint="latest", folder=None, surfaces=False,
  fit_temperature=False, color_baseline=False, view=None,
):  # fmt: skip
  """Evaluates a run, prints its scores and writes them beside each other.

  Args:
    workdir: folder of the run.
    split: "train", "val" or "test".
    checkpoint: "latest", "best" or a step.
    folder: where the data lie now, or other data; None for the run's own.
    surfaces: whether to score surfaces too, which the host does.
    fit_temperature: whether to fit the checkpoint's temperature, on val, and keep it.
    color_baseline: whether to score a regression on colour and position too.
    view: dict of arguments of `Predictor`, how it sees an image; empty or None: as the run is
      evaluated.

  Raises:
    UserError: a wrong argument, no such run or checkpoint, data that do not fit or lack the split.
  """
  workdir = Path(workdir)
  experiment, state = restore.run(workdir, checkpoint)
  step, task = int(state.step), experiment.task
  _check(experiment.config.task.name, split, surfaces, fit_temperature, color_baseline, view)
  step_of, seen = experiment.eval_step, ""
  if view:
    experiment, step_of, seen = views.of_run(experiment, state, **view)
  config = experiment.config
  moved = restore.moved_to(config, folder)
  data = restore.data_of_run(workdir, config, split, moved=moved)
  sums = count(
    step_of,
    state,
    lambda: input_pipeline.eval_batches(config, data.source),
    experiment.eval_mesh(),
    task if config.task.name in SEGMENTING else None,
    logits=config.task.name in PIXELWISE,
    known=None if seen else temperature.temperature_of(workdir, step),
    surfaces=surfaces,
    fit=fit_temperature,
  )
  which = restore.checkpoint_text(workdir, step)  # for which processes wait for each other
  if not hosts.is_first():
    return  # the rest is text and files
  rows = image_scores.rows_of(sums)
  ends = image_scores.intervals(rows, task.classes) if rows else {}
  more = values(sums, rows, ends, task.classes)
  how = f", seen as {seen}" if seen else ""
  print(f"{workdir}: {which}; {len(data.source)} {split} examples{how}")
  print(task.table(sums))
  print("\n".join(lines(sums, rows, ends, more)), flush=True)  # a folder may be read-only
  file = outputs.write_scalars(workdir, experiment, state, data, split, sums, more, seen)
  written = [file.name, *score_files.write(file, experiment.labels, sums, ends, data.source)]
  if fit_temperature:
    about = {k: more[k] for k in ("ece", "calibrated_ece")}
    about |= dict(split=split, examples=len(data.source), digest=data.digest)
    written.append(temperature.keep(workdir, step, more["temperature"], **about).name)
  print(f"  written to {workdir}: {', '.join(written)}")
  if color_baseline:
    train = restore.data_of_run(workdir, config, "train", moved=moved)
    sums = baseline.color_and_position(train.source, data.source, task)
    print("\ncolour and position alone (logistic regression per pixel):")
    print(task.table(sums))


def _check(task, split, surfaces, fit_temperature, color_baseline, view):
  """Raises a UserError for flags that do not fit the task, the split or each other."""
  for flag, wanted, fit in (
    ("surfaces", surfaces, SEGMENTING),
    ("fit_temperature", fit_temperature, ("segmentation",)),
    ("color_baseline", color_baseline, ("segmentation",)),
  ):
    if wanted and task not in fit:
      raise UserError(f"--{flag} is for {' or '.join(fit)}, this run's task is {task!r}")
  if surfaces and jax.process_count() > 1:
    raise UserError("--surfaces works in one process; leave --distributed out")
  if view and jax.process_count() > 1:
    raise UserError(f"{VIEW} work in one process; leave --distributed out")
  if fit_temperature and view:
    raise UserError(f"--fit_temperature is for the run as it is evaluated; leave out {VIEW}")
  if fit_temperature and split != "val":
    raise UserError(
      f"--fit_temperature fits on the val split, and --split is {split!r}; leave it out, then "
      "evaluate on the other split, which uses the temperature that was kept"
    )


def count(
  step_of: Callable,
  state: Any,
  batches_of: Callable,
  mesh: Any,
  task: Any,
  *,
  logits: bool = True,
  known: float | None = None,
  surfaces: bool = False,
  fit: bool = False,
) -> dict[str, np.ndarray]:
  """Counts all that the scores follow from, of a run's net or of any other predictor.

  Everything comes from one pass; calibration at a temperature that is fitted takes a second one.

  Args:
    step_of: function of a `measure` or None -> eval step, see `eval_step.make_eval_step`.
    state: the step's first argument.
    batches_of: function without arguments -> batches of the split, see `pipeline.eval_batches`.
    mesh: mesh of the devices.
    task: a task of `SEGMENTING`, or None: then nothing is counted beyond the step's own statistics.
    logits: whether the outputs are logits, whose calibration is counted.
    known: temperature that the calibration is counted at too, or None.
    surfaces: whether the host scores surfaces.
    fit: whether to fit the temperature, in place of the known one.

  Returns:
    dict of statistics, see `training.measures`; with a temperature that is in it too, under
    `TEMPERATURE`.
  """
  if task is None:
    return evaluate(step_of(None), state, batches_of(), mesh)
  known = known if logits and not fit else None
  measure = measures.of_batch(task, calibration=logits, temperature=known, fit=fit, maps=surfaces)
  on_host = measures.on_host(task, SURFACE_TOLERANCE) if surfaces else None
  batches = measures.with_tolerances(batches_of())
  sums = evaluate(step_of(measure), state, batches, mesh, on_host)
  if fit:
    known = metrics.fit_temperature(sums.pop(SLOPES))
    if not np.isfinite(known):
      raise UserError("--fit_temperature: no pixel is scored, or logits are not finite; omit it")
    measure = measures.of_batch(task, boundaries=False, calibration=False, temperature=known)
    again = evaluate(step_of(measure), state, batches_of(), mesh)
    sums |= {k: v for k, v in again.items() if k.startswith(f"{CALIBRATED}/")}
  return sums | ({} if known is None else {TEMPERATURE: np.float64(known)})


def values(sums, rows, ends, classes):
  """The scores beyond the task's summary for the file of an evaluation; None in place of nan."""
  more = image_scores.scores(rows, classes) if rows else {}
  for name, prefix in ((CALIBRATION, ""), (CALIBRATED, f"{CALIBRATED}_")):
    if found := measures.calibration_of(sums, name):
      more |= {f"{prefix}{k}": found[k] for k in ("ece", "classwise_ece")}
      of_classes = zip(classes, found["class_ece"], strict=True)
      more |= {f"{prefix}ece/{c}": float(value) for c, value in of_classes}
  if TEMPERATURE in sums:
    more["temperature"] = float(sums[TEMPERATURE])
  more = finite(more)
  if ends:
    more["intervals"] = {
      k: list(finite({0: low, 1: high}).values()) for k, (low, high) in ends.items()
    }
  return more


def lines(sums, rows, ends, more):
  """The scores beyond the task's table as lines of text."""
  out = []
  if rows:
    images = len(rows[COUNTS])
    level, samples = image_scores.LEVEL, image_scores.SAMPLES
    head = f"{100 * level:.0f} % interval over the {images} images ({samples} draws)"
    out.append(f"  {'':<40}{'score':>8}  {head}")
    for name, text in MEANS.items():
      if name in ends:
        low, high = ends[name]
        out.append(f"  {text:<40}{_number(more[name]):>8}  {low:.4f} to {high:.4f}")
    out += [f"  {rule}" for rule in RULES[: 1 + ("mean_hd95" in ends)]] + [""]
  if "ece" in more:
    out.append(f"  {'expected calibration error':<40}{_number(more['ece']):>8}")
    out.append(f"  {'classwise':<40}{_number(more['classwise_ece']):>8}")
  if TEMPERATURE in more:
    text = f"at temperature {more['temperature']:.3f}"
    out.append(f"  {f'{text}':<40}{_number(more['calibrated_ece']):>8}")
    out.append(f"  {f'{text}, classwise':<40}{_number(more['calibrated_classwise_ece']):>8}")
  return out


def _number(value):
  return "nan" if value is None else f"{value:.4f}"
