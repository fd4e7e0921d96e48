"""A loss of one's own beside those of a task, as `loss.own` of a config names it."""

from __future__ import annotations

import jax.numpy as jnp

from segjax import own_code
from segjax.errors import UserError
from segjax.tasks.task import mean

PASSED = ("logits", "label", "valid")


def bind(fields, known):
  """The fields of a loss, `own` made a function that has its own fields already.

  Args:
    fields: fields of `config.loss`.
    known: names of the fields of the task's own losses.

  Returns:
    dict of the fields in `known`; "own" is a function (logits, label, valid=valid), or absent.

  Raises:
    UserError: see `own_code.find`; a field that neither side has, or both.
  """
  fields = dict(fields)
  name = fields.pop("own", "") if "own" in known else ""
  if not name:
    return fields
  mine = {k: fields.pop(k) for k in list(fields) if k not in known}
  return fields | dict(own=own_code.bind(name, "loss", mine, known, PASSED))


def sums(own, logits, label, valid, scored):
  """Sums of a loss of one's own over a batch.

  Args:
    own: function of (logits, label, valid=valid) that returns f32[B,H,W], a loss per pixel, or
      f32[B], a loss per example.
    logits: f32[B,H,W,K].
    label: i32[B,H,W].
    valid: bool[B], False for examples that do not count.
    scored: bool[B,H,W], True where a pixel is scored.

  Returns:
    dict of the sum, "own_pixels" or "own_examples".

  Raises:
    UserError: a result of another shape.
  """
  loss = own(logits, label, valid=scored)
  shape = jnp.shape(loss)
  if shape == label.shape:
    return dict(own_pixels=jnp.where(scored, loss, 0.0).sum())
  if shape == valid.shape:
    return dict(own_examples=jnp.where(valid, loss, 0.0).sum())
  raise UserError(
    f"the loss of loss.own has shape {shape}, expected {label.shape}, a loss per pixel, or "
    f"{valid.shape}, a loss per example"
  )


def value(sums):
  """The mean over scored pixels or over examples, from summed statistics."""
  if "own_pixels" in sums:
    return mean(sums["own_pixels"], sums["pixels"])
  return mean(sums["own_examples"], sums["examples"])
