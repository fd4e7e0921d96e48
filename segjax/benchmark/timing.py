"""Seconds of calls and of compilations, and the memory of compiled programs."""

from __future__ import annotations

import time

import jax
from jax.experimental.compilation_cache import compilation_cache

WARMUP = 3  # calls before those that are timed
SAMPLE = 0.1  # seconds that the calls of a sample take on an accelerator, about


def compile_anew(lowered):
  """(program, seconds) of a compilation that nothing kept from an earlier one shortens."""
  folder = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()  # it looks at its folder once
  try:
    start = time.perf_counter()
    return lowered.compile(), time.perf_counter() - start
  finally:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


def peak_bytes(compiled):
  """Arguments, results and temporaries of a compiled program; donated arguments count once."""
  memory = compiled.memory_analysis()
  parts = ("argument_size", "output_size", "temp_size")
  total = sum(getattr(memory, f"{part}_in_bytes", 0) for part in parts)
  return total - getattr(memory, "alias_size_in_bytes", 0)


def time_calls(call, repeats):
  """Seconds of each of `repeats` calls, every result waited for, after three that do not count."""
  out = []
  for _ in range(WARMUP + repeats):
    start = time.perf_counter()
    jax.block_until_ready(call())
    out.append(time.perf_counter() - start)
  return out[WARMUP:]


def time_samples(call, repeats):
  """Seconds per call of each of `repeats` samples.

  On a CPU a sample is one call, and is waited for. On an accelerator it is as many as take a tenth
  of a second, queued one after the other as a training does: to wake up for the result of each
  takes a millisecond and more on a virtual machine, in which the device would stand still.
  """
  count = 1
  if jax.default_backend() != "cpu":
    count = max(1, round(SAMPLE / min(time_calls(call, 3))))

  def sample():
    for _ in range(count):
      out = call()
    return out

  return [t / count for t in time_calls(sample, repeats)]
