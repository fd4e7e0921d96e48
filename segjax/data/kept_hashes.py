"""Hashes of examples that are kept between starts, for sets whose files take long to read.

A hash is kept under the path, size, times and inode of the example's files, as git does: each write
changes the time of the inode's change (ctime), which programs cannot set. Files that have just
changed are not kept, as a second change could have the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

import numpy as np

from segjax import textfiles

FROM = 5000  # examples; smaller sets are read at each start
RECENT = 2 * 10**9  # ns; the coarsest times that file systems have
KEY, HASH = 16, 32  # bytes


def stamp(text, files):
  """(key of the present state of files and a text, whether their last change is long enough ago).

  A file that changes twice within one tick of a clock keeps its key.

  Args:
    text: what else the hash depends on.
    files: paths.

  Raises:
    OSError: no such file.
  """
  digest, newest = hashlib.blake2b(textfiles.to_bytes(text), digest_size=KEY), 0
  for file in files:
    s = os.stat(file)
    newest = max(newest, s.st_mtime_ns, s.st_ctime_ns)
    facts = file, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev
    digest.update(textfiles.to_bytes(str(facts)))
  return digest.digest(), time.time_ns() - newest > RECENT


def read(name):
  """{key: hash} of a kept file; empty where there is none, or a damaged one."""
  try:
    data = _file(name).read_bytes()
  except (OSError, RuntimeError):  # RuntimeError: no home
    return {}
  check, body = data[:HASH], data[HASH:]
  if check != hashlib.sha256(body).digest() or len(body) % (KEY + HASH):
    return {}
  rows = np.frombuffer(body, np.uint8).reshape(-1, KEY + HASH)
  keys, hashes = (np.ascontiguousarray(part) for part in (rows[:, :KEY], rows[:, KEY:]))
  return dict(zip(_cells(keys), _cells(hashes), strict=True))


def write(name, stamps, hashes):
  """Keeps hashes; nothing where the folder cannot be written to.

  Args:
    name: text that identifies the set.
    stamps: result of `stamp` per example.
    hashes: bytes per example.
  """
  pairs = zip(stamps, hashes, strict=True)
  body = b"".join(key + value for (key, settled), value in pairs if settled)
  with contextlib.suppress(OSError, RuntimeError):
    file = _file(name)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    textfiles.replace(file, lambda part: part.write_bytes(hashlib.sha256(body).digest() + body))


def _file(name):
  cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  text = hashlib.sha256(textfiles.to_bytes(name)).hexdigest()[:16]
  return cache / "segjax" / "contents" / text


def _cells(array):
  data, width = array.tobytes(), array.shape[1]
  return [data[i : i + width] for i in range(0, len(data), width)]
