"""Anybody's own images: with masks, with classes, with target images, by themselves."""

from __future__ import annotations

import dataclasses
import functools

from segjax.data import (
  class_files,
  class_masks,
  decoding,
  files,
  georeferences,
  layouts,
  lists,
  meaning,
)  # fmt: skip
from segjax.data.labels import IGNORE, LabelTable, default_table, read_table
from segjax.errors import UserError

KINDS = ("segmentation", "multi_label", "classification", "pairs", "images")


def folder(
  split,
  *,
  folder="",
  kind="segmentation",
  images="images",
  masks="masks",
  targets="targets",
  mask_suffix="",
  classes=(),
  ignore_value=IGNORE,
  ignore_colors=(),
  shift=0,
  split_by="auto",
  train_fraction=0.9,
  split_seed=0,
):
  """Anybody's own images and masks, paired by file name; or classes, or target images.

  One of these layouts:

  - `<folder>/train/images/x.jpg` + `<folder>/train/masks/x.png`, and `val/` (`valid/`,
    `validation/`, or `test/` where there is none of them), and perhaps `test/`;
  - `<folder>/images/train/x.jpg` + `<folder>/masks/train/x.png`, and `val/` likewise;
  - `<folder>/images/x.jpg` + `<folder>/masks/x.png`, split by lists of names (`train.txt`,
    `val.txt` and perhaps `test.txt`) or by seed.

  Images may lie beside `masks/` without a folder of their own, and masks, or target images, among
  the images as `x_mask.png` with any one ending. Subfolders of `images/` that `masks/` has too are
  read. Lists beside split folders choose among their files.

  A mask is a grey or palette image of class numbers, or an RGB image in the classes' colours; see
  `segjax.data.meaning` for grey and palette images where `classes.txt` gives colours, and for
  masks that hold 0 and 255 alone. JPEG masks are refused. `<folder>/classes.txt` names the
  classes, one on each line: `name` or `name red green blue`.

  Args:
    split: "train", "val" or "test".
    folder: folder of the set; empty for `$SEGJAX_DATA/folder`.
    kind: "segmentation": images and masks; "multi_label": a mask for each class, which may overlap,
      see `class_masks`; "classification": the folder or the name of a file is its class, see
      `class_files.class_files`; "pairs": `targets/` in place of `masks/`, the example is {"image",
      "target": u8[H,W,3]}, of one size, and there are no classes; "images": the images of
      `images/`, or of the folder itself, for tasks without labels; they have one class.
    images: name of the folder of images.
    masks: name of the folder of masks.
    targets: name of the folder of target images.
    mask_suffix: end of the masks' names beyond the images', such as "_mask"; empty to find it.
    classes: class names in the order of their values; empty to read `classes.txt`, which
      classification does without.
    ignore_value: number in a mask that is not scored.
    ignore_colors: colours of RGB masks that are not scored, ((red, green, blue), ...).
    shift: added to the numbers in a mask to count from 0; -1 for masks that count from 1.
    split_by: "files", "seed" or "auto"; without split folders. See `kitti_road`.
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: random seed of the split.
  """
  if kind not in KINDS:
    raise UserError(f"folder: kind is {kind!r}, expected one of {', '.join(KINDS)}")
  root = files.data_folder(folder, "folder")
  how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
  names = _class_names(classes)
  if kind == "classification":
    if not names and (root / "classes.txt").is_file():
      names = read_table(root / "classes.txt").names
    return class_files.class_files(root, split, names, **how)
  if kind == "multi_label":
    if ignore_colors or shift:
      raise UserError("folder: kind 'multi_label' has masks of numbers, without shift and colours")
    fields = dict(images=images, masks=masks, mask_suffix=mask_suffix, ignore_value=ignore_value)
    return class_masks.class_masks(root, split, names, **fields, **how)
  if kind == "images":
    return class_files.unlabelled_files(root, split, images, **how)
  if kind == "pairs":
    found = layouts.find(root, split, images, targets, mask_suffix, "targets")
    labels, key, read_label, notes = LabelTable(()), "target", decoding.read_image, ()
  else:
    found = layouts.find(root, split, images, masks, mask_suffix)
    labels = default_table(names) if names else read_table(root / "classes.txt")
    fields = dict(ignore_value=ignore_value, ignore_colors=ignore_colors, shift=shift)
    key, (read_label, notes) = "label", _label_reader(labels, found, masks, **fields)
  part = split if split in found.images else "all"
  image_files, label_files = found.images[part], found.labels[part]
  chosen, left = lists.split_part(root, split, list(image_files), part != "all", **how)
  remarks = (*found.notes, *notes, *left)
  source = files.paired(labels, root, chosen, image_files, label_files, read_label, key, remarks)
  return dataclasses.replace(source, elsewhere=layouts.others_images(root, split, found, **how))


def _label_reader(labels, found, where, *, ignore_value, ignore_colors, shift):
  """(label file -> u8[H,W], notes) for the masks of a `layouts.Layout`."""
  values = {i - shift: i for i in range(len(labels))} | {ignore_value: IGNORE}
  # Those of test decide nothing: what a mask means is settled by the splits of the training.
  parts = [files for part, files in found.labels.items() if part != lists.TEST]
  mask_files = [file for part in parts for file in part.values()]
  ignored = _colors(ignore_colors, labels)
  how, notes = meaning.decide(labels, values, ignored, mask_files, where)
  if ignore_value + shift in range(len(labels)):
    name = labels.names[ignore_value + shift]
    notes += (f"ignore_value {ignore_value} is also the number of the class {name!r}",)
  notes += georeferences.missing_note(mask_files, labels, values)
  return functools.partial(meaning.read, meaning=how), notes


def _class_names(classes):
  """The field `classes` as a tuple; a UserError for a text and for a name that is there twice."""
  one = len(classes) == 1 and "," in str(classes[0])
  if isinstance(classes, str) or one or not all(map(str.strip, classes)):
    raise UserError(f"folder: classes is {classes!r}, expected names such as ('road', 'car')")
  twice = [name for i, name in enumerate(classes) if name in classes[:i]]
  if twice:
    raise UserError(f"folder: classes has {twice[0]!r} more than once; a name stands for one class")
  return tuple(classes)


def _colors(ignored, labels):
  """The field `ignore_colors` as a tuple of colours; one colour by itself will do."""
  if len(ignored) == 3 and all(isinstance(v, int) for v in ignored):
    ignored = (ignored,)
  for color in ignored:
    if not (
      isinstance(color, tuple | list)
      and len(color) == 3
      and all(isinstance(v, int) and 0 <= v <= 255 for v in color)
    ):
      raise UserError(
        f"folder: ignore_colors has {color!r}, expected (red, green, blue) from 0 to 255"
      )
  ignored = tuple(map(tuple, ignored))
  for i in labels.own_colors:
    if labels.classes[i][1] in ignored:
      raise UserError(
        f"folder: ignore_colors has {labels.classes[i][1]}, the colour of {labels.names[i]!r} in "
        "classes.txt; a colour stands for one of them"
      )
  return ignored
