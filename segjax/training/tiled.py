"""Evaluation by tiles: the joined probabilities of an image's tiles in place of its logits."""

from __future__ import annotations

import jax
import numpy as np

from segjax.data import tiles
from segjax.training import eval_step as eval_step_lib
from segjax.training import steps
from segjax.training.evaluation import merge

# Least probabilities, or logarithms would be infinite; a sigmoid in float32 gives no less from 1.
LEAST, LEAST_OF_TWO = 1e-37, 2.0**-25


def make_predict_step(predict_step, task, data):
  """Builds predict_step(state, u8[1,H,W,3]) -> f32[1,H,W,K], logits of the joined probabilities.

  Args:
    predict_step: result of `steps.make_predict_step` for segmentation; it sees batches of
      `data.batch_size` tiles of `data.size` alone.
    task: segmentation, also into classes that overlap.
    data: `config.data`.
  """
  call = jax.jit(lambda state, image: task.probabilities(predict_step(state, image)))
  return joined_step(call, task, data)


def joined_step(probabilities, task, data):
  """Builds predict_step(state, u8[1,H,W,3]) -> f32[1,H,W,K], see `make_predict_step`.

  Args:
    probabilities: function of a state and of u8[B,h,w,3] -> f32[B,h,w,C]; it sees batches of
      `data.batch_size` tiles of `data.size` alone.
    task: segmentation, also into classes that overlap.
    data: `config.data`.
  """
  how = dict(tile=tuple(data.size), overlap=data.eval_overlap, batch_size=data.batch_size)

  def maps_of(state, image):
    of_tiles = lambda batch: np.asarray(probabilities(state, batch))  # noqa: E731
    joined = tiles.join(tiles.ArrayRows(image), of_tiles, multiple=data.eval_multiple, **how)
    return np.concatenate([maps for _, maps in joined])

  return as_logits(maps_of, task)


def as_logits(maps_of, task):
  """Builds step(state, u8[1,H,W,3]) -> f32[1,H,W,K], logits of the probabilities of an image.

  Args:
    maps_of: function of a state and of u8[H,W,3] -> f32[H,W,C], probabilities.
    task: segmentation, also into classes that overlap.
  """

  def step(state, image):
    return task_logits(task, maps_of(state, np.asarray(image)[0]))[None]

  return step


def task_logits(task, probabilities):
  """f32[...,C], probabilities -> f32[...,K], logits of the task that give them."""
  if task.label_kind == "masks":
    return logits_of_each(probabilities)
  return logits_of(probabilities, one=task.sigmoid)


def logits_of(probabilities, *, one):
  """f32[...,C], probabilities -> f32[...,K], logits that give them; K = 1 for two classes' one."""
  if one:
    p = np.log(np.maximum(probabilities, LEAST_OF_TWO))
    return p[..., 1:] - p[..., :1]
  return np.log(np.maximum(probabilities, LEAST))


def logits_of_each(probabilities):
  """f32[...,C], probabilities of classes that overlap -> f32[...,C], logits that give them."""
  p = np.stack([1 - probabilities, probabilities], -1)
  return logits_of(p, one=True)[..., 0]


def make_eval_step(predict_step, predict, task, measure=None):
  """Builds eval_step(state, batch) -> statistics of the task, an image after the other.

  Args:
    predict_step: see `make_predict_step`; of it the shapes of a batch are asked.
    predict: its result for this step.
    task: segmentation.
    measure: see `eval_step.make_eval_step`.
  """

  @jax.jit
  def statistics(logits, batch):
    _, label = steps.read_batch(batch)
    return eval_step_lib.statistics_of(task, logits, label, batch, measure)

  def eval_step(state, batch):
    if isinstance(batch["image"], jax.core.Tracer):  # asked for its shapes: an image is one tile
      return statistics(predict_step(state, batch["image"]), batch)
    ones = (
      {k: np.asarray(v)[i : i + 1] for k, v in batch.items()}
      for i in np.flatnonzero(np.asarray(batch["valid"]))
    )
    return merge(statistics(predict(state, one["image"]), one) for one in ones)

  return eval_step
