"""Norms, and how a net's own can be exchanged for another."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError


class BatchNorm(nn.Module):
  """Batch norm (Ioffe and Szegedy, ICML 2015) with PyTorch's conventions.

  `momentum` is a step's share in the running averages (`nn.BatchNorm` takes one minus it), and
  the running variance is the unbiased one (Flax keeps the biased one), so that training from
  PyTorch's weights continues as it would there. Under `jit` the statistics are those of the global
  batch, whatever the number of devices.

  Attributes:
    epsilon: added to the variance.
    momentum: share of a step in the running averages.
    scale_init: initializer of the scale.
    dtype: dtype of the output; statistics are computed in float32, or in a wider dtype of the
      input.
    param_dtype: dtype of scale and bias; the running averages are float32 at least.
  """

  epsilon: float = 1e-5
  momentum: float = 0.1
  scale_init: Any = nn.initializers.ones
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    scaled: Callable | None = None,
    axis_name: str | None = None,
  ) -> jax.Array:
    """Normalises by the batch in training, else by the running averages.

    Args:
      x: [...,C].
      train: see above; needs `mutable=["batch_stats"]`.
      scaled: (factor, shift), both f32[C], -> x * factor + shift, where there is a faster way to
        compute that with running averages, see `conv_norm`.
      axis_name: axis name of a pmap or shard_map whose devices' batches are normalised together, or
        None, see `norms_over`.

    Returns:
      [...,C].

    Raises:
      UserError: in training, where a channel has one value.
      flax.errors.ModifyScopeVariableError: in training, where "batch_stats" is not mutable.
    """
    shape = x.shape[-1:]
    scale = self.param("scale", self.scale_init, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
    stored = jnp.promote_types(self.param_dtype, jnp.float32)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, stored)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape, stored)
    if train:
      count = x.size // x.shape[-1]
      values, axes = ops.wide(x), tuple(range(x.ndim - 1))
      mean, square = values.mean(axes), (values**2).mean(axes)
      if axis_name is not None and not self.is_initializing():
        mean, square = jax.lax.pmean((mean, square), axis_name)
        count *= jax.lax.axis_size(axis_name)
      if count == 1 and not self.is_initializing():
        raise UserError(
          f"batch norm {'/'.join(self.path) or 'alone'} sees a single value per channel in "
          f"training (shape {x.shape}); use batches of 2 or more, e.g. data.batch_size=2"
        )
      var = square - mean**2
      # The gradient of `jnp.maximum` would ask whether two roundings of one value are equal.
      var = jnp.where(var < 0, 0, var)
      if not self.is_initializing():
        unbiased = var * (count / (count - 1))
        for running, new in ((running_mean, mean), (running_var, unbiased)):
          change = self.momentum * (jax.lax.stop_gradient(new) - running.value)
          running.value += change.astype(stored)
    else:
      mean, var = running_mean.value, running_var.value
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    shift = bias - mean * factor
    if train or scaled is None:
      y = x * ops.per_channel(factor, x) + ops.per_channel(shift, x)
    else:
      y = scaled(factor, shift)
    return y.astype(self.dtype)


def _group_norm(features):
  groups = next(g for g in (32, 16, 8, 4, 2, 1) if features % g == 0 and (features > g or g == 1))
  return partial(nn.GroupNorm, num_groups=groups, epsilon=1e-5)


# Name of a norm: channels -> maker of its module, or None.
NORMS = {
  "none": lambda features: None,
  "batch": lambda features: BatchNorm,
  "group": _group_norm,
  "instance": lambda features: partial(nn.InstanceNorm, epsilon=1e-5),
  "layer": lambda features: partial(nn.LayerNorm, epsilon=1e-5),
}


def norm_maker(norm: str | Callable, features: int) -> Callable | None:
  """The function that makes the norm of a net's field `norm`, for `features` channels.

  Raises:
    UserError: an unknown name, or a module where something that makes one is expected.
  """
  if isinstance(norm, str) and norm in NORMS:
    return NORMS[norm](features)
  if callable(norm) and not isinstance(norm, nn.Module):
    return norm
  raise UserError(
    f"norm is {norm!r}, expected one of {', '.join(NORMS)}, or a function that makes one, such as "
    "nn.LayerNorm or partial(nn.GroupNorm, num_groups=8)"
  )


def apply_norm(norm: nn.Module | None, x: jax.Array, *, train: bool) -> jax.Array:
  """`norm(x)`, with `train` or `use_running_average` where it takes one; x without a norm."""
  if norm is None:
    return x
  single = isinstance(norm, nn.InstanceNorm) and math.prod(x.shape[1:-1]) == 1
  if single and train and not norm.is_initializing():
    raise UserError(
      f"{'/'.join(norm.path)}: instance norm of one value per channel and image, {x.shape}, which "
      "is 0 whatever the image; use norm='group', or larger images where the map is not a mean"
    )
  takes = inspect.signature(type(norm).__call__).parameters
  if "train" in takes:
    return norm(x, train=train)
  if "use_running_average" in takes and getattr(norm, "use_running_average", None) is None:
    return norm(x, use_running_average=not train)
  return norm(x)


def conv_norm(x: jax.Array, conv: nn.Module, norm: nn.Module | None, *, train: bool) -> jax.Array:
  """Applies a convolution, then a norm; for use inside compact modules.

  Where a batch norm uses its running averages, it is part of the convolution on accelerators: the
  kernel is multiplied, so that the library adds the shift while it convolves.

  Args:
    x: [B,H,W,C].
    conv: a Conv.
    norm: a BatchNorm, another module, see `NORMS`, or None for no norm.
    train: whether a batch norm normalises by the batch.

  Returns:
    [B,H',W',features].
  """
  y = conv(x)
  if isinstance(norm, BatchNorm):
    return norm(y, train=train, scaled=partial(conv.scaled, x, y))
  return apply_norm(norm, y, train=train)


def norms_over(axis_name: str) -> contextlib.AbstractContextManager:
  """Context in which the nets' own batch norms take the statistics of all devices along an axis.

  Args:
    axis_name: axis name of a `jax.pmap`, `jax.shard_map` or `jax.vmap`, within which the nets are
      applied.
  """

  def intercept(call, args, kwargs, context):
    if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
      kwargs = kwargs | dict(axis_name=axis_name)
    return call(*args, **kwargs)

  return nn.intercept_methods(intercept)
