"""The contents of a source's files: a digest that changes when a mask is mended."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from pathlib import Path

from segjax.data import kept_hashes
from segjax.data.georeferences import displaced
from segjax.data.lists import count, some
from segjax.data.threads import map_threads
from segjax.errors import UserError
from segjax.textfiles import to_bytes

THREADS = 8  # that read; they mostly wait for the disk
COMPARED = 2000  # images of a split that are compared with those of the other
WHOLE = 2**28  # bytes of a set of shards that are read at a start, half a second
END = 2**16  # bytes that are read at either end of an image file


class OfFiles:
  """Base of the sources that read files.

  A class that derives from it has `names`, `labels`, `pairs` of (image file, label file, class or
  ((class, mask file), ...)), `remarks`, sentences about files that are not read, and `elsewhere`,
  image files of the other split, for the search for images that are in both.
  """

  @functools.cached_property
  def notes(self):
    """Sentences about files that are not read, or are read in a way that may surprise."""
    return (*self.remarks, *displaced(self.pairs), *_twins(self), *_doubles(self))

  @functools.cached_property
  def hashes(self):
    """See `example_hashes`."""
    return example_hashes(self, self.pairs)

  def digest(self):
    """16 hex digits over the contents of the files, in the order of the examples."""
    return combine(self.hashes, self.labels)


def notes_of(*found):
  """Sentences of sources about files that they do not read, or read in a way that may surprise.

  Args:
    *found: sources.

  Returns:
    list, each sentence once.
  """
  return list(dict.fromkeys(note for s in found for note in getattr(s, "notes", ())))


def example_hashes(source, pairs):
  """Hashes of the examples of a source that reads files.

  An image counts by its size and its first and last 64 KiB, a label file by all of its bytes.
  Folders and times do not count. Of a large set the files that have not changed since the last
  start are not read again, see `kept_hashes`.

  Args:
    source: a source with `names`, `labels` and `root`.
    pairs: (image file, label) per example; the label is a file, a class number, None, or pairs of
      a class number and a file.

  Returns:
    list of bytes, one per example.

  Raises:
    UserError: a file cannot be read.
  """
  if len(pairs) < kept_hashes.FROM:
    return _map(lambda i: _example_hash(source, i, *pairs[i]), len(pairs))
  known = f"{Path(source.root).absolute()}\n{source.names[0]}"
  kept = kept_hashes.read(known)
  stamps = _map(lambda i: kept_hashes.stamp(*_parts(source, i, *pairs[i])), len(pairs))
  changed = [i for i, (key, _) in enumerate(stamps) if key not in kept]
  found = _map(lambda k: _example_hash(source, changed[k], *pairs[changed[k]]), len(changed))
  fresh = dict(zip(changed, found, strict=True))
  hashes = [fresh[i] if i in fresh else kept[key] for i, (key, _) in enumerate(stamps)]
  if changed:
    kept_hashes.write(known, stamps, hashes)
  return hashes


def _example_hash(source, i, image, label):
  digest = hashlib.sha256(to_bytes(f"{source.names[i]}\n{image.name if image else None}\n"))
  if image is not None:
    digest.update(_ends(image))
  if isinstance(label, int):
    digest.update(to_bytes(source.labels.names[label]))
  elif isinstance(label, tuple):
    for number, file in label:
      data = file.read_bytes()
      digest.update(to_bytes(f"{source.labels.names[number]}\n{len(data)}\n") + data)
  elif label is not None:
    digest.update(label.read_bytes())
  return digest.digest()


def _parts(source, i, image, label):
  """(a text, files) that the hash of an example depends on."""
  known = isinstance(label, int)
  text = f"{source.names[i]}\n{source.labels.names[label] if known else ''}"
  if isinstance(label, tuple):
    text += "\n".join(source.labels.names[number] for number, _ in label)
    return text, [file for file in (image, *(file for _, file in label)) if file is not None]
  return text, [file for file in (image, None if known else label) if file is not None]


def _map(function, count):
  """`map_threads`; a UserError for a file that cannot be read."""
  try:
    return map_threads(function, count, THREADS)
  except OSError as error:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None


def combine(hashes, labels):
  """16 hex digits over the hashes of examples, in their order, and the colours of classes.txt."""
  own = repr([labels.classes[i] for i in labels.own_colors]) if labels.own_colors else ""
  return hashlib.sha256(b"".join(hashes) + own.encode()).hexdigest()[:16]


def of_shards(files):
  """16 hex digits over the files of a set that holds many examples in each.

  Up to `WHOLE` bytes in all they are read whole; of larger sets their sizes and both ends count,
  where ArrayRecord has the places of its examples.

  Args:
    files: paths.
  """
  whole = sum(file.stat().st_size for file in files) <= WHOLE
  parts = _map(lambda i: _whole(files[i]) if whole else _ends(files[i]), len(files))
  digest = hashlib.sha256()
  for file, part in zip(files, parts, strict=True):
    digest.update(to_bytes(f"{file.name}\n{len(part)}\n") + part)
  return digest.hexdigest()[:16]


def _twins(source):
  """A sentence about images that the other split holds too, byte for byte.

  Of a large split `COMPARED` images are looked at, evenly spread.
  """
  by_size = {}
  for file in source.elsewhere:
    if (size := _size(file)) is not None:
      by_size.setdefault(size, []).append(file)
  looked = min(len(source.pairs), COMPARED) if by_size else 0
  mine = [source.pairs[i * len(source.pairs) // looked][0] for i in range(looked)]
  sizes = {file: _size(file) for file in mine if file}
  mine = [file for file, size in sizes.items() if size in by_size]
  others = [file for size in {sizes[f] for f in mine} for file in by_size[size]]
  everything = [*mine, *others]
  if not (hashes := _wholes(everything)):
    return ()
  there = dict(zip(hashes[len(mine) :], others, strict=True))
  twins = [f"{f.name} = {there[h].name}" for f, h in zip(mine, hashes, strict=False) if h in there]
  of = f" of {looked} looked at" if looked < len(source.pairs) else ""
  said = f"{count(twins, 'image')}{of} in both splits, byte for byte: {some(twins)}"
  return (said,) * bool(twins)


def _doubles(source):
  """A sentence about images that are there under two classes, byte for byte.

  Of those that have the size of one of another class `COMPARED` are looked at.
  """
  by_size, first, found = {}, {}, []
  for file, label in source.pairs:
    if file and isinstance(label, int):
      by_size.setdefault(_size(file), []).append((file, label))
  alike = [same for same in by_size.values() if len({label for _, label in same}) > 1]
  some_pairs = [pair for same in alike for pair in same][:COMPARED]
  if not (hashes := _wholes([file for file, _ in some_pairs])):
    return ()
  for key, (file, label) in zip(hashes, some_pairs, strict=True):
    other, of = first.setdefault(key, (file, label))
    if of != label:
      found.append(f"{other.parent.name}/{other.name} = {file.parent.name}/{file.name}")
  said = f"{count(found, 'image')} under two classes, byte for byte: {some(found)}"
  return (said,) * bool(found)


def _wholes(files):
  """Hashes of files; none where one cannot be read, which is an error when it is read."""
  try:
    return map_threads(lambda i: _whole(files[i]), len(files), THREADS)
  except OSError:
    return []


def _size(file):
  """The size of a regular file; None for anything else."""
  try:
    status = os.stat(file)
  except OSError:
    return None
  return status.st_size if stat.S_ISREG(status.st_mode) else None


def _whole(file):
  with file.open("rb") as stream:
    return hashlib.file_digest(stream, "sha256").digest()


def _ends(file):
  """The size of a file and its bytes at both ends."""
  with file.open("rb") as stream:
    size = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(END)
    stream.seek(max(size - END, len(head)))
    return b"%d\n" % size + head + stream.read(END)
