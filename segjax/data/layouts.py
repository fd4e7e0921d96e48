"""Where images and masks lie in somebody's own folder: split folders, one pool, name endings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from segjax.data import files, lists, paths
from segjax.data.lists import not_read, some
from segjax.errors import UserError

TRAIN = ("train", "training")
VAL = ("val", "valid", "validation")
LABEL_ENDINGS = (*files.IMAGE_ENDINGS, ".gif")
LISTS = (".txt", ".csv", ".tsv", ".lst", ".json", ".xml", ".yaml", ".yml")
# Folders of images and masks in other people's sets, for the message.
KNOWN = (("JPEGImages", "SegmentationClass"), ("imgs", "masks"), ("image", "mask"))


@dataclasses.dataclass(frozen=True)
class Layout:
  """The images and label files of a set.

  Attributes:
    images: part -> {name: file}; the parts are "train", "val" and perhaps "test" where these have
      folders of their own, or else "all". Files in subfolders are named "subfolder/name".
    labels: part -> {name: file}.
    notes: sentences about files that are not read, or are read in a way that may surprise.
  """

  images: dict[str, dict[str, Path]]
  labels: dict[str, dict[str, Path]]
  notes: tuple[str, ...]


def split_folders(root, split):
  """Folders of the splits, by their names.

  A folder `test` is "val" where there is no other, and a note says so.

  Args:
    root: folder to look in.
    split: the split that is wanted; a folder of "test" is not looked for without being asked for.

  Returns:
    ({"train": folder, "val": folder, perhaps "test": folder}, notes), {} where `root` holds no
    folder of train.
  """
  train = next((root / n for n in TRAIN if (root / n).is_dir()), None)
  if train is None:
    return {}, ()
  val = next((root / n for n in VAL if (root / n).is_dir()), None)
  if val is None and (root / "test").is_dir():
    note = (
      f"{files.inside(root, root)} holds no folder val, valid or validation: test/ is taken for val"
    )
    return dict(train=train, val=root / "test"), (note,)
  found = dict(train=train) | (dict(val=val) if val else {})
  if split == lists.TEST and val and (root / "test").is_dir():
    found["test"] = root / "test"
  return found, ()


def require_part(folders, split, root):
  """`folders[split]`; a UserError where it is missing, a NoSplit for "test"."""
  taken = folders.get("val") == root / "test"
  why = f"test/ is taken for val, as there is no {VAL[0]}/" if taken else "there is no folder test"
  lists.require_test(split, split in folders, root.absolute(), why)
  if split not in folders:
    raise UserError(f"{root.absolute()}: expected a folder {', '.join(VAL)} or test in it")
  return folders[split]


def find(root, split, images, labels, suffix, field="masks"):
  """Finds the images and label files of a set.

  Args:
    root: folder of the set.
    split: "train", "val" or "test", which must be there.
    images: name of the folder of images.
    labels: name of the folder of label files; it may be the same.
    suffix: end of the names of label files, without which they are the images' names; empty to
      find it where no label file has an image's name.
    field: the field that names the folder of label files, for messages.

  Returns:
    Layout.

  Raises:
    UserError: a folder is missing, or two files differ in their ending alone.
  """
  places, notes = _places(root, split, images, labels)
  found = Layout({}, {}, notes)
  for part, place in places.items():
    pair = _pair(*place, suffix, root, field)
    found.images[part], found.labels[part] = pair[:2]
    notes += pair[2]
  taken = {f for tree in (*found.images.values(), *found.labels.values()) for f in tree.values()}
  above = files.folders_above(taken)
  holders = paths.folders_of(taken)  # `files.paired` lists other files in these
  folders = {folder for place in places.values() for folder in place}
  for folder in sorted({root, *(f.parent for f in folders)} - holders):
    if folder.is_relative_to(root):
      notes += unread_beside(folder, root, above)
  for folder in sorted(folders - holders):
    if folder.is_dir():
      notes += files.unread(folder, root, taken, above)
  return dataclasses.replace(found, notes=notes)


def find_by_class(root, split, images, masks, suffix):
  """Finds the images and the masks of a set with a folder of masks for each class.

  Args: see `find`; `masks` names the folder of the classes' folders.

  Returns:
    Layout, whose labels are part -> {class: {name: file}}.

  Raises:
    UserError: no folder of a class, or see `find`.
  """
  places, notes = _places(root, split, images, masks)
  found = Layout({}, {}, notes)
  for part, (image_folder, mask_folder) in places.items():
    inside = files.entries(mask_folder, LABEL_ENDINGS)
    if not inside.folders:
      held = f"; it holds {lists.count(inside.files, 'image')}" if inside.files else ""
      raise UserError(
        f"{mask_folder.absolute()}: expected a folder for each class in it, {masks}/CLASS/x.png"
        f"{held}; masks of class numbers are read with --config.data.source.kind=segmentation"
      )
    found.images[part] = _tree(image_folder, files.IMAGE_ENDINGS, inside.folders)
    found.labels[part] = {
      folder.name: _tree(folder, LABEL_ENDINGS, (image_folder,), suffix)
      for folder in inside.folders
    }
  return found


def others_images(root, split, found, **how):
  """The images of the train split, for the search for those in both splits; () for train itself.

  Args:
    root: folder of the set.
    split: "train", "val" or "test".
    found: Layout.
    **how: see `lists.split_names`.
  """
  if split == "train":
    return ()
  if split in found.images:  # in a folder of its own
    return tuple(found.images.get("train", {}).values())
  pool = found.images["all"]
  chosen, _ = lists.split_names(root, "train", list(pool), **how)
  return tuple(pool[name] for name in chosen if name in pool)


def _places(root, split, images, labels):
  """({part: (folder of images, folder of labels)}, notes)."""
  folders, notes = split_folders(root, split)
  if folders:
    require_part(folders, split, root)
    return {p: (_images_of(f, images), f / labels) for p, f in folders.items()}, notes
  folders, notes = split_folders(root / images, split)
  if folders:
    require_part(folders, split, root / images)
    return {p: (f, root / labels / f.name) for p, f in folders.items()}, notes
  return {"all": (_images_of(root, images), root / labels)}, ()


def _images_of(base, images):
  """`base/images`, or `base` where it holds the images itself."""
  folder = base / images
  if folder.is_dir():
    return folder
  if files.entries(base).files:
    return base
  hint = "".join(
    f"; for {a}/ and {b}/ set --config.data.source.images={a} --config.data.source.masks={b}"
    for a, b in KNOWN
    if (base / a).is_dir()
  )
  there = [f"{f.name}/" for f in files.entries(base).folders]
  said = f"; there is {some(there)}" if there else ""
  raise UserError(f"no such folder: {folder.absolute()}; expected image files in it{said}{hint}")


def _pair(image_folder, label_folder, suffix, root, field):
  """({name: image}, {name: label file}, notes) of a part."""
  if not label_folder.is_dir() or label_folder == image_folder:
    return _pair_of_one_folder(image_folder, label_folder, suffix, root, field)
  images = _tree(image_folder, files.IMAGE_ENDINGS, (label_folder,))
  labels = _tree(label_folder, LABEL_ENDINGS, (image_folder,))
  notes = ()
  if not suffix and images and labels and not images.keys() & labels.keys():
    first = min(images)
    ends = sorted({n.removeprefix(first) for n in labels if n.startswith(first)})
    suffix, notes = _suffix([e for e in ends if all(n + e in labels for n in images)], label_folder)
    if not suffix:
      some_names = f"{images[first].name} and {labels[min(labels)].name}"
      notes = (f"no image has a mask of its name: there are {some_names}",)
  return images, {n.removesuffix(suffix): f for n, f in labels.items() if n.endswith(suffix)}, notes


def _pair_of_one_folder(folder, label_folder, suffix, root, field):
  """`_pair` of a folder in which x_mask.png is the mask of x.png."""
  hint = f", or move the masks to {label_folder.name}/" if label_folder != folder else ""
  found, notes = files.by_stem(files.entries(folder, LABEL_ENDINGS).files, hint=hint), ()
  if not suffix and found:
    first = min(found)  # an image: a mask's name begins with its image's
    ends = sorted({n.removeprefix(first) for n in found if n.startswith(first)} - {""})
    ends = [e for e in ends if {n + e for n in found if not n.endswith(e)} == _ending(found, e)]
    suffix, notes = _suffix(ends, folder)
  if not suffix:
    near = label_folder.parent if label_folder.parent.is_dir() else root
    there = [f"{f.name}/" for f in files.entries(near).folders if f != folder]
    said = f"; there is {some(there)}: set --config.data.source.{field}" if there else ""
    raise UserError(
      f"no such folder: {label_folder.absolute()}; expected {field} in it, or beside the images "
      "with an ending of their names, x_mask.png for x.png: set --config.data.source.mask_suffix"
      f"{said}"
    )
  labels = {n.removesuffix(suffix): found[n] for n in _ending(found, suffix)}
  images = {n: f for n, f in found.items() if not n.endswith(suffix)}
  images = {n: f for n, f in images.items() if f.suffix.lower() in files.IMAGE_ENDINGS}
  return images, dict(sorted(labels.items())), notes


def _ending(names, end):
  return {n for n in names if n.endswith(end)}


def _suffix(ends, folder):
  """(the one ending that pairs all names, a note), or ("", ())."""
  if len(ends) > 1:
    raise UserError(
      f"{folder}: masks are named as their images with {' or '.join(map(repr, ends))} behind; set "
      "--config.data.source.mask_suffix to one of them"
    )
  if not ends:
    return "", ()
  return ends[0], (f"the mask of the image x is x{ends[0]} in {folder.name}/, by their names",)


def _tree(folder, endings, mirrors, suffix="", prefix="", above=frozenset()):
  """{name: file} of a folder and of its subfolders that one of `mirrors` has too.

  Files without `suffix` at the end of their names are passed over. A link to a folder above is not
  followed.
  """
  found = files.entries(folder, endings)
  named = files.by_stem(found.files, suffix, prefix)
  here = folder.resolve()
  above = above | {here, *here.parents}
  for sub in found.folders:
    others = [mirror / sub.name for mirror in mirrors if (mirror / sub.name).is_dir()]
    if others and sub.resolve() not in above:
      named |= _tree(sub, endings, others, suffix, f"{prefix}{sub.name}/", above)
  return named


def unread_beside(folder, root, above):
  """Sentences about folders, lists and images that lie beside the folders that are read."""
  found = files.entries(folder)
  lists = [f.name for f in found.others if _may_list(f)]
  groups = (
    ("folder", [f"{f.name}/" for f in found.folders if f not in above]),
    ("image", [f.name for f in found.files]),
    ("list", lists),
  )
  where = files.inside(folder, root)
  return tuple(not_read(where, names, what) for what, names in groups if names)


def _may_list(file):
  """Whether a file looks like a list of examples or classes, by its name, and is not read."""
  name = file.name.lower()
  known = file.name in files.TEXTS or name.startswith(files.FOR_PEOPLE)
  return file.suffix.lower() in LISTS and not known
