"""Compiled code of kernels in a folder. It is checked before it runs: bad code ends the process."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

from segjax import textfiles


def kept_code(folder: str | None, name: str, compile_: Callable[[], bytes]) -> bytes:
  """The code of a kernel: from a folder, or compiled and put there.

  A file is used if it is a regular one whose digest fits its name and content, and if it and the
  folder belong to the user or to root and nobody else can write to them. Any other is replaced.

  Args:
    folder: JAX's folder of compilations; None, or one that is not on disk, compiles each time.
    name: name of the kernel, its source and its machine.
    compile_: gives the code.
  """
  if not folder or "://" in str(folder):
    return compile_()
  file = Path(folder) / f"{name}.o"
  safe = _is_safe_folder(str(folder))
  code = _read(file) if safe else None
  if code is None:
    code = compile_()
    if safe:
      with contextlib.suppress(OSError):  # a full disk, say: compile each time
        _write(file, code)
  return code


def _is_safe_folder(folder):
  """Whether nobody else can put code into a folder; warns where somebody can."""
  try:
    safe = _is_ours(os.stat(folder))
  except OSError:
    return False
  if not safe:
    _warn(folder)
  return safe


@functools.cache
def _warn(folder):
  warnings.warn(
    f"{folder}: others can write to this folder, so CPU kernels are neither read from it nor kept "
    f"in it, and are compiled at each start. To mend it: chmod go-w {folder}",
    RuntimeWarning,
    stacklevel=2,
  )


def _is_ours(found):
  """Whether a file or folder belongs to the user or root, and to no other writer."""
  return found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022


def _read(file):
  """The code in a file, None where `_write` did not write it."""
  try:
    # Neither a link's target nor a FIFO without a writer.
    opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
  except OSError:
    return None
  with open(opened, "rb") as f:
    found = os.fstat(opened)
    if not stat.S_ISREG(found.st_mode) or not _is_ours(found):
      return None
    try:
      digest, code = f.read(32), f.read()
    except OSError:
      return None
  return code if digest == _digest(file, code) else None


def _write(file, code):
  """Writes a file that nobody else can write to, whole or not at all."""

  def write(part):
    part.touch(0o600)
    part.write_bytes(_digest(file, code) + code)

  textfiles.replace(file, write)


def _digest(file, code):
  """Of the code and of the kernel's name, so that files cannot take each other's places."""
  return hashlib.sha256(file.name.encode() + b"\0" + code).digest()
