"""Image and label files in pairs, and their folders; shared by the file sources."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from segjax.data import contents, decoding, paths
from segjax.data.decoding import read_image
from segjax.data.labels import LabelTable
from segjax.data.lists import IMAGE_ENDINGS, SPLITS, TEST, alike, count, not_read, some
from segjax.errors import UserError, did_you_mean

__all__ = [
  "IMAGE_ENDINGS", "SPLITS", "TEST", "Files", "data_folder", "first_folder", "folder_notes",
  "images_by_stem", "list_images", "paired", "read_image", "require_complete", "skipped",
]  # fmt: skip

SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # not counted, as hidden files are not
TEXTS = (
  "classes.txt",
  *(f"{s}.txt" for s in (*SPLITS, TEST)),
)  # are read, and these are for people:
RECENT = 2 * 10**9  # ns; the coarsest times that file systems have
FOR_PEOPLE = ("readme", "license")


@dataclasses.dataclass(frozen=True)
class Files(contents.OfFiles):
  """Pairs of an image file and a label file.

  Attributes:
    labels: label table; empty where the label is a target image.
    root: folder of the set, for messages.
    names: one a pair.
    pairs: (image file, label file), with None for a missing one.
    read_label: label file -> u8[H,W] in [0, len(labels)) or 255; u8[H,W,3] for a target.
    key: key of the label in the example, "label" or "target".
    orphans: label files that belong to no image.
    remarks, elsewhere: see `contents.OfFiles`.
    read_image: image file -> u8[H,W,3], or another image, see `segjax.data.rasters`.
  """

  labels: LabelTable
  root: Path
  names: tuple[str, ...]
  pairs: tuple[tuple[Path | None, Path | None], ...]
  read_label: Callable[[Path], np.ndarray]
  key: str = "label"
  orphans: tuple[Path, ...] = ()
  remarks: tuple[str, ...] = ()
  elsewhere: tuple[Path, ...] = ()
  read_image: Callable[[Path], np.ndarray] = read_image

  def __len__(self):
    return len(self.pairs)

  def __getitem__(self, i):
    image_file, label_file = self.pairs[i]
    if image_file is None or label_file is None:
      raise UserError(self.faults(i)[0])
    image = self.read_image(image_file)
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
    for file, read in ((image_file, self.read_image), (label_file, self.read_label)):
      if file is None:
        continue
      try:
        sizes.append(read(file).shape[1::-1])
      except UserError as error:
        out.append(str(error))
        sizes.append(decoding.read_size(file))
    if len(sizes) == 2 and None not in sizes and sizes[0] != sizes[1]:
      out.append(self._size_fault(i, sizes[1], sizes[0]))
    return out

  def _size_fault(self, i, label_size, image_size):
    image_file, label_file = self.pairs[i]
    return (
      f"{label_file}: {self.key} is {label_size[0]}x{label_size[1]} pixels (width x height), its "
      f"image {image_file} is {image_size[0]}x{image_size[1]}; they must agree"
      f"{on_its_side(label_size, image_size)}"
    )


def on_its_side(label_size, image_size):
  """The likely cause of a label that is as high as its image is wide, for the message."""
  if tuple(label_size) != tuple(image_size)[::-1]:
    return ""
  return (
    ": one of them is turned. Images are read upright, as viewers show them by their EXIF "
    "orientation; save the label so, or take the orientation out of the image"
  )


def paired(
  labels, root, names, images, label_files, read_label, key="label", remarks=(), unused=()
):
  """A `Files` of images and labels with the same key.

  Args:
    labels: label table.
    root: folder of the set.
    names: names of the pairs wanted, in order.
    images: name -> image file.
    label_files: name -> label file.
    read_label: see `Files`.
    key: see `Files`.
    remarks: sentences about files that are not read, besides those of `folder_notes`.
    unused: files that the set has for another purpose, and that are not worth a sentence.
  """
  pairs = tuple((images.get(n), label_files.get(n)) for n in names)
  known = images.keys() | set(names)
  lone = tuple(f for n, f in label_files.items() if n not in known)
  taken = (*images.values(), *label_files.values(), *unused)
  remarks = tuple(dict.fromkeys((*remarks, *folder_notes(root, taken))))
  lost = [n for n in names if n not in images]
  bare = [n for n in names if n in images and n not in label_files]
  remarks += (*alike(lost, images), *alike(bare, label_files), *lone_notes(root, lone, key))
  orphans = () if has_lists(root) else lone
  return Files(labels, root, tuple(names), pairs, read_label, key, orphans, tuple(remarks))


def lone_notes(root, lone, key):
  """A sentence for each folder of label files that belong to no image."""
  notes = ()
  for folder in sorted({f.parent for f in lone}):
    of = [f.name for f in lone if f.parent == folder]
    notes += (f"{inside(folder, root)} holds {count(of, key)} without an image: {some(of)}",)
  return notes


def has_lists(root):
  """Whether lists name the files of the set, so that others in its folders are no fault."""
  return any((root / f"{s}.txt").is_file() for s in SPLITS)


def require_complete(source):
  """Raises a UserError that lists listed names without an image and images without a label."""
  pairs = getattr(source, "pairs", ())
  lost = [n for n, (image, _) in zip(source.names, pairs, strict=False) if image is None]
  said = "".join(f". {note}" for note in getattr(source, "remarks", ()))
  if lost:
    there = next((n for n, (image, _) in zip(source.names, pairs, strict=False) if image), "")
    raise UserError(
      f"{source.root}: {len(lost)} listed name(s) have no image, e.g. {lost[0]!r}; a line of a "
      f"list is one name without folder, such as {there or 'x05'!r}{said}"
    )
  bare = [image.name for image, label in pairs if label is None]
  if bare:
    raise UserError(
      f"{source.root}: {len(bare)} of {len(pairs)} images have no {source.key}: {some(bare)}; add "
      f"them or remove the images{said}"
    )


# ---------------------------------------------------------------------------- folders


def data_folder(folder, name):
  """`folder`, or `$SEGJAX_DATA/name` where it is empty; a UserError where there is none."""
  if not folder and not os.environ.get("SEGJAX_DATA"):
    raise UserError(
      f"data source {name!r} needs its folder: give --config.data.source.folder=PATH, or set "
      f"SEGJAX_DATA to a folder that contains {name}/"
    )
  path = Path(folder) if folder else Path(os.environ["SEGJAX_DATA"]) / name
  if not path.is_dir():
    more = "" if folder else ", of SEGJAX_DATA; give --config.data.source.folder=PATH"
    raise UserError(f"data source {name!r}: no such folder: {path.absolute()}{more}")
  return path


def first_folder(root, names):
  """The first of the folders `root/name` that exists; a UserError lists them where none does."""
  for name in names:
    if (root / name).is_dir():
      return root / name
  raise UserError(f"{root.absolute()}: expected a folder {' or '.join(names)} in it")


@dataclasses.dataclass(frozen=True)
class Entries:
  """The entries of a folder, sorted by name; hidden entries are left out.

  Attributes:
    files: files that have one of the endings asked for.
    folders: folders in it.
    others: files of other endings, and entries that are neither a file nor a folder.
  """

  files: tuple[paths.File, ...]
  folders: tuple[Path, ...]
  others: tuple[paths.File, ...]


def entries(folder, endings=IMAGE_ENDINGS):
  """The `Entries` of a folder; a UserError where there is none.

  They are kept for the other split and for `unread`, but for a folder that has just changed: its
  next change may have the same time.
  """
  if not folder.is_dir():
    raise UserError(f"no such folder: {folder.absolute()}; expected image files in it")
  changed = folder.stat().st_mtime_ns
  kept = time.time_ns() - changed > RECENT
  try:
    return (_entries if kept else _entries.__wrapped__)(folder, endings, changed, kept)
  except OSError as error:
    raise UserError(f"{folder.absolute()}: cannot be read ({error.strerror}); mend it") from None


@functools.lru_cache(maxsize=8)
def _entries(folder, endings, changed, kept):
  plain, special, folders = (_scan if kept else _scan.__wrapped__)(folder, changed)
  files, others = [], list(special)
  for path in plain:
    (files if path.suffix.lower() in endings else others).append(path)
  return Entries(tuple(files), folders, tuple(sorted(others)))


@functools.lru_cache(maxsize=8)
def _scan(folder, changed):
  """(files, entries that are neither a file nor a folder, folders), sorted by name.

  A link to nothing counts as a file: it is an error when it is read.
  """
  del changed  # makes another entry of the cache
  plain, special, folders, before = [], [], [], paths.prefix(folder)
  with os.scandir(folder) as scan:
    for entry in scan:
      name = entry.name
      if name.startswith(".") or name.lower() in SYSTEM_FILES:
        continue
      if entry.is_dir():
        folders.append(folder / name)
      elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry)):
        plain.append(paths.File(before + name))
      else:
        special.append(paths.File(before + name))
  return tuple(sorted(plain)), tuple(special), tuple(sorted(folders, key=lambda f: f.name))


def inside(folder, root):
  """`images/`, a folder's path in the set, for messages."""
  if folder == root or not folder.is_relative_to(root):
    return f"{folder.absolute().name}/"
  return f"{folder.relative_to(root)}/"


def unread(folder, root, taken=None, above=()):
  """Sentences about files in a folder that are not read.

  Args:
    folder: folder to look in.
    root: folder of the set, for messages.
    taken: set of the files that are read, wherever they lie; None: all images in the folder.
    above: set of the folders that they lie in, however deep.
  """
  found = entries(folder)
  taken = set(found.files) if taken is None else taken
  where, by_ending = inside(folder, root), {}
  for path in found.others:
    name = path.name.lower()
    if path not in taken and path.name not in TEXTS and not name.startswith(FOR_PEOPLE):
      kind = path.suffix.lower() or "other"
      kind = "special" if kind in IMAGE_ENDINGS else kind
      by_ending.setdefault(f"{kind} file", []).append(path.name)
  by_ending["image"] = [f.name for f in found.files if f not in taken]
  by_ending["folder"] = [f"{path.name}/" for path in found.folders if path not in above]
  return tuple(not_read(where, names, kind) for kind, names in by_ending.items() if names)


def by_stem(files, strip="", prefix="", hint=""):
  """{prefix + name without ending: file}; see `images_by_stem`. `hint` ends the message."""
  named = {}
  for file in files:
    stem = file.stem
    if stem.endswith(strip):
      other = named.setdefault(prefix + stem.removesuffix(strip), file)
      if other != file:
        raise UserError(
          f"{other} and {file.name} differ in their ending alone; remove one of them{hint}"
        )
  return named


def images_by_stem(folder, strip=""):
  """{name without ending: image file} of a folder, sorted.

  Args:
    folder: folder to look in.
    strip: end of the name that is left off; files without it are passed over.

  Raises:
    UserError: no such folder, or two files of one name, such as x.jpg and x.png.
  """
  return by_stem(entries(folder).files, strip)


def skipped(path):
  """Sentences about files of a folder that `list_images` skips; none for a file by itself."""
  return () if path.is_file() else unread(path, path)


def folder_notes(root, taken):
  """Sentences about files that are not read, in the folders of the files `taken`."""
  taken, above = set(taken), folders_above(taken)
  folders = sorted(paths.folders_of(taken))
  return tuple(note for folder in folders for note in unread(folder, root, taken, above))


def folders_above(files):
  """Set of all folders that files lie in, however deep."""
  direct = paths.folders_of(files)
  return direct.union(*(folder.parents for folder in direct))


def list_images(path):
  """Image files of a folder, or a file by itself; a UserError where there are none."""
  if path.is_file():
    return [path]
  if not path.exists():
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, beside)
    raise UserError(f"no such file or folder: {path.absolute()}{hint}")
  files = [Path(file) for file in entries(path).files]
  if not files:
    said = "".join(f". {note}" for note in skipped(path))
    raise UserError(f"{path.absolute()}: no image in it, expected {', '.join(IMAGE_ENDINGS)}{said}")
  return files
