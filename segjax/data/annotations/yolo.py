"""YOLO's polygons: a text file per image, `class x y x y ...` in shares of the image's size."""

from __future__ import annotations

from pathlib import Path

import yaml

from segjax.data import decoding, files, lists
from segjax.data.annotations.shapes import Annotations, Picture, Shape, class_name, polygon
from segjax.errors import UserError

BEYOND = 2.0  # shares that are no outline which leaves the image a little
BOX = 5  # numbers in a row that is a box: class, center, size


def read(source):
  """Reads the folder of a `data.yaml` (or `*.yaml`), which names classes and folders of images.

  The text file of `images/train/x.jpg` is `labels/train/x.txt`; an image without one has no
  object.
  """
  given = [source] if source.is_file() else sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
  if len(given) != 1:
    raise UserError(f"{source}: expected one YAML file with the names of the classes, found "
                    f"{len(given)}")  # fmt: skip
  file = given[0]
  try:
    value = yaml.safe_load(lists.read_text(file))
  except yaml.YAMLError as error:
    raise UserError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
  names = value.get("names") if isinstance(value, dict) else None
  if isinstance(names, dict):
    numbered = {str(i): name for i, name in names.items()}
    if set(numbered) == set(map(str, range(len(names)))):
      names = [numbered[str(i)] for i in range(len(names))]
  if not isinstance(names, list) or not names:
    raise UserError(f"{file}: found names {names!r}, expected a list of the classes")
  names = tuple(class_name(name, file) for name in names)
  root = file.parent / str(value.get("path") or "")
  root = root if root.is_dir() else file.parent  # the path of the machine that wrote it
  pictures, notes = [], []
  for split in ("train", "val", "test"):
    for listed in _listed(value.get(split)):
      folder = _existing(file, root, listed)
      pictures += _pictures(folder, names, split)
      notes += files.unread(folder, root)
  if not pictures:
    raise UserError(f"{file}: no image in its folders train, val and test")
  return Annotations(names, tuple(pictures), tuple(dict.fromkeys(notes)))


def _listed(value):
  return value if isinstance(value, list) else [value] if value else []


def _existing(file, root, folder):
  """A folder of images; Roboflow writes "../train/images" for "train/images"."""
  plain = str(folder).replace("\\", "/")  # as Linux has it
  for place in (root / plain, root / plain.removeprefix("../")):
    if place.is_dir():
      return place
  raise UserError(f"{file}: names {folder!r}, but {(root / str(folder)).absolute()} is no folder")


def _pictures(folder, names, split):
  parts = list(folder.parts)
  if "images" not in parts:
    raise UserError(f"{folder}: expected a folder images/ in its path, beside labels/")
  last = len(parts) - 1 - parts[::-1].index("images")
  labels = Path(*parts[:last], "labels", *parts[last + 1 :])
  if not any(labels.glob("*.txt")):
    raise UserError(
      f"{folder}: no text file in {labels}; put the labels there, or leave {split} out of the YAML "
      "file"
    )
  for image in files.entries(folder).files:
    width, height = decoding.read_size(image) or decoding.read_image(image).shape[1::-1]
    text = labels / f"{image.stem}.txt"
    shapes = _shapes(text, names, (width, height)) if text.is_file() else ()
    yield Picture(image, shapes, (height, width), split)


def _shapes(file, names, scale):
  shapes = []
  for number, line in lists.read_lines(file):
    where, words = f"{file}, line {number}", line.split()
    try:
      index, numbers = int(words[0]), [float(w) for w in words[1:]]
    except ValueError:
      raise UserError(f"{where}: found {line[:60]!r}, expected class x y x y ...") from None
    if index not in range(len(names)):
      raise UserError(f"{where}: class {index}, expected 0 to {len(names) - 1}")
    if len(words) == BOX:
      raise UserError(f"{where}: a box; a mask needs polygons, class x y x y x y ...")
    far = max(numbers, key=abs, default=0)
    if abs(far) > BEYOND:
      raise UserError(
        f"{where}: found {far:g}, expected shares of the image's width and height, from 0 "
        "to 1; divide pixels by them"
      )
    shapes.append(Shape(names[index], (polygon(numbers, where, scale),)))
  return tuple(shapes)
