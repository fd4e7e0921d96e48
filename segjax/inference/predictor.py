"""Predictions for images of any size: whole, resized or by tiles; arrays or files."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from segjax.data import rasters, sizes, tiles
from segjax.errors import UserError
from segjax.inference import averaging, loading
from segjax.inference.model import MODES, Model, View
from segjax.pictures import displayed, mix, overlay

TILE = 512  # pixels, where neither the caller nor the run says another
BLOCK = 2**18  # pixels of a picture that are worked on together


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a net says about an image.

  Attributes:
    image: u8[H,W,3], or f32[H,W,C] as the net's images are scaled.
    probabilities: f32[H,W,C], which sum to 1 over the classes, unless these overlap.
    label: u8[H,W], class indices; of classes that overlap bool[H,W,C], their masks.
    classes: class names in label order.
    palette: u8[C,3], display colours.
  """

  image: np.ndarray
  probabilities: np.ndarray
  label: np.ndarray
  classes: tuple[str, ...]
  palette: np.ndarray

  @property
  def color(self) -> np.ndarray:
    """u8[H,W,3], the classes' colours; those of classes that overlap are mixed."""
    return colors_of(self.label, self.palette)

  @property
  def overlay(self) -> np.ndarray:
    """u8[H,W,3], the colours over the image; a class in black leaves it as it is."""
    return overlay(displayed(self.image), self.color)

  @property
  def shares(self) -> dict[str, float]:
    """Share of each class in the image."""
    pixels = self.image.shape[0] * self.image.shape[1]
    shares = counts_of(self.label, len(self.classes)) / pixels
    return dict(zip(self.classes, shares.tolist(), strict=True))


def colors_of(label, palette):
  """u8[H,W,3], the colours of a `Prediction.label`."""
  return mix(label, palette) if label.ndim == 3 else palette[label]


def counts_of(label, classes):
  """i64[C], pixels of each class in a `Prediction.label`."""
  if label.ndim == 3:
    return label.sum((0, 1))
  return np.bincount(label.ravel(), minlength=classes)


class Predictor:
  """A net and how images are put before it.

  Attributes:
    model: the Model.
    classes: class names in label order.
    palette: u8[C,3], display colours.
    view: the View of every image.
    pixels: rasters.Pixels of the images.
    threshold: of the second class's probability, for a net with one logit; of classes that overlap
      a tuple with one for each; else None.
  """

  def __init__(
    self,
    model: Model | str | os.PathLike,
    *,
    mode: str = "",
    tile: int | tuple[int, int] | None = None,
    overlap: float | None = None,
    tta: str = "",
    batch_size: int = 4,
    threshold: float | Sequence[float] | str | None = None,
    checkpoint: str | int = "best",
  ):
    """Takes or loads a net.

    Args:
      model: a Model, the folder of a run, or an exported file.
      mode: "resize", "native" or "tiles", see `View`; "": "tiles" where a tile is given, else
        as the run was evaluated.
      tile: pixels, one number or (height, width); for mode "resize" the size.
      overlap: see `View`.
      tta: see `averaging.parse`, such as "flip,scales=0.75,1,1.25".
      batch_size: tiles, or resized images of a list, in a call of the net.
      threshold: for a net with one logit: a pixel is of the second class from this probability on,
        in (0,1), or "max_f1", that of the run's last evaluation; None: 0.5. Of classes that overlap
        one number for all, one for each, or "max_f1"; None: those of the run.
      checkpoint: of a run: "latest", "best" or a step.

    Raises:
      UserError: no such run or file, or an argument that does not fit the net.
    """
    model = loading.load(model, checkpoint) if isinstance(model, str | os.PathLike) else model
    if not isinstance(batch_size, Integral) or batch_size < 1:
      raise UserError(f"batch_size is {batch_size!r}, expected a whole number of 1 or more")
    self.model = model
    self.view = _choose_view(model, mode, tile, overlap)
    self.pixels = getattr(model, "pixels", rasters.RGB)
    self.classes, self.palette = tuple(model.classes), np.asarray(model.palette)
    self.threshold = _choose_threshold(model, threshold)
    self._batch_size = model.batch or batch_size
    variants = averaging.parse(tta)
    plain = variants == averaging.Variants()
    self._net = model if plain else averaging.Averaged(model, variants)

  def __call__(
    self, images: np.ndarray | str | os.PathLike | Sequence
  ) -> Prediction | list[Prediction]:
    """Predicts an image, or each of a list.

    Args:
      images: u8[H,W,3], or [H,W,C] of the run's channels and `data.dtype`, as files have them; a
        picture of Pillow; the path of an image file; or a list of these, of any sizes.

    Returns:
      A Prediction, or a list of them.

    Raises:
      UserError: a file that cannot be read, or an array of another kind.
    """
    if hasattr(images, "__array__") or hasattr(images, "__array_interface__"):
      images = np.asarray(images)  # of Pillow or jax, perhaps
    if isinstance(images, str | os.PathLike) or (
      isinstance(images, np.ndarray) and images.ndim <= 3
    ):
      return next(self.stream([images]))
    return list(self.stream(images))

  def stream(self, images: Iterable) -> Iterator[Prediction]:
    """Predictions of images one after the other; resized ones go to the net in batches.

    Args: see `__call__`.
    """
    together = self._batch_size if self.view.mode == "resize" else 1
    images = iter(images)
    while group := [self._as_array(image) for image in itertools.islice(images, together)]:
      maps = self._resized_maps(group) if self.view.mode == "resize" else [None]
      for image, small in zip(group, maps, strict=True):
        blocks = self.blocks(tiles.ArrayRows(image), small)
        found = np.concatenate([p for _, p in blocks])
        yield Prediction(image, found, self.label_of(found), self.classes, self.palette)

  def blocks(
    self, rows: tiles.Rows, small: np.ndarray | None = None
  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Probabilities of an image from top to bottom; by tiles no more of it is kept than a strip.

    Args:
      rows: the image, see `segjax.data.tiles.Rows`.
      small: f32[h,w,C], for mode "resize", where they are known.

    Yields:
      (u8[n,W,3] or f32[n,W,C'], f32[n,W,C]): the next rows of the image and of the probabilities.
    """
    net, view = self._net.probabilities, self.view
    if view.mode == "tiles":
      how = dict(tile=view.size, overlap=view.overlap, batch_size=self._batch_size)
      yield from tiles.join(rows, net, multiple=self.model.multiple, **how)
      return
    image = rows.read(rows.height)
    if view.mode == "native":
      yield image, self._native_maps(image)
      return
    small = self._resized_maps([image])[0] if small is None else small
    across = sizes.enlarging(rows.width, small.shape[1], 0, rows.width)
    wide = np.einsum("xw,hwc->hxc", across, small, optimize=True)
    step = max(BLOCK // rows.width, 1)
    for top in range(0, rows.height, step):
      part = image[top : top + step]
      matrix = sizes.enlarging(rows.height, len(wide), top, len(part))
      yield part, np.einsum("yh,hxc->yxc", matrix, wide, optimize=True)

  def _as_array(self, image):
    """An array or a file as the net's images are scaled."""
    pixels = self.pixels
    if isinstance(image, str | os.PathLike):
      return pixels.read(Path(image))
    image = np.asarray(image)
    fits = image.ndim == 3 and image.shape[-1] == pixels.channels and image.dtype == pixels.dtype
    if not fits or not image.size:
      raise UserError(
        f"an image of {image.dtype}{list(image.shape)}, expected {pixels.dtype}[height,width,"
        f"{pixels.channels}]"
      )
    pixels.check_values(image, "the image")
    return pixels.scaled(image)

  def _native_maps(self, image):
    size = sizes.multiples(image.shape[:2], self.model.multiple, self.view.size or (0, 0))
    if self.model.size and size != tuple(self.model.size):
      raise UserError(
        f"the image is {_text(image.shape)}, and this file takes {_text(self.model.size)} alone; "
        "use mode 'tiles' or 'resize'"
      )
    maps = self._called([sizes.extend_image(image, size)])[0]
    return maps[: image.shape[0], : image.shape[1]]

  def _resized_maps(self, images):
    return self._called([sizes.resize_image(image, self.view.size) for image in images])

  def _called(self, images):
    """Probabilities of images of one size, in one call."""
    batch_size = self.model.batch or len(images)
    return next(tiles.in_batches(images, self._net.probabilities, batch_size))

  def label_of(self, probabilities: np.ndarray) -> np.ndarray:
    """f32[...,C] -> u8[...]: the likeliest class, or the second one from the threshold on.

    Of classes that overlap bool[...,C], their masks.
    """
    if isinstance(self.threshold, tuple):
      return probabilities >= np.array(self.threshold, np.float32)
    if self.threshold is not None:
      return (probabilities[..., 1] >= self.threshold).astype(np.uint8)
    return probabilities.argmax(-1).astype(np.uint8)


def _choose_view(model, mode, tile, overlap):
  """The View of a net, its own or as the arguments say."""
  fixed = tuple(model.size) if model.size else None
  own = getattr(model, "view", None) or View("tiles" if fixed else "native")
  mode = mode or ("tiles" if tile is not None or (fixed and own.mode == "native") else own.mode)
  if mode not in MODES:
    raise UserError(f"mode is {mode!r}, expected one of {', '.join(map(repr, MODES))}")
  overlap = own.overlap if overlap is None else overlap
  if not 0 <= overlap <= 0.9:
    raise UserError(f"overlap is {overlap}, expected a share of a tile from 0 to 0.9")
  if mode == "native":
    if tile is not None:
      raise UserError("tile is for mode 'tiles'; leave it out, or use that mode")
    return View(mode, own.size if own.mode == "native" else None, overlap)
  size = (int(tile),) * 2 if isinstance(tile, Integral) else tile
  if size is not None:
    if np.shape(size) != (2,) or not all(isinstance(n, Integral) for n in size):
      raise UserError(
        f"tile is {tile!r}, expected whole numbers of pixels: a side, or (height, width)"
      )
    size = tuple(size)
  size = size if tile is not None else fixed or (own.size if own.mode == mode else None)
  if size is None and mode == "resize":
    raise UserError("mode 'resize' needs a size, and this net says none; give tile=HEIGHT,WIDTH")
  size = size or (TILE, TILE)
  if fixed and size != fixed:
    raise UserError(f"tile is {_text(size)}, and this file takes {_text(fixed)} alone")
  if tile is not None and (min(size) < 1 or any(n % model.multiple for n in size)):
    right = tuple(max(round(n / model.multiple), 1) * model.multiple for n in size)
    raise UserError(
      f"tile is {_text(size)}, expected multiples of {model.multiple} pixels, e.g. {_text(right)}"
    )
  return View(mode, size, overlap)


def _choose_threshold(model, threshold):
  """The threshold of a net with one logit, or those of classes that overlap; None for others."""
  own = getattr(model, "thresholds", None)
  if not model.one_logit and own is None:
    if threshold is not None:
      raise UserError("threshold is for nets with one logit (task.sigmoid); leave it out")
    return None
  if threshold == "max_f1":
    threshold = getattr(model, "max_f1_threshold", None)
    if threshold is None:
      raise UserError("threshold is 'max_f1', which this net does not know; give a number")
  if own is not None:
    return _for_each(own if threshold is None else threshold, model.classes)
  threshold = 0.5 if threshold is None else threshold
  if not isinstance(threshold, Real) or not 0 < threshold < 1:
    raise UserError(f"threshold is {threshold!r}, expected a number between 0 and 1, or 'max_f1'")
  return threshold


def _for_each(threshold, classes):
  """Thresholds of classes that overlap, a tuple with one for each."""
  given = (threshold,) if isinstance(threshold, str | Real) else tuple(threshold)
  right = all(isinstance(t, Real) and 0 < t < 1 for t in given)
  if not right or len(given) not in (1, len(classes)):
    raise UserError(
      f"threshold is {threshold!r}, expected a number between 0 and 1, one for each of "
      f"{', '.join(classes)}, or 'max_f1'"
    )
  return tuple(map(float, given if len(given) == len(classes) else given * len(classes)))


def _text(size):
  return f"{size[0]}x{size[1]}"
