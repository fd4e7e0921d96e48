"""Several processes that train one run: how they join, and what they agree on.

All run the same programs over the devices of all; process 0 alone prints and writes files. Without
`join` there is one process, and everything here is a plain call.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from segjax.errors import UserError

LEAST = 2**8  # bytes of a message; longer ones are filled up to a power of two, compiled once each
# Errors of a collective operation whose partner is gone.
GONE = re.compile(r"Gloo|NCCL|coordination service|Connection (closed|reset)|heartbeat", re.I)


def join(spec: str, *, heartbeat_seconds: int = 100) -> None:
  """Makes this program one of several processes; to be called before any device is touched.

  Args:
    spec: "auto", as Slurm, Open MPI, Kubernetes or Cloud TPU say in the environment, or
      "HOST:PORT,COUNT,INDEX": an address of process 0, the number of processes, and which of them
      this is, from 0 on.
    heartbeat_seconds: after so long without a sign of a process all others end.

  Raises:
    UserError: a spec that is neither, or "auto" where nothing is found.
  """
  how = dict(heartbeat_timeout_seconds=heartbeat_seconds)
  if spec == "auto":
    try:
      jax.distributed.initialize(**how)
    except (ValueError, KeyError) as error:
      raise UserError(
        f"--distributed=auto: no job of Slurm, Open MPI, Kubernetes or Cloud TPU is found ({error})"
        "; use --distributed=HOST:PORT,COUNT,INDEX"
      ) from None
  else:
    address, count, index = parse(spec)
    jax.distributed.initialize(address, count, index, **how)
  faulthandler.disable()  # where JAX ends this process, its own line says why
  if not is_first():
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def parse(spec: str) -> tuple[str, int, int]:
  """(address, count, index) of "HOST:PORT,COUNT,INDEX".

  Raises:
    UserError: anything else.

  >>> parse("10.0.0.1:1234,2,0")
  ('10.0.0.1:1234', 2, 0)
  """
  found = re.fullmatch(r"(.+:\d+),(\d+),(\d+)", spec)
  if not found:
    raise UserError(
      f"--distributed={spec}: expected auto, or HOST:PORT,COUNT,INDEX, e.g. 10.0.0.1:1234,2,0"
    )
  count, index = int(found[2]), int(found[3])
  if count < 1:
    raise UserError(f"--distributed={spec}: COUNT is {count}, expected 1 or more")
  if index >= count:
    raise UserError(f"--distributed={spec}: INDEX is {index}, expected 0 to {count - 1}")
  return found[1], count, index


def is_first() -> bool:
  """Whether this process is the one that prints and writes."""
  return jax.process_index() == 0


def exchange(value: Any) -> list:
  """The values of all processes, by index; each must call it.

  Args:
    value: what JSON can hold.
  """
  text = json.dumps(value).encode()
  if jax.process_count() == 1:
    return [json.loads(text)]
  sizes = multihost_utils.process_allgather(np.int32(len(text))).ravel()
  row = np.zeros(max(LEAST, 1 << int(sizes.max() - 1).bit_length()), np.uint8)
  row[: len(text)] = np.frombuffer(text, np.uint8)
  rows = multihost_utils.process_allgather(row)
  return [json.loads(bytes(r[:n])) for r, n in zip(rows, sizes, strict=True)]


def of_first(call: Callable, *args: Any, **kwargs: Any) -> Any:
  """The result of a call that process 0 alone makes; each process must ask for it.

  Args:
    call: its result is what JSON can hold, and the same after a way through JSON.

  Raises:
    UserError: in all processes, where the call raises one.
  """
  if jax.process_count() == 1:
    return call(*args, **kwargs)
  result = error = None
  if is_first():
    try:
      result = call(*args, **kwargs)
    except UserError as found:
      error = found
  found, text = exchange((result, error and str(error)))[0]
  if text is not None:
    error = error or UserError(text)
    error.of_all = True
    raise error
  return found


def check_same(value: dict, what: str) -> None:
  """Raises a UserError in all processes where they have different values.

  Args:
    value: what JSON can hold.
    what: its name, for the message.
  """
  found = exchange(value)
  for i, other in enumerate(found):
    if other != found[0]:
      keys = [k for k in found[0] | other if other.get(k) != found[0].get(k)]
      first, here = ({k: v.get(k) for k in keys} for v in (found[0], other))
      error = UserError(
        f"process {i} has other {what} than process 0: {here}, not {first}; give all processes the "
        "same files and the same command"
      )
      error.of_all = True
      raise error


def of_jax() -> tuple[int, ...]:
  """Numbers of the signals that JAX handles in this process, see `stops`."""
  return (signal.SIGTERM,) if jax.process_count() > 1 else ()


def stops(noted: Any) -> Callable[[], int]:
  """A function that says after each call of the train step whether to stop: a signal, or 0.

  All processes get the same answer. JAX notes a SIGTERM to any of them, and they agree on a step
  that none has passed; a Ctrl-C is handed on as one.

  Args:
    noted: `stopping.StopSignals`, which notes the signals of this process.
  """
  if jax.process_count() == 1:
    return lambda: noted.signal
  calls = itertools.count(1)
  handed_on = []

  def ask():
    if noted.signal and not handed_on:
      handed_on.append(os.kill(os.getpid(), signal.SIGTERM))
    reached = multihost_utils.reached_preemption_sync_point(next(calls))
    return (noted.signal or signal.SIGTERM) if reached else 0

  return ask


def explain(error: BaseException) -> str | None:
  """One line for an error because of another process that is gone, or None."""
  if jax.process_count() == 1 or not GONE.search(str(error)):
    return None
  first = " ".join(str(error).split())[:160]
  return (
    f"process {jax.process_index()}: another process of this run has ended or cannot be reached "
    f"({first}); its own output has the reason. Start all of them again: they resume"
  )
