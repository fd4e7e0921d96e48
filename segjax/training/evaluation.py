"""Evaluation: every example once, sums added up on the host, a table for people."""

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


def summary_table(task, sums):
  """Text table of an evaluation: scalars, then a row a class."""
  s = task.summary(sums)
  lines = [
    "",
    f"  {'loss':<32}{s['loss']:.4f}",
    f"  {'pixel accuracy':<32}{s['pixel_accuracy']:.4f}",
  ]
  constant = f"accuracy of always {task.constant_answer(sums)!r}"
  lines.append(f"  {constant:<32}{s['constant_accuracy']:.4f}")
  lines.append(f"  {'mean IoU':<32}{s['mean_iou']:.4f}")
  lines.append(f"  {'mean class recall':<32}{s['mean_class_recall']:.4f}")
  if "max_f1" in s:
    threshold = f" (at probability {s['max_f1_threshold']:.3f})"
    lines.append(f"  {'MaxF over thresholds':<32}{s['max_f1']:.4f}{threshold}")
  lines += ["", f"  {'class':<16}{'IoU':>8}{'precision':>11}{'recall':>8}{'F1':>8}"]
  for c in task.classes:
    iou, precision, recall, f1 = (s[f"{k}/{c}"] for k in ("iou", "precision", "recall", "f1"))
    lines.append(f"  {c:<16}{iou:>8.4f}{precision:>11.4f}{recall:>8.4f}{f1:>8.4f}")
  return "\n".join([*lines, ""])
