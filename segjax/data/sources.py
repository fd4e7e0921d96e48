"""Random-access sources of labelled images.

A source has `labels` (a LabelTable), `names` (one string per example, unique), `len()` and
`source[i] -> {"image": u8[H,W,3], "label": u8[H,W]}` at its own size, with label values in
[0, len(labels)) or 255, ignore; of overlapping classes with sets of them, see `label_sets`. Images
that are no photographs are f32[H,W,C], see `rasters`. For classification the label is a scalar,
u8[]; of images with target images the example is {"image", "target": u8[H,W,3]} and the table is
empty.
`make(name, split, **fields)` builds one.

Sources that read files have besides `notes`, sentences about files that are not read, and
`digest() -> str`, 16 hex digits over the contents of the files.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from segjax import own_code, textfiles
from segjax.data import files, label_sets, lists, own_sources, rasters
from segjax.data.checks import check, without_broken
from segjax.data.datasets.ade20k import ade20k
from segjax.data.datasets.camvid import camvid
from segjax.data.datasets.cifar10 import cifar10_subset
from segjax.data.datasets.digits import digits
from segjax.data.datasets.dubai_aerial import dubai_aerial
from segjax.data.datasets.floodnet import floodnet
from segjax.data.datasets.folder import folder
from segjax.data.datasets.kitti_road import kitti_road
from segjax.data.datasets.landcover import landcover
from segjax.data.datasets.tfds import tfds_source
from segjax.data.files import SPLITS, TEST, list_images, read_image, skipped
from segjax.data.labels import IGNORE
from segjax.data.synthetic.sources import aerial_scenes, road_scenes
from segjax.errors import UserError

__all__ = [
  "SOURCES", "SPLITS", "TEST", "check", "labelled", "list_images", "make", "read_image", "skipped",
  "without_broken",
]  # fmt: skip

SOURCES = {
  "road_scenes": road_scenes,
  "aerial_scenes": aerial_scenes,
  "kitti_road": kitti_road,
  "camvid": camvid,
  "floodnet": floodnet,
  "landcover": landcover,
  "dubai_aerial": dubai_aerial,
  "ade20k": ade20k,
  "cifar10_subset": cifar10_subset,
  "digits": digits,
  "folder": folder,
  "tfds": tfds_source,
}


def make(name, split, *, complete=True, pixels=rasters.RGB, **fields):
  """Builds a source.

  Args:
    name: one of `SOURCES`, or "package.module:function" of your own.
    split: "train", "val" or "test".
    complete: whether a missing file is an error here; if not, it is one when it is read, and
      `check` and `without_broken` find it.
    pixels: rasters.Pixels of its images.
    **fields: arguments of the source's function, see there.

  Raises:
    UserError: unknown name, field or split; no such folder; images without a label; empty split;
      no class, or more than 255; images of other pixels.
    NoSplit: a set without the split "test".
  """
  build, what = own_code.choose(SOURCES, name, "data source"), f"data source {name!r}"
  first = next(iter(own_code.arguments(build)), "split")
  own_code.check_arguments(build, fields, what, passed=(first,))
  if split not in (*SPLITS, TEST):
    raise UserError(f"unknown split {split!r} (splits: {', '.join((*SPLITS, TEST))})")
  is_own = own_code.is_own(name)
  if is_own and split == TEST:
    source = own_sources.test_of(build, fields, what)
  else:
    source = build(split, **fields)
  if not pixels.is_rgb and hasattr(source, "read_image"):
    source = dataclasses.replace(source, read_image=pixels.read)
  if is_own:
    source = own_sources.checked(source, what, pixels)
  if not len(source):
    said = "".join(f". {note}" for note in getattr(source, "remarks", ()))
    raise UserError(
      f"data source {name!r}: split {split!r} is empty, expected at least 1 example{said}"
    )
  names = source.names if split != SPLITS[0] else ()  # which may show an example more often
  if isinstance(names, tuple | list) and len(set(names)) < len(names):
    twice = [n for n, times in Counter(names).items() if times > 1]
    raise UserError(
      f"{what}: {lists.some(twice)} more than once in split {split!r}; leave each in it once"
    )
  count, targets = len(source.labels), getattr(source, "key", "label") == "target"
  if not (1 <= count <= IGNORE or targets):
    raise UserError(
      f"data source {name!r} has {count} classes, expected 1 to {IGNORE}; mend data.source.classes "
      "or its classes.txt"
    )
  for c in source.labels.names:  # which stand in figures, tables and names of folders
    if textfiles.shown(c) != c:
      raise UserError(f"{what}: the class {c!r} is not in UTF-8; rename its folder or its files")
  if source.labels.overlapping:
    label_sets.check_count(count)
  if complete:
    files.require_complete(source)
  _check_pixels(source, pixels, what)
  return source


def _check_pixels(source, pixels, what):
  """Raises a UserError where a source gives images of other pixels, as drawn scenes do."""
  if pixels.is_rgb or hasattr(source, "read_image"):
    return
  pixels.check_kind(source[0]["image"], f"{what} gives images")


KINDS = {
  "mask": "a label image for each image",
  "masks": "a mask for each class",
  "class": "one class per image",
  "target": "a target image for each image",
}


@dataclasses.dataclass(frozen=True)
class _Labelled:
  """A source whose examples are {"image", "label"}, whatever the label is.

  Attributes:
    source: any.
    needs, user, least: see `labelled`.
  """

  source: Any
  needs: str
  user: str
  least: tuple[int, int]

  @property
  def labels(self):
    return self.source.labels

  @property
  def names(self):
    return self.source.names

  @property
  def notes(self):
    own = getattr(self.source, "notes", ())
    unused = self.needs == "nothing" and getattr(self.source, "key", "") == "target"
    return own + (f"{self.user} does not look at the target images",) * unused

  @property
  def digest(self):
    return self.source.digest

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    example = self.source[i]
    height, width = example["image"].shape[:2]
    if height < self.least[0] or width < self.least[1]:
      raise UserError(
        f"{self.names[i]}: the image is {width}x{height} pixels (width x height), smaller than the "
        f"crops of {self.least[1]}x{self.least[0]}, which {self.user} scores to the last pixel; "
        "use a smaller data.size, or 'resize' in place of 'crop'"
      )
    label = np.uint8(0) if self.needs == "nothing" else example["target"]
    return dict(image=example["image"], label=label)


def labelled(source, needs, what, user, least=(0, 0)):
  """A source whose examples have the "label" that a task needs.

  Args:
    source: any.
    needs: "mask" (u8[H,W]), "masks" (sets of classes int[H,W], see `label_sets`), "class" (u8[]),
      "target" (u8[H,W,3]) or "nothing" (0, whatever the source has).
    what: the source, for the message.
    user: name of the task or net that needs it, for the message.
    least: (height, width) of its smallest images, pixels; for "target" and "nothing" alone.

  Raises:
    UserError: the source's examples have another kind of label; when it is read, a smaller image.
  """
  if needs != "nothing":
    example = source[0]
    label = example.get("label", example.get("target"))
    if label is None:
      raise UserError(
        f"{what}, example {source.names[0]!r} has an image alone, {user} needs {KINDS[needs]}"
      )
    mask = "masks" if source.labels.overlapping else "mask"
    found = ("class", "", mask, "target")[np.ndim(label)]
    if found != needs:
      raise UserError(
        f"{what} has {KINDS[found]}, {user} needs {KINDS[needs]}; choose another data.source or "
        "another task"
      )
  return (
    source if needs in ("mask", "masks", "class") else _Labelled(source, needs, user, tuple(least))
  )
