"""Losses of images from features of a net: content and style."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.ops import wide


def gram(features: ArrayLike) -> jax.Array:
  """Products of channels, the mean over positions: the texture without its place.

  Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016;
  divided by positions and channels as Johnson, Alahi, Fei-Fei (ECCV 2016) do.

  Args:
    features: f32[B,H,W,C].

  Returns:
    f32[B,C,C].

  >>> gram(jnp.array([[[[1.0, 2.0]], [[3.0, 0.0]]]])).tolist()
  [[[2.5, 0.5], [0.5, 1.0]]]
  """
  features = wide(features)
  _, h, w, c = features.shape
  return jnp.einsum("bhwc,bhwd->bcd", features, features) / (h * w * c)


def content(features: ArrayLike, wanted: ArrayLike) -> jax.Array:
  """Mean squared difference of features f32[B,H,W,C], f32[B]."""
  return jnp.square(wide(features) - wide(wanted)).mean((1, 2, 3))


def style(features: ArrayLike, wanted: ArrayLike) -> jax.Array:
  """Squared Frobenius distance of the Gram matrices of features f32[B,H,W,C], f32[B]."""
  return jnp.square(gram(features) - gram(wanted)).sum((1, 2))
