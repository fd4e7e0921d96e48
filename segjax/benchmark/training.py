"""A whole training, and its input pipeline alone."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from pathlib import Path

from segjax.benchmark.step import prepare


def measure_training(config, *, classes=0, repeats=20):
  """Times a whole training in a folder of its own, and its step alone before each evaluation.

  A machine that others share is not equally fast all the time, so the two are measured in turn.

  Returns:
    dict of `seconds` (of the training, compilation and evaluations included, the steps alone not),
    `step_s` (mean over the steps after the first row of `metrics.jsonl`, with feeding, logging,
    pictures and checkpoints but without evaluations; nan of less than two rows), `bare_step_s`
    (mean of `repeats` steps on one batch at each evaluation), and `overhead`, the share by which it
    is exceeded.
  """
  from segjax import training
  from segjax.training.writers import read_metrics

  step_alone = prepare(config.copy_and_resolve_references(), "train", classes)
  alone, apart = [], 0.0

  def before_evaluation():
    nonlocal apart
    start = time.perf_counter()
    alone.extend(step_alone.seconds(repeats))
    apart += time.perf_counter() - start

  start = time.perf_counter()
  with tempfile.TemporaryDirectory() as folder:
    training.train(config, Path(folder), before_evaluation=before_evaluation)
    seconds = time.perf_counter() - start - apart
    rows = [r for r in read_metrics(Path(folder) / "metrics.jsonl") if "train/steps" in r][1:]
  images = [r["train/steps"] * config.data.batch_size for r in rows]
  taken = sum(n / r["time/images_per_s"] for n, r in zip(images, rows, strict=True))
  step = taken / sum(images) * config.data.batch_size if rows else math.nan
  bare = statistics.mean(alone)
  return dict(
    mode="end_to_end",
    name=config.name,
    seconds=seconds,
    step_s=step,
    bare_step_s=bare,
    overhead=step / bare - 1,
  )


def measure_input(config, *, batches=50):
  """Images per second of the train pipeline alone: decode, fit, batch; nothing cached.

  Returns:
    dict of `images_per_s` and the settings.
  """
  from segjax.training import input_pipeline

  config.data.cache_mb = 0
  source = input_pipeline.make_source(config, "train", training=True)
  data = config.data
  iterator = input_pipeline.train_iterator(config, source, False)
  next(iterator)
  start = time.perf_counter()
  for _ in range(batches):
    next(iterator)
  taken = time.perf_counter() - start
  return dict(
    mode="input",
    name=config.name,
    size=list(data.size),
    batch_size=data.batch_size,
    threads=data.threads,
    workers=data.workers,
    images_per_s=batches * data.batch_size / taken,
  )
