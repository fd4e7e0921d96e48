"""Widths, ranks and divisions of arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def wide(x: jax.typing.ArrayLike) -> jax.Array:
  """x in float32, or as it is where that is wider: sums of float16 overflow at 65504."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
  """[C] -> [1,...,1,C], of the rank of x: for programs that refuse to promote ranks."""
  return jnp.expand_dims(values, range(x.ndim - 1))


def in_blocks(x: jax.Array) -> jax.Array:
  """[B,2h,2w,C] -> [B,h,2,w,2,C], divided over an explicit mesh as x is."""
  n, h, w, c = x.shape
  shape, given = (n, h // 2, 2, w // 2, 2, c), jax.typeof(x).sharding
  if AxisType.Explicit not in given.mesh.axis_types:
    return x.reshape(shape)
  images, rows, columns, channels = given.spec
  spec = PartitionSpec(images, rows, None, columns, None, channels)
  return jax.lax.reshape(x, shape, out_sharding=NamedSharding(given.mesh, spec))
