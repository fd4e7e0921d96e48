"""The rows of training: their steps, when they are written, and when other work is due."""

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.training.checkpoints import NotFinite
from segjax.training.log import Log
from segjax.training.plan import Plan


class Task:
  """The loss of a step is the sum that the test gives it."""

  def loss(self, sums):
    return sums["loss"] / sums["examples"]

  def summary(self, sums):
    return dict(loss=float(self.loss(sums)))

  def row(self, summary):
    return summary


class Recorder:
  """Stands in for the writers, the progress and the checkpoints of a run."""

  images_per_second, folder = 4.0, "runs/x/checkpoints"

  def __init__(self):
    self.rows, self.lines = [], []

  def scalars(self, step, values):
    self.rows.append((step, values))

  def update(self, step, loss):
    self.lines.append((step, loss))

  def minutes(self):
    return 0.5

  def latest_text(self):
    return "the checkpoint of step 3 is kept"


@pytest.fixture
def recorder():
  return Recorder()


@pytest.fixture
def log(recorder):
  return Log(
    Task(), lambda step: 0.5 * step, every=10,
    writers=recorder, progress=recorder, checkpoints=recorder,
  )  # fmt: skip


def sums(*losses):
  """Of a call whose steps have these losses; the gradient's norm is twice the loss."""
  x = jnp.array(losses, jnp.float32)
  out = dict(loss=x, examples=jnp.ones(len(losses), jnp.int32), grad_norm=2 * x)
  return out if len(losses) > 1 else {k: v[0] for k, v in out.items()}


def windows(recorder):
  """(label, steps, mean loss, learning rate of the last update) of each row."""
  keys = ("steps", "loss", "learning_rate")
  return [(step, *(row[f"train/{k}"] for k in keys)) for step, row in recorder.rows]


def test_a_row_is_of_the_steps_up_to_its_number_and_is_written_while_the_next_one_runs(
  log, recorder
):
  for step in range(1, 11):
    log.add(step, 1, sums(step))
  assert recorder.rows == []  # step 10 may still be running
  log.add(11, 1, sums(11))
  assert windows(recorder) == [(10, 10, 5.5, 4.5)]
  assert recorder.lines == [(10, 5.5)]
  row = recorder.rows[0][1]
  assert row["train/grad_norm"] == 11.0
  assert (row["time/images_per_s"], row["time/minutes"]) == (4.0, 0.5)
  for step in range(12, 22):
    log.add(step, 1, sums(step))
  assert windows(recorder)[1:] == [(20, 10, 15.5, 9.5)]


def test_an_evaluation_or_a_checkpoint_ends_a_row_and_the_next_one_is_of_the_rest(log, recorder):
  for step in range(1, 11):
    log.add(step, 1, sums(step))
    if step in (7, 10):
      log.write()
  log.write()  # nothing is left
  assert windows(recorder) == [(7, 7, 4.0, 3.0), (10, 3, 9.0, 4.5)]
  log.add(11, 1, sums(11))
  assert len(recorder.rows) == 2


def test_calls_of_more_steps_than_one_give_the_same_rows(log, recorder):
  log.add(5, 5, sums(1, 2, 3, 4, 5))
  log.add(10, 5, sums(6, 7, 8, 9, 10))
  assert recorder.rows == []
  log.add(11, 1, sums(11))
  log.add(12, 1, sums(12))
  log.write()
  assert windows(recorder) == [(10, 10, 5.5, 4.5), (12, 2, 11.5, 5.5)]


def test_a_step_that_is_not_finite_is_named_and_gets_no_row(log, recorder):
  log.add(1, 1, sums(1.0))
  log.add(4, 3, sums(2.0, np.inf, 3.0))
  text = r"not finite at step 3: loss inf, .*; the checkpoint of step 3 is kept in runs/x/check"
  with pytest.raises(NotFinite, match=text):
    log.check()
  assert recorder.rows == []


def test_what_is_due_after_which_step():
  plan = Plan(total=23, log_every=10, eval_every=12, save_every=7, keep=(5,))
  steps = range(1, 24)
  assert [s for s in steps if plan.evaluates(s)] == [12, 23]
  assert [s for s in steps if plan.saves(s)] == [5, 7, 12, 14, 21, 23]
  assert [plan.next_event(s) for s in (0, 5, 7, 10, 12, 14, 20, 21)] == [
    5, 7, 10, 12, 14, 20, 21, 23,
  ]  # fmt: skip
  assert plan.next_event(14, more=(3, 17)) == 17
  plan = Plan(total=6, log_every=10, eval_every=4)
  assert [s for s in range(1, 7) if plan.saves(s)] == [4, 6]
  assert [plan.next_event(s) for s in (0, 4)] == [4, 6]
