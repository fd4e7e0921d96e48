"""Any number of images before a net that may take one batch size alone; without jax."""

from __future__ import annotations

import numpy as np

from segjax.data import rasters, tiles
from segjax.inference.model import Model

FEW = 8  # images of a call of a net that takes any number


def probabilities(model: Model, images: np.ndarray) -> np.ndarray:
  """The net's probabilities for any number of images.

  Args:
    model: the net.
    images: u8[N,H,W,3] of a size that it takes, or f32[N,H,W,C], scaled.

  Returns:
    f32[N,H,W,C].
  """
  batch_size = model.batch or min(FEW, len(images))
  return np.concatenate(list(tiles.in_batches(images, model.probabilities, batch_size)))


def noise(count: int, size: tuple[int, int], pixels: rasters.Pixels) -> np.ndarray:
  """Random pixels, u8[count,H,W,3], or f32[count,H,W,C] in [0,1) of other images."""
  rng, shape = np.random.default_rng(0), (count, *size, pixels.channels)
  if pixels.is_rgb:
    return rng.integers(0, 256, shape).astype(np.uint8)
  return rng.random(shape, np.float32)
