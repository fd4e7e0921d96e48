"""Named arrays in one .npz file, written whole and read with every byte checked."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segjax import textfiles
from segjax.errors import UserError, fault_of_machine, writing

# Exceptions of NumPy for a file that is cut or altered.
DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error,
          RuntimeError, struct.error)  # fmt: skip


def write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays by name, whole or not at all; a UserError where the file cannot be written."""

  def save(part):
    with part.open("wb") as stream:
      np.savez(stream, **arrays)

  with writing(f"to {file.parent.absolute()}"):
    textfiles.replace(file, save)


def read(file: Path, advice: str) -> dict[str, np.ndarray]:
  """Reads what `write` wrote.

  Args:
    file: path; the file is there.
    advice: what to do about a damaged file, for the message.

  Raises:
    UserError: a damaged file, or one that cannot be read.
  """
  try:
    content = file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, np.load(io.BytesIO(content)) as saved:
      if broken := archive.testzip():  # np.load compares no checksum of what it does not read
        raise zipfile.BadZipFile(f"{broken} is not what was written")
      arrays = dict(saved)
      # A damaged entry of the directory may swallow those after it, or have another's name.
      (count,) = struct.unpack_from("<H", content, len(content) - 12)
      if count != len(arrays):
        raise zipfile.BadZipFile(f"{len(arrays)} of {count} arrays are found")
      return arrays
  except DAMAGE as error:
    if line := fault_of_machine(error):
      raise UserError(line) from error
    raise UserError(f"{file}: damaged ({type(error).__name__}: {error}); {advice}") from None
