"""Runs as processes of this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from segjax.engines.command import Command
from segjax.errors import UserError


@contextlib.contextmanager
def engine(jobs, folder):
  """Each run in a process of its own; where there are GPUs, each has its share of them.

  They stop with this process: when it is stopped they save first.

  Args:
    jobs: processes at a time, 1 or more.
    folder: not needed.

  Raises:
    UserError: more jobs than GPUs.
  """
  del folder
  gpus, places = _gpus(), {}
  if gpus and jobs > len(gpus):
    raise UserError(
      f"--jobs={jobs}, but there are {len(gpus)} GPUs and each job needs one; use fewer jobs, or "
      "JAX_PLATFORMS=cpu"
    )

  def start(words, log):
    command = Command(words, log)
    place = next(i for i in range(jobs) if i not in places or places[i].done())
    if gpus:
      command.env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[place::jobs])
    places[place] = command
    command.start()
    return command

  try:
    yield start
  finally:
    for command in places.values():
      command.ask_to_stop()
    for command in places.values():
      command.stop()


def _gpus():
  """Names of the GPUs that this process may use, without a look at them, which would take them."""
  if os.environ.get("JAX_PLATFORMS", "cuda").split(",")[0] not in ("cuda", "gpu"):
    return []
  visible = os.environ.get("CUDA_VISIBLE_DEVICES")
  if visible is not None:
    return [name for name in visible.split(",") if name]
  known = Path("/proc/driver/nvidia/gpus")
  return [str(i) for i in range(len(list(known.iterdir())))] if known.is_dir() else []
