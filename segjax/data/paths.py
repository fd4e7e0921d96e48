"""Paths of the files of a set, of which there may be many."""

from __future__ import annotations

import functools
import os
from pathlib import Path


class File(str):
  """The path of a file as a text, with what a Path has: a fifth of its memory and time."""

  __slots__ = ()

  @property
  def name(self):
    """The last part."""
    return self.rpartition("/")[2]

  @property
  def suffix(self):
    """The ending of the name with its dot, or nothing."""
    return os.path.splitext(self.name)[1]

  @property
  def stem(self):
    """The name without its ending."""
    return os.path.splitext(self.name)[0]

  @property
  def parent(self):
    """The folder, a Path."""
    return _path(self.rpartition("/")[0])

  def stat(self):
    """See Path."""
    return os.stat(self)

  def exists(self):
    """See Path."""
    return os.path.exists(self)

  def is_file(self):
    """See Path."""
    return os.path.isfile(self)

  def open(self, mode="r"):
    """See Path."""
    return open(self, mode)

  def read_bytes(self):
    """See Path."""
    with open(self, "rb") as stream:
      return stream.read()


_path = functools.lru_cache(maxsize=1024)(Path)


def prefix(folder):
  """What stands before the name of a file of a folder, as in the text of its Path."""
  text = str(folder)
  return "" if text == "." else text.rstrip("/") + "/"
