"""Sheets of examples: images beside their labels, images beside their augmented versions."""

from __future__ import annotations

import numpy as np
from PIL import Image

from segjax.data import pipeline
from segjax.legends import colorize, values_of, with_legend
from segjax.pictures import displayed, limits_of, overlay, panel, spread, to_u8
from segjax.training import steps

MOST = 400  # pixels of a picture's longer side in a sheet


def shrink(array, most=MOST):
  """An image (averaged) or a label (nearest) with its longer side at most `most` pixels."""
  height, width = array.shape[:2]
  scale = most / max(height, width)
  if scale >= 1:
    return array
  how = Image.Resampling.BOX if array.ndim == 3 else Image.Resampling.NEAREST
  size = (max(round(width * scale), 1), max(round(height * scale), 1))
  return np.asarray(Image.fromarray(array).resize(size, how))


def samples(source, wanted=8):
  """Examples from all over the source: image, label in colours, both blended; and a legend.

  Args:
    source: see `segjax.data.sources`.
    wanted: number of examples.

  Returns:
    u8[height,width,3].
  """
  rows, shown = [], set()
  for i in spread(len(source), wanted):
    example, name = source[i], source.names[i]
    image = shrink(displayed(example["image"]))
    if "target" in example:
      rows.append([(name, image), ("target", shrink(example["target"]))])
    elif np.ndim(example["label"]) == 0:
      rows.append([(f"{source.labels.names[example['label']]}: {name}", image)])
    else:
      label = shrink(example["label"])
      shown |= values_of(source.labels, label)
      colors = colorize(source.labels, label)
      both = overlay(image, colors)
      rows.append([(name, image), ("label", colors), ("label over image", both)])
  if len(rows[0]) == 1:  # of single images, four per row
    flat = [cell for row in rows for cell in row]
    rows = [flat[i : i + 4] for i in range(0, len(flat), 4)]
  return with_legend(panel(rows), source.labels, shown)


def augmented(source, augment, size, *, seed, crop=False, wanted=4, versions=5):
  """Examples as they are and as the training may see them: labels blended in, targets beside.

  Args:
    source: whose examples have a "label", see `segjax.data.sources.labelled`.
    augment: result of `segjax.augment.make_augment`.
    size: (height, width) in pixels that the training sees.
    seed: random seed of the augmentation and the crops.
    crop: whether the training sees random parts of this size, `data.fit="crop"`, which stand
      beside the whole example; else it is resized.
    wanted: number of examples.
    versions: augmented ones of each.

  Returns:
    u8[height,width,3].
  """
  import jax

  key, augment = jax.random.key(seed), jax.jit(augment)
  rng, rows, shown = np.random.default_rng(seed), [], set()
  for i in spread(len(source), wanted):
    example = source[i] if crop else pipeline.resize(source[i], size)
    limits = None if example["image"].dtype == np.uint8 else limits_of(example["image"])
    whole = example | dict(image=displayed(example["image"], limits))
    whole = {k: shrink(v, max(size)) if np.ndim(v) >= 2 else v for k, v in whole.items()}
    image, label = whole["image"], whole["label"]
    picture, mask = np.ndim(label) == 3, np.ndim(label) == 2
    row = [(source.names[i], image)]
    if picture or mask:
      row.append(("with target" if picture else "with label", _labelled(source, image, label)))
    for v in range(versions):
      key, now = jax.random.split(key)
      seen = pipeline.random_crop(example, size, rng) if crop else example
      given = seen["label"]
      given = given.astype(np.float32) / 255 if picture else np.asarray(given, np.int32)
      out, truth = augment(now, steps.as_floats(seen["image"]), given)
      out = to_u8(out) if limits is None else displayed(np.asarray(out), limits)
      truth = to_u8(truth) if picture else np.asarray(truth).astype(np.asarray(label).dtype)
      shown |= values_of(source.labels, truth) if mask else set()
      row.append((f"augmented {v + 1}", _labelled(source, out, truth)))
    rows.append(row)
    shown |= values_of(source.labels, label) if mask else set()
  return with_legend(panel(rows, most=300), source.labels, shown)


def _labelled(source, image, label):
  """An image with its mask blended in, its target beside it, or as it is."""
  if np.ndim(label) == 2:
    return overlay(image, colorize(source.labels, label))
  return np.concatenate([image, label], 1) if np.ndim(label) == 3 else image
