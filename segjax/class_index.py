"""Class indices of any integer dtype and masks of pixels, as losses and metrics read them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def class_index(values, count, *, name="label"):
  """Class indices as int32, with -1 in place of every value outside [0, count).

  A narrow dtype is widened before any arithmetic, a wide one is compared before it is narrowed, so
  that no value wraps round to another class.

  Args:
    values: integers of any dtype, or bool; an array of NumPy or JAX, or nested lists.
    count: number of classes.
    name: name of the argument, for the message.

  Returns:
    i32[...] in [-1, count).

  Raises:
    TypeError: the values are neither integers nor bool.
  """
  xp = jnp if isinstance(values, jax.Array) else np
  values = xp.asarray(values)
  if not (values.dtype == bool or jnp.issubdtype(values.dtype, jnp.integer)):
    raise TypeError(
      f"{name} has dtype {values.dtype}; expected class indices, integers of any dtype or bool"
    )
  if values.dtype.itemsize < 4:
    values = values.astype(np.int32)
  inside = (values >= 0) & (values < count)
  return jnp.asarray(xp.where(inside, values.astype(np.int32), np.int32(-1)))


def counted(valid, shape):
  """Which pixels count, bool; all of them where `valid` is None.

  Args:
    valid: bool (or numbers, where 0 is False) of a shape that broadcasts to `shape`, or None.
    shape: shape of the labels.

  Raises:
    ValueError: the shapes do not fit.
  """
  if valid is None:
    return jnp.ones(shape, bool)
  valid = jnp.asarray(valid)
  try:
    return jnp.broadcast_to(valid.astype(bool), shape)
  except ValueError:
    raise ValueError(f"valid has shape {valid.shape}, the labels have {shape}") from None
