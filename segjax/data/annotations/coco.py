"""COCO's JSON: polygons and run lengths, a file per split."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter
from pathlib import Path

from segjax.data.annotations.shapes import (
  ANEW,
  SPLITS,
  Annotations,
  Picture,
  Shape,
  class_name,
  expecting,
  not_drawn,
  of_pixels,
  polygon,
  runs,
)
from segjax.errors import UserError
from segjax.textfiles import read_json


def read(source):
  """Reads a JSON file, or all of a folder and of its folder `annotations`.

  A file whose name holds train, val or test is that split. Crowds (`iscrowd`) are areas of their
  class. Annotations without a segmentation (boxes, keypoints) are counted in a note.
  """
  values = {source: _load(source)} if source.is_file() else _values(source)
  if not values:
    raise UserError(f"{source}: expected a JSON file in it, or in {source / 'annotations'}")
  several = len(values) > 1
  read = {f: _read_value(f, v, split_of(f.stem) if several else "") for f, v in values.items()}
  first, names = next((file, found.names) for file, found in read.items())
  for file, found in read.items():
    if found.names != names:
      raise UserError(f"{file}: its categories are {found.names}, those of {first} {names}")
  pictures = tuple(p for found in read.values() for p in found.pictures)
  return Annotations(names, pictures, tuple(n for found in read.values() for n in found.notes))


def split_of(stem):
  """The split that a file's name holds as a word, or ""."""
  words = "".join(c if c.isalpha() else " " for c in stem.lower()).split()
  return next((SPLITS[word] for word in words if word in SPLITS), "")


def _values(folder):
  """{file: value} of the JSON files that list images."""
  files = sorted([*folder.glob("*.json"), *(folder / "annotations").glob("*.json")])
  values = {file: _load(file) for file in files}
  return {f: v for f, v in values.items() if isinstance(v, dict) and "images" in v}


def _load(file):
  return read_json(file, (dict, list), mend=ANEW)


def _read_value(file, value, split):
  for key in ("images", "annotations", "categories"):
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
      raise UserError(f"{file}: expected COCO's JSON with a list {key!r} in it")
  with expecting("COCO's JSON", file, ANEW):
    for key in ("images", "categories"):
      _require_ids(file, key, value[key])
    categories = {
      c["id"]: class_name(c["name"], f"{file}: category {c['id']}")
      for c in sorted(value["categories"], key=itemgetter("id"))
    }
    images = {i["id"]: i for i in value["images"]}
    sizes = {k: (int(i["height"]), int(i["width"])) for k, i in images.items()}
  shapes, without = {k: [] for k in images}, Counter()
  for place, a in enumerate(value["annotations"]):
    where = f"{file}: annotation {a.get('id', place) if isinstance(a, dict) else place}"
    with expecting("an annotation of COCO", where, ANEW):
      if a["image_id"] not in images or a["category_id"] not in categories:
        raise UserError(f"{where}: its image or category is not in the file")
      name = categories[a["category_id"]]
      if a.get("segmentation"):
        shapes[a["image_id"]].append(_shape(name, a["segmentation"], sizes[a["image_id"]], where))
      else:
        without[name] += 1
  with expecting("COCO's JSON", file, ANEW):
    pictures = tuple(
      Picture(_path(i["file_name"]), tuple(shapes[k]), sizes[k], split) for k, i in images.items()
    )
  notes = not_drawn("annotations without a segmentation", without)
  return Annotations(tuple(categories.values()), pictures, notes)


def _require_ids(file, key, entries):
  """Raises a UserError for two entries of one id, as where files were put together."""
  twice = [k for k, times in Counter(e["id"] for e in entries).items() if times > 1]
  if twice:
    raise UserError(f"{file}: two entries of {key!r} have the id {twice[0]!r}; number them anew")


def _path(name):
  """A path as Linux or Windows writes it."""
  return Path(str(name).replace("\\", "/"))


def _shape(name, segmentation, size, where):
  if isinstance(segmentation, list):
    if min(size) > 2 and all(0 <= v <= 1 for numbers in segmentation for v in numbers):
      raise UserError(f"{where}: found numbers from 0 to 1 alone, expected pixels; {ANEW}")
    return Shape(name, tuple(polygon(numbers, where) for numbers in segmentation))
  counts = segmentation["counts"]
  if isinstance(counts, str):
    counts = unpack(counts)
  found = tuple(segmentation["size"])
  if found != size:
    raise UserError(f"{where}: its run lengths are of {found}, the image of {size}")
  return of_pixels(name, runs(counts, size, where, order="F"))


def unpack(text):
  """Run lengths of COCO's compressed text.

  A number is written in groups of five bits, the lowest first, with 32 added while more follow and
  48 to make them printable; its sign is the highest bit of the last group. From the fourth number
  on it is the difference to the number two places before.

  >>> unpack("52203")
  [5, 2, 2, 2, 5]
  """
  counts, i = [], 0
  while i < len(text):
    number, shift, more = 0, 0, True
    while more:
      group = ord(text[i]) - 48
      number |= (group & 31) << shift
      more, shift, i = bool(group & 32), shift + 5, i + 1
      if not more and group & 16:
        number -= 1 << shift
    counts.append(number + (counts[-2] if len(counts) > 2 else 0))
  return counts
