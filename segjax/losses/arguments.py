"""Checks and conversions of the arguments of the losses of segmentation."""

from __future__ import annotations

import jax.numpy as jnp

from segjax.class_index import class_index, counted
from segjax.ops import wide


def read(logits, label, valid):
  """Wide logits; class indices that are safe to look up; bool valid; and a factor of the loss.

  Labels are 0 where the pixel does not count. The factor is 1, and nan where a pixel counts but its
  label is none of the classes.
  """
  logits = wide(logits)
  label = class_index(label, max(logits.shape[-1], 2))
  if label.shape != logits.shape[:-1]:
    raise ValueError(
      f"label has shape {label.shape}, logits {logits.shape}; expected labels {logits.shape[:-1]}"
    )
  valid = counted(valid, label.shape)
  factor = jnp.where(valid & (label < 0), jnp.nan, 1.0).astype(logits.dtype)
  return logits, jnp.where(valid & (label >= 0), label, 0), valid, factor


def read_weights(weights, count, dtype):
  """A weight per class as an array [count]; a ValueError where there are more or fewer."""
  weights = jnp.asarray(weights, dtype)
  if weights.shape != (count,):
    raise ValueError(f"class_weights has shape {weights.shape}, expected ({count},)")
  return weights
