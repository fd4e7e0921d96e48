"""The arguments of a convolution: what is refused, and the padding in numbers."""

from __future__ import annotations

import jax
import numpy as np


def check(x, kernel, groups, stride=1, dilation=1):
  """Raises a ValueError or a TypeError for arrays and numbers that make no convolution."""
  for name, value in (("stride", stride), ("dilation", dilation)):
    if not isinstance(value, int | np.integer) or value < 1:
      raise ValueError(f"convolution: {name} is {value!r}, expected one whole number of 1 or more")
  if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1]:
    raise ValueError(
      f"convolution: an image of shape {x.shape} and a kernel of shape {kernel.shape}, expected "
      "[B,H,W,C] and [K,K,C,features]; add a batch axis to a single image, x[None]"
    )
  if x.shape[3] != kernel.shape[2] * groups or kernel.shape[3] % groups:
    raise ValueError(
      f"convolution: the image has {x.shape[3]} channels, the kernel {kernel.shape[2]} for each of "
      f"{groups} groups and {kernel.shape[3]} features"
    )
  if x.dtype != kernel.dtype:
    raise TypeError(
      f"convolution: the image is {x.dtype}, the kernel {kernel.dtype}; cast one with astype"
    )


def pads(size, kernel_size, stride, padding, dilation):
  """((top, bottom), (left, right)) of a padding as `conv` takes it; a ValueError for another."""
  if isinstance(padding, str) and padding == "VALID":
    return ((0, 0),) * 2
  if isinstance(padding, str) and padding == "SAME":
    reach = dilation * (kernel_size - 1) + 1
    totals = [jax.core.max_dim((-(-n // stride) - 1) * stride + reach - n, 0) for n in size]
    return tuple((t // 2, t - t // 2) for t in totals)
  if isinstance(padding, int | np.integer):
    return ((int(padding),) * 2,) * 2
  if np.shape(padding) != (2, 2) or np.asarray(padding).dtype.kind not in "iu":
    expected = "a whole number, 'SAME', 'VALID', or ((top, bottom), (left, right))"
    raise ValueError(f"convolution: padding is {padding!r}, expected {expected}")
  return tuple(tuple(map(int, pair)) for pair in padding)
