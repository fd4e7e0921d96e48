"""Maps whose rows are divided over devices, and those that have too few of them.

XLA exchanges rows between devices for a convolution. Where a map has hardly as many rows as there
are devices along them it computes wrong gradients of strided kernels, so such maps stay whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LEAST = 2  # rows of a map that a device must get at least

# Part of JAX's keys, see `platforms`.
_mesh = jax.make_user_context(None)


@contextlib.contextmanager
def rows_over(mesh: Mesh) -> Iterator[None]:
  """Context of programs whose images are divided in rows over the axis "space" of a mesh.

  Args:
    mesh: with the axes "data" and "space", of type Auto.
  """
  with _mesh(mesh if mesh.shape["space"] > 1 else None):
    yield


def divides(*rows: int) -> bool:
  """Whether maps of so many rows are divided, if the images are."""
  mesh = _mesh.value
  return mesh is None or all(n % (LEAST * mesh.shape["space"]) == 0 for n in rows)


def undivided_rows(x: jax.Array) -> jax.Array:
  """Maps [B,H,W,C] divided along the batch alone, and so is their gradient."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(_mesh.value, PartitionSpec("data")))
