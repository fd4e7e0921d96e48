"""Runs as tasks of Ray: of one that is started on this machine, or of a cluster."""

from __future__ import annotations

import contextlib

from segjax.engines.command import Command
from segjax.errors import UserError


class Task:
  """A task of Ray as a task, see `segjax.engines`."""

  def __init__(self, reference):
    self._reference = reference

  def done(self):
    """Whether it has ended."""
    import ray

    return bool(ray.wait([self._reference], timeout=0)[0])

  def result(self):
    """See `Command.result`; why Ray gave up, where it did."""
    import ray

    try:
      return ray.get(self._reference)
    except ray.exceptions.RayError as error:
      return f"Ray: {type(error).__name__}: {str(error).strip().splitlines()[0]}"


@contextlib.contextmanager
def engine(jobs, folder, *, address="", num_cpus=1, num_gpus=0, max_retries=3):
  """Each run in a task of its own, which Ray starts again on another worker where one dies.

  The tasks end with this process. Each machine of a cluster must see this one's folders.

  Args:
    jobs: not needed: who asks for few jobs at a time submits few.
    folder: not needed.
    address: of a cluster ("auto": the one that runs here); empty: Ray is started here.
    num_cpus: cores of a task; Ray starts as many as there is room for.
    num_gpus: GPUs of a task, which alone it sees.
    max_retries: of a task whose worker died.

  Raises:
    UserError: no Ray, or no cluster at the address.
  """
  del jobs, folder
  try:
    import ray
  except ImportError:
    raise UserError("--engine=ray needs Ray: pip install 'segjax[ray]'") from None
  quiet = dict(include_dashboard=False) if not address else {}
  try:
    ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **quiet)
  except (ConnectionError, ValueError) as error:
    raise UserError(f"--engine=ray:address={address}: no Ray there ({error})") from None
  needs = dict(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=max_retries)
  run = ray.remote(**needs)(_run)
  try:
    yield lambda *command: Task(run.remote(Command(*command)))
  finally:
    ray.shutdown()


def _run(command):
  return command()
