"""Driver's views: drawn scenes, KITTI road, CamVid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segjax.data import files, lists, masks, scenes
from segjax.data.drawn import drawn
from segjax.data.labels import IGNORE, LabelTable
from segjax.errors import UserError

ROAD = LabelTable((("not_road", (0, 0, 0)), ("road", (255, 0, 255))))
BLACK, BLUE, RED, MAGENTA = (0, 0, 0), (0, 0, 255), (255, 0, 0), (255, 0, 255)
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
# Four classes of a road, which drawn scenes and CamVid share.
FOUR = LabelTable(
  (
    ("other", (0, 0, 0)),
    ("road", (128, 64, 128)),
    ("sidewalk", (244, 35, 232)),
    ("vehicle", (0, 0, 142)),
  )
)
# Five kinds of objects and the rest.
OBJECTS = LabelTable(
  (
    ("Background", (0, 0, 0)),
    ("Building", (128, 0, 0)),
    ("Tree", (128, 128, 0)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (192, 128, 64)),
    ("Road", (128, 64, 128)),
  )
)
# Merged classes: (table, values of the drawn classes, values of CamVid's), the rest being 0.
MERGED = {
  "four": (
    FOUR,
    dict(road=1, lane_marking=1, sidewalk=2, vehicle=3),
    dict(Road=1, Pavement=2, Car=3),
  ),
  "objects": (
    OBJECTS,
    dict(building=1, vegetation=2, vehicle=3, road=5, lane_marking=5),
    dict(Building=1, Tree=2, Car=3, Pedestrian=4, Road=5),
  ),
}


def road_scenes(split, *, seed=0, num_train=500, num_val=48, height=256, width=512, classes="road"):
  """Embedded driver's views, each a pure function of (seed, index).

  Args:
    split: "train" or "val"; the two never share an index.
    seed: of the drawings, apart from the seed of training.
    num_train: examples in "train".
    num_val: examples in "val".
    height: pixels.
    width: pixels.
    classes: "road" (not road / road, lane markings are road), "four" (other, road, sidewalk,
      vehicle), "objects" (background, building, tree, car, pedestrian, of whom there are none, and
      road) or "all" (every drawn class).
  """
  names = [name for name, _ in scenes.ROAD_CLASSES]
  lookup = np.full(256, IGNORE, np.uint8)
  if classes == "road":
    labels = ROAD
    lookup[: len(names)] = [name in ("road", "lane_marking") for name in names]
  elif classes in MERGED:
    labels, values, _ = MERGED[classes]
    lookup[: len(names)] = [values.get(name, 0) for name in names]
  elif classes == "all":
    labels = LabelTable(tuple(scenes.ROAD_CLASSES))
    lookup[: len(names)] = range(len(names))
  else:
    raise UserError(
      f"road_scenes: classes is {classes!r}, expected 'road', 'four', 'objects' or 'all'"
    )

  def draw(*scene, **size):
    image, drawn_classes = scenes.draw_road(*scene, **size)
    return image, lookup[drawn_classes]

  counts = dict(num_train=num_train, num_val=num_val)
  return drawn(labels, "scene", split, draw, seed=seed, height=height, width=width, **counts)


def kitti_road(
  split, *, folder="", black="ignore", split_by="auto", train_fraction=272 / 289, split_seed=0
):
  """KITTI road: Fritsch, Kuehnl, Geiger, ITSC 2013; the official layout.

  `<folder>/training/image_2/um_000000.png` (or .jpg) with its label
  `<folder>/training/gt_image_2/um_road_000000.png`; the `lane` labels are not used. Road is
  magenta, the rest red; black and a few blue pixels (road) lie outside the evaluated area.

  Args:
    split: "train" or "val".
    folder: that contains `training/`; empty for `$SEGJAX_DATA/kitti_road`.
    black: "ignore" as the official benchmark does, or "not_road": black counts as not road
      and blue as road.
    split_by: "files": the names in `<folder>/train.txt` and `val.txt`; "seed": a seeded share;
      "auto": "files" where both lists are there.
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: of the seeded split.
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
    colors = LabelTable((("not_road", RED), ("road", MAGENTA), ("outside", BLACK), ("road", BLUE)))
    label = masks.read_colors(file, colors)
    inside = (0, 1, IGNORE, IGNORE) if black == "ignore" else (0, 1, 0, 1)
    return np.array(inside, np.uint8)[label]

  lanes = [f for n, f in found.items() if "_lane_" in n]
  how = dict(remarks=notes, unused=lanes)
  return files.paired(ROAD, root, names, images, label_files, read_label, **how)


def camvid(split, *, folder="", classes="all"):
  """CamVid, 11 classes at 480x360, as SegNet has it.

  `<folder>/train/x.png` (or .jpg) with its label `<folder>/trainannot/x.png`, and `val/`,
  `valannot/`. Where `<folder>/train.txt` (`val.txt`) is there, its lines "IMAGE LABEL" choose and
  order the examples; of the paths only the file names count, as SegNet's lists begin with a
  folder of their authors' machine. A label holds the class's number, 11 (void) is ignored.

  Brostow et al., ECCV 2008 and Pattern Recognition Letters 2009; Badrinarayanan, Kendall,
  Cipolla: SegNet, PAMI 2017.

  Args:
    split: "train" or "val".
    folder: that contains `train/`; empty for `$SEGJAX_DATA/camvid`.
    classes: "all", "four" (other, road, sidewalk, vehicle) or "objects" (background, building,
      tree, car, pedestrian, road).
  """
  if classes != "all" and classes not in MERGED:
    raise UserError(f"camvid: classes is {classes!r}, expected 'all', 'four' or 'objects'")
  root = files.data_folder(folder, "camvid")
  images = files.images_by_stem(root / split)
  label_files = files.images_by_stem(root / f"{split}annot")
  listed = root / f"{split}.txt"
  names = list(images)
  if listed.is_file():
    names = [Path(line.split()[0]).stem for line in lists.read_list(listed)]
  values = {i: i for i in range(len(CAMVID))} | {CAMVID_VOID: IGNORE}
  labels, lookup = CAMVID, np.arange(256, dtype=np.uint8)
  if classes in MERGED:
    labels, _, merged = MERGED[classes]
    lookup[: len(CAMVID)] = [merged.get(name, 0) for name in CAMVID.names]

  def read_label(file):
    return lookup[masks.read_mask(file, CAMVID, values, ignored=[BLACK])]

  return files.paired(labels, root, names, images, label_files, read_label)
