"""The jitted step of an evaluation: a pure function of a state and a batch, as those of `steps`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from segjax.ops.rows import rows_over
from segjax.tasks.task import INDEX, ROWS, Task
from segjax.training.devices import batched, divide, in_rows, replicated, whole
from segjax.training.state import TrainState
from segjax.training.steps import Net, both, read_batch

__all__ = ["make_eval_step"]


def prepare_each(task, image, label, index, augment=None):
  """Inputs of the net and labels of an evaluated batch, see `Task.prepare`, each example by itself.

  What a task draws for an example follows from its index alone, so neither the size of the batches
  nor the other examples change it.

  Args:
    task: a task of `segjax.tasks`.
    image: f32[B,H,W,C].
    label: [B,...], as `steps.read_batch` gives it.
    index: i32[B], of the examples in their split.
    augment: function of a key and a batch, see `steps.both`.

  Returns:
    (inputs, label), [V*B,...] where the task makes V views: first all of the first kind.
  """

  def one(image, label, index):
    key = jax.random.fold_in(jax.random.key(0), index)
    return task.prepare(key, image[None], label[None], train=False, augment=augment)

  views = jax.vmap(one, out_axes=1)(image, label, index)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), views)


def statistics_of(task, outputs, label, batch, measure=None):
  """The statistics of an evaluated batch, with the index of the examples where they have rows.

  Args:
    task: a task of `segjax.tasks`.
    outputs: of the net for the batch.
    label: as the task needs it.
    batch: see `make_eval_step`.
    measure: see `make_eval_step`.
  """
  sums = task.statistics(outputs, label, batch["valid"], evaluating=True)
  if measure is not None:  # behind a barrier: the task's own sums keep their bits
    sums |= measure(*jax.lax.optimization_barrier((outputs, label)), batch)
  if "index" in batch and any(name.startswith(ROWS) for name in sums):
    sums[INDEX] = batch["index"]
  return sums


def make_eval_step(
  model: nn.Module,
  task: Task,
  *,
  mesh: Mesh,
  state_sharding: Any = None,
  augment: Callable | None = None,
  mean: Sequence[float] = (0.0,) * 3,
  std: Sequence[float] = (1.0,) * 3,
  measure: Callable | None = None,
) -> Callable[[TrainState, dict], dict]:
  """Builds eval_step(state, batch) -> sums of the task's statistics.

  Args: see `steps.make_train_step`.
    augment: for tasks whose evaluation needs it, as contrastive learning does.
    measure: function of (outputs, label, batch) -> further statistics, or None.

  Returns:
    A jitted function; its batch has "image" u8[B,H,W,3], "label", "valid" bool[B], and perhaps
    "index" i32[B] of the examples, from which follows what the task draws for them, and which goes
    with statistics that are rows of images. Without it they are numbered in their batch.
  """
  change = both(augment, None)

  def eval_step(state, batch):
    image, label = read_batch(batch)
    index = batch["index"] if "index" in batch else jnp.arange(len(image))
    inputs, label = divide(prepare_each(task, image, label, index, change), mesh)
    state = whole(state, mesh)
    how = dict(mean=mean, std=std, train=False, step=state.step)
    net = averaged = Net(model, state.eval_variables(), **how)
    if task.uses_ema_teacher:
      net = Net(model, dict(params=state.params, batch_stats=state.batch_stats), **how)
      net.teacher = averaged
    with rows_over(mesh):
      outputs = task.outputs(net, inputs)
    return statistics_of(task, outputs, label, batch, measure)

  copied = replicated(mesh)
  held = copied if state_sharding is None else state_sharding
  if mesh.shape["space"] == 1:
    return jax.jit(eval_step, in_shardings=(held, batched(mesh)), out_shardings=copied)
  images = jax.jit(  # the other parts of a batch are not divided in rows, whatever they are
    lambda state, image, rest: eval_step(state, dict(rest, image=image)),
    in_shardings=(held, in_rows(mesh), batched(mesh)),
    out_shardings=copied,
  )
  return jax.jit(lambda state, batch: images(state, *_image_and_rest(batch)))


def _image_and_rest(batch):
  return batch["image"], {k: v for k, v in batch.items() if k != "image"}
