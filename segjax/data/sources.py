"""Random-access sources of labelled images.

A source has `labels` (a LabelTable), `names` (one string an example, unique), `len()` and
`source[i] -> {"image": u8[H,W,3], "label": u8[H,W]}` at the native size, with label values in
[0, len(labels)) or 255, ignore. For classification the label is a scalar, u8[]; of images with
target images the example is {"image", "target": u8[H,W,3]} and the table is empty.
`make(name, split, **fields)` builds one.
"""

from __future__ import annotations

import inspect

from segjax.data import aerial_sets, classification, driving, files, folders, scene_parsing
from segjax.data.aerial import aerial_scenes
from segjax.data.checks import check, without_broken
from segjax.data.files import SPLITS, list_images, read_image
from segjax.data.tfds_source import tfds_source
from segjax.errors import UserError, check_fields, choose

__all__ = ["SOURCES", "SPLITS", "check", "list_images", "make", "read_image", "without_broken"]

SOURCES = {
  "road_scenes": driving.road_scenes,
  "aerial_scenes": aerial_scenes,
  "kitti_road": driving.kitti_road,
  "camvid": driving.camvid,
  "floodnet": aerial_sets.floodnet,
  "landcover": aerial_sets.landcover,
  "dubai_aerial": aerial_sets.dubai_aerial,
  "ade20k": scene_parsing.ade20k,
  "digits": classification.digits,
  "folder": folders.folder,
  "tfds": tfds_source,
}


def make(name, split, *, complete=True, **fields):
  """Builds a source.

  Args:
    name: one of `SOURCES`.
    split: "train" or "val".
    complete: whether a missing file is an error here; if not, it is one when it is read, and
      `check` and `without_broken` find it.
    **fields: arguments of the source's function, see there.

  Raises:
    UserError: unknown name, field or split; no such folder; images without a label; empty split.
  """
  build = choose(SOURCES, name, "data source")
  check_fields(fields, list(inspect.signature(build).parameters)[1:], f"data source {name!r}")
  if split not in SPLITS:
    raise UserError(f"unknown split {split!r} (splits: {', '.join(SPLITS)})")
  source = build(split, **fields)
  if not len(source):
    raise UserError(f"data source {name!r}: split {split!r} is empty, expected at least 1 example")
  if complete:
    files.require_complete(source)
  return source
