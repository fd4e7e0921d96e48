"""How far the features of a batch spread."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from segjax.ops import wide


def unit_moments(vectors: jax.Array, mask: jax.Array) -> jax.Array:
  """Sums of a batch of vectors for `unit_deviation`, to be added over batches.

  Args:
    vectors: f32[B,D]; they are scaled to length 1.
    mask: bool[B], False for vectors that do not count.

  Returns:
    f32[2,D]: sums of the unit vectors and of their squares.
  """
  vectors = wide(vectors)
  unit = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
  return jnp.stack([unit, unit**2], 0).sum(1, where=mask[:, None])


def unit_deviation(moments: ArrayLike, count: float) -> float:
  """How far unit vectors spread: 1 where they fill the sphere, 0 where all are alike.

  The root of the summed variances of their components; Chen and He ("Exploring Simple Siamese
  Representation Learning", CVPR 2021) watch its share of a component for collapse.

  Args:
    moments: f32[2,D], summed `unit_moments`.
    count: number of vectors.
  """
  mean, square = np.asarray(moments, np.float64) / max(float(count), 1.0)
  return float(np.sqrt(np.maximum(square - mean**2, 0).sum()))
