"""Image files with one class each, by the names of folders or files.

An example is {"image": u8[H,W,3], "label": u8[]}, a scalar.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from segjax.data import contents, files, layouts, lists, paths
from segjax.data.labels import LabelTable, default_table
from segjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ClassFiles(contents.OfFiles):
  """Image files, each with a class.

  Attributes:
    labels: label table.
    root: folder of the set, for messages.
    names: one per file.
    pairs: (image file, class), with None for a missing file and its class.
    remarks, elsewhere: see `contents.OfFiles`.
    read_image: see `files.Files`.
  """

  labels: LabelTable
  root: Path
  names: tuple[str, ...]
  pairs: tuple[tuple[Path | None, int | None], ...]
  remarks: tuple[str, ...] = ()
  elsewhere: tuple[Path, ...] = ()
  read_image: Callable[[Path], np.ndarray] = files.read_image

  def __len__(self):
    return len(self.pairs)

  def __getitem__(self, i):
    file, number = self.pairs[i]
    if file is None:
      raise UserError(f"{self.root}: {self.names[i]!r} has no image")
    return dict(image=self.read_image(file), label=np.uint8(number))


def class_files(root, split, classes, *, split_by, train_fraction, split_seed):
  """Image files whose class is the name of their folder or the start of their own name.

  `<root>/train/<class>/x.jpg` (and `val/`, see `layouts.split_folders`), or
  `<root>/train/<class>_<id>.png`, or either without the folders of splits, then split by lists of
  names (`train.txt`, `val.txt`: "<class>/x" or "<class>_<id>") or by seed.

  Args:
    root: folder of the set.
    split: "train", "val" or "test".
    classes: class names in the order of their values; empty for those of all files (with folders
      of splits: of train), sorted.
    split_by: "files", "seed" or "auto"; see `kitti_road`.
    train_fraction: share of the examples in "train".
    split_seed: random seed of the split.

  Raises:
    UserError: a file of none of the classes.
  """
  folders, remarks = layouts.split_folders(root, split)
  base = layouts.require_part(folders, split, root) if folders else root
  found = _named(base)
  if not classes:
    everywhere = _named(folders.get("train", root)).values()
    classes = tuple(sorted({c for c, _ in everywhere if c}))  # "": a name without "_"
  how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
  names, notes = lists.split_part(root, split, list(found), bool(folders), **how)
  number = {name: i for i, name in enumerate(classes)}
  strange = [found[n] for n in names if n in found and found[n][0] not in number]
  if strange:
    (name, file), *_ = strange
    near = "".join(f"; {text}" for text in lists.alike([name], classes))
    raise UserError(
      f"{file}: class {name!r} is not one of the {len(classes)} classes "
      f"({lists.some(classes, 12)}){near}; {len(strange)} such file(s); expected <class>/<name> or "
      "<class>_<id>"
    )
  pairs = ((found[n][1], number[found[n][0]]) if n in found else (None, None) for n in names)
  taken = [file for _, file in found.values()]
  if not taken or taken[0].parent != base:  # else `folder_notes` looks there
    notes += files.unread(base, root, set(taken), files.folders_above(taken))
  remarks += (*notes, *_beside({root} - {base}, root, folders, taken))
  remarks += files.folder_notes(root, taken)
  elsewhere = ()
  if split != "train":
    train = {
      name: file for name, (_, file) in (_named(folders["train"]) if folders else found).items()
    }
    elsewhere = _train_files(root, train, bool(folders), how)
  return ClassFiles(default_table(classes), root, tuple(names), tuple(pairs), remarks, elsewhere)


def _beside(folders, root, splits, taken):
  """Sentences about what lies in some folders beside those of the splits, or of the images."""
  above = files.folders_above(taken) | set(splits.values())
  others = sorted(folders - paths.folders_of(taken))  # in which `files.folder_notes` looks
  return tuple(note for f in others for note in layouts.unread_beside(f, root, above))


def _train_files(root, found, has_folder, how):
  """Image files of train among `found`, {name: file}."""
  names, _ = lists.split_part(root, "train", list(found), has_folder, **how)
  return tuple(found[name] for name in names if name in found)


def unlabelled_files(root, split, images, *, split_by, train_fraction, split_seed):
  """Image files for tasks without labels, all of one class.

  Args:
    root: folder of the set, with or without folders of splits, see `layouts.split_folders`.
    split: "train", "val" or "test".
    images: name of the folder of images; without it they lie in the split's folder, or in `root`.
    split_by, train_fraction, split_seed: see `class_files`.
  """
  folders, remarks = layouts.split_folders(root, split)
  base = layouts.require_part(folders, split, root) if folders else root
  found = _images_in(base, images)
  how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
  names, notes = lists.split_part(root, split, list(found), bool(folders), **how)
  taken = list(found.values())
  remarks += (*notes, *_beside({root, base}, root, folders, taken))
  remarks += files.folder_notes(root, taken)
  pairs, elsewhere = tuple((found.get(n), 0) for n in names), ()
  if split != "train":
    train = _images_in(folders["train"], images) if folders else found
    elsewhere = _train_files(root, train, bool(folders), how)
  return ClassFiles(default_table(("image",)), root, tuple(names), pairs, remarks, elsewhere)


def _images_in(base, images):
  return files.images_by_stem(base / images if (base / images).is_dir() else base)


def _named(base):
  """{name: (class, file)} by the folders in `base`, or by file names where it has no folders."""
  folders = sorted(f for f in base.iterdir() if f.is_dir() and not f.name.startswith("."))
  if folders:
    return {
      f"{folder.name}/{stem}": (folder.name, file)
      for folder in folders
      for stem, file in files.images_by_stem(folder).items()
    }
  return {s: (s.rpartition("_")[0], f) for s, f in files.images_by_stem(base).items()}
