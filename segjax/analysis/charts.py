"""Charts that compare variants of an experiment, each written as PNG and PDF."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from segjax.analysis.figures import (
  at_steps,
  epoch_axis,
  fit_losses,
  interval_means,
  logarithmic,
  series,
  write,
)

# Okabe and Ito's palette, which colour-blind people can distinguish; black is left for texts.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777", "#F0E442")
MARKERS = "osD^vP*X"


def style(index):
  """Colour and marker of the index-th variant."""
  return dict(color=COLORS[index % len(COLORS)], marker=MARKERS[index % len(MARKERS)])


def curves(runs, metrics, file, best=None):
  """Train and validation curves over epochs, the mean over seeds with a band from least to most.

  Args:
    runs: label -> list of rows of metrics.jsonl, one per seed.
    metrics: list of (scalar without its split, axis label).
    file: path of the PNG.
    best: (scalar, "max" or "min"): the best point of its validation means gets a star; or None.
  """
  figure, axes = plt.subplots(
    1, len(metrics), figsize=(5.2 * len(metrics), 4.0), layout="constrained", squeeze=False
  )
  firsts = [seeds[0] for seeds in runs.values()]
  all_ends = [  # of the seeds that stopped early too
    np.unique(np.concatenate([series(rows, "val/loss")[0] for rows in seeds]))
    for seeds in runs.values()
  ]
  places, axis_text = epoch_axis(firsts, all_ends)
  for axis, (name, text) in zip(axes[0], metrics, strict=True):
    plotted = []
    for i, (label, seeds) in enumerate(runs.items()):
      ends, epochs = all_ends[i], places[i]
      train = np.array([interval_means(rows, f"train/{name}", ends) for rows in seeds])
      val = np.array([at_steps(rows, f"val/{name}", ends) for rows in seeds])
      look = style(i)
      for values, line, part in ((train, "--", "train"), (val, "-", "validation")):
        if np.isnan(values).all():
          continue
        shown = dict(color=look["color"], ls=line, lw=1.5)
        if part == "validation":
          shown |= dict(marker=look["marker"], ms=4)
        elif len(ends) == 1:  # a line of one point is not seen
          shown |= dict(marker=look["marker"], ms=6, mfc="none")
        known = np.ma.masked_invalid(values)
        mean = known.mean(0)
        plotted += mean.compressed().tolist()
        axis.plot(epochs, mean, label=f"{label}, {part}", **shown)
        if best and best[0] == name and part == "validation":
          k = mean.argmax() if best[1] == "max" else mean.argmin()
          axis.plot(epochs[k], mean[k], "*", color=look["color"], mec="black", ms=13, zorder=5)
        if len(seeds) > 1:
          axis.fill_between(
            epochs, known.min(0), known.max(0), color=look["color"], alpha=0.15, lw=0
          )
    axis.set(xlabel=axis_text, ylabel=text)
    if name.startswith("loss"):
      fit_losses(axis, np.array(plotted))
    if len(ends) == 1:
      axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
  _legend_below(figure, axes[0][0])
  return write(figure, file)


def pareto(cost, value):
  """bool[N]: no other point costs no more and is worth no less, one of them strictly.

  Points with nan are not on the front.

  >>> pareto([1, 2, 3], [0.5, 0.4, 0.6]).tolist()
  [True, False, True]
  """
  cost, value = np.asarray(cost, float), np.asarray(value, float)
  no_worse = (cost[None] <= cost[:, None]) & (value[None] >= value[:, None])
  better = (cost[None] < cost[:, None]) | (value[None] > value[:, None])
  return ~(no_worse & better).any(1) & ~np.isnan(cost + value)


def scatter(points, axes_labels, file, *, high_is_good=True):
  """Dots of variants with the Pareto front of cost and score.

  Args:
    points: label -> (cost, value, standard deviation of the value or nan).
    axes_labels: texts of the two axes.
    file: path of the PNG.
    high_is_good: whether high values are, or low ones.
  """
  figure, axis = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
  cost, value, spread = (np.array([p[k] for p in points.values()], float) for k in range(3))
  front = np.flatnonzero(pareto(cost, value if high_is_good else -value))
  front = front[np.argsort(cost[front])]
  axis.plot(
    cost[front], value[front], ls=":", color="#555555", marker="o", ms=14, mfc="none", zorder=1,
    label="Pareto front",
  )  # fmt: skip
  for i, label in enumerate(points):
    look = style(i)
    axis.errorbar(
      cost[i], value[i], yerr=None if np.isnan(spread[i]) else spread[i], label=label,
      fmt=look["marker"], color=look["color"], ms=8, capsize=3,
    )  # fmt: skip
  axis.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
  axis.set_xlim(0, 1.15 * cost.max())
  axis.grid(alpha=0.3)
  _legend_below(figure, axis)
  return write(figure, file)


def class_bars(values, classes, colors, file):
  """IoU of each class, a bar per variant, with the standard deviation over seeds.

  Args:
    values: label -> f[seeds,C].
    classes: names.
    colors: u8[C,3], of the classes; a sample stands under each name.
    file: path of the PNG.
  """
  bars = {label: _over_seeds(np.asarray(iou, float)) for label, iou in values.items()}
  return _bars(bars, classes, colors, "IoU (mean, standard deviation over seeds)", file)


def _bars(values, classes, colors, text, file):
  """Bars of label -> (f[C], length of the whiskers f[C] or f[2,C]); `text` is of the axis."""
  width = max(6.0, 0.5 * len(classes) * len(values) ** 0.5 + 2)
  figure, axis = plt.subplots(figsize=(width, 4), layout="constrained")
  bar, places = 0.8 / len(values), np.arange(len(classes))
  for i, (label, (mean, deviation)) in enumerate(values.items()):
    axis.bar(
      places + (i - (len(values) - 1) / 2) * bar, np.nan_to_num(mean), bar, yerr=deviation,
      color=style(i)["color"], label=label, capsize=2, error_kw=dict(lw=0.8),
    )  # fmt: skip
    for place in np.flatnonzero(np.isnan(mean)):
      where = place + (i - (len(values) - 1) / 2) * bar
      axis.text(where, 0.01, "absent", rotation=90, ha="center", va="bottom", fontsize=6)
  axis.set(ylabel=text, ylim=(0, 1))
  axis.set_xticks(places, classes, rotation=30, ha="right")
  for place, color in zip(places, np.asarray(colors) / 255, strict=True):
    axis.plot(
      place, -0.025, "s", ms=7, color=color, mec="#555555", mew=0.5, clip_on=False, zorder=5
    )
  axis.tick_params(axis="x", length=0, pad=9)
  axis.grid(axis="y", alpha=0.3)
  _legend_below(figure, axis)
  return write(figure, file)


def _legend_below(figure, axis):
  """The axis' legend under all axes, in columns that fit; the figure grows by its rows."""
  handles, texts = axis.get_legend_handles_labels()
  if not texts:
    return
  width, height = figure.get_size_inches()
  fitting = int(width / (0.07 * max(map(len, texts)) + 0.55))  # inches of a letter, of a marker
  columns = min(max(fitting, 1), len(texts))
  figure.set_size_inches(width, height + 0.2 * -(-len(texts) // columns))
  how = dict(ncols=columns, fontsize=8, labelspacing=0.9)
  figure.legend(handles, texts, loc="outside lower center", **how)


def _over_seeds(values):
  """Means and sample deviations over the first axis, nan left out."""
  count = (~np.isnan(values)).sum(0)
  mean = np.where(count, np.nansum(values, 0) / np.maximum(count, 1), np.nan)
  squares = np.nansum((values - mean) ** 2, 0) / np.maximum(count - 1, 1)
  return mean, np.where(count > 1, np.sqrt(squares), np.nan)


def confusion(matrix, classes, title, file):
  """Normalised confusion matrix: each row (truth) sums to 1.

  Args:
    matrix: int[C,C], pixels or images; row = truth, column = prediction.
    classes: names.
    title: title of the figure.
    file: path of the PNG.
  """
  matrix = np.asarray(matrix, float)
  share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
  side = max(4.5, 0.55 * len(classes) + 2)
  figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
  picture = axis.imshow(share, vmin=0, vmax=1, cmap="Blues")
  axis.set_xticks(range(len(classes)), classes, rotation=40, ha="right")
  axis.set_yticks(range(len(classes)), classes)
  axis.set(xlabel="predicted class", ylabel="true class", title=title)
  if len(classes) <= 20:
    for r, row in enumerate(share):
      for c, value in enumerate(row):
        if value >= 0.005:
          color = "white" if value > 0.6 else "black"
          axis.text(c, r, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)
  figure.colorbar(picture, label="share of the true class", shrink=0.8)
  return write(figure, file)


def class_scores(found, ends, classes, colors, file):
  """IoU and F1 of each class with their intervals over images, and boundary F where it is known.

  Args:
    found: "<score>/<class>" -> value, see `image_scores.scores`.
    ends: likewise -> (low, high).
    classes: names.
    colors: u8[C,3], of the classes.
    file: path of the PNG.
  """
  kinds = {"iou": "IoU", "f1": "F1", "boundary_f": "boundary F"}
  kinds = {k: text for k, text in kinds.items() if f"{k}/{classes[0]}" in found}
  bars = {}
  for kind, text in kinds.items():
    value = np.array([found[f"{kind}/{c}"] for c in classes])
    low, high = np.array([ends[f"{kind}/{c}"] for c in classes]).T
    bars[text] = value, np.nan_to_num(np.maximum([value - low, high - value], 0))
  return _bars(bars, classes, colors, "score (95 % interval over images)", file)


def reliability(found, title, file):
  """Reliability diagram: accuracy of the pixels by their confidence, and how many there are.

  Args:
    found: label -> result of `metrics.calibration`.
    title: title of the figure.
    file: path of the PNG.
  """
  figure, (axis, below) = plt.subplots(
    2, 1, figsize=(5.0, 6.2), layout="constrained", sharex=True, height_ratios=(3, 1)
  )
  axis.plot((0, 1), (0, 1), color="#777777", ls="--", lw=1, label="right as often as sure")
  for i, (label, c) in enumerate(found.items()):
    look, there = style(i), c["pixels"] > 0
    text = f"{label}, ECE {c['ece']:.4f}"
    axis.plot(c["confidence"][there], c["accuracy"][there], label=text, ms=5, **look)
    edges = np.linspace(0, 1, len(c["pixels"]) + 1)
    share = c["pixels"] / max(c["pixels"].sum(), 1)
    below.stairs(share, edges, color=look["color"], lw=1.5)
  axis.set(ylabel="share of right pixels", title=title, ylim=(0, 1))
  axis.legend(fontsize=8, loc="upper left")
  least = min(c["confidence"][c["pixels"] > 0].min(initial=1) for c in found.values())
  below.set(xlabel="probability of the predicted class", ylabel="share of pixels")
  logarithmic(below)
  below.set_xlim(min(np.floor(10 * least) / 10, 0.9), 1)
  for each in (axis, below):
    each.grid(alpha=0.3)
  return write(figure, file)
