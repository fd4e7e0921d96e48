"""Gaps of a split: classes without a scored pixel, crops beyond the images."""

from __future__ import annotations

import time

import numpy as np

from segjax.data import checks, lists
from segjax.data.threads import map_threads
from segjax.errors import UserError
from segjax.tasks import TASKS

LOOKED_AT = 500  # examples of a split whose labels are counted before a training, at most
FEW = 25  # of them at least, whatever it takes
SECONDS = 10  # that the others may take
MEASURED = 20  # images of a split whose sizes are compared with the crops
DRAWN = ("road_scenes", "aerial_scenes")  # sources whose labels cost more than reading a file
NAMED = 10  # classes in a warning
# Mean colourfulness of images below which they are grey; slightly colourful ones have 15.
GREY = 1.0


def at_start(config, train_source, val_source, label_kind):
  """Warnings of both splits before a training.

  Args:
    config: ConfigDict of an experiment.
    train_source: see `segjax.data.sources`.
    val_source: likewise.
    label_kind: kind of label of the task.

  Returns:
    (warnings, whether all of the validation split was looked at).

  Raises:
    UserError: see `count`.
  """
  found, names = [], train_source.labels.names
  for i, name in enumerate(names):
    found += [f"two classes: {text}" for text in lists.alike([name], names[:i])]
  found += count(config, "train", train_source, label_kind)[0]
  more, counted = count(config, "val", val_source, label_kind)
  return [*found, *more, *crops(config, train_source, val_source)], counted


def count(config, split, source, label_kind):
  """Looks at labels of a split, evenly spread: at as many as are read within `SECONDS`.

  Args:
    config: ConfigDict.
    split: "train" or "val".
    source: source of the split, see `segjax.data.sources`.
    label_kind: kind of label of the task; with others than "mask", "masks" and "class" nothing is
      looked at.

  Returns:
    (warnings, whether all of the split was looked at).

  Raises:
    UserError: no label of the split is scored, or a file cannot be read.
  """
  if label_kind not in ("mask", "masks", "class") or config.data.source.name in DRAWN:
    return [], False
  look = _of_sets if label_kind == "masks" else _of_classes
  threads, total = max(config.data.threads, 1), len(source)
  started = time.perf_counter()
  pixels, scored, ignored, looked = look(source, threads, min(FEW, LOOKED_AT))
  more = int(looked * SECONDS / max(time.perf_counter() - started, 1e-9))
  if looked < total and more > looked:
    pixels, scored, ignored, looked = look(source, threads, min(more, LOOKED_AT))
  if not scored and looked < total:
    pixels, scored, ignored, looked = look(source, threads)
  share = ignored / max(ignored + scored, 1)
  part = "" if looked == total else f" in the {looked} of {total} examples looked at"
  found = warnings(split, source.labels.names, pixels, share, part, scored)
  return found, looked == total


def _of_classes(source, threads, limit=None):
  """(pixels of each class, scored and ignored pixels, examples looked at)."""
  pixels, ignored, looked = checks.label_counts(source, threads, limit)
  return pixels, pixels.sum(), ignored, looked


def _of_sets(source, threads, limit=None):
  """`_of_classes` of classes that overlap."""
  counts = checks.mask_counts(source, threads, limit)
  *pixels, scored, ignored = counts.sum(0)
  return np.array(pixels), scored, ignored, len(counts)


def warnings(split, names, pixels, ignored=None, part="", scored=None):
  """Sentences about classes that a split does not score.

  Args:
    split: "train", "val" or "test".
    names: names of the classes.
    pixels: int[C], scored pixels or examples of each class.
    ignored: share of the labels that is not scored, in [0,1], or None where it is not known.
    part: which examples were looked at, where not all were.
    scored: number of scored pixels; None for the sum over the classes, which do not overlap.

  Raises:
    UserError: nothing is scored at all.
  """
  if not (np.sum(pixels) if scored is None else scored):
    raise UserError(
      f"no label of the {split} split is scored: every pixel is ignored (255); check the masks and "
      "the ignore value of the data source"
    )
  lost = [name for name, n in zip(names, pixels, strict=True) if not n]
  share = "" if ignored is None else f"; {ignored:.1%} of its labels are ignored"
  if lost:
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    return [
      f"{split}: nothing is labelled {', '.join(lost[:NAMED])}{more}{part}{share}; such a class "
      f"is {'never learned' if split == 'train' else 'left out of the means'}"
    ]
  if ignored is not None and ignored > 0.5:
    return [f"{split}: {ignored:.1%} of the labels are ignored{part}"]
  return []


def of_sums(split, names, sums):
  """Warnings of an evaluation: of true classes, see `warnings`, or of true colours."""
  matrix, scores = sums.get("matrix"), sums.get("histograms")
  colors = sums.get("true_colorfulness")
  if matrix is not None and len(matrix) == len(names):
    return warnings(split, names, np.asarray(matrix).sum(1))
  if scores is not None and len(scores) == len(names):  # of classes that overlap
    scores = np.asarray(scores).sum(-1)
    return warnings(split, names, scores[:, 1], scored=scores[0].sum())
  if colors is not None and colors < GREY * sums["examples"]:
    mean = float(colors / sums["examples"])
    return [
      f"{split}: the images are grey, their colourfulness is {mean:.2g}; there is no colour to "
      "learn, and a grey prediction has the best scores"
    ]
  return []


def crops(config, train_source, val_source):
  """Sentences about crops that are larger than the images, and about another scale of evaluation.

  Args:
    config: ConfigDict.
    train_source: see `segjax.data.sources`.
    val_source: likewise.

  Raises:
    UserError: an image is smaller than the crops of a task that scores every pixel.
  """
  data, out = config.data, []
  size, threads = tuple(data.size), max(config.data.threads, 1)
  if data.eval_fit == "crop" and TASKS[config.task.name].forbids_padding:
    _sizes(val_source, threads)  # which its source checks
  if data.fit == "crop":
    found = _sizes(train_source, threads)
    small = sum(h < size[0] or w < size[1] for h, w in found)
    if small:
      out.append(
        f"{small / len(found):.0%} of the train images ({small} of {len(found)} looked at) are "
        f"smaller than the crops, data.size={size}; they are extended by their edges, which are "
        "not scored"
      )
    if data.eval_fit == "resize" and any(s != size for s in _sizes(val_source, threads)):
      out.append(
        f"training sees crops of {size[0]}x{size[1]} at the images' own scale, evaluation whole "
        "images squeezed to that size; data.eval_fit='full' (or 'crop') keeps the scale"
      )
  return out


def _sizes(source, threads):
  """(height, width) of some images, evenly spread."""
  wanted = min(MEASURED, len(source))
  read = lambda i: source[i * len(source) // wanted]["image"].shape[:2]  # noqa: E731
  return map_threads(read, wanted, threads)
