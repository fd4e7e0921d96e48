"""Text files of a data set, and splits of it by lists of names or by seed."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter

import numpy as np

from segjax.errors import NoSplit, UserError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val")  # of a training
TEST = "test"  # a third one, where the set has it
SHOWN = 5  # names in a message


def read_text(file):
  """A text file in UTF-8, with or without a byte order mark; a UserError for another encoding."""
  try:
    text = file.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError:
    text = "\0"
  except OSError as error:
    raise UserError(f"{file}: cannot be read ({error.strerror}); mend it") from None
  if "\0" in text:
    raise UserError(f"{file}: not text in UTF-8; save it in this encoding")
  return text


def read_lines(file):
  """Lines of a text file, stripped, without empty ones: list of (number from 1, text)."""
  rows = enumerate(read_text(file).splitlines(), 1)
  return [(number, line.strip()) for number, line in rows if line.strip()]


def without_comment(line):
  """A line without a `#` that begins it or follows a blank, and without what comes after that."""
  return f" {line}".replace("\t#", " #").partition(" #")[0].strip()


def read_list(file):
  """Lines of a text file, stripped, without empty ones."""
  return [line for _, line in read_lines(file)]


def has_lists(root):
  """Whether `train.txt` and `val.txt` are there; a UserError if one is there without the other."""
  there = [(root / f"{s}.txt").is_file() for s in SPLITS]
  if any(there) and not all(there):
    raise UserError(
      f"{root}: found one of train.txt and val.txt, expected both or none of them; write the other "
      "one, or rename it"
    )
  return all(there)


def require_test(split, there, what, why):
  """Raises a NoSplit for the split "test" of a set without one.

  Args:
    split: "train", "val" or "test".
    there: whether the set has a test split.
    what: the set, for the message.
    why: what is missing, or where its images are, for the message.
  """
  if split == TEST and not there:
    raise NoSplit(f"{what} has no split 'test' (splits: {', '.join(SPLITS)}): {why}")


def seeded_split(items, split, train_fraction, seed):
  """A seeded share of `items` for "train", the others for "val"; each in the given order."""
  if not 0 <= train_fraction <= 1:
    raise UserError(f"train_fraction is {train_fraction}, expected a number from 0 to 1")
  if seed < 0:
    raise UserError(f"split_seed is {seed}, expected 0 or more")
  order = np.random.default_rng(seed).permutation(len(items))
  cut = round(train_fraction * len(items))
  if 0 < train_fraction < 1 and len(items) > 1:
    cut = min(max(cut, 1), len(items) - 1)  # of a few examples each split has one
  chosen = sorted(order[:cut] if split == "train" else order[cut:])
  return [items[i] for i in chosen]


def split_names(root, split, names, *, split_by, train_fraction, split_seed):
  """Names of a split, from `<root>/<split>.txt` or by seed; see `kitti_road`.

  Args:
    root: folder of the set.
    split: "train", "val" or "test"; the last one needs a list beside the two others.
    names: names of all examples.
    split_by: "files", "seed" or "auto".
    train_fraction: share of the examples in "train", for a seeded split.
    split_seed: random seed of the split.

  Returns:
    (names of the split, notes: sentences about names or lists that are passed over).

  Raises:
    UserError: one list without the other, a name twice, in a list or in two.
    NoSplit: "test" where there is no list of it.
  """
  if split_by not in ("auto", "files", "seed"):
    raise UserError(f"split_by is {split_by!r}, expected 'auto', 'files' or 'seed'")
  has_test = split_by != "seed" and all((root / f"{s}.txt").is_file() for s in (*SPLITS, TEST))
  why = "write test.txt beside train.txt and val.txt"
  if (root / "test.txt").is_file():
    why = "write train.txt and val.txt beside test.txt"
  if split_by == "seed":
    why = "split_by='seed' reads no lists"
  require_test(split, has_test, root.absolute(), why)
  there = [f"{s}.txt" for s in (*SPLITS, TEST) if (root / f"{s}.txt").is_file()]
  if split_by == "seed":
    notes = (f"{' and '.join(there)} not read, as split_by is 'seed'",) if there else ()
    return seeded_split(names, split, train_fraction, split_seed), notes
  if split_by == "files":
    for file in (root / f"{s}.txt" for s in SPLITS):
      if not file.is_file():
        raise UserError(f"no split file {file.absolute()}; write it, or use split_by='seed'")
  elif not has_lists(root):
    if there:
      raise UserError(
        f"{root}: test.txt without train.txt and val.txt, so its images would be trained on; write "
        "the other lists too, or set split_by='seed', which reads none"
      )
    return seeded_split(names, split, train_fraction, split_seed), ()
  listed = {s: _listed(root / f"{s}.txt", set(names)) for s in SPLITS}
  if split == TEST:
    listed[TEST] = _listed(root / "test.txt", set(names))
  require_apart(root, listed)
  tested = _names_in(root / "test.txt", set(names)) if has_test else ()
  lone = _without(names, {*listed["train"], *listed["val"], *tested})
  notes = (f"{count(lone, 'image')} in neither train.txt nor val.txt: {some(lone)}",) * bool(lone)
  return listed[split], notes


def require_apart(root, listed):
  """Raises a UserError for a name that is in two of the lists {split: names}."""
  for first, second in itertools.combinations(listed, 2):
    taken = set(listed[first])
    if both := [n for n in listed[second] if n in taken]:
      raise UserError(
        f"{root}: {some(both)} in {first}.txt and in {second}.txt; leave each in one list"
      )


def split_part(root, split, names, has_folder, *, split_by, train_fraction, split_seed):
  """`split_names`, or the names of a split that has a folder of its own, of which lists may choose.

  Args:
    root: folder of the set.
    split: "train", "val" or "test".
    names: names of all examples, or of those in the split's folder.
    has_folder: which of the two.
    split_by, train_fraction, split_seed: see `split_names`.
  """
  if not has_folder:
    how = dict(split_by=split_by, train_fraction=train_fraction, split_seed=split_seed)
    return split_names(root, split, names, **how)
  listed = has_lists(root)
  if split_by != "auto" and (split_by != "files" or not listed):
    raise UserError(
      f"{root}: split_by is {split_by!r}, but train and val have folders of their own"
      f"{'' if listed else ' and there are no lists'}; leave split_by='auto'"
    )
  if not listed or not (root / f"{split}.txt").is_file():
    return names, ()
  chosen = _listed(root / f"{split}.txt", set(names))
  lone = _without(names, set(chosen))
  return chosen, (f"{split}.txt leaves {count(lone, 'image')} out: {some(lone)}",) * bool(lone)


def _without(names, taken):
  """The names, in their order, that are not in a set."""
  return [name for name in names if name not in taken]


def _listed(file, known):
  """The names of a list, see `_names_in`; a UserError for one that is there twice."""
  names = _names_in(file, known)
  twice = [name for name, times in Counter(names).items() if times > 1]
  if twice:
    raise UserError(f"{file}: {some(twice)} more than once; leave each in one line")
  return names


def _names_in(file, known):
  """Names of a list: a line as it is, or without a file's ending and a "./" where that is known."""
  names = []
  for line in read_list(file):
    name = line
    if name not in known:
      name = name.removeprefix("./")
      stem, dot, ending = name.rpartition(".")
      if stem in known and dot + ending.lower() in IMAGE_ENDINGS:
        name = stem
    if name not in known and line.startswith("#"):
      continue
    names.append(name)
  return names


def alike(names, known):
  """A sentence about the first of some names that looks like a known one; () where none does.

  Names may differ in case, or in how an accent is stored: é is one character (NFC) or two (NFD), as
  macOS has it.

  >>> alike(["Car"], ["car"])
  ("'Car' and 'car' differ in case alone",)
  """
  forms = {_plain(k): k for k in known} if names else {}
  for name in names:
    if (other := forms.get(_plain(name))) is not None:
      accents = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
      how = "how their accents are stored" if accents else "case alone"
      first, second = (ascii(n) if accents else repr(n) for n in (name, other))
      return (f"{first} and {second} differ in {how}",)
  return ()


def _plain(name):
  return unicodedata.normalize("NFC", name).casefold()


def count(names, what):
  """`3 images`."""
  return f"{len(names)} {what}{'s'[: len(names) != 1]}"


def some(names, shown=SHOWN):
  """The first names, with commas."""
  return ", ".join(map(str, names[:shown])) + (" ..." if len(names) > shown else "")


def not_read(where, names, what):
  """`images/ holds 2 .jfif files that are not read: a.jfif, b.jfif`."""
  verb = "are" if len(names) > 1 else "is"
  return f"{where} holds {count(names, what)} that {verb} not read: {some(names)}"
