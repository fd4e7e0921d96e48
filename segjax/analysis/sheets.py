"""Sheets of examples: images beside their labels, images beside their augmented versions."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segjax.data import pipeline
from segjax.data.labels import IGNORE
from segjax.pictures import blend, letter_size, panel, spread, to_u8

STRIPES = (130, 225)  # greys of ignored pixels
MOST_IN_LEGEND = 40
MOST = 400  # pixels of a picture's longer side in a sheet


def stripes(height, width):
  """u8[H,W,3], diagonal stripes: no class has a pattern, while some are black, white or grey."""
  rows, columns = np.mgrid[0:height, 0:width]
  period = max(8, width // 40)
  light = (rows + columns) % period >= period // 2
  return np.repeat(np.where(light, STRIPES[1], STRIPES[0])[..., None], 3, -1).astype(np.uint8)


def colorize(labels, label):
  """u8[H,W] -> u8[H,W,3] in the classes' colours, ignored pixels striped."""
  ignored = (label == IGNORE)[..., None]
  return np.where(ignored, stripes(*label.shape), labels.colorize(label)).astype(np.uint8)


def legend(labels, shown, width):
  """A strip of colour samples with the names of classes.

  Args:
    labels: LabelTable.
    shown: values to show, 255 for ignored; beyond 40 the rest is a count.
    width: pixels.

  Returns:
    u8[height,width,3].
  """
  letters = letter_size(width, 12)
  sample, gap, font = letters + 2, 8, ImageFont.load_default(letters)
  canvas = Image.new("RGB", (width, 2000), "white")
  draw, x, y = ImageDraw.Draw(canvas), gap, 4
  entries = [(labels.names[v] if v != IGNORE else "ignored", v) for v in shown[:MOST_IN_LEGEND]]
  if len(shown) > MOST_IN_LEGEND:
    entries.append((f"... and {len(shown) - MOST_IN_LEGEND} more", None))
  for text, value in entries:
    needed = sample + 4 + int(draw.textlength(text, font)) + 2 * gap
    if x + needed > width and x > gap:
      x, y = gap, y + sample + 6
    if value is not None:
      square = colorize(labels, np.full((sample, sample), value, np.uint8))
      canvas.paste(Image.fromarray(square), (x, y))
      draw.rectangle((x, y, x + sample - 1, y + sample - 1), outline="#666666")
    draw.text((x + sample + 4, y), text, fill="black", font=font)
    x += needed
  return np.asarray(canvas)[: y + sample + 6]


def with_legend(sheet, labels, shown):
  """A sheet with the `legend` of the values shown in it below."""
  values = sorted(shown)
  return np.concatenate([sheet, legend(labels, values, sheet.shape[1])]) if values else sheet


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
    image = shrink(example["image"])
    if "target" in example:
      rows.append([(name, image), ("target", shrink(example["target"]))])
    elif np.ndim(example["label"]) == 0:
      rows.append([(f"{source.labels.names[example['label']]}: {name}", image)])
    else:
      label = shrink(example["label"])
      shown |= set(np.unique(label).tolist())
      colors = colorize(source.labels, label)
      both = blend(image, colors, np.ones_like(label, bool))
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
    whole = {k: shrink(v, max(size)) if np.ndim(v) >= 2 else v for k, v in example.items()}
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
      out, truth = augment(now, seen["image"].astype(np.float32) / 255, given)
      truth = to_u8(truth) if picture else np.asarray(truth).astype(np.uint8)
      shown |= set(np.unique(truth).tolist()) if mask else set()
      row.append((f"augmented {v + 1}", _labelled(source, to_u8(out), truth)))
    rows.append(row)
    shown |= set(np.unique(label).tolist()) if mask else set()
  return with_legend(panel(rows, most=300), source.labels, shown)


def _labelled(source, image, label):
  """An image with its mask blended in, its target beside it, or as it is."""
  if np.ndim(label) == 2:
    return blend(image, colorize(source.labels, label), np.ones_like(label, bool))
  return np.concatenate([image, label], 1) if np.ndim(label) == 3 else image
