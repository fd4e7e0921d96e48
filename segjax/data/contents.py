"""What a source's files hold: a digest that changes when a mask is mended."""

from __future__ import annotations

import hashlib

from segjax.data.threads import map_threads
from segjax.errors import UserError

THREADS = 8  # that read; the disk is what they wait for
END = 2**16  # bytes that are read at either end of an image file


def example_hashes(source, pairs):
  """Hashes of the examples of a source that reads files.

  An image counts by its size and its first and last 64 KiB, a label file by all of its bytes.
  Folders and times do not count.

  Args:
    source: with `names` and `labels`.
    pairs: (image file, label) an example; the label is a file, a class number or None.

  Returns:
    list of bytes, one an example.

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


def combine(hashes):
  """16 hex digits over the hashes of examples, in their order."""
  return hashlib.sha256(b"".join(hashes)).hexdigest()[:16]


def _ends(file):
  """The size of a file and its bytes at both ends."""
  with file.open("rb") as stream:
    size = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(END)
    stream.seek(max(size - END, len(head)))
    return b"%d\n" % size + head + stream.read(END)
