"""Labels of overlapping classes: the label of a pixel is a set of classes, as bits of an integer.

Such labels are resized, moved, padded and cut as class indices are, each pixel by itself. Class i
has bit i, from class 7 on bit i + 1: bit 7 belongs to none, so that 255 stays a pixel that is not
scored, and sets of up to 7 classes fit into 8 bits.
"""

from __future__ import annotations

import numpy as np

from segjax.data.labels import IGNORE, LabelTable, default_table
from segjax.errors import UserError

MOST = 30  # classes that the bits of an int32 hold


def overlapping_table(names):
  """A table of overlapping classes, each in a colour of its own; none is black.

  Raises:
    UserError: more than 30 classes.
  """
  check_count(len(names))
  return LabelTable(default_table(("", *names)).classes[1:], overlapping=True)


def check_count(count):
  """Raises a UserError for more overlapping classes than a label holds."""
  if count > MOST:
    raise UserError(f"{count} overlapping classes, expected at most {MOST}; leave some out")


def join(planes):
  """bool[...,C], the masks of the classes -> labels u8[...], of more than 7 classes i32[...].

  >>> join(np.array([[True, False, True], [False, False, False]])).tolist()
  [5, 0]
  """
  count = planes.shape[-1]
  return (planes.astype(np.int32) << _bits(count)).sum(-1).astype(dtype_of(count))


def dtype_of(count):
  """The dtype of labels that are sets of `count` classes."""
  return np.dtype(np.uint8 if count <= 7 else np.int32)


def split(label, count):
  """Labels int[...] of NumPy or JAX -> bool[...,C], the masks of the classes.

  All are False where a pixel is not scored.

  >>> split(np.array([5, 0, 255]), 3).tolist()
  [[True, False, True], [False, False, False], [False, False, False]]
  """
  label = label[..., None]
  return ((label >> _bits(count)) & 1 == 1) & (label != IGNORE)


def _bits(count):
  return np.array([i + (i >= 7) for i in range(count)], np.int32)
