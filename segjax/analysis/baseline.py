"""What colour and position alone tell: a logistic regression a pixel."""

from __future__ import annotations

import functools

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from segjax.data.labels import IGNORE
from segjax.training.evaluation import add_sums


def pixel_features(image):
  """Red, green, blue, row and column of each pixel and their squares and products.

  Args:
    image: u8[H,W,3].

  Returns:
    f32[H*W,20].
  """
  height, width = image.shape[:2]
  rows, columns = np.mgrid[0:height, 0:width]
  plain = np.concatenate(
    [image / 255, (rows / height)[..., None], (columns / width)[..., None]], -1
  ).reshape(-1, 5)
  upper = np.triu_indices(5)
  return np.concatenate([plain, (plain[:, :, None] * plain[:, None])[:, *upper]], 1).astype("f4")


def color_and_position(train_source, val_source, task, *, pixels_per_image=500, seed=0):
  """Fits the regression on sampled training pixels and scores every validation pixel.

  Args:
    train_source: examples of one size.
    val_source: likewise.
    task: Segmentation, for its classes.
    pixels_per_image: sampled from each training image.
    seed: of the sampling.

  Returns:
    dict of sums, the task's `statistics`.
  """
  rng = np.random.default_rng(seed)
  features, labels = [], []
  for i in range(len(train_source)):
    example = train_source[i]
    label = example["label"].ravel()
    chosen = rng.choice(np.flatnonzero(label != IGNORE), pixels_per_image)
    features.append(pixel_features(example["image"])[chosen])
    labels.append(label[chosen])
  model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
  model.fit(np.concatenate(features), np.concatenate(labels))
  statistics = jax.jit(functools.partial(task.statistics, histogram=True))
  total = None
  for i in range(len(val_source)):
    example = val_source[i]
    shape = example["label"].shape
    likely = np.full((*shape, len(task.classes)), -20.0, "f4")  # classes never seen
    found = model.predict_log_proba(pixel_features(example["image"]))
    likely[..., model.classes_] = found.reshape(*shape, -1)
    logits = likely[..., 1:] - likely[..., :1] if task.sigmoid else likely
    sums = statistics(logits[None], example["label"][None].astype("i4"), np.ones(1, bool))
    total = add_sums(total, sums)
  return total
