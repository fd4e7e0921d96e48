"""How often each class occurs in a source, and loss weights that follow from it."""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import numpy as np

from segjax.analysis.figures import write
from segjax.data.checks import label_histograms, mask_counts
from segjax.errors import UserError
from segjax.losses.balance import weigh

MOST_IN_CHART = 30  # with more classes, those that do not occur are left out


@dataclasses.dataclass(frozen=True)
class ClassStatistics:
  """Counts over a source; with a class per image in place of a mask, an image is one pixel.

  Attributes:
    names: names of the classes.
    pixels: i64[C], pixels of the class.
    images: i64[C], images that contain it.
    pixels_of_images: i64[C], scored pixels of the images that contain it; of all images where an
      image has one class.
    ignored: pixels that are not scored.
    num_images: number of images of the source.
  """

  names: tuple[str, ...]
  pixels: np.ndarray
  images: np.ndarray
  pixels_of_images: np.ndarray
  ignored: int
  num_images: int

  @property
  def share(self):
    """f64[C] in [0,1], of all pixels, ignored ones included."""
    return self.pixels / max(self.pixels.sum() + self.ignored, 1)

  @property
  def ignored_share(self):
    """In [0,1], of all pixels."""
    return float(self.ignored / max(self.pixels.sum() + self.ignored, 1))


def count(source, threads=4):
  """Counts the pixels of each class.

  Args:
    source: see `segjax.data.sources`.
    threads: number of threads that read.

  Returns:
    ClassStatistics.

  Raises:
    UserError: the source has no classes, or a file is broken.
  """
  classes = len(source.labels)
  if not classes:
    raise UserError("the source has no classes to count, only target images")
  counts = label_histograms(source, threads)
  scored = counts[:, :classes]
  there = scored > 0
  of = there if counts.sum(1).max() > 1 else np.ones_like(there)  # a share of 1 would say nothing
  return ClassStatistics(
    names=source.labels.names,
    pixels=scored.sum(0),
    images=there.sum(0),
    pixels_of_images=(of * scored.sum(1, keepdims=True)).sum(0),
    ignored=int(counts[:, classes:].sum()),
    num_images=len(source),
  )


def weights_by(statistics, rule):
  """Weights of classes by a rule of `losses.class_weights`.

  Args:
    statistics: ClassStatistics of the train split.
    rule: name of the rule.

  Returns:
    f64[C], 1 for a class that does not occur.

  >>> one = np.array([60, 20, 0])
  >>> s = ClassStatistics(("a", "b", "c"), one, one > 0, np.array([80, 40, 0]), 0, 2)
  >>> weights_by(s, "median_frequency").round(3).tolist()
  [0.833, 1.25, 1.0]
  >>> weights_by(s, "inverse_log").round(3).tolist()
  [1.751, 4.184, 1.0]
  """
  return weigh(statistics.pixels, statistics.pixels_of_images, rule)


def proposal(statistics):
  """Lines with weights of the loss, ready to paste, or why there are none.

  A class without a pixel gets the weight 1, which changes nothing in the split that was counted.

  >>> one = np.array([60, 0])
  >>> print(proposal(ClassStatistics(("a", "b"), one, one > 0, one, 0, 1)))
  no weights of the loss are proposed: every scored pixel is of class 'a', 'b' has none
  """
  s = statistics
  found = [name for name, count in zip(s.names, s.pixels, strict=True) if count]
  lost = [name for name in s.names if name not in found]
  if len(found) < 2:
    what = f"every scored pixel is of class {found[0]!r}" if found else "no pixel is scored"
    rest = f", {_some(lost)} {'have' if len(lost) > 1 else 'has'} none" if found and lost else ""
    return f"no weights of the loss are proposed: {what}{rest}"
  lines = [f"classes without a pixel: {_some(lost)} (weight 1 below)"] if lost else []
  for text, rule in (
    ("weights of the loss, median frequency (Eigen and Fergus 2015):", "median_frequency"),
    ("or inverse logarithm (ENet, Paszke et al. 2016):", "inverse_log"),
  ):
    lines += [text, f"  {override(weights_by(s, rule))}"]
  lines.append("or counted by each training: --config.loss.class_weights=median_frequency")
  return "\n".join(lines)


def _some(names, most=12):
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(map(repr, names[:most])) + more


def override(weights):
  """Weights as an argument for a launcher.

  >>> override(np.array([0.5, 1.23456]))
  '--config.loss.class_weights="(0.5, 1.235)"'
  """
  return f'--config.loss.class_weights="({", ".join(f"{w:.4g}" for w in weights)})"'


def table(statistics):
  """A text table: a line per class with its share, images and both weights."""
  s = statistics
  weights = zip(weights_by(s, "median_frequency"), weights_by(s, "inverse_log"), strict=True)
  width = max(len(n) for n in (*s.names, "ignored"))
  lines = [f"{'class':{width}}  {'share':>7}  {'images':>13}  {'median-freq':>11}  {'inv-log':>7}"]
  for i, pair in enumerate(weights):
    median, log = (f"{w:.3f}" if s.pixels[i] else "-" for w in pair)
    images = f"{s.images[i]} ({s.images[i] / s.num_images:.0%})"
    lines.append(f"{s.names[i]:{width}}  {s.share[i]:7.2%}  {images:>13}  {median:>11}  {log:>7}")
  lines.append(f"{'ignored':{width}}  {s.ignored_share:7.2%}")
  return "\n".join(lines)


def table_of_masks(source, threads=4):
  """A text table of overlapping classes: each one's share of the scored pixels, and its images."""
  counts = mask_counts(source, threads)
  *pixels, scored, ignored = counts.sum(0).tolist()
  width = max(len(n) for n in (*source.labels.names, "ignored"))
  lines = [f"{'class':{width}}  {'share':>7}  {'images':>13}"]
  for name, own, there in zip(source.labels.names, pixels, (counts > 0).sum(0), strict=False):
    images = f"{there} ({there / len(source):.0%})"
    lines.append(f"{name:{width}}  {own / max(scored, 1):7.2%}  {images:>13}")
  lines.append(f"{'ignored':{width}}  {ignored / max(scored + ignored, 1):7.2%}")
  return "\n".join(lines)


def bar_chart(statistics, labels, title, file):
  """Writes a chart, PNG and PDF: of each class the share of pixels and of images that contain it.

  Args:
    statistics: ClassStatistics.
    labels: LabelTable, for the colours.
    title: title of the figure.
    file: path of the PNG.
  """
  s = statistics
  shown = np.flatnonzero(s.pixels) if len(s.names) > MOST_IN_CHART else np.arange(len(s.names))
  absent = len(s.names) - len(shown)
  names = [*(s.names[i] for i in shown), "ignored"]
  colors = [np.array(labels.classes[i][1]) / 255 for i in shown] + ["white"]
  rows = np.arange(len(names))
  size = (11, 1.4 + 0.24 * len(names))
  figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
  columns = (
    ("share of pixels", [*s.share[shown], s.ignored_share]),
    ("share of images that contain the class", [*(s.images[shown] / s.num_images), np.nan]),
  )
  for axis, (what, shares) in zip(axes, columns, strict=True):
    bars = axis.barh(rows, np.multiply(100, shares), color=colors, edgecolor="#444444", lw=0.6)
    bars[-1].set_hatch("////")
    text = ["" if np.isnan(v) else f"{v:.1%}" if v >= 0.001 or not v else "<0.1%" for v in shares]
    axis.bar_label(bars, text, padding=3, fontsize=8)
    axis.set(xlabel=f"{what} (%)", yticks=rows, yticklabels=names)
    axis.margins(x=0.12, y=0.5 / len(names))
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
  axes[0].invert_yaxis()
  figure.suptitle(title + (f"; {absent} classes that do not occur are left out" * (absent > 0)))
  write(figure, file)
