"""Label tables: one row a class (name, display colour); everything else derives from them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

IGNORE = 255  # in every label array of segjax: a pixel that is not scored


@dataclasses.dataclass(frozen=True)
class LabelTable:
  """The classes of a data set; the index in `classes` is the label value.

  Attributes:
    classes: (name, (red, green, blue)) a class, colours in 0..255.
  """

  classes: tuple[tuple[str, tuple[int, int, int]], ...]

  @property
  def names(self):
    """Class names in label order."""
    return tuple(name for name, _ in self.classes)

  @functools.cached_property
  def palette(self):
    """u8[256,3]: colour of every label value; values outside the table, ignore too, are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(self.classes)] = np.array([c for _, c in self.classes], np.uint8).reshape(-1, 3)
    return table

  def __len__(self):
    return len(self.classes)

  def colorize(self, label):
    """int[H,W] -> u8[H,W,3] in the classes' colours, ignored pixels black."""
    return self.palette[np.asarray(label).astype(np.uint8)]


def default_table(names):
  """A table for classes without colours of their own: black, then evenly spread hues.

  Args:
    names: class names in label order.
  """
  import colorsys

  n = max(len(names) - 1, 1)
  colors = [(0, 0, 0)] + [
    tuple(int(255 * v) for v in colorsys.hsv_to_rgb(i / n, (1, 0.75)[i % 2], 1 if i % 3 else 0.7))
    for i in range(n)
  ]
  return LabelTable(tuple(zip(names, colors, strict=False)))
