"""Images with one class each: handwritten digits, folders of classes.

An example is {"image": u8[H,W,3], "label": u8[]}, a scalar.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from PIL import Image

from segjax.data import contents, files
from segjax.data.labels import LabelTable, default_table
from segjax.errors import UserError

DIGIT_SIZES = (8, 32)


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Images in memory, each with a class.

  Attributes:
    labels: label table.
    names: one an image.
    images: u8[N,H,W,3].
    classes: u8[N], labels.
  """

  labels: LabelTable
  names: tuple[str, ...]
  images: np.ndarray
  classes: np.ndarray

  def __len__(self):
    return len(self.names)

  def __getitem__(self, i):
    return dict(image=self.images[i], label=self.classes[i])


@dataclasses.dataclass(frozen=True)
class ClassFiles:
  """Image files, each with a class.

  Attributes:
    labels: label table.
    root: folder of the set, for messages.
    names: one a file.
    pairs: (image file, class), with None for a missing file and its class.
    notes: sentences about files that are not read.
  """

  labels: LabelTable
  root: Path
  names: tuple[str, ...]
  pairs: tuple[tuple[Path | None, int | None], ...]
  notes: tuple[str, ...] = ()

  @functools.cached_property
  def hashes(self):
    """See `contents.example_hashes`."""
    return contents.example_hashes(self, self.pairs)

  def digest(self):
    """16 hex digits over the contents of the files, in the order of the examples."""
    return contents.combine(self.hashes)

  def __len__(self):
    return len(self.pairs)

  def __getitem__(self, i):
    file, number = self.pairs[i]
    if file is None:
      raise UserError(f"{self.root}: {self.names[i]!r} has no image")
    return dict(image=files.read_image(file), label=np.uint8(number))


def digits(split, *, size=8, train_fraction=0.8, split_seed=0):
  """1797 handwritten digits, 8x8 grey, that come with scikit-learn: Alpaydin, Kaynak, UCI 1998.

  Args:
    split: "train" or "val".
    size: pixels of a side, 8 or 32 (enlarged, bilinear).
    train_fraction: share of the examples in "train".
    split_seed: of the split.
  """
  from sklearn.datasets import load_digits

  if size not in DIGIT_SIZES:
    raise UserError(f"digits: size is {size!r}, expected 8 or 32")
  data = load_digits()
  chosen = files.seeded_split(list(range(len(data.target))), split, train_fraction, split_seed)
  grey = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)
  if size != grey.shape[1]:
    large = [Image.fromarray(g).resize((size, size), Image.Resampling.BILINEAR) for g in grey]
    grey = np.array([np.asarray(g) for g in large], np.uint8).reshape(-1, size, size)
  images = np.repeat(grey[..., None], 3, -1)
  names = tuple(f"digit_{i:04d}" for i in chosen)
  labels = default_table(tuple(map(str, range(10))))
  return Arrays(labels, names, images, data.target[chosen].astype(np.uint8))


def cifar10_subset(split, *, folder=""):
  """Photographs of 32x32 pixels in ten classes: `train/<class>/x.jpg` and `test/<class>/x.jpg`.

  CIFAR-10 (Krizhevsky, technical report, Toronto 2009) or a part of it, as image files.

  Args:
    split: "train" or "val", which is the test part.
    folder: see above; empty for `$SEGJAX_DATA/cifar10_subset`.
  """
  root = files.data_folder(folder, "cifar10_subset")
  return class_files(root, split, (), split_by="auto", train_fraction=0.9, split_seed=0)


def class_files(root, split, classes, *, split_by, train_fraction, split_seed):
  """Image files whose class is the name of their folder or the start of their own name.

  `<root>/train/<class>/x.jpg` (and `val/` or `test/`), or `<root>/train/<class>_<id>.png`, or
  either without the folders of splits, then split by lists of names (`train.txt`, `val.txt`:
  "<class>/x" or "<class>_<id>") or by seed.

  Args:
    root: folder of the set.
    split: "train" or "val".
    classes: class names in the order of their values; empty for those of all files (with folders
      of splits: of train), sorted.
    split_by: "files", "seed" or "auto"; see `driving.kitti_road`.
    train_fraction: share of the examples in "train".
    split_seed: of the split.

  Raises:
    UserError: a file of none of the classes.
  """
  has_splits = (root / "train").is_dir()
  base = root
  if has_splits:
    base = files.first_folder(root, ("train",) if split == "train" else ("val", "test"))
  found = _named(base)
  names = list(found)
  if not classes:
    everywhere = _named(root / "train" if has_splits else root).values()
    classes = tuple(sorted({c for c, _ in everywhere if c}))  # "": a name without "_"
  if not has_splits:
    how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
    names = files.split_names(root, split, names, **how)
  number = {name: i for i, name in enumerate(classes)}
  strange = [found[n] for n in names if n in found and found[n][0] not in number]
  if strange:
    raise UserError(
      f"{strange[0][1]}: class {strange[0][0]!r} is not one of the {len(classes)} classes "
      f"({', '.join(classes[:12])}{', ...' if len(classes) > 12 else ''}); "
      f"{len(strange)} such file(s); expected <class>/<name> or <class>_<id>"
    )
  pairs = ((found[n][1], number[found[n][0]]) if n in found else (None, None) for n in names)
  notes = files.folder_notes(root, [file for _, file in found.values()])
  return ClassFiles(default_table(classes), root, tuple(names), tuple(pairs), notes)


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
