"""The figures of a study's report."""

from __future__ import annotations

import numpy as np

from segjax.analysis import charts, image_scores, intact, predictions, regions, worst_images
from segjax.analysis.figures import shown_scalars, write_picture
from segjax.analysis.intervals import mean_and_deviation
from segjax.analysis.names import CLASS_METRICS, text_of
from segjax.analysis.variants import data_now, sign_of, start_of
from segjax.tasks import PIXELWISE, TASKS
from segjax.training import experiment as experiment_lib
from segjax.training import input_pipeline, measures, restore
from segjax.training.evaluation import evaluate

WORST = 4  # images in a report


def curves(document, study, done, figures):
  """Draws the curves of the study's metric and of the loss, term by term where it has several."""
  document.heading("Curves")
  runs = {v: [r.rows() for r in rs] for v, rs in done.items()}
  configs = [rs[0].config for rs in done.values()]
  metric, shown = study.metric.removeprefix("val/"), {}
  if len({c.task.name for c in configs}) == 1:
    labels = {TASKS[c.task.name].loss_label_of(c.loss.to_dict()) for c in configs}
    label = labels.pop() if len(labels) == 1 else "loss (of several kinds)"
    shown = shown_scalars([row for seeds in runs.values() for row in seeds[0]], study.metric, label)
  shown.setdefault(metric, text_of(study.metric))
  best = (metric, "max" if sign_of(configs[0], study.metric) > 0 else "min")
  file = charts.curves(runs, list(shown.items()), figures / "curves.png", best=best)
  document.figure(
    file,
    "Training (dashed) and validation (solid): mean over seeds, the band from the lowest to the "
    "highest seed, of those that trained so far. A training value is the mean since the evaluation "
    f"before, augmentation on. A star marks a variant's best mean in {text_of(study.metric)}.",
  )


def trade_offs(document, done, costs, score, figures):
  """Draws a score, see `answer.score_of`, against each cost; writes the ranks and the costs."""
  document.heading("Costs")
  axes = {
    "training minutes": {v: np.mean([r.minutes() for r in runs]) for v, runs in done.items()},
    "size, MB": {v: costs[v][0].mb for v in done},
  }
  for k, c in enumerate(next(iter(costs.values()))):
    axes[f"latency at batch 1, ms ({c.device})"] = {v: costs[v][k].latency_ms for v in done}
  ranks = {}
  if score:
    value_text, sign, by_seed = score
    value = {v: [x for x in of.values() if np.isfinite(x)] or [np.nan] for v, of in by_seed.items()}
    ranks[value_text] = _ranking({v: -sign * np.mean(x) for v, x in value.items()})
    spread = {v: np.std(x, ddof=1) if len(x) > 1 else np.nan for v, x in value.items()}
  # Where some start from weights, each dot is marked with its start.
  differ = len({start_of(runs) for runs in done.values()}) > 1
  names = {v: f"{v} ({start_of(runs)})" if differ else v for v, runs in done.items()}
  for text, by in axes.items():
    ranks[text] = _ranking(by)
    if not score:
      continue
    points = {names[v]: (by[v], np.mean(value[v]), spread[v]) for v in done}
    name = "".join(c if c.isalnum() else "_" for c in text.split(",")[0].lower())
    name += "_" + text.split("(")[-1].rstrip(")").replace(" ", "_") if "(" in text else ""
    file = figures / f"trade_{name}.png"
    charts.scatter(points, (text, value_text), file, high_is_good=sign > 0)
    document.figure(file, f"{value_text} against {text}; bars: standard deviation over seeds.")
  document.table(
    ("ranking (1 is best)", *done), [(text, *(r[v] for v in done)) for text, r in ranks.items()]
  )
  document.table(
    ("variant", "device", "latency, ms", "quartiles apart, ms", "images/s at batch 8",
     "peak memory, MB", "compile time, s"),
    [
      (v, c.device, f"{c.latency_ms:.1f}", f"{c.latency_spread_ms:.1f}", f"{c.images_per_s:.1f}",
       f"{c.peak_mb:.0f}", f"{c.compile_s:.1f}")
      for v in done for c in costs[v]
    ],
  )  # fmt: skip


def _ranking(values):
  """Place of each, 1 for the lowest; equal values share one, nan has none.

  >>> _ranking({"a": 3, "b": 1, "c": 3, "d": np.nan})
  {'a': 2, 'b': 1, 'c': 2, 'd': '-'}
  """
  places = {k: 1 + sum(other < v for other in values.values()) for k, v in values.items()}
  return {k: "-" if np.isnan(values[k]) else place for k, place in places.items()}


def segmentation(document, study, done, figures):
  """Per-class bars, confusion matrices, best and worst regions, stages of training."""
  first = next(iter(done.values()))[0]
  labels = experiment_lib.load_labels(first.workdir / "labels.json")
  finals = {v: [r.final() for r in runs] for v, runs in done.items()}
  document.heading("Classes")
  iou = {
    v: [[row.get(f"val/iou/{c}", np.nan) for c in labels.names] for row in of]
    for v, of in finals.items()
  }
  colors = np.array([color for _, color in labels.classes])
  file = charts.class_bars(iou, labels.names, colors, figures / "iou_by_class.png")
  document.figure(file, "IoU of each class on the validation set.")
  rows = []
  for metric in ("iou", "precision", "recall", "f1"):
    for c in labels.names:
      values = [[row.get(f"val/{metric}/{c}", np.nan) for row in of] for of in finals.values()]
      rows.append(
        (CLASS_METRICS.get(metric, metric), c, *(mean_and_deviation(v, 3) for v in values))
      )
  document.table(("metric", "class", *done), rows)
  _confusions(document, labels.names, done, figures)
  sign = sign_of(first.config)
  best = max(done, key=lambda v: sign * np.mean([r.best() for r in done[v]]))
  document.heading(f"Best and worst regions of '{best}'")
  intact.or_line(
    document, f"Regions of {best}", lambda: _regions(document, done[best][0], labels, figures)
  )
  _worst(document, done[best][0], figures)
  _reliability(document, done, figures)
  document.heading("Stages of training")
  for k, runs in enumerate(done.values()):
    file = figures / f"stages_{k}.png"
    what = f"Stages of {runs[0].variant}"
    intact.or_line(document, what, lambda r=runs[0], f=file: _stages(document, r, f))


def _regions(document, run, labels, figures):
  predictor = predictions.Predictor(run.workdir, moved=data_now(run))
  found = regions.best_and_worst(predictor, len(labels))
  document.figure(
    write_picture(regions.picture(found, labels), figures / "regions.png"),
    f"For each class the windows of the validation set with the highest and the lowest IoU (seed "
    f"{run.seed}): image | truth (striped: ignored) | prediction. 'None' where the class nowhere "
    "reaches 0.5, nowhere stays below, or is too small everywhere.",
  )


def _worst(document, run, figures):
  """The worst images of a run, whose evaluation has rows of images."""
  rows = image_scores.rows_of(run.sums())
  if not rows:
    return
  what, where = f"Worst images of {run.variant}", data_now(run)
  find = lambda: worst_images.find(run.workdir, "latest", where, WORST, rows)  # noqa: E731
  if found := intact.or_line(document, what, find):
    document.heading(f"Worst images of '{run.variant}'")
    document.figure(
      write_picture(found.picture, figures / "worst.png"),
      f"The validation images with the least mean IoU over their own classes (seed {run.seed}), "
      "the worst first, with that score.",
    )


def _reliability(document, done, figures):
  """Calibration of the first run of each variant whose outputs are logits."""
  found = {}
  for variant, runs in done.items():
    if runs[0].config.task.name in PIXELWISE:
      what, run = f"Calibration of {variant}", runs[0]
      counted = intact.or_line(document, what, lambda run=run: _calibration(run))
      found |= {variant: counted} if counted else {}
  if not found:
    return
  document.heading("Calibration")
  file = charts.reliability(found, "validation images", figures / "reliability.png")
  document.figure(
    file,
    "Share of right pixels by the probability of the predicted class, first seed; below the line "
    "the net is surer than it is right. ECE is the mean distance from the line over pixels.",
  )
  rows = [(v, f"{c['ece']:.4f}", f"{c['classwise_ece']:.4f}") for v, c in found.items()]
  document.table(("variant", "expected calibration error", "classwise"), rows)


def _calibration(run):
  experiment, state = restore.run(run.workdir)
  source = restore.data_of_run(run.workdir, experiment.config, "val", moved=data_now(run)).source
  measure = measures.of_batch(experiment.task, boundaries=False)
  batches = input_pipeline.eval_batches(experiment.config, source)
  sums = evaluate(experiment.eval_step(measure), state, batches, experiment.eval_mesh())
  return measures.calibration_of(sums, measures.CALIBRATION)


def _stages(document, run, file):
  picture, steps = predictions.stages(run.workdir, moved=data_now(run))
  write_picture(picture, file)
  text = ", ".join(map(str, steps))
  document.figure(file, f"{run.variant}, seed {run.seed}: fixed examples after {text} steps.")


def _confusions(document, names, done, figures):
  for k, (label, runs) in enumerate(done.items()):
    matrix = sum(r.sums()["matrix"] for r in runs)
    file = figures / f"confusion_{k}.png"
    charts.confusion(matrix, names, f"{label}: {len(runs)} runs together", file)
    document.figure(file, f"Confusion of {label}: each row sums to 1.")


def confusions(document, done, figures):
  """Confusion matrices of the variants whose tasks have classes."""
  done = {v: runs for v, runs in done.items() if "matrix" in runs[0].sums()}
  if done:
    first = next(iter(done.values()))[0]
    document.heading("Classes")
    _confusions(document, restore.run(first.workdir)[0].task.classes, done, figures)


def examples(document, done, figures):
  """Validation examples with the predictions of each variant."""
  first = next(iter(done.values()))[0]
  document.heading("Examples")
  workdirs = {v: runs[0].workdir for v, runs in done.items()}
  draw = lambda: predictions.side_by_side(workdirs, moved=data_now(first))  # noqa: E731
  picture = intact.or_line(document, "Examples", draw)
  if picture is not None:
    file = write_picture(picture, figures / "examples.png")
    document.figure(file, f"Validation examples after the last step, seed {first.seed}.")
