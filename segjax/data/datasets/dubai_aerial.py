"""Dubai from satellites, of Humans in the Loop."""

from __future__ import annotations

from pathlib import Path

from segjax.data import files, lists, masks
from segjax.data.labels import LabelTable
from segjax.errors import UserError

DUBAI = LabelTable(
  (
    ("Building", (60, 16, 152)),
    ("Land", (132, 41, 246)),
    ("Road", (110, 193, 228)),
    ("Vegetation", (254, 221, 58)),
    ("Water", (226, 169, 41)),
  )
)
DUBAI_UNLABELED = ("Unlabeled", (155, 155, 155))
DUBAI_VAL_PARTS = ("image_part_004", "image_part_007")
BLACK = (0, 0, 0)  # a defect of a few masks


def dubai_aerial(split, *, folder="", unlabeled="ignore"):
  """Semantic segmentation of aerial imagery (Dubai): Humans in the Loop, 2020.

  `<folder>/Tile 1/images/image_part_001.jpg` + `<folder>/Tile 1/masks/image_part_001.png`. Where
  `<folder>/train.txt` and `val.txt` are there, their lines "IMAGE<tab>MASK", paths from
  `<folder>`, choose the examples; otherwise parts 004 and 007 of every tile are "val". Masks are
  colours, some of them palette images; black, a defect of a few masks, is ignored.

  Args:
    split: "train", "val" or "test".
    folder: folder that contains `Tile 1/`; empty for `$SEGJAX_DATA/dubai_aerial`.
    unlabeled: "ignore", or "class": the sixth class, Unlabeled.
  """
  if unlabeled not in ("ignore", "class"):
    raise UserError(f"dubai_aerial: unlabeled is {unlabeled!r}, expected 'ignore' or 'class'")
  root = files.data_folder(folder, "dubai_aerial")
  has_test = lists.has_lists(root) and (root / "test.txt").is_file()
  lists.require_test(split, has_test, root.absolute(), "write test.txt beside train.txt, val.txt")
  scored = unlabeled == "class"
  labels = LabelTable((*DUBAI.classes, DUBAI_UNLABELED)) if scored else DUBAI
  ignored = [BLACK] if scored else [BLACK, DUBAI_UNLABELED[1]]
  images, label_files = {}, {}
  for tile in sorted(root.glob("Tile *")):
    images |= {_name(f): f for f in files.images_by_stem(tile / "images").values()}
    label_files |= {_name(f): f for f in files.images_by_stem(tile / "masks").values()}
  if lists.has_lists(root):
    listed = {s: _listed(root / f"{s}.txt") for s in dict.fromkeys((*lists.SPLITS, split))}
    lists.require_apart(root, listed)
    names = listed[split]
  else:
    wanted = split == "val"
    names = [n for n in images if n.endswith(DUBAI_VAL_PARTS) == wanted]

  def read_label(file):
    return masks.read_colors(file, labels, ignored)

  return files.paired(labels, root, names, images, label_files, read_label)


def _listed(file):
  """Names of the images in a list."""
  return [_name(Path(line.split("\t")[0])) for line in lists.read_list(file)]


def _name(file):
  """`Tile 1/images/image_part_001.jpg` -> `tile_1_image_part_001`."""
  return f"{file.parent.parent.name.lower().replace(' ', '_')}_{file.stem}"
