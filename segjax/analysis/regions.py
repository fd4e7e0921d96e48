"""Where a model does well and badly: for each class its best and its worst window."""

from __future__ import annotations

import dataclasses

import numpy as np

from segjax.data.labels import IGNORE
from segjax.legends import colorize, with_legend
from segjax.pictures import panel

SUCCESS = 0.5  # IoU in the window from which on a class counts as found


@dataclasses.dataclass(frozen=True)
class Region:
  """A window of a validation example.

  Attributes:
    name: name of the example.
    iou: IoU of the class within the window.
    image: u8[h,w,3].
    label: u8[h,w].
    pred: u8[h,w].
  """

  name: str
  iou: float
  image: np.ndarray
  label: np.ndarray
  pred: np.ndarray


def window_sums(mask, size, stride):
  """Sums of bool[H,W] over windows of size x size pixels that start every `stride` pixels.

  >>> window_sums(np.ones((4, 6), bool), 2, 2).tolist()
  [[4, 4, 4], [4, 4, 4]]
  """
  table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
  table[1:, 1:] = mask.cumsum(0, dtype=np.int64).cumsum(1)
  top, left = (np.arange(0, n - size + 1, stride)[:, None] for n in mask.shape)
  left = left.T
  bottom, right = top + size, left + size
  return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]


def best_and_worst(predictions, num_classes, *, size=96, share=0.05):
  """For each class the windows in which its IoU is highest and lowest.

  Windows of size x size pixels start every quarter of it. Only those count in which the class holds
  at least `share` of the pixels, and of which at least half are scored.

  Args:
    predictions: iterable of Prediction; each is looked at once.
    num_classes: number of classes.
    size: pixels; less where an image is smaller.
    share: least share of the window that the class must hold in truth.

  Returns:
    list of (best, worst) a class, Regions or None: no best where the IoU nowhere reaches 0.5, no
    worst where it nowhere stays below.
  """
  found = [[None, None] for _ in range(num_classes)]
  for p in predictions:
    side = min(size, *p.label.shape)
    scored = p.label != IGNORE
    enough = window_sums(scored, side, max(side // 4, 1)) >= side * side / 2
    for c in range(num_classes):
      truth, pred = p.label == c, (p.pred == c) & scored
      if not truth.any():
        continue
      counts = [window_sums(m, side, max(side // 4, 1)) for m in (truth, pred, truth & pred)]
      usable = enough & (counts[0] >= share * side * side)
      if usable.any():
        iou = counts[2] / np.maximum(counts[0] + counts[1] - counts[2], 1)
        _note(found[c], p, np.where(usable, iou, np.nan), side)
  return [
    (b if b and b.iou >= SUCCESS else None, w if w and w.iou < SUCCESS else None) for b, w in found
  ]


def _note(pair, p, iou, side):
  """Keeps the windows of this example that are better or worse than those found so far."""
  stride = max(side // 4, 1)
  for k, (choose, better) in enumerate(((np.nanargmax, np.greater), (np.nanargmin, np.less))):
    top, left = np.unravel_index(choose(iou), iou.shape)
    value = float(iou[top, left])
    if pair[k] is None or better(value, pair[k].iou):
      part = (slice(top * stride, top * stride + side), slice(left * stride, left * stride + side))
      cut = (x[part].copy() for x in (p.image, p.label, p.pred))
      pair[k] = Region(p.name, value, *cut)


def picture(found, labels):
  """A row per class: image | truth | prediction of its best window, then of its worst; a legend.

  Args:
    found: result of `best_and_worst`.
    labels: LabelTable.

  Returns:
    u8[height,width,3].
  """
  rows, shown = [], set(range(len(labels)))
  for name, pair in zip(labels.names, found, strict=True):
    row, seen = [], any(pair)
    for region, kind in zip(pair, ("best", "worst"), strict=True):
      if region is None:
        why = "IoU below 0.5 everywhere" if kind == "best" else "IoU 0.5 or more everywhere"
        why = why if seen else "too small or absent"
        blank = np.full((160, 160, 3), 235, np.uint8)
        row += [(f"{name}, {kind}: none", blank), (why, blank), ("", blank)]
        continue
      truth, pred = colorize(labels, region.label), colorize(labels, region.pred)
      shown |= set(np.unique(region.label).tolist())
      row += [
        (f"{name}, {kind}: IoU {region.iou:.2f}", _enlarged(region.image)),
        (f"truth, {region.name}", _enlarged(truth)),
        ("prediction", _enlarged(pred)),
      ]
    rows.append(row)
  return with_legend(panel(rows, most=200), labels, shown)


def _enlarged(image, side=160):
  """Nearest-neighbour enlargement, so that all windows are of one size in the picture."""
  pick = [np.arange(side) * n // side for n in image.shape[:2]]
  return image[pick[0]][:, pick[1]]
