"""Widths, ranks and divisions of arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def wide(x: jax.typing.ArrayLike) -> jax.Array:
  """x in float32, or as it is where that is wider: sums of float16 overflow at 65504."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def floats(x: jax.typing.ArrayLike) -> jax.Array:
  """x as it is where it holds floats or complex numbers, else in float32."""
  x = jnp.asarray(x)
  return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
  """[C] -> [1,...,1,C], of the rank of x: for programs that refuse to promote ranks."""
  return jnp.expand_dims(values, range(x.ndim - 1))


def split(x: jax.Array, axis: int, size: int) -> jax.Array:
  """[...,N,...] -> [...,N//size,size,...], divided over an explicit mesh as x is.

  Args:
    x: array of any rank.
    axis: whose elements are grouped, from 0 on.
    size: elements of a group.
  """
  shape = (*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])
  mesh, spec = _explicit_mesh(x), jax.typeof(x).sharding.spec
  if mesh is None:
    return x.reshape(shape)
  spec = PartitionSpec(*spec[: axis + 1], None, *spec[axis + 1 :])
  return jax.lax.reshape(x, shape, out_sharding=NamedSharding(mesh, spec))


def interleave(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
  """Elements of two arrays in turn along an axis: a's first, b's first, a's second ..."""
  shape = (*a.shape[:axis], 2 * a.shape[axis], *a.shape[axis + 1 :])
  return jnp.stack([a, b], axis + 1).reshape(shape)


def mix_rows_and_columns(x: jax.Array, rows: Any, columns: Any) -> jax.Array:
  """Weighted sums of rows and of columns: [B,H,W,C], [R,H] and [S,W] -> [B,R,S,C].

  The dtype is that of `floats`: weights below 1 are none of an integer dtype.
  """
  x = floats(x)
  rows, columns = (jnp.asarray(weights, x.dtype) for weights in (rows, columns))
  return jnp.einsum("bhwc,rh,sw->brsc", x, rows, columns, precision="highest")


def undivided(x: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
  """x, whole on every device of an explicit mesh: for operations that JAX does not divide there.

  Args:
    x: array of any rank.
    axes: from 0 on, those that shall be whole; None: all.
  """
  mesh = _explicit_mesh(x)
  if mesh is None:
    return x
  axes = range(x.ndim) if axes is None else axes
  spec = [None if i in axes else part for i, part in enumerate(jax.typeof(x).sharding.spec)]
  return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*spec)))


def of_class(values: jax.Array, index: jax.Array) -> jax.Array:
  """`values[index]` of values [C] and an index i32[...] in [0, C), divided as the index is."""
  if _explicit_mesh(index) is None and _explicit_mesh(values) is None:
    return values[index]
  return own_channel(per_channel(undivided(values), index[..., None]), index)


def own_channel(values: jax.Array, index: jax.Array) -> jax.Array:
  """[...,C] at the index i32[...] in [0, C) of each place, [...].

  A sum, whose gradient is no scatter, and which fuses with its neighbours.
  """
  own = index[..., None] == per_channel(jnp.arange(values.shape[-1]), values)
  return jnp.where(own, values, 0).sum(-1)


def _explicit_mesh(x):
  """The mesh of x where it has axes of type Explicit, else None."""
  mesh = jax.typeof(x).sharding.mesh
  return mesh if AxisType.Explicit in mesh.axis_types else None
