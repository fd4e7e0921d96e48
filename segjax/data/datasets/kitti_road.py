"""KITTI road: the road seen from a car."""

from __future__ import annotations

import numpy as np

from segjax.data import files, lists, masks
from segjax.data.labels import IGNORE, LabelTable
from segjax.data.shared_tables import ROAD
from segjax.errors import UserError

BLACK, BLUE, RED, MAGENTA = (0, 0, 0), (0, 0, 255), (255, 0, 0), (255, 0, 255)
# Colours of the official labels: the evaluated area and its outside.
COLORS = LabelTable((("not_road", RED), ("road", MAGENTA), ("outside", BLACK), ("road", BLUE)))


def kitti_road(
  split, *, folder="", black="ignore", split_by="auto", train_fraction=272 / 289, split_seed=0
):
  """KITTI road: Fritsch, Kuehnl, Geiger, ITSC 2013; the official layout.

  `<folder>/training/image_2/um_000000.png` (or .jpg) with its label
  `<folder>/training/gt_image_2/um_road_000000.png`; the `lane` labels are not used. Road is
  magenta, the rest red; black and a few blue pixels (road) lie outside the evaluated area.

  Args:
    split: "train", "val" or "test".
    folder: folder that contains `training/`; empty for `$SEGJAX_DATA/kitti_road`.
    black: "ignore" as the official benchmark does, or "not_road": black counts as not road
      and blue as road.
    split_by: "files": the names in `<folder>/train.txt` and `val.txt`; "seed": a seeded share;
      "auto": "files" where both lists are there. A list `test.txt` beside them makes "test"; the
      labels of the set's own test images are not public.
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: random seed of the split.
  """
  if black not in ("ignore", "not_road"):
    raise UserError(f"kitti_road: black is {black!r}, expected 'ignore' or 'not_road'")
  root = files.data_folder(folder, "kitti_road")
  images = files.images_by_stem(root / "training" / "image_2")
  found = files.images_by_stem(root / "training" / "gt_image_2")
  label_files = {n.replace("_road_", "_", 1): f for n, f in found.items() if "_road_" in n}
  how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
  names, notes = lists.split_names(root, split, sorted(images), **how)

  def read_label(file):
    label = masks.read_colors(file, COLORS)
    inside = (0, 1, IGNORE, IGNORE) if black == "ignore" else (0, 1, 0, 1)
    return np.array(inside, np.uint8)[label]

  lanes = [f for n, f in found.items() if "_lane_" in n]
  how = dict(remarks=notes, unused=lanes)
  return files.paired(ROAD, root, names, images, label_files, read_label, **how)
