"""Widths of numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def wide(x: jax.typing.ArrayLike) -> jax.Array:
  """x in float32, or as it is where that is wider: sums of float16 overflow at 65504."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
