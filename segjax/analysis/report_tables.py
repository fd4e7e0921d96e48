"""The tables of a study's report: runs, results, differences, features."""

from __future__ import annotations

import os

import jax
import numpy as np

from segjax import study as study_lib
from segjax.analysis import feature_pictures
from segjax.analysis import probes as probes_lib
from segjax.analysis.intervals import mean_and_deviation, paired_by_seed, paired_difference
from segjax.analysis.names import text_of
from segjax.analysis.report_images import difference
from segjax.analysis.separation import NEIGHBORS
from segjax.analysis.variants import loss_of, scalars_of, start_of, task_of
from segjax.tasks import TASKS

OF_THE_DATA = ("val/constant_accuracy", "val/true_colorfulness")  # the same for all variants


def setup(document, study, results, done, costs):
  """Writes the variants, their runs and their data."""
  document.heading("What was run")
  rows = []
  for label, spec in study.variants.items():
    errors = [f"seed {r.seed}: {r.error}" for r in results if r.variant == label and r.error]
    start = start_of([r for r in results if r.variant == label])
    rows.append(
      (
        label,
        spec,
        _pairs(study_lib.changes(study, label)),
        start,
        len(done.get(label, ())),
        "; ".join([*errors, *filter(None, [study.notes.get(label)])]),
      )
    )
  header = ("variant", "config", "changes", "starts from", "runs", "notes")
  shown = [k for k in range(len(header)) if any(str(row[k]) for row in rows)]  # not empty columns
  document.table([header[k] for k in shown], [[row[k] for k in shown] for row in rows])
  device = jax.devices()[0]
  sizes = sorted({"x".join(map(str, c.size)) for of_run in costs.values() for c in of_run})
  document.text(
    f"Seeds {', '.join(map(str, study.seeds))}; overrides: {_pairs(study.overrides) or 'none'}. "
    "The config files say the rest. This report was written on "
    f"{jax.device_count()} x {device.device_kind} ({os.cpu_count()} CPU cores), jax "
    f"{jax.__version__}; runs that were finished before keep the minutes and the latency that were "
    f"measured then. GFLOPs and latency are of images of {' or '.join(sizes) or '-'} pixels."
  )


def _pairs(fields):
  return ", ".join(f"{k}={v}" for k, v in fields.items())


def numbers(document, study, done, costs, judged, knn):
  """Writes the scores and costs of each variant."""
  document.heading("Results")
  names = scalars_of(study, done)
  header = ["variant", "seeds", *map(text_of, names)]
  header += [judged[0]] if judged else []
  rows = []
  for label, runs in done.items():
    finals = [r.final() for r in runs]
    row = [label, len(runs)]
    row += [mean_and_deviation([f.get(n, np.nan) for f in finals]) for n in names]
    rows.append(row + ([mean_and_deviation(judged[2][label])] if judged else []))
  document.table(header, rows)
  best = (
    "; 'best' is the best evaluation of each run, chosen on the same set and so a little flattering"
  )
  document.text(
    "Validation set after the last step, mean ± sample standard deviation over seeds"
    f"{best if judged and judged[0].startswith('best') else ''}; digits as the deviation justifies "
    "them, all of them are in results.csv."
  )
  devices = [c.device for c in next(iter(costs.values()))]
  header = ["variant", "training minutes", *(f"latency, ms ({d})" for d in devices)]
  rows = []
  for label, runs in done.items():
    c, minutes = costs[label][0], mean_and_deviation([r.minutes() for r in runs], 1)
    latency = [f"{c.latency_ms:.1f}" for c in costs[label]]
    rows.append([label, minutes, *latency, f"{c.parameters:,}", f"{c.mb:.2f}", f"{c.gflops:.2f}"])
  document.table([*header, "parameters", "MB", "GFLOPs per image"], rows)
  document.text("Latency is the median at batch 1.")
  if knn:
    document.text(
      "Loss and accuracy are those of the pretext task; kNN "
      "accuracy is of the classes, by the last layer's features."
    )


def differences(document, study, done, knn, draws):
  """Writes the differences of pairs of variants, paired by seed, with intervals.

  Args: see `numbers`.
    draws: result of `report_images.draws_of`.
  """
  names = scalars_of(study, done)
  first, *others = done
  pairs = study.compare or [(first, label) for label in others]
  finals = {(r.variant, r.seed): r.final() for runs in done.values() for r in runs}
  rows = []
  for base, label in pairs:
    if base not in done or label not in done:
      continue
    values = {text_of(n): lambda r, n=n: finals[r.variant, r.seed].get(n, np.nan) for n in names}
    keys = {text_of(n): n.removeprefix("val/") for n in names}
    tasks = {task_of(done[base]), task_of(done[label])}
    if loss_of(done[base]) != loss_of(done[label]):  # two different things
      values.pop(text_of("val/loss"), None)
    if len(tasks) > 1 and any(TASKS[t].self_supervised for t in tasks):  # as all of theirs are
      values = {}
    if knn:
      values["kNN accuracy"] = lambda r: knn.get((r.variant, r.seed), (np.nan,))[-1]
    values |= {"training minutes": study_lib.Result.minutes}
    for text, value in values.items():
      d = paired_by_seed(*({r.seed: value(r) for r in done[v]} for v in (base, label)))
      if d.pairs and text not in map(text_of, OF_THE_DATA):
        over = difference(draws, base, label, keys.get(text))
        rows.append((label, base, text, str(d), d.pairs, d.verdict, over))
  if not rows:
    return
  document.heading("Differences")
  header = ["variant", "compared with", "metric", "difference [95 % interval]", "seeds", "verdict"]
  over_images = any(row[-1] for row in rows)
  if over_images:
    header.append("95 % interval over images")
  document.table(header, [row[: len(header)] for row in rows])
  document.text(
    "Student's t interval of the mean difference, paired by seed. 'Not distinguishable' where it "
    "contains 0; nothing is corrected for the number of comparisons."
    + " The interval over images is paired by image and seed."
    * over_images
  )


def features(document, done, probes, figures):
  """How well features separate classes that no run was trained on, before and after."""
  document.heading("Features")
  rows = []
  for label, of_runs in probes.items():
    for layer in of_runs[0].accuracy:
      before, after = zip(*(p.accuracy[layer] for p in of_runs), strict=True)
      d = paired_difference(before, after)
      numbers = mean_and_deviation(before), mean_and_deviation(after), str(d)
      rows.append((label, layer, d.pairs, *numbers, d.verdict))
  if not rows:
    document.text("The data have no classes, so features are not scored.")
    return
  header = ("variant", "layer", "seeds", "kNN accuracy before", "after",
            "difference [95 % interval]", "verdict")  # fmt: skip
  document.table(header, rows)
  document.text(
    f"Share of validation examples whose class most of their {NEIGHBORS} nearest "
    "neighbours (cosine) in the train split have. Where labels are masks, examples are crops, "
    f"{probes_lib.CROPS} of each class where there are as many; a crop's class is the one most of "
    "its pixels have. 'Before' are the random weights that a run began with. Stage i is the "
    "backbone's at stride 2^i, 'last' the input of a classifier's head; all are means over "
    "positions. After rotation prediction a middle stage often separates classes better than the "
    "last. Student's t interval, paired by seed: it is of other seeds, not of other images."
  )
  for k, (label, of_runs) in enumerate(probes.items()):
    first = of_runs[0]
    captions = [f"kNN {a:.3f}" for a in first.accuracy[probes_lib.LAST]]
    file = figures / f"features_{k}.png"
    embedded = feature_pictures.embed(first.vectors)
    feature_pictures.scatter(
      embedded, first.labels, first.table, ("before", "after"), captions, file
    )
    document.figure(file, f"Features of {label}, last layer, seed {done[label][0].seed}.")
