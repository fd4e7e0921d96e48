"""Everyday scenes: ADE20K."""

from __future__ import annotations

import colorsys
import csv

from segjax.data import files, lists, masks
from segjax.data.labels import IGNORE, table_of
from segjax.errors import UserError

NUM_CLASSES = 150
# objectInfo150.csv parts words by the same ";" as synonyms: these names are longer than a word.
LONG_NAMES = (
  "arcade machine", "bulletin board", "chest of drawers", "coffee table", "conveyer belt",
  "crt screen", "dirt track", "kitchen island", "pool table", "screen door", "swimming pool",
  "swivel chair", "trade name", "traffic light",
)  # fmt: skip
GOLDEN = 0.618034  # steps of this hue keep the frequent classes, the first ones, apart


def ade20k(
  split,
  *,
  folder="",
  all_below=10,
  split_by="auto",
  train_fraction=0.9,
  split_seed=0,
):
  """ADE20K scene parsing, 150 classes: Zhou et al., CVPR 2017.

  `<folder>/images/training/x.jpg` + `<folder>/annotations/training/x.png` (and `validation/`), or
  both without these folders, then split by lists of names (`train.txt`, `val.txt`) or by seed.
  Label values 1 to 150 become 0 to 149, 0 (other objects) is ignored. The names of the classes
  are those of `<folder>/objectInfo150.csv`, the first synonym; without the file `class_001`.

  Args:
    split: "train", "val" or "test".
    folder: folder that contains `images/`; empty for `$SEGJAX_DATA/ade20k`.
    all_below: with fewer pairs than this and no lists or folders of splits, both splits hold
      every pair, which suits samples.
    split_by: "files", "seed" or "auto"; without split folders. See `kitti_road`.
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: random seed of the split.
  """
  root = files.data_folder(folder, "ade20k")
  labels = _table(_class_names(root / "objectInfo150.csv"))
  part = "validation" if split == "val" else "training"
  has_splits = (root / "images" / part).is_dir()
  images, label_files = (
    files.images_by_stem(root / kind / part if has_splits else root / kind)
    for kind in ("images", "annotations")
  )
  names, notes = list(images), ()
  few = len(names) < all_below and split_by == "auto" and not lists.has_lists(root)
  if has_splits or few:
    why = "the labels of its test images are not public" if has_splits else "it has too few images"
    lists.require_test(split, False, root.absolute(), why)
    if not has_splits:
      notes = (
        f"both splits hold all {len(names)} images, fewer than all_below={all_below}: scores are "
        "of images that were trained on",
      )
  else:
    how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
    names, notes = lists.split_names(root, split, names, **how)
  values = {0: IGNORE} | {i + 1: i for i in range(NUM_CLASSES)}

  def read_label(file):
    return masks.read_values(file, labels, values)

  return files.paired(labels, root, names, images, label_files, read_label, remarks=notes)


def _table(names):
  """The classes in colours of ours: hues by the golden ratio, in three shades by turns."""
  colors = [
    colorsys.hsv_to_rgb(i * GOLDEN % 1, (0.85, 0.5, 0.9)[i % 3], (0.95, 0.9, 0.6)[i % 3])
    for i in range(len(names))
  ]
  rgb = [tuple(round(255 * v) for v in c) for c in colors]
  return table_of(zip(names, rgb, strict=True))


def _class_names(file):
  """The first name of each of the 150 classes."""
  if not file.is_file():
    return tuple(f"class_{i + 1:03d}" for i in range(NUM_CLASSES))
  rows = list(csv.DictReader(lists.read_text(file).splitlines()))
  numbers = [row.get("Idx") for row in rows]
  wanted = list(map(str, range(1, NUM_CLASSES + 1)))
  if sorted(map(str, numbers)) != sorted(wanted) or not all(row.get("Name") for row in rows):
    columns = lists.some(list(rows[0]) if rows else ())
    raise UserError(
      f"{file}: found {len(rows)} rows with the columns {columns}, expected a table with commas, "
      f"the columns Idx and Name and a row for each of 1 to {NUM_CLASSES}; take the file of the "
      "set, or remove it"
    )
  rows.sort(key=lambda row: int(row["Idx"]))
  return tuple(_first_name(row["Name"]) for row in rows)


def _first_name(synonyms):
  words = synonyms.replace(";", " ")
  return next((n for n in LONG_NAMES if words.startswith(n)), synonyms.partition(";")[0])
