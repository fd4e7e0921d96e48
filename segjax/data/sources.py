"""Random-access sources of labelled images.

A source has `labels` (a LabelTable), `names` (one string an example, unique), `len()` and
`source[i] -> {"image": u8[H,W,3], "label": u8[H,W]}` at the native size, with label values in
[0, len(labels)) or 255, ignore. `make(name, split, **fields)` builds one.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from segjax.data import scenes
from segjax.data.labels import IGNORE, LabelTable, default_table
from segjax.errors import UserError, check_fields, choose

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val")
ROAD = LabelTable((("not_road", (0, 0, 0)), ("road", (255, 0, 255))))


def make(name, split, **fields):
  """Builds a source.

  Args:
    name: one of `SOURCES`.
    split: "train" or "val".
    **fields: arguments of the source's function, see there.

  Raises:
    UserError: unknown name, field or split; no such folder; images without a label; empty split.
  """
  build = choose(SOURCES, name, "data source")
  check_fields(fields, list(inspect.signature(build).parameters)[1:], f"data source {name!r}")
  if split not in SPLITS:
    raise UserError(f"unknown split {split!r} (splits: {', '.join(SPLITS)})")
  source = build(split, **fields)
  if not len(source):
    raise UserError(f"data source {name!r}: split {split!r} is empty, expected at least 1 example")
  return source


# ---------------------------------------------------------------------------- drawn scenes


@dataclasses.dataclass(frozen=True)
class Scenes:
  """Drawn driver's views, see `scenes.draw_road`; nothing is read or stored."""

  labels: LabelTable
  names: tuple[str, ...]
  seed: int
  first: int
  height: int
  width: int
  lookup: np.ndarray  # u8[256], class of the drawing -> label

  def __len__(self):
    return len(self.names)

  def __getitem__(self, i):
    size = dict(height=self.height, width=self.width)
    image, classes = scenes.draw_road(self.seed, self.first + i, **size)
    return dict(image=image, label=self.lookup[classes])


def road_scenes(split, *, seed=0, num_train=500, num_val=48, height=256, width=512, classes="road"):
  """Embedded driver's views, each a pure function of (seed, index).

  Args:
    split: "train" or "val"; the two never share an index.
    seed: of the drawings, apart from the seed of training.
    num_train: examples in "train".
    num_val: examples in "val".
    height: pixels.
    width: pixels.
    classes: "road" (not road / road, lane markings are road) or "all" (every drawn class).
  """
  drawn = [name for name, _ in scenes.ROAD_CLASSES]
  lookup = np.full(256, IGNORE, np.uint8)
  if classes == "road":
    labels = ROAD
    lookup[: len(drawn)] = [name in ("road", "lane_marking") for name in drawn]
  elif classes == "all":
    labels = LabelTable(tuple(scenes.ROAD_CLASSES))
    lookup[: len(drawn)] = range(len(drawn))
  else:
    raise UserError(f"road_scenes: classes is {classes!r}, expected 'road' or 'all'")
  count, first = (num_train, 0) if split == "train" else (num_val, 1_000_000)
  names = tuple(f"scene_{first + i:07d}" for i in range(count))
  return Scenes(labels, names, seed, first, height, width, lookup)


# ---------------------------------------------------------------------------- image files


@dataclasses.dataclass(frozen=True)
class Files:
  """Pairs of an image file and a label file.

  Attributes:
    labels: label table.
    names: one a pair.
    pairs: (image file, label file).
    read_label: label file -> u8[H,W] in [0, len(labels)) or 255.
  """

  labels: LabelTable
  names: tuple[str, ...]
  pairs: tuple[tuple[Path, Path], ...]
  read_label: Callable[[Path], np.ndarray]

  def __len__(self):
    return len(self.pairs)

  def __getitem__(self, i):
    image_file, label_file = self.pairs[i]
    image = read_image(image_file)
    label = self.read_label(label_file)
    if label.shape != image.shape[:2]:
      raise UserError(
        f"{label_file}: label is {label.shape[1]}x{label.shape[0]} pixels (width x height), its "
        f"image {image_file} is {image.shape[1]}x{image.shape[0]}; they must agree"
      )
    return dict(image=image, label=label)


def open_image(file):
  """Decodes an image file fully; a UserError names a missing, foreign or truncated one."""
  try:
    with Image.open(file) as image:
      image.load()
      return image
  except UnidentifiedImageError:
    raise UserError(f"{file}: not an image that Pillow can read; replace or remove it") from None
  except (OSError, SyntaxError, ValueError) as error:
    raise UserError(f"{file}: cannot be read ({error}); replace or remove it") from None


def read_image(file):
  """Image file -> u8[H,W,3], RGB."""
  return np.asarray(open_image(file).convert("RGB"))


def _read_road_label(file, *, black):
  """KITTI road colours -> road mask; see `kitti_road`."""
  rgb = read_image(file)
  label = (rgb[..., 2] > 0).astype(np.uint8)
  if black == "ignore":
    label[rgb[..., 0] == 0] = IGNORE
  return label


def _read_folder_label(file, *, labels, ignore_value):
  """Index, palette or colour mask -> class indices; see `folder`."""
  mask = open_image(file)
  if mask.mode == "1":
    mask = mask.convert("L").point(lambda v: v > 0)
  if mask.mode in ("L", "P", "I", "I;16"):
    values = np.asarray(mask).astype(np.int64)
    bad = np.setdiff1d(values, [*range(len(labels)), ignore_value])
    if bad.size:
      raise UserError(
        f"{file}: label value {bad[0]} is outside the table, expected 0 to {len(labels) - 1} "
        f"({', '.join(labels.names)}) or {ignore_value}, ignore; mend the file, or the list of "
        "classes, or ignore_value"
      )
    return np.where(values == ignore_value, IGNORE, values).astype(np.uint8)
  rgb = np.asarray(mask.convert("RGB")).astype(np.int64)
  code = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
  label = np.full(code.shape, IGNORE, np.uint8)
  known = np.zeros(code.shape, bool)
  for i, (_, (r, g, b)) in enumerate(labels.classes):
    hit = code == (r << 16) | (g << 8) | b
    label[hit], known = i, known | hit
  if not known.all():
    color = tuple(int(v) for v in rgb[~known][0])
    raise UserError(
      f"{file}: colour {color} belongs to no class; colour masks need one of "
      f"{', '.join(f'{n} {tuple(c)}' for n, c in labels.classes)}; mend the file or classes.txt"
    )
  return label


def _split(items, split, train_fraction, seed):
  """A seeded share of `items` for "train", the others for "val"; each in the given order."""
  order = np.random.default_rng(seed).permutation(len(items))
  cut = round(train_fraction * len(items))
  chosen = sorted(order[:cut] if split == "train" else order[cut:])
  return [items[i] for i in chosen]


def _data_folder(folder, name):
  """`folder`, or `$SEGJAX_DATA/name` where it is empty; a UserError where there is none."""
  if not folder and not os.environ.get("SEGJAX_DATA"):
    raise UserError(
      f"data source {name!r} needs its folder: give --config.data.source.folder=PATH, or set "
      f"SEGJAX_DATA to a folder that contains {name}/"
    )
  path = Path(folder) if folder else Path(os.environ["SEGJAX_DATA"]) / name
  if not path.is_dir():
    raise UserError(f"data source {name!r}: no such folder: {path.absolute()}")
  return path


def _read_list(file):
  return [line.strip() for line in file.read_text().splitlines() if line.strip()]


def _images_by_stem(folder):
  if not folder.is_dir():
    raise UserError(f"no such folder: {folder.absolute()}; expected image files in it")
  files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_ENDINGS)
  return {f.stem: f for f in files}


def list_images(path):
  """Image files of a folder, or a file by itself; a UserError where there are none."""
  if path.is_file():
    return [path]
  files = list(_images_by_stem(path).values())
  if not files:
    raise UserError(f"{path.absolute()}: no image in it, expected {', '.join(IMAGE_ENDINGS)}")
  return files


def _require_labels(names, images, label_of, folder):
  """Raises a UserError that lists listed names without an image and images without a label."""
  lost = [n for n in names if n not in images]
  if lost:
    raise UserError(f"{folder}: {len(lost)} listed name(s) have no image, e.g. {lost[0]!r}")
  bare = [images[n].name for n in names if label_of(n) is None]
  if bare:
    raise UserError(
      f"{folder}: {len(bare)} of {len(names)} images have no label: {', '.join(bare[:5])}"
      f"{' ...' if len(bare) > 5 else ''}; add the labels or remove the images"
    )


def kitti_road(
  split, *, folder="", black="ignore", split_by="auto", train_fraction=272 / 289, split_seed=0
):
  """KITTI road: Fritsch, Kuehnl, Geiger, ITSC 2013; the official layout.

  `<folder>/training/image_2/um_000000.png` (or .jpg) with its label
  `<folder>/training/gt_image_2/um_road_000000.png`; the `lane` labels are not used. Road is
  where the label's blue channel is above 0; where its red channel is 0 (black, and a few blue
  pixels) lies outside the evaluated area.

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
  root = _data_folder(folder, "kitti_road")
  images = _images_by_stem(root / "training" / "image_2")
  label_files = _images_by_stem(root / "training" / "gt_image_2")

  def label_of(name):
    return label_files.get("{}_road_{}".format(*name.partition("_")[::2]))

  how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
  names = _split_names(root, split, sorted(images), **how)
  _require_labels(names, images, label_of, root)
  pairs = tuple((images[n], label_of(n)) for n in names)
  return Files(ROAD, tuple(names), pairs, lambda f: _read_road_label(f, black=black))


def _split_names(root, split, names, *, split_by, train_fraction, split_seed):
  """Names of a split, from `<root>/<split>.txt` or by seed; see `kitti_road`."""
  if split_by not in ("auto", "files", "seed"):
    raise UserError(f"split_by is {split_by!r}, expected 'auto', 'files' or 'seed'")
  lists = {s: root / f"{s}.txt" for s in SPLITS}
  if split_by == "seed" or (split_by == "auto" and not all(f.is_file() for f in lists.values())):
    return _split(names, split, train_fraction, split_seed)
  if not lists[split].is_file():
    raise UserError(f"no split file {lists[split].absolute()}; write it, or use split_by='seed'")
  return _read_list(lists[split])


def folder(
  split,
  *,
  folder="",
  images="images",
  masks="masks",
  classes=(),
  ignore_value=IGNORE,
  split_by="auto",
  train_fraction=0.9,
  split_seed=0,
):
  """Anybody's own images and masks, paired by file stem.

  Either `<folder>/train/images/x.jpg` + `<folder>/train/masks/x.png` (and `val/`), or
  `<folder>/images/` + `<folder>/masks/` split by lists of stems (`train.txt`, `val.txt`) or by
  seed. A mask is a palette or grey image of class indices, or an RGB image in the classes'
  colours. `<folder>/classes.txt` names the classes, a line each: `name` or `name red green blue`.

  Args:
    split: "train" or "val".
    folder: see above; empty for `$SEGJAX_DATA/folder`.
    images: name of the folder of images.
    masks: name of the folder of masks.
    classes: class names in the order of their values; empty to read `classes.txt`.
    ignore_value: mask value that is not scored.
    split_by: "files", "seed" or "auto"; without split folders. See `kitti_road`.
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: of the seeded split.
  """
  root = _data_folder(folder, "folder")
  labels = default_table(tuple(classes)) if classes else _read_classes(root / "classes.txt")
  has_splits = (root / "train").is_dir()
  base = root / split if has_splits else root
  found, mask_files = _images_by_stem(base / images), _images_by_stem(base / masks)
  names = sorted(found)
  if not has_splits:
    how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
    names = _split_names(root, split, names, **how)
  _require_labels(names, found, mask_files.get, base)
  pairs = tuple((found[n], mask_files[n]) for n in names)

  def read_label(file):
    return _read_folder_label(file, labels=labels, ignore_value=ignore_value)

  return Files(labels, tuple(names), pairs, read_label)


def _read_classes(file):
  if not file.is_file():
    raise UserError(
      f"no {file.absolute()}; write one class a line, 'name' or 'name red green blue', in the "
      "order of the label values, or set --config.data.source.classes"
    )
  rows = [line.split() for line in _read_list(file)]
  for number, row in enumerate(rows, 1):
    if len(row) not in (1, 4) or not all(v.isdigit() and int(v) < 256 for v in row[1:]):
      raise UserError(
        f"{file}, line {number}: found {' '.join(row)!r}, expected 'name' or 'name red green blue'"
      )
  plain = default_table(tuple(row[0] for row in rows)).classes
  return LabelTable(
    tuple(
      (row[0], tuple(int(v) for v in row[1:])) if len(row) == 4 else plain[i]
      for i, row in enumerate(rows)
    )
  )


SOURCES = {"road_scenes": road_scenes, "kitti_road": kitti_road, "folder": folder}
