"""The tables and figures beside the scalars of an evaluation."""

from __future__ import annotations

import numpy as np

from segjax import textfiles
from segjax.analysis import charts, image_scores
from segjax.errors import writing
from segjax.tasks.segmentation import COUNTS
from segjax.training import measures
from segjax.training.measures import CALIBRATED, CALIBRATION, TEMPERATURE

OF_CLASSES = ("iou", "f1", "boundary_iou", "boundary_f", "surface_dice", "hd95")


def write(file, labels, sums, ends, source):
  """Writes the tables of classes, of their confusion and of images, and figures of the first two
  and of reliability, each where the statistics have it.

  Args:
    file: path of the scalars; the others have its stem before their own names.
    labels: LabelTable.
    sums: statistics of the evaluation.
    ends: {name: (low, high)}, intervals over images, or {}.
    source: of the split, made to fit.

  Returns:
    Names of the files; a figure is there as PDF too.
  """
  rows, written = image_scores.rows_of(sums), []

  def place(end):
    path = file.with_name(f"{file.stem}_{end}")
    written.append(path.name)
    return path

  matrix = sums.get("matrix")
  if matrix is not None and len(matrix) == len(labels):
    _write(place("confusion.csv"), confusion_table(matrix, labels.names))
    charts.confusion(matrix, labels.names, file.stem, place("confusion.png"))
  if COUNTS in rows:
    found = image_scores.scores(rows, labels.names)
    calibration = measures.calibration_of(sums, CALIBRATION)
    _write(place("classes.csv"), class_table(rows, found, ends, labels.names, calibration))
    colors = labels.palette[: len(labels)]
    charts.class_scores(found, ends, labels.names, colors, place("classes.png"))
    names = source.source.names
    _write(place("images.csv"), image_table(rows, labels.names, names))
  shown = {}
  if found := measures.calibration_of(sums, CALIBRATION):
    shown["as trained"] = found
  if found := measures.calibration_of(sums, CALIBRATED):
    shown[f"at temperature {float(sums[TEMPERATURE]):.3f}"] = found
  if shown:
    charts.reliability(shown, file.stem, place("reliability.png"))
  return written


def confusion_table(matrix, classes):
  """Rows of the confusion matrix, pixels; row = truth, column = prediction."""
  head = ["truth \\ prediction", *map(textfiles.cell, classes)]
  return [
    head,
    *([textfiles.cell(c), *map(int, row)] for c, row in zip(classes, matrix, strict=True)),
  ]


def class_table(rows, found, ends, classes, calibration=None):
  """Rows of the scores of each class, with intervals over images where a score has one.

  Args:
    rows: see `image_scores.scores`.
    found: its result, without weights.
    ends: result of `image_scores.intervals`.
    classes: names of the classes.
    calibration: result of `metrics.calibration`, whose errors are the last column, or None.
  """
  hit, truth, pred = np.asarray(rows[COUNTS], np.int64).sum(0).T
  precision, recall = image_scores.ratio(hit, pred), image_scores.ratio(hit, truth)
  names = [n for n in OF_CLASSES if f"{n}/{classes[0]}" in found]
  head = ["class", "pixels", "precision", "recall"]
  head += [f"{n}{end}" for n in names for end in ("", "_low", "_high")]
  out = [head + ["ece"] * bool(calibration)]
  for i, c in enumerate(classes):
    row = [textfiles.cell(c), int(truth[i]), precision[i], recall[i]]
    for n in names:
      row += [found[f"{n}/{c}"], *ends[f"{n}/{c}"]]
    out.append(row + ([calibration["class_ece"][i]] if calibration else []))
  return out


def image_table(rows, classes, names):
  """Rows of the images, the worst first, with their mean IoU and the IoU of each class."""
  order, own = image_scores.worst_first(rows)
  counts = np.asarray(rows[COUNTS], np.int64)
  hit, truth, pred = np.moveaxis(counts, -1, 0)
  iou = image_scores.ratio(hit, truth + pred - hit)
  out = [["image", "index", "pixels", "mean_iou", *(textfiles.cell(f"iou/{c}") for c in classes)]]
  for i in order:
    out.append([textfiles.cell(names[i]), int(i), int(truth[i].sum()), own[i], *iou[i]])
  return out


def _write(file, rows):
  with writing(file):
    textfiles.write_csv(file, rows)
