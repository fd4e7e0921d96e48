"""An annotation tool's export as a folder of images and masks, for launch/prepare_data.py."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from segjax import errors
from segjax.data import decoding, files, lists
from segjax.data.annotations import coco, cvat, label_studio, labelme, yolo
from segjax.data.annotations.drawing import RULE, draw
from segjax.data.labels import IGNORE, parse_table
from segjax.data.lists import TEST
from segjax.errors import UserError, choose

__all__ = ["READERS", "convert"]

READERS = {
  "coco": coco.read,
  "cvat": cvat.read,
  "label_studio": label_studio.read,
  "labelme": labelme.read,
  "yolo": yolo.read,
}
BACKGROUND = "background"
NOT_SCORED = "__ignore__"  # of LabelMe
JPEG = (".jfif", ".jpe")  # which become .jpg, as training reads it


def convert(tool, source, output, *, images=None, unlabelled=BACKGROUND):
  """Writes `images/`, `masks/` and `classes.txt` of an export, and prints how to train from them.

  Pixels without a shape are the class "background", number 0 where the export has no such class.
  Images are copied as they are; nothing is left where an image or an entry is broken.

  Args:
    tool: one of `READERS`.
    source: Path of the export, a folder or a file.
    output: Path of the folder to be made.
    images: Path of the folder of the images; None: that of the export.
    unlabelled: "background", or "ignore": such pixels are not scored.

  Raises:
    UserError: a file is missing or broken, or names do not fit a folder of masks.
  """
  reader = choose(READERS, tool, "annotation tool")
  if unlabelled not in (BACKGROUND, "ignore"):
    raise UserError(f"--unlabelled is {unlabelled!r}, expected background or ignore")
  if not source.exists():
    raise UserError(f"no {source.absolute()}; expected an export of {tool}")
  if output.exists():
    raise UserError(f"{output} is there already; remove it, or choose another folder")
  source, images = source.absolute(), images and images.absolute()
  found = _splits(reader(source))
  root = images or (source if source.is_dir() else source.parent)
  names, numbers, empty, notes = _classes(found.names, unlabelled)
  found = dataclasses.replace(found, notes=(*found.notes, *notes))
  _check_names(names)
  targets, elsewhere = _targets(found.pictures, root)
  lone = () if tool == "yolo" else _without_annotation(targets)  # which names them itself
  found = dataclasses.replace(found, notes=(*found.notes, *elsewhere, *lone))
  with errors.writing(output):
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
      part = Path(folder) / output.name
      part.mkdir()
      text = "".join(f"{name}\n" for name in names)
      (part / "classes.txt").write_text(text, encoding="utf-8")
      overlap, pixels, empty_shapes, counts, values = 0, 0, 0, Counter(), set()
      for picture, (file, name) in tqdm(
        list(zip(found.pictures, targets, strict=True)), "drawing masks", leave=False, disable=None
      ):
        twice, lost, mask = _write(picture, file, part, name, numbers, empty)
        overlap, empty_shapes, pixels = overlap + twice, empty_shapes + lost, pixels + mask.size
        counts.update(numbers[s.name] for s in picture.shapes)
        if picture.split != TEST:
          values.update(np.unique(mask).tolist())
      if len(names) == 2 and values == {0, IGNORE}:
        raise UserError(
          f"train and val have no pixel of {names[1]!r}, and masks of 0 and 255 alone would be "
          f"read as {names[0]!r} and {names[1]!r}; leave that class out of the export, or "
          "--unlabelled=ignore out"
        )
      part.rename(output)
  if empty_shapes:
    note = (
      f"{empty_shapes} shapes cover no pixel: they lie outside of their images, or are too thin"
    )
    found = dataclasses.replace(found, notes=(*found.notes, note))
  _describe(output, found, names, counts, overlap / max(pixels, 1))


def _classes(names, unlabelled):
  """What a mask holds.

  Args:
    names: the export's.
    unlabelled: see `convert`.

  Returns:
    (classes in the order of their numbers, {name of the export: number}, number of pixels without a
    shape, notes).
  """
  twice = [n for n, count in Counter(names).items() if count > 1]
  if twice:
    raise UserError(f"the export has two classes {twice[0]!r}; rename one of them")
  ignored = [n for n in names if n == NOT_SCORED]
  others = [n for n in names if n != BACKGROUND and n.strip("_ ").casefold() == BACKGROUND]
  kept = tuple(n for n in names if n not in (*ignored, *others))
  if (others or unlabelled != "ignore") and BACKGROUND not in kept:
    kept = (BACKGROUND, *kept)
  numbers = {name: i for i, name in enumerate(kept)} | dict.fromkeys(ignored, IGNORE)
  numbers |= {name: kept.index(BACKGROUND) for name in others}
  if not 0 < len(kept) < IGNORE:
    raise UserError(f"the export has {len(kept)} classes, expected 1 to {IGNORE - 1}")
  notes = [f"{name!r} is read as {BACKGROUND!r}" for name in others]
  notes += [f"{name!r} is not scored: {IGNORE} in the masks" for name in ignored]
  notes += [text for i, name in enumerate(kept) for text in lists.alike([name], kept[:i])]
  empty = IGNORE if unlabelled == "ignore" else kept.index(BACKGROUND)
  return kept, numbers, empty, notes


def _splits(found):
  """`found` without its splits, and with a note, where it has no train beside val or test."""
  splits = {p.split for p in found.pictures}
  if {""} == splits or ({"train"} < splits and "" not in splits):
    return found
  pictures = tuple(dataclasses.replace(p, split="") for p in found.pictures)
  there = ", ".join(sorted(splits - {""})) or "none"
  note = f"the export has no train beside val or test ({there}): a tenth is held back by seed"
  return dataclasses.replace(found, pictures=pictures, notes=(*found.notes, note))


def _targets(pictures, root):
  """([(image file, name of both new files) of each picture], notes)."""
  everywhere, targets, taken, moved = None, [], {}, []
  for picture in pictures:
    file = root / picture.image
    if not file.is_file():
      if everywhere is None:
        everywhere = {}
        for other in sorted(root.rglob("*")):
          if other.suffix.lower() in files.IMAGE_ENDINGS:
            everywhere.setdefault(other.name, []).append(other)
      matches = [f for n in (picture.image.name, _without_prefix(picture.image.name))
                 for f in everywhere.get(n, ())]  # fmt: skip
      if len(set(matches)) != 1:
        many = f"{len(set(matches))} files of its name" if matches else "no file of its name"
        raise UserError(
          f"{file}: the annotations name this image; there is {many} in {root.absolute()}: put it "
          "there, or say where the images are with --images"
        )
      file = matches[0]
      parts = picture.image.parts
      if len(parts) > 1 and file.parts[-len(parts) :] != parts:
        moved.append(f"{file.relative_to(root)} for {picture.image}")
    if file.suffix.lower() not in (*files.IMAGE_ENDINGS, *JPEG):
      endings = ", ".join((*files.IMAGE_ENDINGS, *JPEG))
      raise UserError(f"{file}: an image of another ending, expected {endings}; convert it")
    name = Path(picture.split) / file.stem
    if name in taken:
      if file == taken[name]:
        raise UserError(f"{file}: the export lists this image twice; leave one entry of it")
      raise UserError(f"{file} and {taken[name]} have one name; rename one of them")
    taken[name] = file
    targets.append((file, name))
  notes = (f"{lists.count(moved, 'image')} taken by the name alone: {lists.some(moved)}",)
  return targets, notes * bool(moved)


def _without_annotation(targets):
  """A sentence about images beside those of the export that it does not list."""
  whole = [Path(os.path.normpath(file)) for file, _ in targets]
  taken, folders = set(map(os.fspath, whole)), sorted({file.parent for file in whole})
  found = (file for folder in folders for file in files.entries(folder).files)
  lone = [file.name for file in found if os.fspath(file) not in taken]
  text = f"{lists.count(lone, 'image')} without an annotation left out: {lists.some(lone)}"
  return (text,) * bool(lone)


def _without_prefix(name):
  """Label Studio puts eight hexadecimal digits before the name of an uploaded file."""
  return re.sub(r"^[0-9a-f]{8}-(?=.)", "", name)


def _write(picture, file, folder, name, numbers, empty):
  """Writes an image and its mask; returns the two numbers of `draw`, and the mask."""
  width, height = decoding.decode(file, file, mask=False).image.size
  if picture.size not in (None, (height, width)):
    raise UserError(
      f"{file}: {height} x {width} (height x width), the annotations are of {picture.size[0]} x "
      f"{picture.size[1]}: the image was changed, or its EXIF orientation was"
    )
  mask, twice, lost = draw(picture.shapes, numbers, (height, width), empty)
  ending = file.suffix.lower()
  ending = ".jpg" if ending in JPEG else ending
  image = folder / "images" / name.with_name(f"{name.name}{ending}")
  target = folder / "masks" / name.with_name(f"{name.name}.png")
  for made in (image, target):
    made.parent.mkdir(parents=True, exist_ok=True)
  shutil.copyfile(file, image)
  Image.fromarray(mask).save(target)
  return twice, lost, mask


def _check_names(names):
  """Raises a UserError where classes.txt would be read as other names."""
  rows = [(i, name.strip()) for i, name in enumerate(names, 1)]
  read = parse_table(rows, "the export's classes, as classes.txt").names
  for wanted, found in zip(names, (*read, *[""] * len(names)), strict=False):
    if wanted != found:
      raise UserError(f"the class {wanted!r} would be read as {found!r} in classes.txt; rename it")


def _describe(output, found, names, counts, overlap):
  splits = Counter(p.split for p in found.pictures)
  several = f" ({', '.join(f'{n} {s}' for s, n in splits.items())})" if len(splits) > 1 else ""
  print(f"{output}: {len(found.pictures)} images with masks{several}")
  print("  classes: " + ", ".join(f"{i} {n} ({counts[i]} shapes)" for i, n in enumerate(names)))
  print(f"  {RULE}: {100 * overlap:.2f} % of the pixels")
  bare = sum(not p.shapes for p in found.pictures)
  notes = (*found.notes, f"{bare} images without a shape") if bare else found.notes
  for note in notes:
    print(f"  note: {note}")
  print("train from it:")
  print("  python launch/train.py --config=configs/segmentation_folder.py "
        f"--config.data.source.folder={shlex.quote(str(output))}")  # fmt: skip
