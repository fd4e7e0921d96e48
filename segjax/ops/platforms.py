"""Which form of an operation a program gets: the fast one of its platform, or the plain one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

# Part of JAX's keys, so a function that was traced in one state is traced again in the other.
_plain = jax.make_user_context(False)


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
  """Context in which operations are traced as standard operations of JAX, the same ones everywhere.

  Programs then contain no foreign function and no branch by platform: for `jax.export`, other
  compilers, and counts of FLOPs. Results agree with those of the usual forms to rounding. A
  function keeps the form it was traced with: enter the context around the call that traces.

  >>> from segjax import ops
  >>> x, kernel = jax.numpy.ones((1, 8, 8, 3)), jax.numpy.ones((3, 3, 3, 4))
  >>> with plain_forms():
  ...   program = jax.export.export(jax.jit(ops.conv), platforms=("cpu", "cuda", "tpu"))(x, kernel)
  >>> program.out_avals[0].shape
  (1, 6, 6, 4)
  """
  with _plain(True):
    yield


def is_plain() -> bool:
  """Whether `plain_forms` is entered."""
  return _plain.value


def by_platform(*args: Any, default: Callable, **forms: Callable) -> Any:
  """`jax.lax.platform_dependent`, and `default(*args)` within `plain_forms`."""
  if is_plain():
    return default(*args)
  return jax.lax.platform_dependent(*args, default=default, **forms)
