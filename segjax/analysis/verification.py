"""Whether a run comes out again: its checkpoint evaluated anew, its training repeated."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import math
import tempfile
from pathlib import Path

import numpy as np

from segjax import config as config_lib
from segjax import textfiles
from segjax.errors import UserError
from segjax.training import input_pipeline, loop, receipt, restore
from segjax.training import workdir as workdir_lib
from segjax.training.checkpoints import Checkpoints
from segjax.training.evaluation import evaluate
from segjax.training.trees import by_name
from segjax.training.writers import finite, read_metrics

# Another order of sums changes the last bits of float32, 1e-7 of a value; steps enlarge that.
LAST_BITS = 1e-3
SMALL = 1e-2  # differences of values below it count as differences of a value of this size
EQUAL, CLOSE, DIFFERENT = "bit for bit equal", "equal within last bits", "different"


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Values of a run and the same values computed anew.

  Attributes:
    what: they are, in words.
    count: number of values.
    unequal: list of (name, step, then, now, relative difference), by step.
  """

  what: str
  count: int
  unequal: tuple

  @property
  def verdict(self):
    """`EQUAL`, `CLOSE` or `DIFFERENT`."""
    if not self.unequal:
      return EQUAL
    return CLOSE if max(row[-1] for row in self.unequal) <= LAST_BITS else DIFFERENT

  def text(self):
    """Lines for people: the verdict, the first and the largest difference."""
    if not self.count:
      return f"{self.what}: nothing to compare with"
    lines = [f"{self.what}: {self.verdict} ({self.count} values)"]
    if self.unequal:
      first, largest = self.unequal[0], max(self.unequal, key=lambda row: row[-1])
      lines.append(f"  {len(self.unequal)} differ; first {_row_text(first)}")
      if largest != first:
        lines.append(f"  most {_row_text(largest)}")
    return "\n".join(lines)


def _row_text(row):
  name, step, then, now, amount = row
  return f"{name} at step {step}: {then!r} then, {now!r} now, relative difference {amount:.2g}"


def relative(a, b):
  """Relative difference of two values of JSON; 0 where they are equal, inf where one is None.

  >>> relative(2.0, 1.0), relative(None, None), relative(0.0, 1e-4)
  (0.5, 0.0, 0.01)
  """
  if a == b:
    return 0.0
  if a is None or b is None:
    return math.inf
  return abs(a - b) / max(abs(a), abs(b), SMALL)


def compare_rows(what, then, now):
  """Compares two dicts {(step, name): value or None} where both have a value."""
  both = sorted(then.keys() & now.keys())
  rows = ((name, step, then[step, name], now[step, name]) for step, name in both)
  rows = [(*row, relative(*row[2:])) for row in rows]
  return Comparison(what, len(both), tuple(row for row in rows if row[-1]))


def scalars(rows):
  """{(step, name): value} of the scalars of training and validation in rows of metrics.jsonl.

  Of training the row's steps count too: rows of other windows do not compare.
  """
  found = {}
  for row in rows:
    window = f" of {row['train/steps']:.0f} steps" if "train/steps" in row else ""
    for name, value in row.items():
      if name.startswith(("train/", "val/")):
        found[row["step"], name + window] = value
  return found


def compare_arrays(step, then, now):
  """Compares the arrays of two checkpoints of one step, by name.

  Args:
    step: their step.
    then: nested dicts of arrays.
    now: likewise.

  Returns:
    Comparison; the values of an array are the mean sizes of its elements.
  """
  a, b = ({name: np.asarray(x) for name, x in by_name(tree).items()} for tree in (then, now))
  rows = []
  for name in sorted(a.keys() | b.keys()):
    if name not in a or name not in b or a[name].shape != b[name].shape:
      shapes = (list(x[name].shape) if name in x else None for x in (a, b))
      rows.append((name, step, *shapes, math.inf))
    elif not np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f"):
      size = [float(np.abs(x[name], dtype=np.float64).mean()) for x in (a, b)]
      gap = np.abs(np.subtract(a[name], b[name], dtype=np.float64))
      amount = float(gap.max() / max(np.abs(a[name]).max(), 1e-30))
      rows.append((name, step, *size, amount if math.isfinite(amount) else math.inf))
  return Comparison(f"checkpoint of step {step}", len(a), tuple(rows))


# ---------------------------------------------------------------------------- a run


def verify(workdir, steps=20, folder=""):
  """Evaluates and trains a run again, and prints what comes out.

  Args:
    workdir: path of the run.
    steps: steps to train again, up to the end of a row of metrics.jsonl; 0: all of them.
    folder: where its data lie now, if they have moved.

  Returns:
    `EQUAL`, `CLOSE` or `DIFFERENT`.

  Raises:
    UserError: no run in the folder, or it has trained too little to compare.
  """
  config = config_lib.load(workdir / "config.json")
  moved = restore.moved_to(config, folder)
  rows = read_metrics(workdir / "metrics.jsonl")
  experiment, state = restore.run(workdir)  # refuses code of one's own that nobody has allowed
  data = restore.data_of_run(workdir, config, "val", moved=moved)
  print(f"{workdir}: step {int(state.step)}")
  here = copy.deepcopy(config)
  here.data.source.update(moved)
  train = input_pipeline.make_source(here, "train", training=True)
  entry = receipt.entry(config, workdir_lib.fingerprint(train, data.source, config.init_from))
  for line in _receipt_lines(workdir, entry):
    print(f"  {line}")
  found = [_evaluated(experiment, state, data.source, rows)]
  with tempfile.TemporaryDirectory() as again:
    until = _until(rows, steps, int(state.step))
    found += _trained(workdir, here, rows, until, Path(again) / "run")
  for comparison in found:
    print("  " + comparison.text().replace("\n", "\n  "), flush=True)
  verdicts = [c.verdict for c in found]
  return next((v for v in (DIFFERENT, CLOSE) if v in verdicts), EQUAL)


def _receipt_lines(workdir, now):
  """What differs between the receipt of a run and that of a start now, and between its starts.

  Args:
    workdir: path of the run.
    now: `receipt.entry` of a start now.
  """
  starts = receipt.read(workdir)
  lines, file = [], workdir / "data.json"
  if not starts:
    lines = ["no receipt.json: a run of an older version, on unknown versions and device"]
    old = textfiles.read_state(file, workdir_lib.DATA_KEYS) if file.exists() else now["data"]
    starts, now = [dict(data=old)], dict(data={k: v for k, v in now["data"].items() if k in old})
  first, *resumed = starts
  lines += [f"differs from the run: {line}" for line in receipt.differences(first, now)]
  for start in resumed:
    if changed := receipt.differences(first, start):
      lines.append(f"resumed at step {start.get('step')} with another {'; '.join(changed)}")
  return lines or ["config, data, code, versions and device are those of the run"]


def _evaluated(experiment, state, source, rows):
  """Compares the evaluation of a checkpoint with its row."""
  step = int(state.step)
  batches = input_pipeline.eval_batches(experiment.config, source)
  sums = evaluate(experiment.eval_step(), state, batches, experiment.eval_mesh())
  summary = finite({f"val/{k}": v for k, v in experiment.task.summary(sums).items()})
  now = {(step, k): v for k, v in summary.items()}
  return compare_rows(f"evaluation of the checkpoint of step {step}", scalars(rows), now)


def _until(rows, steps, last):
  """The step to train to: the first with a row of training from `steps` on, or the last one."""
  ends = [r["step"] for r in rows if "train/loss" in r and r["step"] <= last]
  if not ends:
    raise UserError("metrics.jsonl has no row of training, so there is nothing to compare")
  return min((s for s in ends if s >= steps), default=last) if steps else last


def _trained(workdir, config, rows, until, again):
  """Trains a run again in another folder, up to a step; compares rows and checkpoints."""
  config.writers, config.pictures = (), 0
  print(f"  training again, {until} steps ...", flush=True)
  with contextlib.redirect_stdout(io.StringIO()):
    loop.train(config, again, until=until)
  now = scalars(read_metrics(again / "metrics.jsonl"))
  found = [compare_rows(f"training again, {until} steps", scalars(rows), now)]
  if not found[0].count:
    raise UserError(f"{workdir}: none of its rows is one of the training again; try --steps=0")
  with contextlib.ExitStack() as stack:
    opened = lambda d: stack.enter_context(  # noqa: E731
      contextlib.closing(Checkpoints.of_run(d, config, read_only=True))
    )
    old, new = opened(workdir), opened(again)
    for step in sorted(set(old.steps()) & set(new.steps())):
      found.append(compare_arrays(step, old.restore_arrays(step), new.restore_arrays(step)))
  return found
