"""Counts into cells on the device, and ratios of counts on the host."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from segjax.class_index import class_index, counted
from segjax.ops import by_platform, undivided

LIMIT = 2**31  # pixels of a batch from which on int32 may not hold their number
SPREAD = 2**16  # cells that an accelerator counts into, so many copies of each as these hold


def number_of(mask):
  """How many values of a mask are True: i32[], of `LIMIT` values and more i64[]."""
  if mask.size < LIMIT:
    return mask.sum()
  with jax.enable_x64(True):
    return mask.sum(dtype=jnp.int64)


def counts_of(cell, length):
  """How often each of 0 ... length - 1 occurs in i32[...]: i32[length], see `number_of`.

  Accelerators add to a cell one at a time, so there neighbours are counted in copies of their own.
  """
  copies = max(SPREAD // length, 1)

  def shared(cell, length=length):
    return jnp.bincount(cell, length=length).astype(jnp.int32)

  def spread(cell):
    copy = jnp.arange(cell.size, dtype=jnp.int32) % copies
    return shared(cell * copies + copy, length * copies).reshape(length, copies).sum(1)

  cell = undivided(cell).ravel()
  count = partial(by_platform, cpu=shared, default=spread)
  if cell.size < LIMIT:
    return count(cell)
  parts = [count(part) for part in jnp.array_split(cell, cell.size // LIMIT + 1)]
  with jax.enable_x64(True):
    return sum(part.astype(jnp.int64) for part in parts)


def sum_of(counts):
  """The sum of counts of `counts_of` over their first axis."""
  if counts.dtype != jnp.int64:
    return counts.sum(0)
  with jax.enable_x64(True):
    return counts.sum(0)


def ratio(a, b):
  """a / b in float64, nan where b is 0."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)


def read_labels(pred, label, num_classes, valid):
  """(predictions, labels, pixels that are scored); -1 for an index of none of the classes.

  Raises:
    TypeError: labels or predictions that are not integers.
    ValueError: shapes that do not fit.
  """
  pred = class_index(pred, num_classes, name="pred")
  label = class_index(label, num_classes)
  if pred.shape != label.shape:
    raise ValueError(f"pred has shape {pred.shape}, label {label.shape}; expected the same")
  return pred, label, counted(valid, label.shape)


def means_of_present(rows):
  """`mean_of_present` of each row, f64[N]."""
  rows = np.asarray(rows, np.float64)
  present = ~np.isnan(rows)
  return ratio(np.where(present, rows, 0.0).sum(1), present.sum(1))


def mean_of_present(values):
  """Mean of the values that are not nan; nan when there are none."""
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else float("nan")
