"""Handwritten digits that come with scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from segjax.data import lists
from segjax.data.labels import LabelTable, default_table
from segjax.errors import UserError

SIZES = (8, 32)
LABELS = default_table(tuple(map(str, range(10))))


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Images in memory, each with a class.

  Attributes:
    labels: label table.
    names: one per image.
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


def digits(split, *, size=8, train_fraction=0.8, split_seed=0):
  """1797 handwritten digits, 8x8 grey, that come with scikit-learn: Alpaydin, Kaynak, UCI 1998.

  Args:
    split: "train" or "val".
    size: pixels of a side, 8 or 32 (enlarged, bilinear).
    train_fraction: share of the examples in "train".
    split_seed: random seed of the split.
  """
  lists.require_test(split, False, "digits", "it is parted by seed into two")
  from sklearn.datasets import load_digits

  if size not in SIZES:
    raise UserError(f"digits: size is {size!r}, expected 8 or 32")
  data = load_digits()
  chosen = lists.seeded_split(list(range(len(data.target))), split, train_fraction, split_seed)
  grey = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)
  if size != grey.shape[1]:
    large = [Image.fromarray(g).resize((size, size), Image.Resampling.BILINEAR) for g in grey]
    grey = np.array([np.asarray(g) for g in large], np.uint8).reshape(-1, size, size)
  images = np.repeat(grey[..., None], 3, -1)
  names = tuple(f"digit_{i:04d}" for i in chosen)
  return Arrays(LABELS, names, images, data.target[chosen].astype(np.uint8))
