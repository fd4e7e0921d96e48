"""What an exported file says of itself, and checks that both formats share; without jax."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segjax.errors import UserError
from segjax.inference.model import MODES, View

FORMAT = "segjax-export-1"


@dataclasses.dataclass(frozen=True)
class About:
  """The metadata of an exported file: each attribute is one entry, a JSON text in ONNX.

  Attributes:
    classes: class names in label order.
    palette: (red, green, blue) of each class, 0 to 255.
    size: (height, width) of the images, pixels.
    batch: images of a call; None for any number.
    one_logit: whether the class follows from a threshold on the probability of the second.
    max_f1_threshold: the threshold of the largest F1 at the run's last evaluation, or None.
    view: how the run's evaluation puts an image before the net, see `segjax.inference.model.View`.
    mean: of images in [0,1], subtracted within the file.
    std: divides them within the file.
    weights: dtype that the weights are stored in.
    run: name of the run, hash of its config, step and checkpoint, the net's config, its task.
    versions: of segjax and of the packages that wrote the file.
    format: FORMAT.
  """

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  size: tuple[int, int]
  batch: int | None
  one_logit: bool
  max_f1_threshold: float | None
  view: dict[str, Any]
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  weights: str
  run: dict[str, Any]
  versions: dict[str, str]
  format: str = FORMAT

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
  for name in ("format", *kinds):
    try:
      values[name] = _shaped(json.loads(texts[name]), kinds[name])
    except (KeyError, TypeError, ValueError):
      found = str(texts.get(name))[:60]
      raise UserError(
        f"{file}: its {name!r} is {found}; the file is damaged, export it again"
      ) from None
    if values["format"] != FORMAT:
      raise UserError(
        f"{file}: its format is {values['format']!r}, this version of segjax reads {FORMAT!r}; "
        "export it again"
      )
  about = About(**values)
  mode, overlap = (about.view.get(k) for k in ("mode", "overlap"))
  if mode not in MODES or type(overlap) not in (int, float) or not 0 <= overlap < 1:
    raise UserError(f"{file}: its 'view' is {about.view}; the file is damaged, export it again")
  if len(about.palette) != len(about.classes) or len(about.classes) < 1:
    raise UserError(f"{file}: {len(about.classes)} classes, {len(about.palette)} colours; damaged")
  return about


def _shaped(value, kind):
  """A value of JSON as a type of an attribute; a ValueError where it is of another."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if origin is tuple:
    if not isinstance(value, list) or (args[-1] is not ... and len(value) != len(args)):
      raise ValueError(value)
    return tuple(_shaped(v, args[0]) for v in value)
  if origin is dict:
    kind = dict
  elif args:  # a type or None
    if value is None:
      return None
    kind = args[0]
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
    classes, palette, size, multiple, one_logit, batch, view, max_f1_threshold: see `Model`.
  """

  def __init__(self, file: Path, about: About):
    """Takes the metadata of a file."""
    self.file, self.about = file, about
    self.classes, self.size, self.multiple = about.classes, about.size, 1
    self.palette = np.array(about.palette, np.uint8)
    self.one_logit, self.batch = about.one_logit, about.batch
    self.max_f1_threshold = about.max_f1_threshold
    self.view = View(about.view["mode"], about.size, about.view["overlap"])

  def check(self, images: np.ndarray) -> None:
    """Raises a UserError for images that the file does not take."""
    given = f"{images.dtype} {images.shape}"
    count = "any number" if self.batch is None else self.batch
    height, width = self.size
    fits = images.ndim == 4 and images.dtype == np.uint8 and images.shape[1:] == (*self.size, 3)
    if not fits or not len(images) or self.batch not in (None, len(images)):
      raise UserError(
        f"{self.file}: found images {given}, expected uint8 of {height}x{width} pixels with 3 "
        f"channels, {count} at a time; export the net for others with --size=HEIGHT,WIDTH and "
        "--batch"
      )
