"""Images at the sizes that a net takes: resized or extended. numpy and Pillow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def resize_image(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes an image bilinearly, antialiased when shrinking.

  Args:
    image: u8[H,W,3], or f32[H,W,C].
    size: (height, width), pixels.

  Returns:
    u8[height,width,3], or f32[height,width,C].
  """
  if image.shape[:2] == tuple(size):
    return image
  from PIL import Image  # which nets and steps do without

  def resized(values):
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR))

  if image.dtype == np.uint8:
    return resized(image)
  return np.stack([resized(image[..., c]) for c in range(image.shape[-1])], -1)


def extend(array: np.ndarray, size: Sequence[int], **how) -> np.ndarray:
  """Extends [H,W,...] at the bottom and right to at least `size` = (height, width), by np.pad."""
  more = [(0, max(n - m, 0)) for n, m in zip(size, array.shape, strict=False)]
  return np.pad(array, more + [(0, 0)] * (array.ndim - 2), **how) if np.any(more) else array


def extend_image(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Extends [H,W,C] at the bottom and right to at least `size` = (height, width), mirrored.

  >>> extend_image(np.arange(3, dtype=np.uint8)[:, None, None], (5, 1)).ravel().tolist()
  [0, 1, 2, 1, 0]
  """
  return extend(image, size, mode="reflect")


def multiples(size: Sequence[int], multiple: int, least: Sequence[int] = (0, 0)) -> tuple[int, ...]:
  """The next multiples of `multiple` from (height, width) on; `least` where both fit in.

  >>> multiples((40, 60), 32), multiples((40, 60), 32, (50, 70))
  ((64, 64), (50, 70))
  """
  if all(n <= m for n, m in zip(size, least, strict=True)):
    return tuple(least)
  return tuple(max(-(-n // multiple) * multiple, m) for n, m in zip(size, least, strict=True))


def enlarging(length: int, small: int, first: int, count: int) -> np.ndarray:
  """Matrix of a bilinear resize along an axis, antialiased when shrinking.

  Args:
    length: of the axis afterwards, pixels.
    small: its length before.
    first: first pixel wanted.
    count: number of pixels wanted.

  Returns:
    f32[count,small], whose rows sum to 1.

  >>> enlarging(4, 2, 0, 4).tolist()
  [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
  """
  scale = small / length
  centers = (first + np.arange(count) + 0.5) * scale
  distance = np.abs(centers[:, None] - np.arange(small) - 0.5) / max(scale, 1)
  matrix = np.maximum(1 - distance, 0)
  return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


def resize_maps(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes f32[B,h,w,C] to `size` = (height, width) bilinearly, antialiased when shrinking."""
  down, across = (enlarging(n, m, 0, n) for n, m in zip(size, maps.shape[1:3], strict=True))
  return np.einsum("yh,bhwc,xw->byxc", down, maps, across, optimize=True)
