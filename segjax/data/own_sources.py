"""Sources that are code outside segjax: their parts at the start, each example when it is read."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from segjax.data import lists
from segjax.data.files import TEST
from segjax.data.labels import IGNORE, LabelTable
from segjax.data.rasters import Pixels
from segjax.errors import NoSplit, UserError

SHOWN = "see the first lines of segjax/data/sources.py"


def test_of(build, fields, what):
  """The split "test" of somebody's own function; a NoSplit where it knows of none."""
  try:
    source = build(TEST, **fields)
  except Exception as error:
    raise NoSplit(f"{what} has no split 'test' ({type(error).__name__}: {error})") from error
  other = tuple(source.names) != tuple(build("val", **fields).names)
  lists.require_test(TEST, other, what, "its function gives the examples of val")
  return source


def checked(source, what, pixels):
  """The source, whose examples are checked as they are read.

  Args:
    source: result of somebody's own function.
    what: the source, for messages.
    pixels: rasters.Pixels that its images must have.

  Raises:
    UserError: it lacks what every source has.
  """
  lost = [n for n in ("labels", "names", "__len__", "__getitem__") if not hasattr(source, n)]
  if lost:
    raise UserError(f"{what} has no {lost[0]!r}; {SHOWN}")
  if not isinstance(source.labels, LabelTable):
    raise UserError(
      f"{what}: labels is {source.labels!r}, expected a LabelTable, such as "
      "segjax.data.labels.default_table(('ground', 'road'))"
    )
  if len(source.names) != len(source):
    raise UserError(f"{what} has {len(source)} examples but {len(source.names)} names")
  return Checked(source, what, pixels)


@dataclasses.dataclass(frozen=True)
class Checked:
  """A source whose examples are checked, with all that the source has besides.

  Attributes:
    source, what, pixels: see `checked`.
  """

  source: Any
  what: str
  pixels: Pixels

  def __getattr__(self, name):
    if name.startswith("__") or name in ("source", "what", "pixels"):  # a copy that is being made
      raise AttributeError(name)
    return getattr(self.source, name)

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    example = self.source[i]
    where = f"{self.what}, example {self.source.names[i]!r}"
    if not isinstance(example, dict):
      raise UserError(
        f"{where} is a {type(example).__name__}, expected a dict of image and label; {SHOWN}"
      )
    lone = set(example) == {"image"}  # which will do for tasks without labels
    if "image" not in example or not (lone or {"label", "target"} & set(example)):
      raise UserError(
        f"{where} has {lists.some(list(example)) or 'nothing'}, expected image and label, or image "
        f"and target; {SHOWN}"
      )
    image = np.asarray(example["image"])
    self.pixels.check_kind(image, f"{where}: image is")
    self.pixels.check_values(image, f"{where}: image")
    if lone:
      return dict(image=image)
    if "label" not in example:
      target = np.asarray(example["target"])
      wanted = f"uint8{[*image.shape[:2], 3]}, as the image"
      _require(target.dtype == np.uint8 and target.shape == (*image.shape[:2], 3),
               f"{where}: target", target, wanted)  # fmt: skip
      return {**example, "image": image, "target": target}
    return {**example, "image": image, "label": self._label(example["label"], image, where)}

  def _label(self, label, image, where):
    label, size = np.asarray(label), image.shape[:2]
    _require(label.dtype.kind in "bui" and label.shape in ((), size), f"{where}: label", label,
             f"whole numbers of shape {list(size)}, as the image, or one class")  # fmt: skip
    if self.source.labels.overlapping:
      return label
    classes = len(self.source.labels)
    outside = label[((label < 0) | (label >= classes)) & (label != IGNORE)]
    if outside.size:
      raise UserError(
        f"{where}: label has the value {int(outside.flat[0])}, expected 0 to {classes - 1}, a "
        f"class, or {IGNORE}, ignore; mend the data source"
      )
    return label.astype(np.uint8)


def _require(holds, what, array, wanted):
  if not holds:
    raise UserError(f"{what} is {array.dtype}{list(array.shape)}, expected {wanted}")
