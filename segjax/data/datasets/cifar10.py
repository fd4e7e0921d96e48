"""CIFAR-10 as image files; its classes are the names of the folders."""

from __future__ import annotations

import dataclasses

from segjax.data import files, lists
from segjax.data.class_files import class_files


def cifar10_subset(split, *, folder=""):
  """Photographs of 32x32 pixels in ten classes: `train/<class>/x.jpg` and `test/<class>/x.jpg`.

  CIFAR-10 (Krizhevsky, technical report, Toronto 2009) or a part of it, as image files.

  Args:
    split: "train", or "val", which is the test part.
    folder: folder that contains `train/` and `test/`; empty for `$SEGJAX_DATA/cifar10_subset`.
  """
  root = files.data_folder(folder, "cifar10_subset")
  lists.require_test(split, False, root.absolute(), "test/ is taken for val")
  source = class_files(root, split, (), split_by="auto", train_fraction=0.9, split_seed=0)
  return dataclasses.replace(source, remarks=(), elsewhere=())  # its own val part is called test
