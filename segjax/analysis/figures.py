"""Figures of a run from its `metrics.jsonl`."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from segjax import config as config_lib
from segjax.errors import writing
from segjax.tasks import TASKS
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


def _shared(rows):
  """Names of the scalars that training and evaluation both have, `loss` first."""
  names = dict.fromkeys(k for row in rows for k in row)
  return [k[6:] for k in names if k.startswith("train/") and f"val/{k[6:]}" in names]


def curves(workdir, title, file):
  """Writes a chart of a run: train and validation loss and the task's first score over epochs.

  The train curve is the mean over the steps since the evaluation before (with augmentation and
  dropout on, if they are), the validation curve one evaluation.

  Args:
    workdir: folder of a run.
    title: title of the figure.
    file: path of the PNG; a PDF is written beside it.

  Returns:
    The path, or None where nothing was evaluated yet.
  """
  rows = read_metrics(workdir / "metrics.jsonl")
  ends = series(rows, "val/loss")[0]
  if not ends.size:
    return None
  (places,), axis_text = epoch_axis([rows], [ends])
  loss_label = TASKS[config_lib.load(workdir / "config.json").task.name].loss_label
  names = _shared(rows)[:2] or ["loss"]
  figure, axes = plt.subplots(
    1, len(names), figsize=(5 * len(names), 4), layout="constrained", squeeze=False
  )
  axes = axes[0]
  for axis, name in zip(axes, names, strict=True):
    train, val = interval_means(rows, f"train/{name}", ends), at_steps(rows, f"val/{name}", ends)
    axis.plot(places, train, "o-", color=TRAIN, ms=3.5, label="train (mean since last evaluation)")
    axis.plot(places, val, "s-", color=VAL, ms=3.5, label="validation")
    text = loss_label if name == "loss" else name.replace("_", " ")
    axis.set(xlabel=axis_text, ylabel=text)
    axis.grid(alpha=0.3)
  constant = series(rows, "val/constant_accuracy")[1]
  if constant.size and len(axes) > 1:
    text = f"best constant answer ({constant[-1]:.3f})"
    axes[1].axhline(constant[-1], color=CONSTANT, ls="--", label=text)
  axes[0].set_ylim(bottom=0)
  for axis in axes:
    axis.legend(fontsize=8)
  figure.suptitle(title)
  with writing(file):
    file.parent.mkdir(parents=True, exist_ok=True)
  return write(figure, file)
