"""Costs of a net from its shapes alone, without running it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import ops


def count_params(params: Any) -> int:
  """Number of values in a tree of parameters, of arrays or of shapes."""
  return sum(x.size for x in jax.tree.leaves(params))


def plain_flops(function: Callable, *args: Any) -> float:
  """FLOPs of a jitted function by XLA's count before it optimises, nan if it has none.

  In plain forms, because others take other products. The function must be one for the CPU: the
  plugins of other platforms have no count.
  """
  with ops.plain_forms():
    lowered = function.trace(*args).lower()
  return (lowered.cost_analysis() or {}).get("flops", math.nan)


def static_cost(net: nn.Module, size: tuple[int, int], channels: int = 3) -> tuple[int, float, int]:
  """Costs of one image.

  Args:
    net: a module of `segjax.models`.
    size: (height, width) of the image, pixels.
    channels: of the image.

  Returns:
    (parameters, FLOPs or nan, stride of the deepest features); see `plain_flops`.
  """
  image = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
  variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), image)

  def apply(variables, image):
    return net.apply(variables, image, train=False)

  with jax.default_device(jax.devices("cpu")[0]):
    flops = plain_flops(jax.jit(apply), variables, image)

  def capture(variables, image):
    return net.apply(variables, image, train=False, capture_intermediates=True)[1]

  seen = jax.eval_shape(capture, variables, image)["intermediates"]
  arrays = [x.shape for x in jax.tree.leaves(seen.get("backbone", seen)) if len(x.shape) == 4]
  # Windows of attention, [B,windows,positions,C], have not the proportions of the image.
  share = [h * size[1] / (w * size[0]) for _, h, w, _ in arrays]
  deepest = min(a[1] for a, s in zip(arrays, share, strict=True) if a[1] > 1 and 0.8 < s < 1.25)
  return count_params(variables["params"]), flops, -(-size[0] // deepest)
