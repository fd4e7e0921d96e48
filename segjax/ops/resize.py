"""Other sizes of images and maps."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def resize_bilinear(x: jax.Array, size: Sequence[int]) -> jax.Array:
  """Bilinear resize of [B,H,W,C] to `size` = (height, width), half-pixel centres.

  Equals PyTorch's `interpolate(mode="bilinear", align_corners=False)` when enlarging; when
  shrinking it averages over the covered pixels (antialias), as PyTorch's `antialias=True` does.
  """
  # Both sizes may be symbolic, whose order is not always known.
  larger = all(
    a is b or (isinstance(a, int) and isinstance(b, int) and a <= b)
    for a, b in zip(x.shape[1:3], size, strict=True)
  )
  shape = (x.shape[0], *size, x.shape[3])
  return jax.image.resize(x, shape, "bilinear", antialias=not larger)


def pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
  """Extends [B,H,W,C] at the bottom and right, repeating the edge, to multiples of `multiple`."""
  return _extended(image, [-n % multiple for n in image.shape[1:3]])


def pad_to_least(image: jax.Array, least: int) -> jax.Array:
  """Extends [B,H,W,C] at the bottom and right, repeating the edge, to `least` pixels or more."""
  return _extended(image, [jax.core.max_dim(least - n, 0) for n in image.shape[1:3]])


def _extended(image, missing):
  if missing == [0, 0]:
    return image
  return jnp.pad(image, ((0, 0), *((0, n) for n in missing), (0, 0)), mode="edge")
