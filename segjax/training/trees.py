"""Trees of arrays: names of their leaves, copies, values that are not finite."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def by_name(tree):
  """The leaves of a tree of any kind, {"params/a/kernel": leaf}."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {"/".join(str(_key(k)) for k in path): leaf for path, leaf in leaves}


def _key(entry):
  for name in ("key", "name", "idx"):
    if hasattr(entry, name):
      return getattr(entry, name)
  raise TypeError(f"no name in {entry!r}")


@jax.jit
def copy(state):
  """Arrays of their own, by one call for all."""
  return jax.tree.map(jnp.copy, state)


def all_finite(arrays):
  """Whether all values of each array are finite, a dict of bools; of those on devices there."""
  if all(isinstance(x, np.ndarray) for x in arrays.values()):
    return {k: np.isfinite(np.asarray(x, np.float32)).all() for k, x in arrays.items()}
  return jax.device_get(_all_finite_on_device(arrays))


@jax.jit
def _all_finite_on_device(arrays):
  return {k: jnp.isfinite(x).all() for k, x in arrays.items()}
