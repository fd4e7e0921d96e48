"""Evaluation: every example once, sums added up on the host."""

from __future__ import annotations

import jax
import numpy as np

from segjax.training import steps


def add_sums(total, sums):
  """Adds statistics on the host: counts in int64, the rest in float64."""
  wide = {
    k: np.asarray(v, np.int64 if np.issubdtype(np.asarray(v).dtype, np.integer) else np.float64)
    for k, v in sums.items()
  }
  return wide if total is None else {k: total[k] + v for k, v in wide.items()}


def evaluate(eval_step, state, batches, mesh):
  """Sums of the task's statistics over all batches, each example once.

  Args:
    eval_step: from `steps.make_eval_step`.
    state: TrainState.
    batches: from `pipeline.eval_batches`.
    mesh: of the devices.

  Returns:
    dict of numpy sums, see the task's `statistics`.
  """
  total, running = None, None
  for batch in batches:
    previous, running = running, eval_step(state, steps.put_batch(batch, mesh))
    if previous is not None:
      total = add_sums(total, jax.device_get(previous))
  return add_sums(total, jax.device_get(running))


def example_panels(task, outputs, example):
  """Pictures of one example and of what the net makes of it.

  Args:
    task: of `segjax.tasks`.
    outputs: of a predict step for this example alone, waited for here.
    example: {"image": u8[H,W,3], "label": as the task needs it}.

  Returns:
    list of (title, u8[H,W,3]), see the task's `pictures`.
  """
  label = example["label"]
  label = label if label.ndim == 3 else label.astype(np.int32)
  return task.pictures(example["image"], jax.device_get(outputs), label)
