"""LabelMe's JSON: a file per image, beside it."""

from __future__ import annotations

import base64
import binascii
import io
from collections import Counter

import numpy as np
from PIL import Image

from segjax.data.annotations.shapes import (
  ANEW,
  Annotations,
  Picture,
  Shape,
  class_name,
  ellipse,
  expecting,
  not_drawn,
  polygon,
  rectangle,
)
from segjax.errors import UserError
from segjax.textfiles import read_json


def read(source):
  """Reads the JSON files of a folder and its subfolders; classes in the order of their names.

  Polygons, rectangles, circles and masks are areas; points and lines are counted in a note.
  """
  found = sorted(source.rglob("*.json")) if source.is_dir() else [source]
  read = [(file, read_json(file, (dict, list), mend=ANEW)) for file in found]
  read = [
    (file, value)
    for file, value in read
    if isinstance(value, dict) and "shapes" in value and "imagePath" in value
  ]
  if not read:
    raise UserError(f"{source}: expected JSON files of LabelMe in it, with shapes and imagePath")
  pictures, left = [], Counter()
  for file, value in read:
    shapes = []
    for i, entry in enumerate(value["shapes"]):
      with expecting("a shape of LabelMe", f"{file}: shape {i}", ANEW):
        shapes.append(_shape(entry, f"{file}: shape {i}"))
    with expecting("LabelMe's JSON", file, ANEW):
      image = file.parent / str(value["imagePath"]).replace("\\", "/")
      sizes = [value.get(f"image{side}") for side in ("Height", "Width")]
      size = tuple(map(int, sizes)) if all(sizes) else None
    left.update(s for s in shapes if isinstance(s, str))
    pictures.append(Picture(image, tuple(s for s in shapes if isinstance(s, Shape)), size))
  names = tuple(sorted({s.name for p in pictures for s in p.shapes}))
  return Annotations(names, tuple(pictures), not_drawn("shapes without an area", left))


def _shape(value, where):
  """Shape of an entry, or the name of a kind that has no area."""
  kind, points = value.get("shape_type") or "polygon", value["points"]
  name = class_name(value["label"], where)
  if kind == "polygon":
    return Shape(name, (polygon(points, where),))
  if kind == "rectangle":
    (x0, x1), (y0, y1) = (sorted(v) for v in zip(*points, strict=True))
    return Shape(name, (rectangle(x0, y0, x1 - x0, y1 - y0),))
  if kind == "circle":
    (x, y), edge = points
    radius = float(np.hypot(edge[0] - x, edge[1] - y))
    return Shape(name, (ellipse(x, y, radius, radius),))
  if kind == "mask":
    try:
      with Image.open(io.BytesIO(base64.b64decode(value["mask"])), formats=("PNG",)) as image:
        pixels = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError) as error:
      raise UserError(f"{where}: its mask is not a PNG ({error})") from None
    left, top = (round(v) for v in points[0])
    return Shape(name, pixels=pixels, corner=(top, left))
  return kind
