"""What annotation tools know of an image: areas with a class each."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path

import numpy as np

from segjax.data.files import TEST
from segjax.data.layouts import TRAIN, VAL
from segjax.errors import UserError

ANEW = "export it anew"  # ends the message about a file that is damaged
# Words for the splits in the names of files and subsets.
SPLITS = {**dict.fromkeys(TRAIN, "train"), **dict.fromkeys(VAL, "val"), TEST: TEST}


@dataclasses.dataclass(frozen=True)
class Shape:
  """An area of one class: polygons, of which it is the union, or a rectangle of pixels.

  Attributes:
    name: class.
    polygons: f64[n, 2] each, corners (x, y) in pixels; a pixel spans (x, y) to (x + 1, y + 1).
    pixels: bool[h, w], with its upper left corner at `corner`; None for polygons.
    corner: (top, left) of `pixels`.
    layer: shapes of a higher layer lie above those of a lower one, whatever their sizes.
  """

  name: str
  polygons: tuple[np.ndarray, ...] = ()
  pixels: np.ndarray | None = None
  corner: tuple[int, int] = (0, 0)
  layer: int = 0


@dataclasses.dataclass(frozen=True)
class Picture:
  """An image and its shapes.

  Attributes:
    image: file, as the tool names it, relative to the folder of the export.
    shapes: Shapes in the tool's order.
    size: (height, width) that the tool saw; None where it does not say.
    split: "train", "val", "test" or "" where the export has no splits.
  """

  image: Path
  shapes: tuple[Shape, ...]
  size: tuple[int, int] | None = None
  split: str = ""


@dataclasses.dataclass(frozen=True)
class Annotations:
  """All that an export says.

  Attributes:
    names: classes in the tool's order.
    pictures: Pictures.
    notes: sentences about what is not taken.
  """

  names: tuple[str, ...]
  pictures: tuple[Picture, ...]
  notes: tuple[str, ...] = ()


@contextlib.contextmanager
def expecting(what, where, mend=""):
  """Context in which an entry that is missing or of another kind is a UserError: "not `what`"."""
  try:
    yield
  except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
    if isinstance(error, UserError):
      raise
    mend = f"; {mend}" if mend else ""
    raise UserError(f"{where}: not {what} ({type(error).__name__}: {error}){mend}") from error


def class_name(value, where):
  """The name of a class; a UserError for what is neither a text nor a whole number.

  YAML reads no, yes, on, off and null as something else than names.
  """
  if isinstance(value, bool) or not isinstance(value, str | int):
    raise UserError(f"{where}: a class has the name {value!r}, expected a text; put it in quotes")
  return str(value)


def not_drawn(what, counts):
  """The note about entries that are left out, {kind: number}; no note where there are none."""
  return (f"{sum(counts.values())} {what} are not drawn: {dict(counts)}",) if counts else ()


def polygon(numbers, where, scale=(1.0, 1.0)):
  """A polygon of a flat list x, y, x, y ... or of pairs.

  Args:
    numbers: nested or flat list of numbers.
    where: file and entry, for the message.
    scale: factors of x and y.

  Raises:
    UserError: fewer than three corners, or what is not a finite number.
  """
  try:
    corners = np.asarray(numbers, np.float64).reshape(-1, 2)
  except (TypeError, ValueError):
    raise UserError(f"{where}: found {str(numbers)[:60]}, expected corners x, y, ...") from None
  if len(corners) < 3 or not np.isfinite(corners).all():
    raise UserError(f"{where}: found {str(numbers)[:60]}, expected three corners or more")
  return corners * scale


def rectangle(left, top, width, height, *, degrees=0.0, pivot="center"):
  """Corners of a rectangle, turned clockwise in the image about its center or its first corner."""
  x = np.array([0.0, width, width, 0.0])
  y = np.array([0.0, 0.0, height, height])
  cx, cy = (width / 2, height / 2) if pivot == "center" else (0.0, 0.0)
  c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  dx, dy = x - cx, y - cy
  return np.stack([left + cx + c * dx - s * dy, top + cy + s * dx + c * dy], axis=1)


def ellipse(x, y, radius_x, radius_y, *, degrees=0.0):
  """An ellipse about (x, y) as a polygon of 64 corners, turned clockwise in the image."""
  turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
  dx, dy = radius_x * np.cos(turn), radius_y * np.sin(turn)
  c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  return np.stack([x + c * dx - s * dy, y + s * dx + c * dy], axis=1)


def of_pixels(name, pixels):
  """A Shape of the pixels bool[H,W] of an image, of which it keeps the part around those."""
  (rows,), (columns,) = (np.nonzero(pixels.any(axis)) for axis in (1, 0))
  if not len(rows):
    return Shape(name, pixels=np.zeros((0, 0), bool))
  top, left = int(rows[0]), int(columns[0])
  part = pixels[top : rows[-1] + 1, left : columns[-1] + 1].copy()
  return Shape(name, pixels=part, corner=(top, left))


def runs(counts, shape, where, order="C"):
  """Pixels of run lengths: so many outside, so many inside, in turn.

  Args:
    counts: lengths in pixels.
    shape: (height, width).
    where: file and entry, for the message.
    order: "C" for rows, one after the other, "F" for columns.

  Raises:
    UserError: the lengths do not add up to the area.
  """
  counts, area = np.asarray(counts, np.int64), int(np.prod(shape))
  if (counts < 0).any() or counts.sum() != area:
    raise UserError(f"{where}: its run lengths cover {counts.sum()} pixels, expected {area}")
  inside = np.arange(len(counts)) % 2 == 1
  return np.repeat(inside, counts).reshape(shape, order=order)
