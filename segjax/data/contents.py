"""The contents of a source's files: a digest that changes when a mask is mended."""

from __future__ import annotations

import functools
import hashlib

from segjax.data.lists import count, some
from segjax.data.threads import map_threads
from segjax.errors import UserError

THREADS = 8  # that read; they mostly wait for the disk
END = 2**16  # bytes that are read at either end of an image file


class OfFiles:
  """Base of the sources that read files.

  A class that derives from it has `names`, `labels`, `pairs` of (image file, label file or class),
  `remarks`, sentences about files that are not read, and `elsewhere`, image files of the other
  split, for the search for images that are in both.
  """

  @functools.cached_property
  def notes(self):
    """Sentences about files that are not read, or are read in a way that may surprise."""
    return (*self.remarks, *_twins(self))

  @functools.cached_property
  def hashes(self):
    """See `example_hashes`."""
    return example_hashes(self, self.pairs)

  def digest(self):
    """16 hex digits over the contents of the files, in the order of the examples."""
    return combine(self.hashes, self.labels)


def example_hashes(source, pairs):
  """Hashes of the examples of a source that reads files.

  An image counts by its size and its first and last 64 KiB, a label file by all of its bytes.
  Folders and times do not count.

  Args:
    source: a source with `names` and `labels`.
    pairs: (image file, label) per example; the label is a file, a class number or None.

  Returns:
    list of bytes, one per example.

  Raises:
    UserError: a file cannot be read.
  """

  def one(i):
    image, label = pairs[i]
    digest = hashlib.sha256(f"{source.names[i]}\n{image.name if image else None}\n".encode())
    try:
      if image is not None:
        digest.update(_ends(image))
      if isinstance(label, int):
        digest.update(source.labels.names[label].encode())
      elif label is not None:
        digest.update(label.read_bytes())
    except OSError as error:
      raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return digest.digest()

  return map_threads(one, len(pairs), THREADS)


def combine(hashes, labels):
  """16 hex digits over the hashes of examples, in their order, and the colours of classes.txt."""
  own = repr([labels.classes[i] for i in labels.own_colors]) if labels.own_colors else ""
  return hashlib.sha256(b"".join(hashes) + own.encode()).hexdigest()[:16]


def _twins(source):
  """A sentence about images that the other split holds too, byte for byte."""
  by_size = {}
  for file in source.elsewhere:
    if file.is_file():
      by_size.setdefault(file.stat().st_size, []).append(file)
  mine = [f for f, _ in source.pairs if f and f.is_file() and f.stat().st_size in by_size]
  sizes = {f.stat().st_size for f in mine}
  others = [f for size in sizes for f in by_size[size]]
  try:
    hashes = map_threads(lambda i: _whole((*mine, *others)[i]), len(mine) + len(others), THREADS)
  except OSError:
    return ()  # an error when it is read
  there = dict(zip(hashes[len(mine) :], others, strict=True))
  twins = [f"{f.name} = {there[h].name}" for f, h in zip(mine, hashes, strict=False) if h in there]
  return (f"{count(twins, 'image')} in both splits, byte for byte: {some(twins)}",) * bool(twins)


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
