"""Other sizes of images and maps."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.platforms import is_plain
from segjax.ops.shapes import floats, interleave, mix_rows_and_columns


def resize_bilinear(
  x: jax.Array, size: Sequence[int], *, corners: bool = False, antialias: bool = True
) -> jax.Array:
  """Bilinear resize of [B,H,W,C] to `size` = (height, width), half-pixel centres.

  Equals PyTorch's `interpolate(mode="bilinear", align_corners=False)` when enlarging; when
  shrinking it averages over the covered pixels (antialias), as PyTorch's `antialias=True` does.

  Args:
    x: [B,H,W,C]; integers are read as float32.
    size: (height, width) of the result.
    corners: the centres of the outermost pixels keep their places, PyTorch's `align_corners=True`,
      which some published nets were trained with; never an average.
    antialias: whether shrinking averages; False as in PyTorch's default.

  Returns:
    [B,*size,C], same dtype.

  Raises:
    ValueError: an array without a batch axis, or a size that is no pair.
  """
  x, size = floats(x), _size(x, size)
  if corners:
    if x.shape[1:3] == size:
      return x
    return mix_rows_and_columns(x, *map(_between_corners, x.shape[1:3], size))
  if not antialias:
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "bilinear", antialias=False)
  # Both sizes may be symbolic, whose order is not always known.
  larger = all(
    a is b or (isinstance(a, int) and isinstance(b, int) and a <= b)
    for a, b in zip(x.shape[1:3], size, strict=True)
  )
  shape = (x.shape[0], *size, x.shape[3])
  return jax.image.resize(x, shape, "bilinear", antialias=not larger)


def _between_corners(n, m):
  """f64[m,n], the weights of n values in m that lie evenly from the first value to the last."""
  place = np.arange(m) * (n - 1) / max(m - 1, 1)
  return np.maximum(1 - np.abs(place[:, None] - np.arange(n)), 0)


def _size(x, size):
  """`size` as a tuple; a ValueError where it or the array is of another form."""
  if np.ndim(x) != 4 or np.shape(size) != (2,):
    raise ValueError(
      f"resize: an array of shape {np.shape(x)} to size {size}, expected [B,H,W,C] and (height, "
      "width); add a batch axis to a single image, x[None]"
    )
  return tuple(size)


def resize_nearest(x: jax.Array, size: Sequence[int] | None = None) -> jax.Array:
  """The nearest pixels of [B,H,W,C] for `size` = (height, width), twice as large by default.

  An axis of an odd size that is enlarged twice is repeated and cut at its end. The dtype stays.
  """
  size = _size(x, [2 * n for n in x.shape[1:3]] if size is None else size)
  for axis, n in zip((1, 2), size, strict=True):
    count = x.shape[axis]
    if n in (2 * count - 1, 2 * count) and n != count:
      x = jax.lax.slice_in_dim(interleave(x, x, axis), 0, n, axis=axis)
    elif n != count:
      x = jnp.take(x, np.arange(n) * count // n, axis)
  return x


def cut_or_enlarge(x: jax.Array, size: Sequence[int]) -> jax.Array:
  """[B,H,W,C] cut at the bottom and right to `size`, or resized where it is smaller."""
  height, width = size
  if x.shape[1] < height or x.shape[2] < width:
    return resize_bilinear(x, size)
  return x[:, :height, :width]


def pad_to_multiple(image: jax.Array, multiple: int) -> jax.Array:
  """Extends [B,H,W,C] at the bottom and right, repeating the edge, to multiples of `multiple`."""
  return _extended(image, [-n % multiple for n in image.shape[1:3]])


def pad_to_least(image: jax.Array, least: int) -> jax.Array:
  """Extends [B,H,W,C] at the bottom and right, repeating the edge, to `least` pixels or more."""
  return _extended(image, [jax.core.max_dim(least - n, 0) for n in image.shape[1:3]])


def _extended(image, missing):
  if missing == [0, 0]:
    return image
  if not is_plain():
    pads = (*((0, n) for n in missing), (0, 0))
    # Image by image, for a batch that is divided over an explicit mesh cannot be sliced.
    return jax.vmap(lambda x: jnp.pad(x, pads, mode="edge"))(image)
  # jax2onnx converts pads of no width, as those of batch and channels, wrongly.
  for axis, count in zip((1, 2), missing, strict=True):
    if not (isinstance(count, int) and count == 0):
      edge = jax.lax.slice_in_dim(image, image.shape[axis] - 1, image.shape[axis], axis=axis)
      shape = (*edge.shape[:axis], count, *edge.shape[axis + 1 :])
      image = jnp.concatenate([image, jnp.broadcast_to(edge, shape)], axis)
  return image
