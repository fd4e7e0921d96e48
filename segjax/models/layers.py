"""Layers that the nets share: up-sampling, normalisation, convolutions with a norm.

The transposed convolutions are exact rewrites of `nn.ConvTranspose`, which XLA lowers on a CPU to
a slow convolution over a zero-dilated input.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError, choose
from segjax.models.conv import Conv

NORMS = ("none", "batch", "group")
UPSAMPLINGS = ("transposed2", "transposed3", "bilinear")
INITS = {"glorot": nn.initializers.glorot_uniform(), "he": nn.initializers.he_uniform()}


def initializer(name):
  """Kernels: "glorot" (Glorot, Bengio, 2010) or "he" (He et al., 2015), both uniform."""
  return choose(INITS, name, "kernel_init")


class ConvTranspose(nn.Module):
  """2x2 or 3x3 transposed convolution, stride 2, output exactly twice the input.

  Same function and same parameters (names, shapes, values) as `nn.ConvTranspose(features, (2, 2),
  strides=(2, 2), padding="VALID")`, or with (3, 3) and padding ((1, 2), (1, 2)). The larger equals
  PyTorch's `ConvTranspose2d(kernel_size=3, stride=2, padding=1, output_padding=1)` with the kernel
  flipped in both directions.

  Attributes:
    features: output channels.
    kernel_size: 2 or 3.
    kernel_init: of the kernel, see `initializer`.
    dtype: compute dtype; parameters stay float32.
  """

  features: int
  kernel_size: int
  kernel_init: str = "glorot"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    """[B,H,W,C] -> [B,2H,2W,features]."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", initializer(self.kernel_init), shape, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return ops.conv_transpose(x, kernel) + bias.astype(self.dtype)


class Dropout(nn.Module):
  """`nn.Dropout`, whose random bits cost less: as many a value as the rate needs, not 32.

  One bit for a rate of 0.5, two for 0.25, four for 0.375, 32 for 0.1.

  Attributes:
    rate: share of the values that are zeroed, from 0 to below 1; the others are divided by
      `1 - rate`.
  """

  rate: float

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[...,C] -> [...,C]; in training it needs a "dropout" rng."""
    if not train or self.rate == 0:
      return x
    bits = next((b for b in (1, 2, 4, 8, 16) if (self.rate * 2**b).is_integer()), 32)
    *shape, channels = x.shape
    values = 32 // bits
    words = jax.random.bits(self.make_rng("dropout"), (*shape, -(-channels // values)), "uint32")
    words = words[..., None] >> jnp.arange(0, 32, bits, dtype="uint32")
    words = words.reshape(*shape, -1)[..., :channels] & jnp.uint32(2**bits - 1)
    kept = words >= jnp.uint32(round(self.rate * 2**bits))
    return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


def dilate(strides, stride, output_stride):
  """Replaces the strides that would pass `output_stride` by dilation.

  Args:
    strides: of a backbone's stages in their order, 1 or 2.
    stride: before the first of them.
    output_stride: 8, 16 or 32.

  Returns:
    For each stage (stride, dilation of its first convolution, dilation of the others).

  Raises:
    UserError: another output stride.
  """
  if output_stride not in (8, 16, 32):
    raise UserError(f"output_stride is {output_stride!r}, expected 8, 16 or 32")
  out, dilation = [], 1
  for step in strides:
    if stride * step > output_stride:
      out.append((1, dilation, dilation * step))
      dilation *= step
    else:
      out.append((step, dilation, dilation))
      stride *= step
  return out


def make_norm(norm, features, *, dtype, name):
  """The norm of `features` channels that a name stands for: "none" (None), "batch" or "group".

  Raises:
    UserError: another name.
  """
  if norm == "none":
    return None
  if norm == "batch":
    return BatchNorm(dtype=dtype, name=name)
  if norm == "group":
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if features % g == 0 and features > g)
    return nn.GroupNorm(num_groups=groups, epsilon=1e-5, dtype=dtype, name=name)
  raise UserError(f"norm is {norm!r}, expected one of {', '.join(NORMS)}")


def conv_norm(x, conv, norm, *, train):
  """Applies a convolution, then a norm; for use inside compact modules.

  Where a batch norm uses its running averages, it is part of the convolution on accelerators: the
  kernel is multiplied, so that the library adds the shift while it convolves.

  Args:
    x: [B,H,W,C].
    conv: a Conv.
    norm: a BatchNorm, another module, or None for no norm.
    train: whether a batch norm normalises by the batch.

  Returns:
    [B,H',W',features].
  """
  y = conv(x)
  if norm is None:
    return y
  if isinstance(norm, BatchNorm):
    return norm(y, train=train, scaled=partial(conv.scaled, x, y))
  return norm(y)


def norms_over(axis_name):
  """Context in which batch norms of all nets take the statistics of all devices along an axis.

  Args:
    axis_name: of a `jax.pmap`, `jax.shard_map` or `jax.vmap`, within which the nets are applied.
  """

  def intercept(call, args, kwargs, context):
    if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
      kwargs = kwargs | dict(axis_name=axis_name)
    return call(*args, **kwargs)

  return nn.intercept_methods(intercept)


class BatchNorm(nn.Module):
  """Batch norm (Ioffe and Szegedy, ICML 2015) with PyTorch's conventions.

  `momentum` is what the running averages move by in a step (`nn.BatchNorm` calls that 0.9), and
  the running variance is the unbiased one (Flax keeps the biased one), so that training from
  PyTorch's weights goes on as it would there. Under `jit` the statistics are those of the global
  batch, whatever the number of devices.

  Attributes:
    epsilon: added to the variance.
    momentum: of the running averages.
    scale_init: of the scale.
    dtype: of the output; statistics are computed in float32.
  """

  epsilon: float = 1e-5
  momentum: float = 0.1
  scale_init: Any = nn.initializers.ones
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool, scaled=None, axis_name=None):
    """Normalises by the batch in training, else by the running averages.

    Args:
      x: [...,C].
      train: see above; needs `mutable=["batch_stats"]`.
      scaled: (factor, shift), both f32[C], -> x * factor + shift, where there is a faster way to
        compute that with running averages, see `conv_norm`.
      axis_name: of a pmap or shard_map whose devices' batches are normalised together, or None, see
        `norms_over`.

    Returns:
      [...,C].

    Raises:
      UserError: in training, where a channel has one value.
      flax.errors.ModifyScopeVariableError: in training, where "batch_stats" is not mutable.
    """
    shape = x.shape[-1:]
    scale = self.param("scale", self.scale_init, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape)
    if train:
      count = x.size // x.shape[-1]
      wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
      mean, square = wide.mean(axes), (wide**2).mean(axes)
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
          running.value += self.momentum * (jax.lax.stop_gradient(new) - running.value)
    else:
      mean, var = running_mean.value, running_var.value
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    shift = bias - mean * factor
    y = x * factor + shift if train or scaled is None else scaled(factor, shift)
    return y.astype(self.dtype)


class ConvNorm(nn.Module):
  """A bias-free convolution, batch norm and a nonlinearity, as submodules `conv` and `norm`.

  Attributes:
    features: output channels.
    kernel_size: of both axes.
    dilation: of both axes.
    activation: applied last, or None.
    dtype: compute dtype.
  """

  features: int
  kernel_size: int = 3
  dilation: int = 1
  activation: Any = nn.relu
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,H,W,features]."""
    conv = Conv(
      self.features, self.kernel_size, dilation=self.dilation, dtype=self.dtype, name="conv"
    )
    x = conv_norm(x, conv, BatchNorm(dtype=self.dtype, name="norm"), train=train)
    return x if self.activation is None else self.activation(x)


def logits_layer(num_classes, dtype, name="logits"):
  """The last 1x1 convolution: biased, small initial weights."""
  return Conv(
    num_classes,
    1,
    use_bias=True,
    kernel_init=nn.initializers.lecun_normal(),
    dtype=dtype,
    name=name,
  )


class DoubleConv(nn.Module):
  """Two 3x3 convolutions, each with an optional norm and ReLU; biased only without a norm.

  Attributes:
    features: output channels of both convolutions.
    norm: "none", "batch" or "group".
    kernel_init: of the kernels, see `initializer`.
    dtype: compute dtype.
  """

  features: int
  norm: str = "none"
  kernel_init: str = "glorot"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train: bool):
    """[B,H,W,C] -> [B,H,W,features]."""
    for i in ("1", "2"):
      conv = Conv(
        self.features,
        use_bias=self.norm == "none",
        kernel_init=initializer(self.kernel_init),
        dtype=self.dtype,
        name="conv" + i,
      )
      norm = make_norm(self.norm, self.features, dtype=self.dtype, name="norm" + i)
      x = nn.relu(conv_norm(x, conv, norm, train=train))
    return x


class MeanHead(nn.Module):
  """Classifier of a backbone's last features: their mean and a dense layer, torchvision's `fc`.

  Attributes:
    num_classes: classes.
    layer: name of the dense layer.
    kernel_init: of its kernel.
    dtype: compute dtype.
  """

  num_classes: int = 1000
  layer: str = "fc"
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train: bool):
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,C]."""
    del train
    x = features[-1].mean((1, 2))
    self.sow("intermediates", "penultimate", x.astype(jnp.float32))
    init = dict(kernel_init=self.kernel_init)
    logits = nn.Dense(self.num_classes, dtype=self.dtype, name=self.layer, **init)(x)
    return logits.astype(jnp.float32)
