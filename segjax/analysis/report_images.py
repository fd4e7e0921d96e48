"""Parts of a study's report that are about images: intervals over them, the scores on test."""

from __future__ import annotations

import json
from functools import partial

import numpy as np

from segjax import outputs, textfiles
from segjax.analysis import image_scores, intact
from segjax.analysis.intervals import decimals, mean_and_deviation
from segjax.analysis.names import text_of
from segjax.analysis.variants import data_now, scalars_of, task_of
from segjax.errors import NoSplit
from segjax.metrics.per_image import interval
from segjax.tasks import TASKS
from segjax.tasks.segmentation import COUNTS
from segjax.training import experiment as experiment_lib
from segjax.training import restore

SHOWN = ("mean_iou", "mean_iou_images", "mean_iou_classes", "mean_iou_worst_images")


def draws_of(done):
  """Scores of the runs for draws of the validation images, the same draws for all.

  Args:
    done: see `variants`.

  Returns:
    {(variant, seed): {score: f64[samples]}} of the runs whose evaluation kept rows of images, all
    of equally many images; runs of older versions have none.
  """
  found, counts = {}, set()
  for variant, runs in done.items():
    for run in runs:
      rows = image_scores.rows_of(run.sums())
      if COUNTS in rows:
        classes = experiment_lib.load_labels(run.workdir / "labels.json").names
        counts.add(len(rows[COUNTS]))
        weights = image_scores.draws(len(rows[COUNTS]))
        found[variant, run.seed] = image_scores.scores(rows, classes, weights)
  return found if len(counts) == 1 else {}


def difference(draws, first, second, name):
  """Interval over images of the mean difference of two variants, over the seeds of both: a text.

  Args:
    draws: result of `draws_of`.
    first: variant.
    second: variant that is compared with it.
    name: score, without "val/".
  """
  seeds = [s for v, s in draws if v == first and (second, s) in draws]
  if not seeds or any(name not in draws[v, seeds[0]] for v in (first, second)):
    return ""
  gaps = [draws[second, s][name] - draws[first, s][name] for s in seeds]
  return _text(interval(np.mean(gaps, 0)), sign="+")


def _text(ends, sign=""):
  low, high = ends
  digits = decimals((high - low) / 2)
  return "" if np.isnan(low) else f"[{low:{sign}z.{digits}f}, {high:{sign}z.{digits}f}]"


def table(document, study, done, draws):
  """Writes the mean IoUs of each variant, with deviations over seeds, intervals over images."""
  if not draws:
    return
  own = study.metric.removeprefix("val/")
  rows = []
  for variant, runs in done.items():
    finals = [r.final() for r in runs]
    known = [draws[variant, r.seed] for r in runs if (variant, r.seed) in draws]
    for name in dict.fromkeys((own, *SHOWN)):
      if known and all(name in k for k in known):
        over_images = interval(np.mean([k[name] for k in known], 0))
        values = [f.get(f"val/{name}", np.nan) for f in finals]
        score = mean_and_deviation(values)
        rows.append((variant, text_of(f"val/{name}"), score, _text(over_images)))
  document.heading("Scores over images")
  head = ("variant", "score", "mean ± deviation over seeds", "95 % interval over images")
  document.table(head, rows)
  document.text(
    "The deviation says how other seeds would score, the interval how the mean over seeds would "
    "vary with other images of the same kind: percentiles of "
    f"{image_scores.SAMPLES} bootstrap draws of the validation images. Mean IoU is over the pixels "
    "of all images; that of images over the classes of each image, then over images; that of "
    "classes over the images of each class, then over classes. A class that neither truth nor "
    "prediction has is left out."
  )


# ---------------------------------------------------------------------------- test


def scores_on_test(document, done):
  """Scores of the last checkpoints on the test split, {(variant, seed): dict}; {} without one."""
  found, digests = {}, {}
  for variant, runs in done.items():
    for run in runs:
      if TASKS[task_of(runs)].self_supervised:
        continue
      what = f"test scores of {variant}, seed {run.seed}"
      try:
        values = intact.or_line(document, what, lambda run=run: _test_of(run, digests))
      except NoSplit:
        return {}
      if values:
        found[variant, run.seed] = values
  return found


def _test_of(run, digests):
  """Scalars of a run on test: those that are kept, where they are of the present labels.

  Args:
    run: pool.Result.
    digests: {fields of the data: digest of its test split, None where that is gone}, for all runs.
  """
  step = restore.checkpoint_steps(run.workdir)[-1]
  file = outputs.file_of(run.workdir, "test", step)  # of the run's own data, no others
  values = textfiles.read_state(file) if file.is_file() else {}
  read = partial(restore.data_of_run, run.workdir, run.config, "test", moved=data_now(run))
  data, key = None, json.dumps(run.config.data.to_dict(), sort_keys=True, default=str)
  if key not in digests:
    try:
      data = read()
    except NoSplit:
      if not values:
        raise
    digests[key] = data and data.digest
  if not values or digests[key] not in (None, values.get("digest")):
    data = data or read()
    experiment, state = restore.run(run.workdir)
    _, file = outputs.evaluate_run(run.workdir, experiment, state, data, "test")
    values = textfiles.read_state(file)
  return {f"val/{k}": np.nan if v is None else v for k, v in values.items()}


def table_of_test(document, study, done, found):
  """Writes the scores on the test split."""
  if not found:
    return
  names = scalars_of(study, done)
  rows = []
  for variant, runs in done.items():
    values = [found[variant, r.seed] for r in runs if (variant, r.seed) in found]
    if values:
      scores = [mean_and_deviation([v.get(n, np.nan) for v in values]) for n in names]
      rows.append((variant, len(values), *scores))
  document.heading("Test set")
  document.table(("variant", "seeds", *map(text_of, names)), rows)
  document.text(
    "The test split after the last step, mean ± sample standard deviation over seeds; nothing was "
    "chosen by it. Each run keeps its scores in evaluation_test_<step>.json."
  )
