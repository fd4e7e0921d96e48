"""Layers that the nets share: up-sampling, normalisation, convolutions with a norm.

The transposed convolutions are exact rewrites of `nn.ConvTranspose`, which XLA lowers on a CPU to
a slow convolution over a zero-dilated input.
"""

from __future__ import annotations

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


def resize_bilinear(x, size):
  """Bilinear resize of [B,H,W,C] to `size` = (height, width), half-pixel centres.

  Equals PyTorch's `interpolate(mode="bilinear", align_corners=False)` when enlarging; when
  shrinking it averages over the covered pixels (antialias), as PyTorch's `antialias=True` does.
  """
  return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bilinear")


class ToImageSize(nn.Module):
  """`resize_bilinear` as the last step of a net; without parameters, see `coarse_logits`."""

  @nn.compact
  def __call__(self, logits, size):
    """[B,h,w,K] -> [B,*size,K]."""
    return resize_bilinear(logits, size)


def coarse_logits():
  """Context in which nets give their logits at the size of the head, without `ToImageSize`."""

  def intercept(call, args, kwargs, context):
    return args[0] if isinstance(context.module, ToImageSize) else call(*args, **kwargs)

  return nn.intercept_methods(intercept)


def pad_to_multiple(image, multiple):
  """Extends [B,H,W,C] at the bottom and right, repeating the edge, to multiples of `multiple`."""
  h, w = image.shape[1:3]
  return jnp.pad(image, ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0)), mode="edge")


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


def normalized(x, norm, *, after, train, name):
  """A Conv, `after`, and the norm called `norm` ("none", "batch", "group"), in compact modules."""
  if norm == "none":
    return after(x)
  if norm == "batch":
    return BatchNorm(dtype=after.dtype, name=name)(x, after=after, train=train)
  if norm == "group":
    x = after(x)
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if x.shape[-1] % g == 0 and x.shape[-1] > g)
    return nn.GroupNorm(num_groups=groups, epsilon=1e-5, dtype=x.dtype, name=name)(x)
  raise UserError(f"norm is {norm!r}, expected one of {', '.join(NORMS)}")


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
  def __call__(self, x, *, train: bool, after=None):
    """Normalises by the batch in training, else by the running averages.

    In training apply the net with `mutable=["batch_stats"]`, or the averages stay.

    Args:
      x: [...,C].
      train: see above.
      after: a Conv that is applied to x before; with running averages the two are one convolution.

    Returns:
      [...,C], or [...,features] of the Conv.

    Raises:
      UserError: in training, where a channel has one value.
    """
    if after is not None and train:
      x, after = after(x), None
    shape = (x.shape[-1] if after is None else after.features,)
    scale = self.param("scale", self.scale_init, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape)
    if train:
      if x.size == x.shape[-1] and not self.is_initializing():
        raise UserError(
          f"batch norm {'/'.join(self.path)} has one value a channel to train on, {x.shape}; use "
          "batches of 2 or more, e.g. data.batch_size=2"
        )
      wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
      mean = wide.mean(axes)
      var = jnp.maximum((wide**2).mean(axes) - mean**2, 0)
      if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
        count = x.size // x.shape[-1]
        unbiased = var * (count / (count - 1))
        for running, new in ((running_mean, mean), (running_var, unbiased)):
          running.value += self.momentum * (jax.lax.stop_gradient(new) - running.value)
    else:
      mean, var = running_mean.value, running_var.value
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    shift = bias - mean * factor
    if after is not None:
      return after(x, (factor, shift)).astype(self.dtype)
    return (x * factor + shift).astype(self.dtype)


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
    x = BatchNorm(dtype=self.dtype, name="norm")(x, after=conv, train=train)
    return x if self.activation is None else self.activation(x)


def logits_layer(num_outputs, dtype, name="logits"):
  """The last 1x1 convolution: biased, small initial weights."""
  return Conv(
    num_outputs,
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
      x = nn.relu(normalized(x, self.norm, after=conv, train=train, name="norm" + i))
    return x


class MeanHead(nn.Module):
  """Classifier of a backbone's last features: their mean and a dense layer, torchvision's `fc`.

  Attributes:
    num_outputs: classes.
    layer: name of the dense layer.
    kernel_init: of its kernel.
    dtype: compute dtype.
  """

  num_outputs: int = 1000
  layer: str = "fc"
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, features, *, train: bool):
    """List of features -> logits f32[B,num_outputs]; sows `penultimate`, f32[B,C]."""
    del train
    x = features[-1].mean((1, 2))
    self.sow("intermediates", "penultimate", x.astype(jnp.float32))
    init = dict(kernel_init=self.kernel_init)
    logits = nn.Dense(self.num_outputs, dtype=self.dtype, name=self.layer, **init)(x)
    return logits.astype(jnp.float32)
