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


def split(x: jax.Array, axis: int, size: int) -> jax.Array:
  """[...,N,...] -> [...,N//size,size,...], divided over an explicit mesh as x is.

  Args:
    x: of any rank.
    axis: whose elements are grouped, from 0 on.
    size: elements of a group.
  """
  shape = (*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])
  given = jax.typeof(x).sharding
  if AxisType.Explicit not in given.mesh.axis_types:
    return x.reshape(shape)
  spec = PartitionSpec(*given.spec[: axis + 1], None, *given.spec[axis + 1 :])
  return jax.lax.reshape(x, shape, out_sharding=NamedSharding(given.mesh, spec))
