"""Images with a mask for each class, which may overlap: `masks/CLASS/x.png` for `images/x.jpg`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from segjax.data import contents, decoding, files, label_sets, layouts, lists, meaning
from segjax.data.labels import IGNORE, LabelTable, default_table, read_table
from segjax.data.lists import count, some
from segjax.errors import UserError

OF_A_CLASS = default_table(("other", "class"))  # the values of each mask


@dataclasses.dataclass(frozen=True)
class MaskFiles(contents.OfFiles):
  """Images and the masks of their classes.

  Attributes:
    labels: label table of overlapping classes.
    root: folder of the set, for messages.
    names: one per image.
    pairs: (image file or None, mask files), one mask for each class that has a file.
    read_mask: mask file -> u8[H,W], 1 for the class, 255 where nothing is scored.
    orphans: mask files that belong to no image.
    remarks, elsewhere: see `contents.OfFiles`.
    read_image: image file -> image.
  """

  labels: LabelTable
  root: Path
  names: tuple[str, ...]
  pairs: tuple[tuple[Path | None, tuple[tuple[int, Path], ...]], ...]
  read_mask: Callable[[Path], np.ndarray]
  orphans: tuple[Path, ...] = ()
  remarks: tuple[str, ...] = ()
  elsewhere: tuple[Path, ...] = ()
  read_image: Callable[[Path], np.ndarray] = decoding.read_image

  def __len__(self):
    return len(self.pairs)

  def __getitem__(self, i):
    faults, image, label = self._read(i)
    if faults:
      raise UserError(faults[0])
    return dict(image=image, label=label)

  def faults(self, i):
    """Reads an image and its masks and returns all that is wrong with them, a sentence each."""
    return self._read(i)[0]

  def _read(self, i):
    """(faults, image, label); the arrays are of use where there are no faults."""
    image_file, mask_files = self.pairs[i]
    if image_file is None:
      return [f"{self.root}: {self.names[i]!r} has no image"], None, None
    try:
      image = self.read_image(image_file)
    except UserError as error:
      return [str(error)], None, None
    faults = []
    planes = np.zeros((*image.shape[:2], len(self.labels)), bool)
    ignored = np.zeros(image.shape[:2], bool)
    for k, file in mask_files:
      try:
        mask = self.read_mask(file)
      except UserError as error:
        faults.append(str(error))
        continue
      if mask.shape != ignored.shape:
        faults.append(
          f"{file}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels (width x height), its image "
          f"{image_file} is {image.shape[1]}x{image.shape[0]}; they must agree"
          f"{files.on_its_side(mask.shape, ignored.shape)}"
        )
        continue
      planes[..., k] = mask == 1
      ignored |= mask == IGNORE
    label = label_sets.join(planes)
    label[ignored] = IGNORE
    return faults, image, label


def class_masks(root, split, names, *, images, masks, mask_suffix, ignore_value, **how):
  """The source of a folder with a mask for each class, `masks/CLASS/x.png` for `images/x.jpg`.

  Of the layouts of `folder` all that hold `masks/` are read, with the subfolders of images that a
  class has too, `masks/CLASS/sub/x.png` for `images/sub/x.jpg`. Where the masks of both splits hold
  0 and 255 alone, a pixel of 255 is of the class. Else it is one of 1, and a pixel that is
  `ignore_value` in one mask of an image is not scored for any class. A class without a mask of an
  image is absent from it.

  Args:
    root: folder of the set.
    split: "train", "val" or "test".
    names: names of the classes; empty for those of classes.txt, or of the folders of masks.
    images: name of the folder of images.
    masks: name of the folder of the classes' folders.
    mask_suffix: end of the masks' names beyond the images'.
    ignore_value: number in a mask that is not scored, unless the masks hold 0 and it alone.
    **how: see `lists.split_names`.

  Raises:
    UserError: no folder of a class, no image with a mask, or see `layouts.find_by_class`.
  """
  found = layouts.find_by_class(root, split, images, masks, mask_suffix)
  if ignore_value in (0, 1):
    raise UserError(
      f"folder: ignore_value is {ignore_value}, and 0 and 1 say whether a pixel is of the class; "
      "choose another number"
    )
  labels = _table(root, names, found, masks)
  mask_files = [  # those of test decide nothing
    f for part, of in found.labels.items() if part != lists.TEST for f in _files_of(of)
  ]
  if not mask_files:
    raise UserError(f"{root / masks}: no mask in the folders of its classes")
  values = {0: 0, 1: 1, ignore_value: IGNORE}
  meant, _ = meaning.decide(OF_A_CLASS, values, (), mask_files, masks)
  if not meant.binary:
    _require_one_form(found, values, masks)
  part = split if split in found.images else "all"
  image_files = found.images[part]
  chosen, left = lists.split_part(root, split, list(image_files), part != "all", **how)
  by_class = found.labels[part]
  pairs = tuple((image_files.get(n), _masks_of(n, labels, by_class)) for n in chosen)
  lone = [f for named in by_class.values() for n, f in named.items() if n not in image_files]
  notes = (_rule(meant.binary, masks, ignore_value), *_counts(labels, pairs))
  notes += files.lone_notes(root, lone, "mask")
  if pairs and not any(of for _, of in pairs):
    first = mask_files[0]
    raise UserError(
      f"{root}: no image of {split} has a mask of its name in {masks}/CLASS/, such as "
      f"{files.inside(first.parent, root)}{first.name}; name the masks as the images, or set "
      "mask_suffix"
    )
  taken = (*image_files.values(), *_files_of(by_class))
  notes = tuple(dict.fromkeys((*notes, *left, *found.notes, *files.folder_notes(root, taken))))
  read = functools.partial(meaning.read, meaning=meant)
  elsewhere = layouts.others_images(root, split, found, **how)
  orphans = () if files.has_lists(root) else tuple(lone)
  return MaskFiles(labels, root, tuple(chosen), pairs, read, orphans, notes, elsewhere)


def _require_one_form(found, values, masks):
  """Raises a UserError where the masks of one class hold 0 and 255 alone, and those of others 1."""
  of_class = {}
  for part, by_class in found.labels.items():
    for name, named in by_class.items() if part != lists.TEST else ():
      of_class.setdefault(name, []).extend(named.values())
  how = (OF_A_CLASS, values, ())
  binary = [n for n, of in of_class.items() if meaning.decide(*how, of, masks)[0].binary]
  if binary:
    raise UserError(
      f"{masks}/{binary[0]}/ holds 0 and 255 alone, and masks of other classes hold other numbers: "
      "it is not clear whether 255 is the class; write 0 and 1 in all masks, and 255 where nothing "
      "is scored"
    )


def _table(root, names, found, masks):
  """The label table; a UserError for a folder of masks that no class has, or a class without."""
  there = {name for by_class in found.labels.values() for name in by_class}
  if not names and (root / "classes.txt").is_file():
    table = read_table(root / "classes.txt")
    names = table.names
    plain = label_sets.overlapping_table(names)
    classes = tuple(
      of if i in table.own_colors else plain.classes[i] for i, of in enumerate(table.classes)
    )
    labels = LabelTable(classes, table.own_colors, overlapping=True)
  else:
    names = names or tuple(sorted(there))
    labels = label_sets.overlapping_table(names)
  if lost := sorted(there - set(names)):
    near = "".join(f"; {text}" for text in lists.alike(lost[:1], names))
    raise UserError(
      f"{root / masks}: there is a folder {lost[0]}/, and no class of this name (classes: "
      f"{some(list(names))}){near}; name it in classes.txt or data.source.classes, or remove the "
      "folder"
    )
  if bare := [n for n in names if n not in there]:
    raise UserError(
      f"{root / masks}: no folder {bare[0]}/ of the class {bare[0]!r} in it; there is "
      f"{some(sorted(there))}"
    )
  return labels


def _files_of(by_class):
  """All files of {class: {name: file}}."""
  return [file for named in by_class.values() for file in named.values()]


def _masks_of(name, labels, by_class):
  """((number of the class, mask file), ...) of an image."""
  found = ((k, by_class.get(c, {}).get(name)) for k, c in enumerate(labels.names))
  return tuple((k, file) for k, file in found if file is not None)


def _rule(binary, masks, ignore_value):
  """The sentence that says how the masks are read."""
  if binary:
    return f"masks in {masks}/CLASS/ hold 0 and 255 alone: a pixel of 255 is of the class"
  return (
    f"masks in {masks}/CLASS/: a pixel of 1 is of the class, and one that is {ignore_value} in any "
    "of its image's masks is not scored"
  )


def _counts(labels, pairs):
  """A sentence about images without a mask of some class."""
  have = [sum(any(k == of for of, _ in masks) for _, masks in pairs) for k in range(len(labels))]
  few = [f"{c} {n}" for c, n in zip(labels.names, have, strict=True) if n < len(pairs)]
  said = f"a class without a mask is absent; of {count(pairs, 'image')} have one: {', '.join(few)}"
  return (said,) * bool(few)
