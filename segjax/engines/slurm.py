"""Runs as jobs of Slurm, through submitit."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter

from segjax.engines.command import Command
from segjax.errors import UserError

TRIES = 3  # jobs of a run that are lost before it counts as failed


class Requeued(Command):
  """A command that submitit starts again where its job was pre-empted or ran out of time.

  Slurm sends SIGUSR2 before the end of a job, on which submitit calls `checkpoint`; the SIGTERM of
  a pre-emption submitit ignores, so the run is stopped here.
  """

  def checkpoint(self):
    """Has the run save and end; returns what the requeued job does: the same again."""
    from submitit.helpers import DelayedSubmission

    self.stop()
    return DelayedSubmission(self)


class Job:
  """A submitit job as a task, see `segjax.engines`."""

  def __init__(self, job, may_retry):
    self._job, self.done, self._may_retry = job, job.done, may_retry

  def result(self):
    """See `Command.result`; None too for a job that was cancelled or lost and may be tried again.

    Its run may still be trained by what is left of it.
    """
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
      return self._job.result()
    except (FailedJobError, UncompletedJobError) as error:
      first = str(error).strip().splitlines()[0]
      lost = f"job {self._job.job_id}: {first}; see {self._job.paths.stderr}"
    return None if self._may_retry else lost


@contextlib.contextmanager
def engine(jobs, folder, *, cluster="slurm", **parameters):
  """Each run in a job of its own; the jobs stay in the queue when this process ends.

  Args:
    jobs: not needed: who asks for few jobs at a time submits few.
    folder: folder for the files of the jobs, on a disk that all machines see.
    cluster: "slurm"; "local" tries the same jobs on this machine.
    **parameters: of submitit: timeout_min, cpus_per_task, gpus_per_node, mem_gb, slurm_partition,
      slurm_account, slurm_constraint, ...

  Raises:
    UserError: no submitit, no Slurm here, or an unknown parameter.
  """
  del jobs
  try:
    import submitit
  except ImportError:
    raise UserError("--engine=slurm needs submitit: pip install 'segjax[slurm]'") from None
  if cluster == "slurm" and not shutil.which("sbatch"):
    raise UserError(
      "--engine=slurm: there is no sbatch on this machine; start the study where jobs are submitted"
    )
  executor = submitit.AutoExecutor(folder / "jobs", cluster=cluster)
  try:
    executor.update_parameters(
      **dict(timeout_min=60, name="segjax", slurm_signal_delay_s=120) | parameters
    )
  except (NameError, TypeError, ValueError) as error:
    raise UserError(f"--engine=slurm: {' '.join(str(error).split())}") from None
  tries = Counter()

  def start(words, log):
    tries[log] += 1
    return Job(executor.submit(Requeued(words, log)), tries[log] < TRIES)

  yield start
