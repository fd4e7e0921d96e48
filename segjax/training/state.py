"""The train state and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from segjax import ops

__all__ = ["TrainState", "init_state"]


class TrainState(flax.struct.PyTreeNode):
  """Everything that a train step changes.

  Attributes:
    step: i32[], updates done.
    params: parameters, float32 unless the net's `param_dtype` is another.
    batch_stats: running statistics of batch norm; empty without it.
    opt_state: state of the optax optimiser.
    ema_params: moving average of the parameters, float32 at least, or None.
    ema_batch_stats: moving average of the running statistics, with which the averaged parameters
      belong together.
  """

  step: Any
  params: Any
  batch_stats: Any
  opt_state: Any
  ema_params: Any = None
  ema_batch_stats: Any = None

  def eval_variables(self) -> dict:
    """Variables of evaluation: the moving average of the parameters where there is one."""
    if self.ema_params is None:
      return dict(params=self.params, batch_stats=self.batch_stats)
    return dict(params=self.ema_params, batch_stats=self.ema_batch_stats)


def init_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  *,
  size: Sequence[int],
  channels: int = 3,
  ema: bool = False,
) -> TrainState:
  """A fresh state, pure in `key`.

  Args:
    model: a module of `segjax.models`.
    optimizer: optax GradientTransformation.
    key: PRNG key, for the initial parameters.
    size: (height, width) of the images; parameters do not depend on it.
    channels: number of channels of the images.
    ema: whether to keep a moving average of the parameters.

  Returns:
    TrainState of step 0.
  """
  variables = model.init(key, jnp.zeros((1, *size, channels)), train=False)
  params, batch_stats = variables["params"], variables.get("batch_stats", {})
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(params),
    ema_params=wide_copy(params) if ema else None,
    ema_batch_stats=wide_copy(batch_stats) if ema else None,
  )


def wide_copy(tree):
  """A copy in which to average: float32 at least, or small changes would be rounded away."""
  return jax.tree.map(lambda x: jnp.copy(ops.wide(x)), tree)
