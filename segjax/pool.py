"""The runs of a pool: trained once whoever asks for them, resumed, reported from their folders."""

from __future__ import annotations

import dataclasses
import time
import traceback
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from segjax import claims
from segjax.errors import Stopped, UserError, explain
from segjax.training import checkpoint_files, input_pipeline, loop
from segjax.training import workdir as workdir_lib
from segjax.training.evaluation import read_sums
from segjax.training.writers import read_metrics

# Seconds between two looks at the tasks: they may be jobs of a cluster or runs that another process
# claims by a file, whose ends cause no event here.
POLL = 0.5

# Fields that change nothing in the numbers of a run, and so not its identity. Data may have moved;
# their fingerprint shows whether they are the same.
NEUTRAL = (
  "name", "keep_", "checkpoint_", "log_steps", "pictures", "writers", "data.threads",
  "data.workers", "data.cache_mb", "data.feed", "data.device_mb", "data.max_pixels",
  "data.source.folder", "data.source.data_dir", "mesh.", "nan_debug",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
  """One run of a study.

  Attributes:
    variant: name of the variant.
    seed: random seed of the run.
    config: ConfigDict, or None where it could not be made.
    workdir: path, or None likewise.
    error: why it failed, or empty.
  """

  variant: str
  seed: int
  config: Any
  workdir: Path
  error: str = ""

  def rows(self) -> list[dict]:
    """Rows of `metrics.jsonl`."""
    return read_metrics(self.workdir / "metrics.jsonl")

  def final(self) -> dict[str, float]:
    """Scalars of the last evaluation, nan where one was not defined."""
    row = [r for r in self.rows() if "val/loss" in r][-1]
    return {k: np.nan if v is None else v for k, v in row.items()}

  def best(self) -> float:
    """The best value of `config.best_metric` over all evaluations."""
    name, sign = self.config.best_metric, 1 if self.config.best_mode == "max" else -1
    values = [r[name] for r in self.rows() if r.get(name) is not None]
    return sign * max((sign * v for v in values), default=np.nan)

  def minutes(self) -> float:
    """Minutes of training, evaluations included."""
    return max((r.get("time/minutes", 0.0) for r in self.rows()), default=0.0)

  def sums(self) -> dict[str, np.ndarray]:
    """Statistics of the last evaluation, see the task; a UserError names a damaged file."""
    return {k: v for k, v in read_sums(self.workdir).items() if k != "step"}

  def complete(self) -> bool:
    """Whether what a report needs is there: rows, sums and checkpoint of the last evaluation."""
    rows = self.rows()
    try:
      step = read_sums(self.workdir).get("step")
    except UserError:
      return False
    saved = checkpoint_files.steps_in(self.workdir / "checkpoints")
    if max(saved, default=None) != step:
      return False
    return all(any(key in row for row in rows) for key in ("info/steps_per_epoch", "val/loss"))


def work_off(runs, start, jobs):
  """Starts runs and waits for their ends; those that another process trains come last.

  Args:
    runs: list of Result.
    start: Result -> task with `done() -> bool` and `result() -> str | None`: why the run failed,
      empty where it did not, None where another process trains it.
    jobs: tasks at a time; 0: no limit.

  Returns:
    {workdir: error}.
  """
  waiting, going, errors, said = list(runs), {}, {}, set()
  while waiting or going:
    for r in tuple(waiting):
      if jobs and len(going) >= jobs:
        break
      if holder := claims.owner(r.workdir):
        if r.workdir not in said:
          print(f"{r.variant}, seed {r.seed}: {holder} trains it; its result is used", flush=True)
        said.add(r.workdir)
        continue
      print(f"[{runs.index(r) + 1} of {len(runs)}] {r.variant}, seed {r.seed}", flush=True)
      waiting.remove(r)
      going[r.workdir] = r, start(r)
    ended = [r for r, task in going.values() if task.done()]
    for r in ended:
      text = going.pop(r.workdir)[1].result()
      if text is None:
        waiting.append(r)
      else:
        errors[r.workdir] = text
    if not ended and (waiting or going):
      time.sleep(POLL)
  return errors


def train_here(result):
  """Trains a run in this process; an ended task."""
  task = Future()
  task.set_result(train(result))
  return task


def collect(results: list[Result]) -> list[Result]:
  """The runs of a plan as they are now; those that are not finished have an error that says it."""
  return [dataclasses.replace(r, error=r.error or _missing(r)) for r in results]


def _missing(result):
  """Why a run cannot be reported yet, or nothing."""
  if (result.workdir / "finished").exists() and result.complete():
    return ""
  holder = claims.owner(result.workdir)
  step = max((row["step"] for row in result.rows()), default=0)
  begun = f"not finished, {step} steps done" if step else "not begun"
  if (result.workdir / "finished").exists():
    begun = "finished, but its last checkpoint or some results are lost; train it again"
  return f"{begun}; {holder} trains it" if holder else begun


def finished_before(result: Result) -> bool:
  """Whether a run of the present data is finished and whole.

  Raises:
    UserError: it is a run of other data or of other defaults.
  """
  config, workdir = result.config, result.workdir
  if not (workdir / "finished").exists():
    return False
  sources = (
    input_pipeline.make_source(config, "train", training=True),
    input_pipeline.make_source(config, "val"),
  )
  data = workdir_lib.fingerprint(*sources, config.init_from)
  workdir_lib.check(config, workdir, data, NEUTRAL)
  if result.complete():
    print(f"  finished before: {workdir}", flush=True)
    return True
  print(
    f"  finished before, but its last checkpoint or some results are lost; it resumes: {workdir}",
    flush=True,
  )
  return False


def train(result: Result) -> str | None:
  """Trains a run in this process unless it is finished.

  Returns:
    Why it failed, a line; empty where it did not; None where another process trains it.

  Raises:
    Stopped: after SIGTERM or Ctrl-C.
  """
  try:
    if not finished_before(result):
      loop.train(result.config, result.workdir)  # of a finished run this restores lost results
      (result.workdir / "finished").touch()
  except Stopped:
    raise
  except claims.InUse:
    return None
  except Exception as error:
    text = explain(error)
    if text is None:
      traceback.print_exc()  # ours, not the user's
      text = f"{type(error).__name__}: {error}"
    text = text.strip().splitlines()[0]
    print(f"  failed: {text}", flush=True)
    return text
  return ""
