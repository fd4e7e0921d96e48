"""Figures of a run from its `metrics.jsonl`."""

from __future__ import annotations

import textwrap

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # "$" stands in names of classes and files
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker
from PIL import Image

from segjax import config as config_lib
from segjax.analysis.names import text_of
from segjax.errors import writing
from segjax.tasks import TASKS
from segjax.tasks.segmentation import TERMS
from segjax.training.writers import read_metrics

TRAIN, VAL, CONSTANT = "#0072B2", "#D55E00", "#777777"  # blue and vermilion of Okabe and Ito


def write(figure, file):
  """Writes `file` as PNG, and a PDF beside it; closes the figure.

  Raises:
    UserError: the folder cannot be written to; so do all functions that write figures.
  """
  with writing(file):
    try:
      figure.savefig(file, dpi=130)
      figure.savefig(file.with_suffix(".pdf"), metadata=dict(CreationDate=None))
    finally:
      plt.close(figure)
  return file


def write_picture(picture, file):
  """Writes u8[H,W,3] as PNG, and a PDF beside it, pixel for pixel."""
  with writing(file):
    Image.fromarray(picture).save(file)
    # Pillow's PDF would hold a JPEG, with other colours than the classes'.
    figure = plt.figure(figsize=np.array(picture.shape[1::-1]) / 100, dpi=100)
    try:
      figure.figimage(picture)
      figure.savefig(file.with_suffix(".pdf"), dpi=100, metadata=dict(CreationDate=None))
    finally:
      plt.close(figure)
  return file


def series(rows, name):
  """(steps, values) of a scalar over the rows that hold it as a number, as float64 arrays."""
  pairs = [(r["step"], r[name]) for r in rows if _is_number(r.get(name))]
  return np.array(pairs, np.float64).reshape(-1, 2).T


def _is_number(value):
  return type(value) in (int, float)


def at_steps(rows, name, ends):
  """Values of an evaluation's scalar at the given steps, nan where it was not defined."""
  found = dict(zip(*series(rows, name), strict=True))
  return np.array([found.get(step, np.nan) for step in ends])


def interval_means(rows, name, ends):
  """Means of a training scalar over the intervals that end at the given steps.

  Args:
    rows: rows of metrics.jsonl; a train row holds the mean over its last `train/steps` steps.
    name: name of the scalar.
    ends: increasing steps; the first interval starts at 0.

  Returns:
    f64[len(ends)], nan where nothing was logged.
  """
  rows = [r for r in rows if _is_number(r.get(name))]
  steps, values = series(rows, name)
  # Rows without the count of their steps weigh as one step.
  counts = [r.get("train/steps") for r in rows]
  weights = np.array([n if _is_number(n) and n > 0 else 1 for n in counts], np.float64)
  out, start = [], 0
  for end in ends:
    inside = (steps > start) & (steps <= end)
    out.append(np.average(values[inside], weights=weights[inside]) if inside.any() else np.nan)
    start = end
  return np.array(out)


def epoch_axis(rows, ends):
  """Where steps stand on an axis of epochs, or of steps where metrics.jsonl lost its info row.

  Args:
    rows: list of the rows of some runs, a list each.
    ends: for each run its steps.

  Returns:
    (list of f64[N], label of the axis).
  """
  per_epoch = [series(r, "info/steps_per_epoch")[1] for r in rows]
  if not all(n.size and n[0] > 0 for n in per_epoch):
    return [np.asarray(e, float) for e in ends], "step"
  return [np.asarray(e) / n[0] for e, n in zip(ends, per_epoch, strict=True)], "epoch"


def shown_scalars(rows, best_metric, loss_label):
  """What curves show: {scalar without its split: label of its axis}, the best metric first.

  A loss of several terms, `loss/<term>`, is shown term by term: they have different units.

  Args:
    rows: of metrics.jsonl.
    best_metric: name of the scalar that picks the best checkpoint, `val/...`.
    loss_label: of the task, see `Task.loss_label_of`.
  """
  evaluated = dict.fromkeys(k[4:] for row in rows for k in row if k.startswith("val/"))
  best = best_metric.removeprefix("val/")
  names = [best] if best in evaluated else []
  names += [k for k in evaluated if k.startswith("loss/")] or ["loss"]
  if names[0].startswith("loss"):  # and the first score, to have one
    trained = {k[6:] for row in rows for k in row if k.startswith("train/")}
    names += [k for k in evaluated if k in trained and not k.startswith("loss")][:1]
  texts = {f"loss/{k}": text for k, text in TERMS.items()} | {"loss": loss_label}
  return {k: texts.get(k) or text_of(f"val/{k}") for k in names}


def best_step(rows, metric, mode):
  """(step, value) of the evaluation that is the best checkpoint's, or None.

  Of equal ones the last, as the checkpoints keep it.
  """
  steps, values = series(rows, metric)
  known = np.flatnonzero(np.isfinite(values))
  if not known.size:
    return None
  scores = values[known] * (1 if mode == "max" else -1)
  k = known[np.flatnonzero(scores == scores.max())[-1]]
  return steps[k], values[k]


def curves(workdir, title, file):
  """Writes a chart of a run over epochs: the metric that picks the best checkpoint, and the loss.

  The train curve is the mean over the steps since the evaluation before (with augmentation and
  dropout on, if they are), the validation curve one evaluation. A star and a dotted line mark the
  best checkpoint.

  Args:
    workdir: folder of a run.
    title: title of the figure.
    file: path of the PNG; a PDF is written beside it.

  Returns:
    The path, or None where nothing was evaluated yet.
  """
  rows, config = read_metrics(workdir / "metrics.jsonl"), config_lib.load(workdir / "config.json")
  ends = series(rows, "val/loss")[0]
  if not ends.size:
    return None
  (places,), axis_text = epoch_axis([rows], [ends])
  per_step = places[-1] / ends[-1]
  label = TASKS[config.task.name].loss_label_of(config.loss.to_dict())
  shown = shown_scalars(rows, config.best_metric, label)
  best = best_step(rows, config.best_metric, config.best_mode)
  figure, axes = plt.subplots(
    1, len(shown), figsize=(5 * len(shown), 4), layout="constrained", squeeze=False
  )
  for axis, (name, text) in zip(axes[0], shown.items(), strict=True):
    train, val = interval_means(rows, f"train/{name}", ends), at_steps(rows, f"val/{name}", ends)
    if not np.isnan(train).all():
      axis.plot(places, train, "o-", color=TRAIN, ms=3.5, label="train (mean since last val)")
    axis.plot(places, val, "s-", color=VAL, ms=3.5, label="validation")
    axis.set(xlabel=axis_text, ylabel=text)
    if best:
      axis.axvline(best[0] * per_step, color=CONSTANT, ls=":", lw=1)
    if best and f"val/{name}" == config.best_metric:
      where = f"best checkpoint: {best[1]:.3f}, step {best[0]:.0f}"
      axis.plot(best[0] * per_step, best[1], "*", color="black", ms=11, zorder=5, label=where)
    constant = series(rows, "val/constant_accuracy")[1]
    if constant.size and name in ("pixel_accuracy", "accuracy"):
      answer = f"best constant answer ({constant[-1]:.3f})"
      axis.axhline(constant[-1], color=CONSTANT, ls="--", label=answer)
    if name.startswith("loss"):
      fit_losses(axis, np.concatenate([train, val]))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
  figure.suptitle(title)
  with writing(file):
    file.parent.mkdir(parents=True, exist_ok=True)
  return write(figure, file)


def logarithmic(axis):
  """Makes the y axis logarithmic, its numbers without mathematical signs, which are not read."""
  axis.set_yscale("log")
  axis.yaxis.set_major_formatter(ticker.LogFormatter())
  axis.yaxis.set_minor_formatter(ticker.LogFormatter())


def fit_losses(axis, values):
  """Sets the scale of an axis of losses: from 0, or logarithmic where a few dwarf the rest.

  The first evaluations of a net with batch norm or averaged parameters are often that large.
  """
  known, text = values[np.isfinite(values)], axis.get_ylabel()
  axis.set_ylabel(textwrap.fill(text, 40))
  if known.size and known.min() > 0 and known.max() > 20 * np.median(known):
    logarithmic(axis)
    axis.set_ylabel(textwrap.fill(f"{text}, logarithmic", 40))
  elif not known.size or known.min() >= 0:
    axis.set_ylim(bottom=0)
