"""Any number of images before a net that may take one batch size alone; without jax."""

from __future__ import annotations

import numpy as np

from segjax.inference.model import Model

FEW = 8  # images of a call of a net that takes any number


def probabilities(model: Model, images: np.ndarray) -> np.ndarray:
  """The net's probabilities for any number of images.

  Args:
    model: the net; where it takes one batch size alone, the last batch is filled up with copies.
    images: u8[N,H,W,3] of a size that it takes.

  Returns:
    f32[N,H,W,C].
  """
  count, parts = model.batch or FEW, []
  for start in range(0, len(images), count):
    part = images[start : start + count]
    missing = count - len(part) if model.batch else 0
    filled = np.concatenate([part, part[-1:].repeat(missing, 0)]) if missing else part
    parts.append(model.probabilities(filled)[: len(part)])
  return np.concatenate(parts)
