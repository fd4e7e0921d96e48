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
    name = self.name
    return name[_ending(name) :]

  @property
  def stem(self):
    """The name without its ending."""
    name = self.name
    return name[: _ending(name)]

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


def _ending(name):
  """Where the ending of a name begins, as pathlib has it."""
  dot = name.rfind(".")
  return dot if 0 < dot < len(name) - 1 else len(name)


_path = functools.lru_cache(maxsize=1024)(Path)


def prefix(folder):
  """What stands before the name of a file of a folder, as in the text of its Path."""
  text = str(folder)
  return "" if text == "." else text.rstrip("/") + "/"


def folders_of(files):
  """Set of the folders that files lie in, Paths."""
  return {_path(text) for text in {str(file).rpartition("/")[0] for file in files}}
