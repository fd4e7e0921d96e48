"""LoRA: low-rank additions to the kernels of dense layers (Hu et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

PARTS = ("lora_a", "lora_b")


class LoRADense(nn.Module):
  """`nn.Dense` whose kernel is `kernel + lora_a @ lora_b`; the addition starts at 0.

  Its scale is 1, whatever the rank, so that `merge` needs nothing but the parameters.

  Attributes:
    features: output channels.
    rank: columns of `lora_a` and rows of `lora_b`; 0: neither exists, and this is `nn.Dense`.
    use_bias: adds a bias.
    kernel_init: initializer of the kernel.
    dtype: compute dtype.
    param_dtype: dtype of the parameters.
  """

  features: int
  rank: int = 0
  use_bias: bool = True
  kernel_init: Callable = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[...,C] -> [...,features]."""
    c, zeros, x = x.shape[-1], nn.initializers.zeros, x.astype(self.dtype)

    def param(name, init, *shape):
      return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

    y = x @ param("kernel", self.kernel_init, c, self.features)
    if self.rank:
      a = param("lora_a", nn.initializers.normal(self.rank**-0.5), c, self.rank)
      y = y + (x @ a) @ param("lora_b", zeros, self.rank, self.features)
    if self.use_bias:
      bias = param("bias", zeros, self.features)
      y = y + jnp.expand_dims(bias, range(y.ndim - 1))
    return y


def merged(net: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
  """The same net without additions, and its variables, in which they are part of the kernels.

  Args:
    net: with a field `lora_rank`; others, and those of rank 0, come back as they are.
    variables: {"params": …, "batch_stats": …}.
  """
  if not getattr(net, "lora_rank", 0):
    return net, dict(variables)
  return net.clone(lora_rank=0), dict(variables) | dict(params=merge(variables["params"]))


def merge(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters of the same net with `lora_rank=0`: each addition becomes part of its kernel.

  Args:
    params: tree of parameters, with additions or without.

  Returns:
    A new tree without them; kernels that had one are of NumPy.
  """
  flat = flax.traverse_util.flatten_dict(dict(params))
  out = {k: v for k, v in flat.items() if k[-1] not in PARTS}
  for path in (k[:-1] for k in flat if k[-1] == PARTS[0]):
    kernel, a, b = (np.asarray(flat[*path, leaf]) for leaf in ("kernel", *PARTS))
    added = a.astype(np.float64) @ b.astype(np.float64)
    out[*path, "kernel"] = (kernel + added).astype(kernel.dtype)
  return flax.traverse_util.unflatten_dict(out)
