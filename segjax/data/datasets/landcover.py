"""DeepGlobe land cover, from satellites."""

from __future__ import annotations

from segjax.data import files, lists, masks
from segjax.data.labels import LabelTable

LANDCOVER = LabelTable(
  (
    ("urban", (0, 255, 255)),
    ("agriculture", (255, 255, 0)),
    ("rangeland", (255, 0, 255)),
    ("forest", (0, 255, 0)),
    ("water", (0, 0, 255)),
    ("barren", (255, 255, 255)),
  )
)
BLACK = (0, 0, 0)  # unknown


def landcover(split, *, folder="", split_by="auto", train_fraction=0.9, split_seed=0):
  """DeepGlobe land cover: Demir et al., CVPR workshops 2018.

  `1234_sat.jpg` + `1234_mask.png` in `<folder>/train/` and `<folder>/val/`, or all in `<folder>`,
  or all in `<folder>/train/` where `val/` holds no mask, as in the published set; then split by
  lists of numbers (`train.txt`, `val.txt` in `<folder>`) or by seed. Black (unknown) is ignored.
  Channels are compared with 128, as some copies' colours are a few units off.

  Args:
    split: "train", "val" or "test".
    folder: folder of the set; empty for `$SEGJAX_DATA/landcover`.
    split_by: "files", "seed" or "auto"; without split folders. See `kitti_road`.
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: random seed of the split.
  """
  root = files.data_folder(folder, "landcover")
  has_splits = any((root / "val").glob("*_mask.*"))
  if has_splits:
    there = any((root / "test").glob("*_mask.*"))
    lists.require_test(split, there, root.absolute(), "test/ holds no mask")
  base = root / split if has_splits else root / "train" if (root / "train").is_dir() else root
  images = files.images_by_stem(base, strip="_sat")
  label_files = files.images_by_stem(base, strip="_mask")
  names, notes = list(images), ()
  if not has_splits:
    how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
    names, notes = lists.split_names(root, split, names, **how)

  def read_label(file):
    return masks.read_colors(file, LANDCOVER, ignored=[BLACK], threshold=True)

  return files.paired(LANDCOVER, root, names, images, label_files, read_label, remarks=notes)
