"""Layers that the nets share, and `Layered`, by which a net chooses their parts.

The transposed convolutions are exact rewrites of `nn.ConvTranspose`, which XLA lowers on a CPU to
a slow convolution over a zero-dilated input.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError, choose
from segjax.models.conv import Conv, initializer
from segjax.models.norms import BatchNorm, conv_norm, norm_maker, norms_over  # noqa: F401

UPSAMPLINGS = ("transposed2", "transposed3", "bilinear")
ACTIVATIONS = {
  name: getattr(nn, name)
  for name in (
    "celu", "elu", "gelu", "hard_sigmoid", "hard_swish", "hard_tanh", "leaky_relu", "relu", "relu6",
    "selu", "sigmoid", "silu", "soft_sign", "softplus", "swish", "tanh",
  )
}  # fmt: skip


def activation(function: str | Callable) -> Callable:
  """The activation that a name of `ACTIVATIONS` stands for; a function of arrays is itself.

  Raises:
    UserError: neither.
  """
  if isinstance(function, str):
    return choose(ACTIVATIONS, function, "activation")
  if callable(function) and not isinstance(function, type):
    return function
  raise UserError(
    f"activation is {function!r}, expected a name or a function of arrays; of a module, "
    "lambda x: Module()(x)"
  )


class Layered(nn.Module, kw_only=True):
  """A net or a part of one, with fields for what its layers are made of.

  A net hands these fields on to its parts, and to a backbone that it makes. None stands for what
  the published net has in each place.

  Attributes:
    norm: None, a name of `norms.NORMS`, or a function that makes a module, called with `name`, and
      with `dtype` and `param_dtype` where it takes them, such as `nn.LayerNorm` or
      `partial(nn.GroupNorm, num_groups=8)`; the module is called with x, and with `train` or
      `use_running_average` where it takes one, so `nn.BatchNorm` works too. A convolution
      whose norm is "none" has a bias.
    activation: None, a name of `ACTIVATIONS` or a function of arrays; gates and attention keep
      their own.
    kernel_init: initializer of all kernels: None, a name of `conv.INITS` or a Flax initializer.
    lora_rank: rank of the additions to kernels of attention, see `lora`; 0 for none. Only a
      transformer of `dinov2` or `dinov3` has such kernels.
    dtype: compute dtype. Logits are float32, or wider where this is.
    param_dtype: dtype of the parameters; running statistics are float32 at least.
  """

  norm: str | Callable | None = None
  activation: str | Callable | None = None
  kernel_init: str | Callable | None = None
  lora_rank: int = 0
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.nowrap
  def build(self, maker: Callable, *args: Any, **fields: Any) -> Any:
    """`maker(*args, **fields)`, and those of the fields above that it takes and that are not None.

    Fields set by `fields` or a `functools.partial` win over these.
    """
    takes = inspect.signature(maker).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    own = {"norm", "activation", "kernel_init", "lora_rank", "dtype", "param_dtype"} - fields.keys()
    own -= getattr(maker, "keywords", {}).keys()
    for field in own:
      if getattr(self, field) is not None and (takes_all or field in takes):
        fields[field] = getattr(self, field)
    if fields.get("kernel_init") is not None:
      fields["kernel_init"] = initializer(fields["kernel_init"])
    return maker(*args, **fields)

  @nn.nowrap
  def make_norm(self, features: int, name: str, own: str | Callable = BatchNorm) -> Any:
    """The norm of `features` channels, where the published net has `own`; None for no norm."""
    norm = self.norm
    if norm is None or (norm == "batch" and getattr(own, "func", own) is BatchNorm):
      norm = own
    maker = norm_maker(norm, features)
    return maker and self.build(maker, name=name)

  @nn.nowrap
  def normed(
    self, x: jax.Array, conv: Conv, name: str, *, train: bool, own: str | Callable = BatchNorm
  ) -> jax.Array:
    """x after a convolution and the norm `name`, see `make_norm`."""
    return conv_norm(x, conv, self.make_norm(conv.features, name, own), train=train)

  @nn.nowrap
  def activated(self, x: jax.Array, own: Callable = nn.relu) -> jax.Array:
    """x after the activation, where the published net has `own`."""
    return activation(own if self.activation is None else self.activation)(x)


class ConvTranspose(nn.Module):
  """2x2, 3x3 or 4x4 transposed convolution, stride 2, output exactly twice the input.

  Same function and same parameters (names, shapes, values) as `nn.ConvTranspose(features, (2, 2),
  strides=(2, 2), padding="VALID")`, or with (3, 3) and padding ((1, 2), (1, 2)), or (4, 4) and
  ((2, 2), (2, 2)). With the kernel flipped in both directions the second equals PyTorch's
  `ConvTranspose2d(kernel_size=3, stride=2, padding=1, output_padding=1)`, the third its
  `ConvTranspose2d(kernel_size=4, stride=2, padding=1)`.

  Attributes:
    features: output channels.
    kernel_size: 2, 3 or 4.
    kernel_init: initializer of the kernel, see `initializer`.
    dtype: compute dtype.
    param_dtype: dtype of the parameters.
  """

  features: int
  kernel_size: int
  kernel_init: str | Callable = "glorot"
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B,H,W,C] -> [B,2H,2W,features]."""
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", initializer(self.kernel_init), shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    y = ops.conv_transpose(x, kernel)
    return y + ops.per_channel(bias.astype(self.dtype), y)


class Dropout(nn.Module):
  """`nn.Dropout`, whose random bits cost less: as many per value as the rate needs, not 32.

  One bit for a rate of 0.5, two for 0.25, four for 0.375, 32 for 0.1.

  Attributes:
    rate: share of the values that are zeroed, from 0 to below 1; the others are divided by
      `1 - rate`.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[...,C] -> [...,C]; in training it needs a "dropout" rng."""
    if not 0 <= self.rate < 1:
      raise UserError(f"dropout is {self.rate}, expected a share of the values, from 0 to below 1")
    if not train or self.rate == 0:
      return x
    bits = next((b for b in (1, 2, 4, 8, 16) if (self.rate * 2**b).is_integer()), 32)
    *shape, channels = x.shape
    values = 32 // bits
    words = jax.random.bits(self.make_rng("dropout"), (*shape, -(-channels // values)), "uint32")
    words = words[..., None]
    words = words >> ops.per_channel(jnp.arange(0, 32, bits, dtype="uint32"), words)
    words = words.reshape(*shape, -1)[..., :channels] & jnp.uint32(2**bits - 1)
    kept = words >= jnp.uint32(round(self.rate * 2**bits))
    return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


def dilate(strides: Sequence[int], stride: int, output_stride: int) -> list[tuple[int, int, int]]:
  """Replaces the strides that would pass `output_stride` by dilation.

  Args:
    strides: strides of a backbone's stages in their order, 1 or 2.
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


def multiple_of_8(channels: float) -> int:
  """The multiple of 8, at least 8, that is nearest and not more than a tenth below."""
  near = max(8, int(channels + 4) // 8 * 8)
  return near if near >= 0.9 * channels else near + 8


class ConvNorm(Layered):
  """A bias-free convolution, batch norm and a nonlinearity, as submodules `conv` and `norm`.

  Attributes:
    features: output channels.
    kernel_size: size of both axes.
    dilation: dilation of both axes.
    own_norm: the published net's norm, where it is not batch norm.
  """

  features: int
  kernel_size: int = 3
  dilation: int = 1
  own_norm: str | Callable = BatchNorm

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,features]."""
    size, biased = (self.features, self.kernel_size), self.norm == "none"
    conv = self.build(Conv, *size, dilation=self.dilation, use_bias=biased, name="conv")
    return self.activated(self.normed(x, conv, "norm", train=train, own=self.own_norm))


def logits_layer(net: Layered, name: str = "logits", kernel_size: int = 1) -> Conv:
  """The last convolution of a part with `num_classes`: biased, small initial weights."""
  init, size = net.kernel_init or "lecun_normal", kernel_size
  return net.build(Conv, net.num_classes, size, use_bias=True, kernel_init=init, name=name)


class DoubleConv(Layered):
  """Two 3x3 convolutions, each with a norm and a nonlinearity; biased only without a norm.

  Attributes:
    features: output channels of both convolutions.
  """

  features: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """[B,H,W,C] -> [B,H,W,features]."""
    for i in ("1", "2"):
      conv = self.build(Conv, self.features, use_bias=self.norm == "none", name="conv" + i)
      x = self.activated(self.normed(x, conv, "norm" + i, train=train))
    return x


class MeanHead(Layered):
  """Classifier of a backbone's last features: their mean and a dense layer, torchvision's `fc`.

  Attributes:
    num_classes: classes.
    layer: name of the dense layer.
    own_init: initializer of its kernel, where `kernel_init` is None.
  """

  num_classes: int = 1000
  layer: str = "fc"
  own_init: Callable = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, features: list, *, train: bool) -> jax.Array:
    """List of features -> logits f32[B,num_classes]; sows `penultimate`, f32[B,C]."""
    del train
    x = features[-1].mean((1, 2))
    self.sow("intermediates", "penultimate", ops.wide(x))
    init = self.kernel_init or self.own_init
    return ops.wide(self.build(nn.Dense, self.num_classes, kernel_init=init, name=self.layer)(x))
