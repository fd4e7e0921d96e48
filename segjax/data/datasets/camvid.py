"""CamVid: street scenes from a car."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segjax.data import files, lists, masks
from segjax.data.labels import IGNORE, LabelTable
from segjax.data.shared_tables import FOUR, OBJECTS
from segjax.errors import UserError

# Colours of SegNet's demonstration.
CAMVID = LabelTable(
  (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
  )
)
CAMVID_VOID = 11
BLACK = (0, 0, 0)
# Merged classes: their table, and CamVid's class -> merged class; the rest is 0.
MERGED = {
  "four": (FOUR, dict(Road=1, Pavement=2, Car=3)),
  "objects": (OBJECTS, dict(Building=1, Tree=2, Car=3, Pedestrian=4, Road=5)),
}


def camvid(split, *, folder="", classes="all"):
  """CamVid, 11 classes at 480x360, as SegNet has it.

  `<folder>/train/x.png` (or .jpg) with its label `<folder>/trainannot/x.png`, and `val/`,
  `valannot/`, `test/`, `testannot/`. Where `<folder>/train.txt` (`val.txt`, `test.txt`) is there,
  its lines "IMAGE LABEL" choose and order the examples; of the paths only the file names count, as
  SegNet's lists begin with a folder of their authors' machine. A label holds the class's number,
  11 (void) is ignored.

  Brostow et al., ECCV 2008 and Pattern Recognition Letters 2009; Badrinarayanan, Kendall,
  Cipolla: SegNet, PAMI 2017.

  Args:
    split: "train", "val" or "test".
    folder: folder that contains `train/`; empty for `$SEGJAX_DATA/camvid`.
    classes: "all", "four" (other, road, sidewalk, vehicle) or "objects" (background, building,
      tree, car, pedestrian, road).
  """
  if classes != "all" and classes not in MERGED:
    raise UserError(f"camvid: classes is {classes!r}, expected 'all', 'four' or 'objects'")
  root = files.data_folder(folder, "camvid")
  there = (root / split).is_dir()
  lists.require_test(split, there, root.absolute(), "there are no folders test and testannot")
  images = files.images_by_stem(root / split)
  label_files = files.images_by_stem(root / f"{split}annot")
  listed = root / f"{split}.txt"
  names = list(images)
  if listed.is_file():
    names = [Path(line.split()[0]).stem for line in lists.read_list(listed)]
  values = {i: i for i in range(len(CAMVID))} | {CAMVID_VOID: IGNORE}
  labels, lookup = CAMVID, np.arange(256, dtype=np.uint8)
  if classes in MERGED:
    labels, merged = MERGED[classes]
    lookup[: len(CAMVID)] = [merged.get(name, 0) for name in CAMVID.names]

  def read_label(file):
    return lookup[masks.read_mask(file, CAMVID, values, ignored=[BLACK])]

  return files.paired(labels, root, names, images, label_files, read_label)
