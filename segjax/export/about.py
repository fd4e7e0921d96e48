"""What an exported file says of itself, and checks that both formats share; without jax."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data import rasters
from segjax.data.labels import table_of
from segjax.errors import UserError
from segjax.inference.model import MODES, View

FORMAT, FIRST = "segjax-export-2", "segjax-export-1"
# What files of the first format do not have; they are of photographs, and no classes overlap.
ADDED = dict(thresholds=None, channels=3, dtype="uint8", full_scale=0.0)


@dataclasses.dataclass(frozen=True)
class About:
  """The metadata of an exported file: each attribute is one entry, a JSON text in ONNX.

  Attributes:
    classes: class names in label order.
    palette: (red, green, blue) of each class, 0 to 255.
    size: (height, width) of the images, pixels.
    batch: images of a call; None for any number.
    one_logit: whether the class follows from a threshold on the probability of the second.
    thresholds: of classes that overlap the probability from which on a pixel is of each; else None.
    max_f1_threshold: the threshold of the largest F1 at the run's last evaluation, of classes that
      overlap one each; or None.
    view: how the run's evaluation puts an image before the net, see `segjax.inference.model.View`.
    channels: of the images.
    dtype: of their values, as image files have them and this file takes them.
    full_scale: the value that becomes 1 within the file, see `segjax.data.rasters.Pixels`.
    mean: of images of which that value is 1, subtracted within the file, a number per channel.
    std: divides them within the file.
    weights: dtype that the weights are stored in.
    run: name and folder of the run, hash of its config, step, its task, the net's config.
    versions: of segjax and of the packages that wrote the file.
    format: FORMAT, or FIRST.
  """

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  size: tuple[int, int]
  batch: int | None
  one_logit: bool
  thresholds: tuple[float, ...] | None
  max_f1_threshold: tuple[float, ...] | float | None
  view: dict[str, Any]
  channels: int
  dtype: str
  full_scale: float
  mean: tuple[float, ...]
  std: tuple[float, ...]
  weights: str
  run: dict[str, Any]
  versions: dict[str, str]
  format: str = FORMAT

  @property
  def pixels(self) -> rasters.Pixels:
    """What the images are made of."""
    return rasters.of(self)

  def texts(self) -> dict[str, str]:
    """Each attribute as JSON."""
    return {k: json.dumps(v) for k, v in dataclasses.asdict(self).items()}


def read(texts: Mapping[str, str], file: Path) -> About:
  """The metadata that `About.texts` wrote.

  Args:
    texts: name -> JSON; other names are left out.
    file: that they are of, for messages.

  Raises:
    UserError: an entry is missing or is not what it should be.
  """
  kinds, values = typing.get_type_hints(About), {}
  if "format" not in texts:
    raise UserError(f"{file}: not exported by segjax; launch/export.py writes such files")
  if texts["format"] == json.dumps(FIRST):
    texts = {**texts, **{k: json.dumps(v) for k, v in ADDED.items()}}
  for name in ("format", *kinds):
    try:
      values[name] = _shaped(json.loads(texts[name]), kinds[name])
    except (KeyError, TypeError, ValueError):
      found = str(texts.get(name))[:60]
      raise UserError(
        f"{file}: its {name!r} is {found}; the file is damaged, export it again"
      ) from None
    if values["format"] not in (FORMAT, FIRST):
      raise UserError(
        f"{file}: its format is {values['format']!r}, this version of segjax reads {FORMAT!r} and "
        f"{FIRST!r}; export it again"
      )
  about = About(**values)
  if name := _wrong(about):
    found = str(getattr(about, name))[:60]
    raise UserError(f"{file}: its {name!r} is {found}; the file is damaged, export it again")
  if len(about.palette) != len(about.classes) or len(about.classes) < 1:
    raise UserError(f"{file}: {len(about.classes)} classes, {len(about.palette)} colours; damaged")
  return about


def _wrong(about):
  """The name of an attribute whose value makes no sense, or does not fit the others; else ""."""
  mode, overlap = (about.view.get(k) for k in ("mode", "overlap"))
  each, best = about.thresholds, about.max_f1_threshold
  best = best if each is not None or best is None else (best,)
  count = 1 if each is None else len(about.classes)
  fits = dict(
    palette=all(0 <= v <= 255 for color in about.palette for v in color),
    size=min(about.size) >= 1,
    batch=about.batch is None or about.batch >= 1,
    view=mode in MODES and type(overlap) in (int, float) and 0 <= overlap < 1,
    thresholds=each is None or (_are_limits(each, count) and not about.one_logit),
    max_f1_threshold=best is None or _are_limits(best, count),
    channels=about.channels >= 1,
    dtype=about.dtype in rasters.ONE,
    full_scale=_has_scale(about),
    mean=len(about.mean) == about.channels,
    std=len(about.std) == about.channels,
  )
  return next((name for name, fit in fits.items() if not fit), "")


def _has_scale(about):
  """Whether `full_scale` is one of images of these channels and this dtype."""
  try:
    return bool(rasters.of(about))
  except UserError:
    return False


def _are_limits(values, count):
  """Whether these are thresholds of `count` classes."""
  fit = isinstance(values, tuple) and len(values) == count
  return fit and all(isinstance(v, float) and 0 < v < 1 for v in values)


def _shaped(value, kind):
  """A value of JSON as a type of an attribute; a ValueError where it is of another."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin is tuple:
    if not isinstance(value, list) or (args[-1] is not ... and len(value) != len(args)):
      raise ValueError(value)
    return tuple(_shaped(v, args[0]) for v in value)
  if origin is dict:
    kind = dict
  elif origin is types.UnionType:
    for choice in args:
      with contextlib.suppress(TypeError, ValueError):
        return _shaped(value, choice)
    raise ValueError(value)
  if kind is float and type(value) is int:
    value = float(value)
  if type(value) is not kind:
    raise ValueError(value)
  return value


class Exported:
  """What the two kinds of exported files have in common, see `segjax.inference.Model`.

  Attributes:
    file: path.
    about: About.
    labels: LabelTable of its classes.
    classes, palette, size, multiple, one_logit, thresholds, batch, view, pixels, max_f1_threshold:
      see `Model`.
  """

  def __init__(self, file: Path, about: About):
    """Takes the metadata of a file."""
    self.file, self.about = file, about
    self.classes, self.size, self.multiple = about.classes, about.size, 1
    self.palette = np.array(about.palette, np.uint8)
    self.one_logit, self.thresholds = about.one_logit, about.thresholds
    self.max_f1_threshold = about.max_f1_threshold
    self.batch, self.pixels = about.batch, about.pixels
    table = table_of(zip(about.classes, about.palette, strict=True))
    self.labels = dataclasses.replace(table, overlapping=about.thresholds is not None)
    self.view = View(about.view["mode"], about.size, about.view["overlap"])

  def check_program(self, dtype: str, shape: Sequence, shape_out: Sequence) -> None:
    """Raises a UserError where a program takes or gives other arrays than the metadata say.

    Args:
      dtype: of its images.
      shape: of its images, [B,H,W,C].
      shape_out: of its probabilities.
    """
    pixels, count = self.pixels, len(self.classes)
    wanted = [pixels.dtype, *self.size, pixels.channels, count]
    found = [str(dtype), *shape[1:], *shape_out[3:]]
    if found != wanted or self.batch not in (None, shape[0]):
      height, width = self.size
      raise UserError(
        f"{self.file}: by its metadata {self.batch or 'any number of'} images of {height}x{width} "
        f"with {pixels.channels} channels of {pixels.dtype} give {count} classes, and its program "
        f"takes {dtype}{_text(shape)} and gives {_text(shape_out)}; export it again"
      )

  def as_stored(self, images: np.ndarray) -> np.ndarray:
    """Images as the program takes them, with the values of image files.

    Args:
      images: see `Model.probabilities`.

    Raises:
      UserError: images that the file does not take.
    """
    given = f"{images.dtype} {images.shape}"
    count = "any number" if self.batch is None else self.batch
    (height, width), pixels = self.size, self.pixels
    shape = *self.size, pixels.channels
    fits = images.ndim == 4 and images.dtype == pixels.kept and images.shape[1:] == shape
    if not fits or not len(images) or self.batch not in (None, len(images)):
      scaled = "" if pixels.is_rgb else f", scaled ({pixels.text})"
      raise UserError(
        f"{self.file}: found images {given}, expected {pixels.kept} of {height}x{width} pixels "
        f"with {pixels.channels} channels{scaled}, {count} at a time; export the net for others "
        "with --size=HEIGHT,WIDTH and --batch"
      )
    return pixels.unscaled(images)


def _text(shape):
  return f"[{','.join(map(str, shape))}]"
