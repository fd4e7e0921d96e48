"""Operations on arrays, in the form that is fast on each platform; they need JAX alone.

>>> import jax
>>> conv(jax.numpy.ones((1, 5, 5, 2)), jax.numpy.ones((3, 3, 2, 4)), padding=1).shape
(1, 5, 5, 4)
"""

from segjax.ops.conv import conv, conv_transpose, products_saveable
from segjax.ops.platforms import by_platform, plain_forms
from segjax.ops.pool import adaptive_avg_pool, avg_pool, max_pool_2x2, max_pool_3x3
from segjax.ops.resize import (
  cut_or_enlarge,
  pad_to_least,
  pad_to_multiple,
  resize_bilinear,
  resize_nearest,
)
from segjax.ops.shapes import (
  floats,
  of_class,
  own_channel,
  per_channel,
  split,
  undivided,
  wide,
)

__all__ = [
  "adaptive_avg_pool",
  "avg_pool",
  "by_platform",
  "conv",
  "conv_transpose",
  "cut_or_enlarge",
  "floats",
  "max_pool_2x2",
  "max_pool_3x3",
  "of_class",
  "own_channel",
  "pad_to_least",
  "pad_to_multiple",
  "per_channel",
  "plain_forms",
  "products_saveable",
  "resize_bilinear",
  "resize_nearest",
  "split",
  "undivided",
  "wide",
]
