"""Large images in overlapping tiles: where they lie, how they are weighted, how maps are joined.

Evaluation by tiles and prediction share this code. An image comes as rows from top to bottom and
its maps leave the same way, so that memory is bounded by the width of the image and the height of
a tile, not by the height of the image. numpy only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from segjax.data.sizes import extend_image

RAMP = 0.25  # of an overlap: the part in its middle over which one tile's weight passes to the next


class Rows(Protocol):
  """An image that is read from top to bottom.

  Attributes:
    height: pixels.
    width: pixels.
  """

  height: int
  width: int

  def read(self, count: int) -> np.ndarray:
    """The next `count` rows, u8[count,W,3] or f32[count,W,C]; fewer at the end."""
    ...


class ArrayRows:
  """`Rows` of an array u8[H,W,3] or f32[H,W,C]."""

  def __init__(self, array):
    self.height, self.width = array.shape[:2]
    self._array, self._next = array, 0

  def read(self, count):
    """See `Rows.read`."""
    part = self._array[self._next : self._next + count]
    self._next += len(part)
    return part


def places(length: int, tile: int, overlap: float, multiple: int = 1) -> list[int]:
  """First pixels of the tiles along an axis; the last tile is shifted inwards.

  Args:
    length: of the axis, pixels.
    tile: length of a tile, pixels.
    overlap: least share of a tile that its neighbour has too, in [0,1).
    multiple: pixels; all tiles but the last begin at multiples of it, where the overlap leaves room
      for that: nets with pooling then see the same pixels together in every tile.

  >>> places(1000, 512, 0.25, 32)
  [0, 384, 488]
  """
  step = max(int(tile * (1 - overlap)), 1)
  step = step // multiple * multiple or step
  return [*range(0, length - tile, step), max(length - tile, 0)]


def weights(starts: list[int], tile: int, length: int) -> np.ndarray:
  """Weight of each tile for each of its pixels along an axis; they sum to 1 at every pixel.

  The weight passes from a tile to the next by a half cosine over the middle quarter of what they
  share. Beyond, three eighths of it, the pixels near a tile's border have no weight: a net that
  sees no further gives the same maps by tiles as for the whole image.

  Args:
    starts: result of `places`.
    tile: length of a tile, pixels.
    length: of the axis, pixels.

  Returns:
    f32[number of tiles, tile]; pixels beyond the axis count for nothing.
  """
  out = np.ones((len(starts), tile))
  for i, (first, second) in enumerate(itertools.pairwise(starts)):
    shared = first + tile - second
    if shared > 0:
      place = (np.arange(shared) + 0.5 - shared / 2) / max(RAMP * shared, 1) + 0.5
      rising = 0.5 - 0.5 * np.cos(np.pi * np.clip(place, 0, 1))
      out[i, tile - shared :] *= 1 - rising
      out[i + 1, :shared] *= rising
  total = np.zeros(max(length, tile))
  for start, weight in zip(starts, out, strict=True):
    total[start : start + tile] += weight
  shares = [w / total[s : s + tile] for s, w in zip(starts, out, strict=True)]
  return np.stack(shares).astype(np.float32)


def join(
  rows: Rows,
  maps_of: Callable[[np.ndarray], np.ndarray],
  *,
  tile: tuple[int, int],
  overlap: float,
  batch_size: int,
  multiple: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Maps of an image from those of its tiles, from top to bottom.

  All calls have one shape: see `in_batches`, and an image smaller than a tile is extended, see
  `sizes.extend_image`.

  Args:
    rows: the image, as `Rows`.
    maps_of: tiles, stacked -> f32[batch_size,h,w,K].
    tile: (height, width), pixels.
    overlap: see `places`.
    batch_size: tiles in a call.
    multiple: see `places`.

  Yields:
    ([n,W,C], f32[n,W,K]): the next rows of the image and of its maps, which are weighted means over
    the tiles.
  """
  size = rows.height, rows.width
  tops, lefts = (places(n, t, overlap, multiple) for n, t in zip(size, tile, strict=True))
  down, across = (
    weights(s, t, n) for s, t, n in zip((tops, lefts), tile, size, strict=True)
  )  # fmt: skip
  strip = _Strip(rows, tile)

  def cut():
    for top in tops:
      strip.read_to(top + tile[0])
      for left in lefts:
        yield extend_image(strip.part(top, left), tile)

  order = iter([(i, k) for i in range(len(tops)) for k in range(len(lefts))])
  for maps in in_batches(cut(), maps_of, batch_size):
    for one in maps:
      i, k = next(order)
      if tops[i] > strip.top:
        yield strip.take(tops[i] - strip.top)
      strip.add(lefts[k], one * (down[i][:, None, None] * across[k][:, None]))
  yield strip.take(rows.height - strip.top)


def in_batches(
  images: Iterable[np.ndarray], maps_of: Callable[[np.ndarray], np.ndarray], batch_size: int
) -> Iterator[np.ndarray]:
  """Maps of images of one size, a batch after another; the last one is filled with copies.

  Args:
    images: u8[h,w,3] or f32[h,w,C] each.
    maps_of: u8[batch_size,h,w,3] -> f32[batch_size,h,w,C].
    batch_size: images in a call.

  Yields:
    f32[n,h,w,C], without the maps of the copies.
  """
  images = iter(images)
  while batch := list(itertools.islice(images, batch_size)):
    copies = batch[-1:] * (batch_size - len(batch))
    yield maps_of(np.stack(batch + copies))[: len(batch)]


class _Strip:
  """The rows of an image that are at work: pixels that were read, and sums of their maps.

  Attributes:
    top: row of the image at which it begins.
  """

  def __init__(self, rows, tile):
    self._rows, self._tile = rows, tile
    self._image = rows.read(0)
    self.top, self._sums = 0, None

  def read_to(self, bottom):
    """Reads the image's rows up to a row, where there are so many."""
    missing = min(bottom, self._rows.height) - self.top - len(self._image)
    if missing > 0:
      self._image = np.concatenate([self._image, self._rows.read(missing)])

  def part(self, top, left):
    """The pixels of a tile."""
    top -= self.top
    return self._image[top : top + self._tile[0], left : left + self._tile[1]]

  def add(self, left, maps):
    """Adds the weighted maps of a tile at the top of the strip."""
    if self._sums is None:
      self._sums = np.zeros((self._tile[0], self._rows.width, maps.shape[-1]), np.float32)
    width = min(self._tile[1], self._rows.width)
    self._sums[:, left : left + width] += maps[:, :width]

  def take(self, count):
    """The next rows, complete, and moves on."""
    image, maps = self._image[:count], self._sums[:count].copy()
    self._image = self._image[count:].copy()
    self._sums[:-count] = self._sums[count:]
    self._sums[-count:] = 0
    self.top += count
    return image, maps
