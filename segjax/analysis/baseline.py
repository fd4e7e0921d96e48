"""Baseline of colour and position alone: a logistic regression per pixel."""

from __future__ import annotations

import functools

import jax
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from segjax.data.labels import IGNORE
from segjax.errors import UserError
from segjax.training.evaluation import merge


def pixel_features(image):
  """Channels, row and column of each pixel and their squares and products.

  Args:
    image: u8[H,W,3], or f32[H,W,C].

  Returns:
    f32[H*W,F]; F is 20 for three channels.
  """
  height, width = image.shape[:2]
  rows, columns = np.mgrid[0:height, 0:width]
  image = image / 255 if image.dtype == np.uint8 else image
  plain = np.concatenate([image, (rows / height)[..., None], (columns / width)[..., None]], -1)
  plain = plain.reshape(-1, plain.shape[-1])
  upper = np.triu_indices(plain.shape[-1])
  return np.concatenate([plain, (plain[:, :, None] * plain[:, None])[:, *upper]], 1).astype("f4")


def color_and_position(train_source, val_source, task, *, pixels_per_image=500, seed=0):
  """Fits the regression on sampled training pixels and scores every validation pixel.

  Args:
    train_source: examples of one size.
    val_source: likewise.
    task: Segmentation, for its classes.
    pixels_per_image: sampled from each training image.
    seed: random seed of the sampling.

  Returns:
    dict of sums, the task's `statistics`.

  Raises:
    UserError: the training pixels are of one class, or none is scored.
  """
  rng = np.random.default_rng(seed)
  features, labels = [], []
  for i in range(len(train_source)):
    example = train_source[i]
    label = example["label"].ravel()
    scored = np.flatnonzero(label != IGNORE)
    if not scored.size:
      continue
    chosen = rng.choice(scored, pixels_per_image)
    features.append(pixel_features(example["image"])[chosen])
    labels.append(label[chosen])
  found = np.unique(np.concatenate(labels)) if labels else ()
  if len(found) < 2:
    names = ", ".join(task.classes[c] for c in found) or "no class"
    raise UserError(
      f"colour and position alone: the sampled pixels of the train split are of {names}, a "
      "regression needs two classes; check the masks"
    )
  model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
  model.fit(np.concatenate(features), np.concatenate(labels))
  statistics = jax.jit(functools.partial(task.statistics, evaluating=True))

  def statistics_of(example):
    shape = example["label"].shape
    likely = np.full((*shape, len(task.classes)), -20.0, "f4")  # classes never seen
    found = model.predict_log_proba(pixel_features(example["image"]))
    likely[..., model.classes_] = found.reshape(*shape, -1)
    logits = likely[..., 1:] - likely[..., :1] if task.sigmoid else likely
    return statistics(logits[None], example["label"][None].astype("i4"), np.ones(1, bool))

  return merge(statistics_of(val_source[i]) for i in range(len(val_source)))
