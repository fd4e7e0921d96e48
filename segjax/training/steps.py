"""The jitted steps: pure functions of a state and a batch, sharded over a mesh of devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh
from jax.typing import ArrayLike

from segjax import ops
from segjax.ops.rows import rows_over
from segjax.tasks.task import Task
from segjax.training.devices import (
  batched,
  divide,
  make_mesh,
  of_batch,
  put_batch,
  replicated,
  rows_alone,
  whole,
)
from segjax.training.freezing import frozen_norms, stop_gradients
from segjax.training.state import TrainState

__all__ = [
  "Net", "make_mesh", "make_predict_step", "make_train_step", "put_batch",
]  # fmt: skip


def normalize(image, mean, std):
  """f32[...,C] -> (image - mean) / std, channel by channel."""
  return (image - jnp.asarray(mean)) / jnp.asarray(std)


def read_batch(batch):
  """Image f32[B,H,W,C] and label of a batch: i32 classes, or a picture as the image."""
  label = batch["label"]
  picture = label.ndim == 4
  label = label.astype(jnp.float32) / 255 if picture else label.astype(jnp.int32)
  return as_floats(batch["image"]), label


def as_floats(image):
  """u8[...,3] -> f32[...,3] in [0,1]; floats as they are."""
  return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image


class Net:
  """The model as a task calls it: images in [0,1] in, the model's outputs out.

  Batch statistics go from one call to the next.

  Attributes:
    batch_stats: as the last call left them.
    sown: collections that the last call sowed.
    train: whether this is a train step.
    step: updates done so far.
    teacher: the net with the averaged parameters, a Net, where the task asks for one.
  """

  def __init__(self, model, variables, *, mean, std, train, step=0, rngs=None):
    self._apply, self._params = model.apply, variables["params"]
    self.batch_stats, self.sown = variables["batch_stats"], {}
    self.train, self.step, self.teacher = train, step, None
    self._mean, self._std, self._rngs = mean, std, rngs

  def __call__(self, image, *more):
    """Applies the model to normalised images, and to `more` as it is."""
    variables = dict(params=self._params, batch_stats=self.batch_stats)
    mutable = ["intermediates", *(["batch_stats"] if self.train else [])]
    image = normalize(image, self._mean, self._std)
    outputs, updates = self._apply(
      variables, image, *more, mutable=mutable, train=self.train, rngs=self._rngs
    )
    self.batch_stats = updates.get("batch_stats", self.batch_stats)
    self.sown = updates.get("intermediates", {})
    return outputs


def key_bits(seed):
  """The key of a seed as an array of the host, which a program may take as an argument."""
  return np.asarray(jax.random.key_data(jax.random.key(seed)))


def as_key(bits):
  """The key that `key_bits` is of."""
  return jax.random.wrap_key_data(bits)


def make_train_step(
  model: nn.Module,
  task: Task,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh,
  state_sharding: Any = None,
  seed: int = 0,
  augment: Callable | None = None,
  batch_augment: Callable | None = None,
  mean: Sequence[float] = (0.0,) * 3,
  std: Sequence[float] = (1.0,) * 3,
  ema_decay: Callable | None = None,
  accumulate_steps: int = 1,
  aux_weight: float = 0.4,
  frozen: Sequence[str] = (),
  data_on_device: bool = False,
  multi_step: bool = False,
  remat: bool = False,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
  """Builds train_step(state, batch) -> (state, sums); the old state is donated.

  Args:
    model: a module of `segjax.models`.
    task: a task of `segjax.tasks`.
    optimizer: optax GradientTransformation.
    mesh: result of `make_mesh`.
    state_sharding: result of `devices.of_state`; by default every device has a copy.
    seed: random seed of augmentation and dropout; the key of a step is `fold_in(key(seed), step)`.
    augment: function of one example from `segjax.augment`, or None.
    batch_augment: function of a batch from `segjax.augment`, or None; after `augment`.
    mean: subtracted from images in [0,1].
    std: divides them then.
    ema_decay: step -> decay of the moving averages of parameters and batch statistics, if the
      state has them.
    accumulate_steps: steps whose mean gradient the optimiser takes, see `optim.make_optimizer`;
      averages move with its updates.
    aux_weight: weight of the loss of auxiliary logits, if the model sows `aux_logits`.
    frozen: names of parameters that stay, from `freezing.frozen_names`; batch norms among them use
      their running averages and keep them.
    data_on_device: the step is train_step(state, data, batch) with the whole split, {"image":
      u8[N,H,W,3], "label": u8[N,...]}, on each device, and batch {"index": i32[B]}.
    multi_step: with `data_on_device`: batch is {"index": i32[n,B]}, one call makes n steps, and
      `sums` have a leading axis of n.
    remat: the backward pass recomputes all but the results of convolutions and matrix products.

  Returns:
    train_step(state, batch); the seed's key is bound as an argument of a jitted function, so that
    another seed does not recompile; see `unbound`. batch: {"image": u8[B,H,W,3], "label":
    u8[B,...], "valid": bool[B]}. `sums` are the task's statistics of this batch before the update,
    and `grad_norm`.
  """

  change = both(augment, batch_augment)
  accelerated = mesh.devices.flat[0].platform != "cpu"

  def train_step(key, state, batch):
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(as_key(key), state.step))
    image, label = read_batch(batch)
    # Augmentation leaves XLA to choose, which would give every device the whole batch.
    prepared = task.prepare(augment_key, image, label, train=True, augment=change)
    inputs, label = divide(prepared, mesh)

    def loss_fn(params):
      params = whole(params, mesh)
      variables = dict(params=stop_gradients(params, frozen), batch_stats=state.batch_stats)
      rngs = dict(dropout=dropout_key)
      how = dict(mean=mean, std=std, train=True, step=state.step, rngs=rngs)
      net = Net(model, variables, **how)
      if task.uses_ema_teacher:
        net.teacher = Net(model, whole(state.eval_variables(), mesh), **how)
      with frozen_norms(frozen), rows_over(mesh):
        outputs = task.outputs(net, inputs)
      sums = task.statistics(outputs, label, batch["valid"], evaluating=False)
      loss = task.loss(sums)
      for aux in net.sown.get("aux_logits", ()):
        aux_sums = task.statistics(aux, label, batch["valid"], evaluating=False)
        loss += aux_weight * task.loss(aux_sums)
      return loss, (sums, task.batch_stats(net.batch_stats, outputs))

    if remat:
      loss_fn = jax.checkpoint(loss_fn, policy=ops.products_saveable)
    grads, (sums, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads = jax.tree.map(row_major, grads) if accelerated else grads
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema_params, state.ema_batch_stats
    if state.ema_params is not None:
      decay = ema_decay(state.step)
      if accumulate_steps > 1:
        decay = jnp.where((state.step + 1) % accumulate_steps == 0, decay, 1.0)
      # This form leaves unchanged values, such as frozen parameters, exactly as they are.
      ema = jax.tree.map(lambda o, n: o + (1 - decay) * (n - o), ema, (params, batch_stats))
    sums["grad_norm"] = global_norm(grads)
    new_state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      ema_params=ema[0],
      ema_batch_stats=ema[1],
    )
    return new_state, sums

  def indexed_step(key, state, data, batch):
    index = batch["index"]
    gathered = {k: jnp.take(v, index, axis=0) for k, v in data.items()}
    return train_step(key, state, gathered | dict(valid=jnp.ones(index.shape, bool)))

  def indexed_steps(key, state, data, batches):
    # Within a loop XLA's CPU backend runs convolutions more than ten times slower.
    one = lambda s, b: indexed_step(key, s, data, b)  # noqa: E731
    return jax.lax.scan(one, state, batches, unroll=not accelerated)

  copied = replicated(mesh)
  held = copied if state_sharding is None else state_sharding
  split = batched(mesh, multi_step) if data_on_device else of_batch(mesh)
  step, inputs = (indexed_step, (copied, split)) if data_on_device else (train_step, (split,))
  step = indexed_steps if multi_step else step
  step = jax.jit(
    step, in_shardings=(copied, held, *inputs), out_shardings=(held, copied), donate_argnums=1
  )
  return functools.partial(step, key_bits(seed))


def unbound(step):
  """(jitted function, its bound arguments) of a step of this module, to lower it by hand."""
  return (step.func, step.args) if isinstance(step, functools.partial) else (step, ())


def row_major(x):
  """The same array, laid out in the order of its axes.

  Convolutions give their gradients in other orders, which the optimiser would take over: then all
  that it returns is copied, three arrays per kernel in place of one.
  """
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def global_norm(tree, small=2**16):
  """The root of the sum of squares; arrays up to `small` values go together, in one reduction.

  Squares are float32 at least: those of float16 vanish below 2e-4 and overflow from 256 on.
  """
  leaves = [ops.wide(x).ravel() for x in jax.tree.leaves(tree)]
  few = [x for x in leaves if x.size <= small]
  parts = [x for x in leaves if x.size > small] + ([jnp.concatenate(few)] if few else [])
  return jnp.sqrt(sum(jnp.square(x).sum() for x in parts))


def both(augment, batch_augment):
  """Both augmentations as one function of a key and a batch."""

  def change(key, image, label):
    if augment is not None:
      image, label = jax.vmap(augment)(jax.random.split(key, len(image)), image, label)
    if batch_augment is not None:
      # Far from the numbers that `split` gives the examples: fold_in(key, i) equals split(key)[i].
      image, label = batch_augment(jax.random.fold_in(key, 2**31), image, label)
    return image, label

  return change


def make_predict_step(
  model: nn.Module,
  task: Task,
  *,
  mesh: Mesh,
  state_sharding: Any = None,
  mean: Sequence[float] = (0.0,) * 3,
  std: Sequence[float] = (1.0,) * 3,
) -> Callable[[TrainState, ArrayLike], Any]:
  """Builds predict_step(state, u8[B,H,W,3]) -> the task's outputs; any B.

  The rows of an image are divided over "space" where they are enough, all else is on each device.

  Args: see `make_train_step`.

  Returns:
    A jitted function.
  """

  def predict_step(state, image):
    inputs, _ = task.prepare(None, as_floats(image), None, train=False)
    variables = whole(state.eval_variables(), mesh)
    net = Net(model, variables, mean=mean, std=std, train=False)
    with rows_over(mesh):
      return task.outputs(net, rows_alone(inputs, mesh))

  copied = replicated(mesh)
  held = copied if state_sharding is None else state_sharding
  return jax.jit(predict_step, in_shardings=(held, copied), out_shardings=copied)
