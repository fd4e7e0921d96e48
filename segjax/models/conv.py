"""The convolution of the nets, with PyTorch's padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError, choose

# Glorot and Bengio (AISTATS 2010), He et al. (ICCV 2015), LeCun et al. (1998).
INITS = {
  "glorot": nn.initializers.glorot_uniform(),
  "glorot_normal": nn.initializers.glorot_normal(),
  "he": nn.initializers.he_uniform(),
  "he_normal": nn.initializers.he_normal(),
  "lecun": nn.initializers.lecun_uniform(),
  "lecun_normal": nn.initializers.lecun_normal(),
}


def initializer(init: str | Callable) -> Callable:
  """The initializer of kernels that a name of `INITS` stands for; one of Flax's is itself.

  Raises:
    UserError: neither.
  """
  if callable(init):
    return init
  if isinstance(init, str):
    return choose(INITS, init, "kernel_init")
  raise UserError(f"kernel_init is {init!r}, expected a name or an initializer of Flax")


class Conv(nn.Module):
  """A convolution that pads as PyTorch's `Conv2d(padding=dilation * (kernel_size - 1) // 2)` does.

  With stride 2 that is one row at the top and one at the bottom, where "SAME" of Flax and
  TensorFlow pads an even size at the bottom alone: the same weights give other outputs.
  Parameters: `kernel` [K,K,C//groups,features] and `bias` [features], as in `nn.Conv`.

  Attributes:
    features: output channels.
    kernel_size: K, of both axes.
    stride: stride of both axes.
    dilation: dilation of both axes.
    groups: number of groups of channels; `groups=C` is a depthwise convolution.
    use_bias: adds a bias.
    padding: None for PyTorch's, or "SAME".
    kernel_init: initializer of the kernel, see `initializer`; He et al. (2015) by default.
    dtype: compute dtype.
    param_dtype: dtype of the parameters.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  use_bias: bool = False
  padding: str | None = None
  kernel_init: str | Callable = "he_normal"
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolves.

    Args:
      x: [B,H,W,C].

    Returns:
      [B,ceil(H/stride),ceil(W/stride),features] for odd kernel sizes.

    Raises:
      UserError: the groups do not divide the channels.
    """
    channels = x.shape[-1]
    if channels % self.groups or self.features % self.groups:
      raise UserError(
        f"Conv {self.name}: {self.groups} groups do not divide {channels} and {self.features} "
        "channels"
      )
    shape = (self.kernel_size, self.kernel_size, channels // self.groups, self.features)
    kernel = self.param("kernel", initializer(self.kernel_init), shape, self.param_dtype)
    x = self._convolved(x, kernel)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
      x = x + ops.per_channel(bias.astype(self.dtype), x)
    return x

  def scaled(self, x: jax.Array, y: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """`y * factor + shift`, where y is the convolution of x; for a norm with known statistics.

    Args:
      x: [B,H,W,C].
      y: [B,H',W',features], the output of the module for x.
      factor: f32[features].
      shift: f32[features].

    Returns:
      [B,H',W',features].
    """
    params = nn.unbox(self.variables["params"])
    kernel = params["kernel"]
    if self.use_bias:
      y, shift = self._convolved(x, kernel), shift + params["bias"] * factor

    def after(x, y, kernel, factor, shift):
      return (y * ops.per_channel(factor, y) + ops.per_channel(shift, y)).astype(self.dtype)

    def folded(x, y, kernel, factor, shift):
      y = self._convolved(x, kernel * ops.per_channel(factor, kernel))
      return y + ops.per_channel(shift.astype(self.dtype), y)

    if getattr(nn.module, "_global_interceptor_stack", ()):  # which may have changed y
      return after(x, y, kernel, factor, shift)
    # On a CPU both are one pass over the result, and the kernel would be one more.
    return ops.by_platform(x, y, kernel, factor, shift, cpu=after, default=folded)

  def _convolved(self, x, kernel):
    padding = self.dilation * (self.kernel_size - 1) // 2 if self.padding is None else self.padding
    return ops.conv(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      stride=self.stride,
      padding=padding,
      dilation=self.dilation,
      groups=self.groups,
    )
