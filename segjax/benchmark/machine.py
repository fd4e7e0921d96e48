"""The rates of the default device: arithmetic and memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from segjax.benchmark.timing import time_samples


def matrix_rate(dtype="float32", size=None, repeats=10):
  """GFLOP/s of a large matrix product on the default device, the best of some."""
  # Large enough that the call itself takes no part of the time.
  size = size or (2048 if jax.default_backend() == "cpu" else 8192)
  x = jax.random.normal(jax.random.key(0), (size, size), dtype)  # constants may be faster
  product = jax.jit(lambda a, b: a @ b)
  return 2 * size**3 / min(time_samples(lambda: product(x, x), repeats)) / 1e9


def memory_rate(megabytes=256, repeats=10):
  """GB/s that the default device reads and writes in a large array, the best of some."""
  add = jax.jit(lambda a: a + 1, donate_argnums=0)
  held = [jnp.zeros(int(megabytes * 1e6) // 4, jnp.float32)]

  def call():
    held[0] = add(held[0])
    return held[0]

  return 2 * held[0].nbytes / min(time_samples(call, repeats)) / 1e9
