"""Label Studio's JSON export: polygons, brushes, rectangles, ellipses in per cent of an image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np

from segjax.data import lists
from segjax.data.annotations.shapes import (
  ANEW,
  Annotations,
  Picture,
  Shape,
  ellipse,
  expecting,
  not_drawn,
  of_pixels,
  polygon,
  rectangle,
)
from segjax.errors import UserError
from segjax.textfiles import read_json

LABELS = ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels")


def read(source):
  """Reads the JSON file of an export, or the one of a folder; classes sorted by name.

  The first annotation that was not cancelled is taken of each task; tasks without one are named in
  a note, as are regions without an area.
  """
  files = [source] if source.is_file() else sorted(source.glob("*.json"))
  if len(files) != 1:
    raise UserError(f"{source}: expected one JSON file of Label Studio, found {len(files)}")
  file, pictures, without, left = files[0], [], [], Counter()
  for i, task in enumerate(read_json(file, list, mend=ANEW)):
    where = f"{file}: task {task.get('id', i) if isinstance(task, dict) else i}"
    with expecting("Label Studio's export", where):
      image = _image(task["data"], where)
      done = [a for a in task["annotations"] if not a.get("was_cancelled")]
      if not done:
        without.append(image.name)
        continue
      regions = [r for r in done[0]["result"] if "original_width" in r]
      left.update(r["type"] for r in regions if r["type"] not in LABELS)
      regions = [r for r in regions if r["type"] in LABELS]
      sizes = {(int(r["original_height"]), int(r["original_width"])) for r in regions}
      shapes = tuple(_shape(r, where) for r in regions)
    pictures.append(Picture(image, shapes, sizes.pop() if len(sizes) == 1 else None))
  names = tuple(sorted({s.name for p in pictures for s in p.shapes}))
  notes = not_drawn("regions without an area", left)
  if without:
    said = f"{len(without)} tasks have no annotation and are left out: {lists.some(without)}"
    notes = (said, *notes)
  return Annotations(names, tuple(pictures), notes)


def _image(data, where):
  """Path of a task's image: the only text of its data that names an image file."""
  texts = [v for v in data.values() if isinstance(v, str)]
  texts = [data["image"]] if "image" in data else texts
  if len(texts) != 1:
    raise UserError(f"{where}: expected one image in its data, found {sorted(data)}")
  url = urlparse(texts[0])
  return Path(parse_qs(url.query).get("d", [unquote(url.path)])[0].lstrip("/"))


def _shape(region, where):
  value, kind = region["value"], region["type"]
  (name, *more), where = value[kind], f"{where}, region {region.get('id')}"
  if float(region.get("image_rotation") or 0) % 360:
    raise UserError(
      f"{where}: the image was turned by {region['image_rotation']} degrees in the tool; turn the "
      "file itself, and label that"
    )
  if more:
    raise UserError(f"{where}: found the classes {value[kind]}, expected one for each region")
  width, height = int(region["original_width"]), int(region["original_height"])
  sx, sy, turned = width / 100, height / 100, float(value.get("rotation", 0))
  if kind == "polygonlabels":
    return Shape(str(name), (polygon(value["points"], where, (sx, sy)),))
  if kind == "rectanglelabels":
    box = (value["x"] * sx, value["y"] * sy, value["width"] * sx, value["height"] * sy)
    return Shape(str(name), (rectangle(*box, degrees=turned, pivot="corner"),))
  if kind == "ellipselabels":
    radii = (value["radiusX"] * sx, value["radiusY"] * sy)
    return Shape(str(name), (ellipse(value["x"] * sx, value["y"] * sy, *radii, degrees=turned),))
  pixels = unpack(value["rle"], where)
  if pixels.size != 4 * width * height:
    raise UserError(f"{where}: its brush has {pixels.size // 4} pixels, expected {width * height}")
  return of_pixels(str(name), pixels.reshape(height, width, 4)[:, :, 3] > 0)


def unpack(data, where):
  """Bytes of a brush, red, green, blue, alpha of each pixel, as Label Studio compresses them.

  A stream of bits: 32 for the number of values, 5 for a value's bits less one, four times 4 for
  the bits, less one, of four kinds of lengths. Then runs: a bit that says whether one value is
  repeated, 2 bits for the kind of length, the length less one, and the value or all values.
  """
  bits, at = np.unpackbits(np.asarray(data, np.uint8)), 0

  def take(count):
    nonlocal at
    part = bits[at : at + count]
    if len(part) < count:
      raise UserError(f"{where}: its brush ends early")
    at += count
    return int("".join(map(str, part)), 2)

  total, word = take(32), take(5) + 1
  lengths = [take(4) + 1 for _ in range(4)]
  out, i = np.zeros(total, np.uint8), 0
  while i < total:
    repeated, length = take(1), take(lengths[take(2)]) + 1
    if repeated:
      out[i : i + length] = take(word)
    else:
      out[i : i + length] = [take(word) for _ in range(min(length, total - i))]
    i += length
  return out
