"""Image and label files: reading, pairing, lists and splits; what the file sources share."""

from __future__ import annotations

import dataclasses
import functools
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from segjax.data import contents
from segjax.data.labels import IGNORE, LabelTable
from segjax.errors import UserError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SYSTEM_FILES = ("Thumbs.db", "desktop.ini")
SPLITS = ("train", "val")
GREY = ("1", "L", "I", "I;16")  # Pillow's modes of one channel without a palette
# What Pillow raises on damaged files, by format and by place of the damage.
DAMAGE = (OSError, SyntaxError, ValueError, LookupError, OverflowError, EOFError, zlib.error,
          struct.error, Image.DecompressionBombError)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Files:
  """Pairs of an image file and a label file.

  Attributes:
    labels: label table; empty where the label is a target image.
    root: folder of the set, for messages.
    names: one a pair.
    pairs: (image file, label file), with None for a missing one.
    read_label: label file -> u8[H,W] in [0, len(labels)) or 255; u8[H,W,3] for a target.
    key: of the label in the example, "label" or "target".
    orphans: label files that belong to no image.
    notes: sentences about files that are not read.
  """

  labels: LabelTable
  root: Path
  names: tuple[str, ...]
  pairs: tuple[tuple[Path | None, Path | None], ...]
  read_label: Callable[[Path], np.ndarray]
  key: str = "label"
  orphans: tuple[Path, ...] = ()
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
    image_file, label_file = self.pairs[i]
    if image_file is None or label_file is None:
      raise UserError(self.faults(i)[0])
    image = read_image(image_file)
    label = self.read_label(label_file)
    if label.shape[:2] != image.shape[:2]:
      raise UserError(self._size_fault(i, label.shape[1::-1], image.shape[1::-1]))
    return {"image": image, self.key: label}

  def faults(self, i):
    """Reads a pair and returns all that is wrong with it, a sentence each."""
    image_file, label_file = self.pairs[i]
    out = []
    if image_file is None:
      out.append(f"{self.root}: {self.names[i]!r} has no image")
    if label_file is None:
      out.append(f"{image_file or self.root}: {self.names[i]!r} has no {self.key}")
    sizes = []
    for file, read in ((image_file, read_image), (label_file, self.read_label)):
      if file is None:
        continue
      try:
        read(file)
      except UserError as error:
        out.append(str(error))
      try:
        with Image.open(file) as header:
          sizes.append(header.size)
      except DAMAGE:
        pass  # told above
    if len(sizes) == 2 and sizes[0] != sizes[1]:
      out.append(self._size_fault(i, sizes[1], sizes[0]))
    return out

  def _size_fault(self, i, label_size, image_size):
    image_file, label_file = self.pairs[i]
    return (
      f"{label_file}: {self.key} is {label_size[0]}x{label_size[1]} pixels (width x height), its "
      f"image {image_file} is {image_size[0]}x{image_size[1]}; they must agree"
    )


def paired(labels, root, names, images, label_files, read_label, key="label"):
  """A `Files` of images and labels with the same key.

  Args:
    labels: label table.
    root: folder of the set.
    names: of the pairs wanted, in order.
    images: name -> image file.
    label_files: name -> label file.
    read_label: see `Files`.
    key: see `Files`.
  """
  pairs = tuple((images.get(n), label_files.get(n)) for n in names)
  known = images.keys() | set(names)
  lone = tuple(f for n, f in label_files.items() if n not in known)
  orphans = () if has_lists(root) else lone  # lists say what belongs to the set
  notes = folder_notes(root, (*images.values(), *label_files.values()))
  for folder in sorted({f.parent for f in lone}):
    some = [f.name for f in lone if f.parent == folder]
    notes += (f"{_inside(folder, root)} holds {_count(some, key)} without an image: {_some(some)}",)
  return Files(labels, root, tuple(names), pairs, read_label, key, orphans, notes)


def require_complete(source):
  """Raises a UserError that lists listed names without an image and images without a label."""
  pairs = getattr(source, "pairs", ())
  lost = [n for n, (image, _) in zip(source.names, pairs, strict=False) if image is None]
  if lost:
    raise UserError(f"{source.root}: {len(lost)} listed name(s) have no image, e.g. {lost[0]!r}")
  bare = [image.name for image, label in pairs if label is None]
  if bare:
    raise UserError(
      f"{source.root}: {len(bare)} of {len(pairs)} images have no {source.key}: "
      f"{', '.join(bare[:5])}{' ...' if len(bare) > 5 else ''}; add them or remove the images"
    )


# ---------------------------------------------------------------------------- reading


def open_image(file):
  """Decodes an image file fully; a UserError names a missing, foreign or truncated one."""
  try:
    with Image.open(file) as image:
      image.load()
      return image
  except UnidentifiedImageError:
    raise UserError(f"{file}: not an image that Pillow can read; replace or remove it") from None
  except DAMAGE as error:
    raise UserError(f"{file}: cannot be read ({error}); replace or remove it") from None


def read_image(file):
  """Image file -> u8[H,W,3], RGB."""
  return np.asarray(to_rgb(open_image(file), file))


def read_values(file, labels, values):
  """A grey or palette image of numbers -> labels.

  Args:
    file: the mask; of a palette image the indices count, not the colours.
    labels: label table, for the message.
    values: {number in the file: label}.

  Returns:
    u8[H,W].

  Raises:
    UserError: damaged file, or a number that is not in `values`.
  """
  return _from_values(open_image(file), file, labels, values)


def read_colors(file, labels, ignored=(), *, threshold=False):
  """A colour image -> labels.

  Args:
    file: the mask, RGB or palette.
    labels: label table, for its colours.
    ignored: colours (red, green, blue) that become 255.
    threshold: first makes each channel 255 where it is at least 128 and 0 elsewhere.

  Returns:
    u8[H,W].

  Raises:
    UserError: damaged file, or a colour of no class.
  """
  return _from_colors(open_image(file), file, labels, ignored, threshold)


def read_mask(file, labels, values, ignored=()):
  """`read_values` for grey and palette images, `read_colors` for the others."""
  mask = open_image(file)
  if mask.mode in (*GREY, "P"):
    return _from_values(mask, file, labels, values)
  return _from_colors(mask, file, labels, ignored, threshold=False)


def to_rgb(image, name):
  """A Pillow image in RGB; a UserError names one of more than 8 bits, which would turn white."""
  if image.mode.startswith(("I", "F")):
    raise UserError(f"{name}: an image of mode {image.mode}, expected 8 bits a channel; convert it")
  try:
    return image.convert("RGB")
  except DAMAGE as error:
    raise UserError(f"{name}: cannot be read as RGB ({error}); replace or remove it") from None


def _from_values(mask, file, labels, values):
  if mask.mode not in (*GREY, "P"):
    raise UserError(f"{file}: found a mask of mode {mask.mode}, expected one of numbers (grey)")
  found = np.asarray(mask)  # mode "1" gives bool
  table = np.full(max(255, *values) + 2, -1, np.int16)  # one more entry than any number: unknown
  table[list(values)] = list(values.values())
  if found.dtype != np.uint8:
    found = np.clip(found.astype(np.int64), -1, len(table) - 1)
  label = table[found]
  bad = np.unique(np.asarray(mask)[label < 0])
  if bad.size:
    scored = [v for v, index in values.items() if index != IGNORE]
    ignored = [str(v) for v, index in values.items() if index == IGNORE]
    more = f" (and {bad.size - 1} more)" if bad.size > 1 else ""
    raise UserError(
      f"{file}: label value {bad[0]}{more} is outside the table, expected {min(scored)} to "
      f"{max(scored)} ({_some(labels.names)})"
      f"{' or ' + ', '.join(ignored) + ', ignore' if ignored else ''}; {(label < 0).sum()} pixels; "
      "mend the file or the table"
    )
  return label.astype(np.uint8)


def _from_colors(mask, file, labels, ignored, threshold):
  rgb = np.asarray(to_rgb(mask, file))
  if threshold and mask.mode not in GREY:  # numbers below 128 would all become black
    rgb = np.where(rgb >= 128, 255, 0)
  code = _code(rgb.astype(np.int32))
  colors = [(c, i) for i, (_, c) in enumerate(labels.classes)] + [(c, IGNORE) for c in ignored]
  label = np.full(code.shape, -1, np.int16)
  for color, index in colors:
    label[code == _code(np.array(color))] = index
  unknown = label < 0
  if unknown.any():
    first = tuple(int(v) for v in rgb[unknown][0])
    more = len(np.unique(code[unknown])) - 1
    raise UserError(
      f"{file}: colour {first}{f' (and {more} more)' if more else ''} belongs to no class; "
      f"{unknown.sum()} pixels; colour masks need one of "
      f"{_some([f'{n} {tuple(c)}' for n, c in labels.classes])}"
      f"{''.join(f', ignored {tuple(c)}' for c in ignored)}; mend the file or the table"
    )
  return label.astype(np.uint8)


def _code(rgb):
  return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def _count(names, what):
  return f"{len(names)} {what}{'s'[: len(names) > 1]}"


def _inside(folder, root):
  return f"{folder.relative_to(root) if folder != root else root.name}/"


def _some(words, count=12):
  return ", ".join(words[:count]) + (", ..." if len(words) > count else "")


# ---------------------------------------------------------------------------- folders and lists


def data_folder(folder, name):
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


def first_folder(root, names):
  """The first of the folders `root/name` that exists; a UserError lists them where none does."""
  for name in names:
    if (root / name).is_dir():
      return root / name
  raise UserError(f"{root.absolute()}: expected a folder {' or '.join(names)} in it")


def read_list(file):
  """Lines of a text file, stripped, without empty ones."""
  return [line.strip() for line in file.read_text().splitlines() if line.strip()]


def images_by_stem(folder, strip=""):
  """{name without ending: image file} of a folder, sorted.

  Args:
    folder: to look in.
    strip: end of the name that is left off; files without it are passed over.

  Raises:
    UserError: no such folder, or two files of one name, such as x.jpg and x.png.
  """
  if not folder.is_dir():
    raise UserError(f"no such folder: {folder.absolute()}; expected image files in it")
  files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_ENDINGS)
  named = {}
  for file in files:
    if file.stem.endswith(strip) and not file.name.startswith("."):
      other = named.setdefault(file.stem.removesuffix(strip), file)
      if other != file:
        raise UserError(f"{other} and {file.name} differ in their ending alone; remove one of them")
  return named


def skipped(path):
  """Sentences about what `list_images` does not read in a folder; none for a file by itself."""
  if path.is_file():
    return ()
  other, folders = {}, []
  for entry in sorted(path.iterdir()):
    if entry.name.startswith(".") or entry.name in SYSTEM_FILES:
      continue
    if entry.is_dir():
      folders.append(f"{entry.name}/")
    elif entry.suffix.lower() not in IMAGE_ENDINGS:
      other.setdefault(entry.suffix.lower() or "without an ending", []).append(entry.name)
  out = []
  for ending, names in other.items():
    out.append(f"{path.name}/ holds {_count(names, f'file {ending}')} not read: {_some(names)}")
  if folders:
    out.append(f"{path.name}/ holds {_count(folders, 'folder')} not read: {_some(folders)}")
  return tuple(out)


def folder_notes(root, taken):
  """`skipped` of the folders below `root` that the files `taken` lie in."""
  folders = sorted({f.parent for f in taken} - {root})
  return tuple(note for folder in folders for note in skipped(folder))


def list_images(path):
  """Image files of a folder, or a file by itself; a UserError where there are none."""
  if path.is_file():
    return [path]
  files = list(images_by_stem(path).values())
  if not files:
    raise UserError(f"{path.absolute()}: no image in it, expected {', '.join(IMAGE_ENDINGS)}")
  return files


def seeded_split(items, split, train_fraction, seed):
  """A seeded share of `items` for "train", the others for "val"; each in the given order."""
  if not 0 <= train_fraction <= 1:
    raise UserError(f"train_fraction is {train_fraction}, expected a number from 0 to 1")
  if seed < 0:
    raise UserError(f"split_seed is {seed}, expected 0 or more")
  order = np.random.default_rng(seed).permutation(len(items))
  cut = round(train_fraction * len(items))
  chosen = sorted(order[:cut] if split == "train" else order[cut:])
  return [items[i] for i in chosen]


def has_lists(root):
  """Whether `train.txt` and `val.txt` are there."""
  return all((root / f"{s}.txt").is_file() for s in SPLITS)


def split_names(root, split, names, *, split_by, train_fraction, split_seed):
  """Names of a split, from `<root>/<split>.txt` or by seed; see `driving.kitti_road`."""
  if split_by not in ("auto", "files", "seed"):
    raise UserError(f"split_by is {split_by!r}, expected 'auto', 'files' or 'seed'")
  if split_by == "seed" or (split_by == "auto" and not has_lists(root)):
    return seeded_split(names, split, train_fraction, split_seed)
  file = root / f"{split}.txt"
  if not file.is_file():
    raise UserError(f"no split file {file.absolute()}; write it, or use split_by='seed'")
  return read_list(file)
