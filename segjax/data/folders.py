"""Anybody's own images: with masks, with classes, with target images, by themselves."""

from __future__ import annotations

from segjax.data import classification, files
from segjax.data.labels import IGNORE, LabelTable, default_table
from segjax.errors import UserError

KINDS = ("segmentation", "classification", "pairs", "images")


def folder(
  split,
  *,
  folder="",
  kind="segmentation",
  images="images",
  masks="masks",
  targets="targets",
  classes=(),
  ignore_value=IGNORE,
  split_by="auto",
  train_fraction=0.9,
  split_seed=0,
):
  """Anybody's own images and masks, paired by file stem; or classes, or target images.

  Either `<folder>/train/images/x.jpg` + `<folder>/train/masks/x.png` (and `val/`, or `test/` in
  its place), or `<folder>/images/` + `<folder>/masks/` split by lists of stems (`train.txt`,
  `val.txt`) or by seed. A mask is a palette or grey image of class indices, or an RGB image in
  the classes' colours. `<folder>/classes.txt` names the classes, a line each: `name` or
  `name red green blue`.

  Args:
    split: "train" or "val".
    folder: see above; empty for `$SEGJAX_DATA/folder`.
    kind: "segmentation": as above; "classification": one folder or name a class, see
      `classification.class_files`; "pairs": `targets/` in place of `masks/`, the example is
      {"image", "target": u8[H,W,3]}, of one size, and there are no classes; "images": the images
      of `images/`, or of the folder itself, for tasks without labels; they have one class.
    images: name of the folder of images.
    masks: name of the folder of masks.
    targets: name of the folder of target images.
    classes: class names in the order of their values; empty to read `classes.txt`, which
      classification does without.
    ignore_value: mask value that is not scored.
    split_by: "files", "seed" or "auto"; without split folders. See `driving.kitti_road`.
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: of the seeded split.
  """
  if kind not in KINDS:
    raise UserError(f"folder: kind is {kind!r}, expected one of {', '.join(KINDS)}")
  if isinstance(classes, str):
    raise UserError(f"folder: classes is {classes!r}, expected names such as ('road', 'car')")
  root = files.data_folder(folder, "folder")
  how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
  if kind == "classification":
    named = (root / "classes.txt").is_file() and not classes
    names = _read_classes(root / "classes.txt").names if named else tuple(classes)
    return classification.class_files(root, split, names, **how)
  has_splits = (root / "train").is_dir()
  base = root
  if has_splits:
    base = files.first_folder(root, ("train",) if split == "train" else ("val", "test"))

  def names_of(found):
    return list(found) if has_splits else files.split_names(root, split, list(found), **how)

  if kind == "images":
    found = files.images_by_stem(base / images if (base / images).is_dir() else base)
    names = tuple(names_of(found))
    pairs = tuple((found.get(n), 0) for n in names)
    notes = files.folder_notes(root, found.values())
    return classification.ClassFiles(default_table(("image",)), root, names, pairs, notes)
  if kind == "pairs":
    labels, key, of = LabelTable(()), "target", targets
    read_label = files.read_image
  else:
    labels = default_table(tuple(classes)) if classes else _read_classes(root / "classes.txt")
    values = {i: i for i in range(len(labels))} | {ignore_value: IGNORE}
    key, of = "label", masks

    def read_label(file):
      return files.read_mask(file, labels, values)

  found, label_files = files.images_by_stem(base / images), files.images_by_stem(base / of)
  return files.paired(labels, root, names_of(found), found, label_files, read_label, key)


def _read_classes(file):
  if not file.is_file():
    raise UserError(
      f"no {file.absolute()}; write one class a line, 'name' or 'name red green blue', in the "
      "order of the label values, or set --config.data.source.classes"
    )
  rows = [line.split() for line in files.read_list(file)]
  for number, row in enumerate(rows, 1):
    if len(row) not in (1, 4) or not all(v.isdigit() and int(v) < 256 for v in row[1:]):
      raise UserError(
        f"{file}, line {number}: found {' '.join(row)!r}, expected 'name' or 'name red green blue'"
      )
  plain = default_table(tuple(row[0] for row in rows)).classes
  return LabelTable(
    tuple(
      (row[0], tuple(int(v) for v in row[1:])) if len(row) == 4 else plain[i]
      for i, row in enumerate(rows)
    )
  )
