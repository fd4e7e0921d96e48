"""Legends of class colours, and label pictures that mark what is not scored."""

from __future__ import annotations

import dataclasses

import numpy as np

from segjax.data import label_sets
from segjax.data.labels import IGNORE
from segjax.pictures import letter_size, mix, stripes

MOST_IN_LEGEND = 40


def colorize(labels, label):
  """int[H,W] -> u8[H,W,3] in the classes' colours, ignored pixels striped, overlaps mixed."""
  ignored = (label == IGNORE)[..., None]
  if labels.overlapping:
    colors = mix(label_sets.split(label, len(labels)), labels.palette[: len(labels)])
  else:
    colors = labels.colorize(label)
  return np.where(ignored, stripes(*label.shape), colors).astype(np.uint8)


def values_of(labels, label):
  """The classes in labels int[H,W], and 255 where some are ignored, for a legend; a set."""
  found = {*np.unique(label).tolist()}
  if not labels.overlapping:
    return found
  there = label_sets.split(np.array([*found]), len(labels)).any(0)
  return {*np.flatnonzero(there).tolist()} | (found & {IGNORE})


def legend(labels, shown, width, *, untinted=False):
  """A strip of colour samples with the names of classes; ignored pixels are "not scored".

  Args:
    labels: LabelTable.
    shown: values to show, 255 for ignored; beyond 40 the rest is a count.
    width: pixels.
    untinted: whether black classes are marked as those that an overlay leaves untinted.

  Returns:
    u8[height,width,3].
  """
  from PIL import Image, ImageDraw, ImageFont

  letters = letter_size(width, 12)
  sample, gap, font = letters + 2, 8, ImageFont.load_default(letters)
  plain = dataclasses.replace(labels, overlapping=False)  # the values are numbers of classes
  canvas = Image.new("RGB", (width, 2000), "white")
  draw, x, y = ImageDraw.Draw(canvas), gap, 4
  entries = [(_text(labels, v, untinted), v) for v in shown[:MOST_IN_LEGEND]]
  if len(shown) > MOST_IN_LEGEND:
    entries.append((f"... and {len(shown) - MOST_IN_LEGEND} more", None))
  for text, value in entries:
    needed = sample + 4 + int(draw.textlength(text, font)) + 2 * gap
    if x + needed > width and x > gap:
      x, y = gap, y + sample + 6
    if value is not None:
      square = colorize(plain, np.full((sample, sample), value, np.uint8))
      canvas.paste(Image.fromarray(square), (x, y))
      draw.rectangle((x, y, x + sample - 1, y + sample - 1), outline="#666666")
    draw.text((x + sample + 4, y), text, fill="black", font=font)
    x += needed
  return np.asarray(canvas)[: y + sample + 6]


def with_legend(sheet, labels, shown):
  """A sheet with the `legend` of the values shown in it below."""
  values = sorted(shown)
  return np.concatenate([sheet, legend(labels, values, sheet.shape[1])]) if values else sheet


def _text(labels, value, untinted):
  if value == IGNORE:
    return "not scored"
  mark = untinted and not labels.palette[value].any()
  return f"{labels.names[value]} (not tinted in overlays)" if mark else labels.names[value]
