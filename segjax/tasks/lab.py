"""CIELAB and sRGB (IEC 61966-2-1, white point D65), pure and differentiable."""

from __future__ import annotations

import jax.numpy as jnp

# Linear sRGB to CIE XYZ, 2 degree observer, and the white point that goes with it.
TO_XYZ = (
  (0.412453, 0.357580, 0.180423),
  (0.212671, 0.715160, 0.072169),
  (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)
EPSILON, KAPPA = (6 / 29) ** 3, (29 / 6) ** 2 / 3  # where the cube root becomes a line; its slope


def rgb_to_lab(rgb):
  """sRGB f32[...,3] in [0,1] -> CIELAB f32[...,3]: L in [0,100], a and b about +-110."""
  low = rgb <= 0.04045
  curve = ((jnp.where(low, 1.0, rgb) + 0.055) / 1.055) ** 2.4
  linear = jnp.where(low, rgb / 12.92, curve)
  t = _product(linear, TO_XYZ) / jnp.array(WHITE)
  low = t <= EPSILON
  f = jnp.where(low, KAPPA * t + 4 / 29, jnp.cbrt(jnp.where(low, 1.0, t)))
  x, y, z = jnp.split(f, 3, -1)
  return jnp.concatenate([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def lab_to_rgb(lab):
  """CIELAB f32[...,3] -> sRGB f32[...,3], clipped to [0,1] where no screen shows the colour."""
  lightness, a, b = jnp.split(lab, 3, -1)
  y = (lightness + 16) / 116
  f = jnp.concatenate([y + a / 500, y, y - b / 200], -1)
  xyz = jnp.where(f > 6 / 29, f**3, (f - 4 / 29) / KAPPA) * jnp.array(WHITE)
  linear = jnp.clip(_product(xyz, jnp.linalg.inv(jnp.array(TO_XYZ))), 0, 1)
  low = linear <= 0.0031308
  return jnp.where(low, 12.92 * linear, 1.055 * jnp.where(low, 1.0, linear) ** (1 / 2.4) - 0.055)


def _product(x, matrix):
  """Rows of the matrix times the last axis; sums, as products on a GPU may keep 10 bits."""
  return (x[..., None, :] * jnp.asarray(matrix)).sum(-1)
