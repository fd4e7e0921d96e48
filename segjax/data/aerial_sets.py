"""Views from above: FloodNet, DeepGlobe land cover, Dubai."""

from __future__ import annotations

from pathlib import Path

from segjax.data import files, lists, masks
from segjax.data.labels import LabelTable
from segjax.errors import UserError

FLOODNET = LabelTable(
  (
    ("Background", (0, 0, 0)),
    ("Building", (0, 0, 255)),
    ("Road", (0, 255, 0)),
    ("Water", (0, 255, 255)),
    ("Tree", (255, 0, 0)),
    ("Vehicle", (255, 0, 255)),
    ("Pool", (255, 255, 0)),
    ("Grass", (255, 255, 255)),
  )
)
# The flooded buildings and roads are darker, the others have the colours of above.
FLOODNET_PUBLIC = LabelTable(
  (
    ("Background", (0, 0, 0)),
    ("Building-flooded", (0, 0, 128)),
    ("Building-non-flooded", (0, 0, 255)),
    ("Road-flooded", (0, 128, 0)),
    ("Road-non-flooded", (0, 255, 0)),
    *FLOODNET.classes[3:],
  )
)
FLOODNET_MERGED = (0, 1, 1, 2, 2, 3, 4, 5, 6, 7)  # number in the public masks -> FLOODNET
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
BLACK = (0, 0, 0)


def floodnet(split, *, folder="", merge_public=True):
  """FloodNet, flooded land from a drone: Rahnemoonfar et al., IEEE Access 2021.

  Either 8 classes in `<folder>/train/image/x.jpg` + `<folder>/train/mask/x.png`, or the public
  10 classes in `train/train-org-img/x.jpg` + `train/train-label-img/x_lab.png`. A grey or palette
  mask holds the class's number, an RGB mask its colour. The folder of "val" is `val/`, or `test/`
  where there is no `val/`.

  Args:
    split: "train" or "val".
    folder: that contains `train/`; empty for `$SEGJAX_DATA/floodnet`.
    merge_public: the public layout's 10 classes become the 8, flooded and dry buildings (roads)
      one class; otherwise they stay 10.
  """
  root = files.data_folder(folder, "floodnet")
  base = files.first_folder(root, ("train",) if split == "train" else ("val", "test"))
  public = not (base / "image").is_dir() and (base / f"{base.name}-org-img").is_dir()
  labels, numbers = FLOODNET, tuple(range(len(FLOODNET)))
  if public:
    images = files.images_by_stem(base / f"{base.name}-org-img")
    label_files = files.images_by_stem(base / f"{base.name}-label-img", strip="_lab")
    labels = FLOODNET if merge_public else FLOODNET_PUBLIC
    numbers = FLOODNET_MERGED if merge_public else tuple(range(len(FLOODNET_PUBLIC)))
  else:
    images, label_files = files.images_by_stem(base / "image"), files.images_by_stem(base / "mask")
  values = dict(enumerate(numbers))

  def read_label(file):
    return masks.read_mask(file, labels, values)

  return files.paired(labels, root, list(images), images, label_files, read_label)


def landcover(split, *, folder="", split_by="auto", train_fraction=0.9, split_seed=0):
  """DeepGlobe land cover: Demir et al., CVPR workshops 2018.

  `1234_sat.jpg` + `1234_mask.png` in `<folder>/train/` and `<folder>/val/`, or all in `<folder>`,
  or all in `<folder>/train/` where `val/` holds no mask, as in the published set; then split by
  lists of numbers (`train.txt`, `val.txt` in `<folder>`) or by seed. Black (unknown) is ignored.
  Channels are compared with 128, as some copies' colours are a few units off.

  Args:
    split: "train" or "val".
    folder: of the set; empty for `$SEGJAX_DATA/landcover`.
    split_by: "files", "seed" or "auto"; without split folders. See `driving.kitti_road`.
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: of the seeded split.
  """
  root = files.data_folder(folder, "landcover")
  has_splits = any((root / "val").glob("*_mask.*"))
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


def dubai_aerial(split, *, folder="", unlabeled="ignore"):
  """Semantic segmentation of aerial imagery (Dubai): Humans in the Loop, 2020.

  `<folder>/Tile 1/images/image_part_001.jpg` + `<folder>/Tile 1/masks/image_part_001.png`. Where
  `<folder>/train.txt` and `val.txt` are there, their lines "IMAGE<tab>MASK", paths from
  `<folder>`, choose the examples; otherwise parts 004 and 007 of every tile are "val". Masks are
  colours, some of them palette images; black, a defect of a few masks, is ignored.

  Args:
    split: "train" or "val".
    folder: that contains `Tile 1/`; empty for `$SEGJAX_DATA/dubai_aerial`.
    unlabeled: "ignore", or "class": the sixth class, Unlabeled.
  """
  if unlabeled not in ("ignore", "class"):
    raise UserError(f"dubai_aerial: unlabeled is {unlabeled!r}, expected 'ignore' or 'class'")
  root = files.data_folder(folder, "dubai_aerial")
  scored = unlabeled == "class"
  labels = LabelTable((*DUBAI.classes, DUBAI_UNLABELED)) if scored else DUBAI
  ignored = [BLACK] if scored else [BLACK, DUBAI_UNLABELED[1]]
  images, label_files = {}, {}
  for tile in sorted(root.glob("Tile *")):
    images |= {_dubai_name(f): f for f in files.images_by_stem(tile / "images").values()}
    label_files |= {_dubai_name(f): f for f in files.images_by_stem(tile / "masks").values()}
  if lists.has_lists(root):
    rows = [line.split("\t") for line in lists.read_list(root / f"{split}.txt")]
    names = [_dubai_name(Path(row[0])) for row in rows]
  else:
    wanted = split == "val"
    names = [n for n in images if n.endswith(DUBAI_VAL_PARTS) == wanted]

  def read_label(file):
    return masks.read_colors(file, labels, ignored)

  return files.paired(labels, root, names, images, label_files, read_label)


def _dubai_name(file):
  """`Tile 1/images/image_part_001.jpg` -> `tile_1_image_part_001`."""
  return f"{file.parent.parent.name.lower().replace(' ', '_')}_{file.stem}"
