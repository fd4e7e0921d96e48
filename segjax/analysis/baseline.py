"""What colour and position alone tell: a logistic regression a pixel."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from segjax.data.labels import IGNORE


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
    dict of sums as the task's `statistics`, but for the scores' histogram; cross-entropy in nats.
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
  classes, count = model.classes_, len(task.classes)
  sums = dict(pixels=0, examples=len(val_source), matrix=0, cross_entropy=0.0)
  for i in range(len(val_source)):
    example = val_source[i]
    label = example["label"].ravel()
    keep = label != IGNORE
    probability = np.full((keep.sum(), count), 1e-9)
    probability[:, classes] = model.predict_proba(pixel_features(example["image"])[keep])
    truth, pred = label[keep].astype(int), probability.argmax(1)
    cell = np.bincount(truth * count + pred, minlength=count * count)
    sums["matrix"] = sums["matrix"] + cell.reshape(count, count)
    sums["pixels"] += int(keep.sum())
    sums["cross_entropy"] -= float(np.log(probability[np.arange(len(truth)), truth]).sum())
  return sums
