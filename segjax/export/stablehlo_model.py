"""Reads a net that was exported as StableHLO; needs jax, and none of segjax's nets."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path

import jax
import jax.export
import numpy as np

from segjax.errors import UserError
from segjax.export import about as about_lib

PROGRAM, METADATA = "model.stablehlo", "metadata.json"  # entries of the file, which is a zip file
# What Python's zipfile raises for a file that is cut or altered.
DAMAGE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError,
          zipfile.BadZipFile, zlib.error)  # fmt: skip


class StableHloModel(about_lib.Exported):
  """The `segjax.inference.Model` in a file of `launch/export.py --format=stablehlo`."""

  def __init__(self, file: str | os.PathLike):
    """Reads the file.

    Raises:
      UserError: no such file, another file, a damaged one, or one of a newer JAX.
    """
    file = Path(file)
    try:
      with zipfile.ZipFile(file) as archive:
        metadata, program = archive.read(METADATA), archive.read(PROGRAM)
      texts = {k: json.dumps(v) for k, v in json.loads(metadata).items()}
    except FileNotFoundError:
      raise UserError(f"{file.absolute()}: no such file") from None
    except DAMAGE as error:
      raise UserError(
        f"{file}: not a net exported as StableHLO, or a damaged one ({error}); expected a zip file "
        f"with {PROGRAM} and {METADATA}; export it again"
      ) from None
    super().__init__(file, about_lib.read(texts, file))
    try:
      program = jax.export.deserialize(bytearray(program))
    except Exception as error:  # whatever JAX raises for a program that it cannot read
      versions = f"written by jax {self.about.versions.get('jax')}, here is {jax.__version__}"
      raise UserError(f"{file}: JAX cannot read its program ({versions}): {error}") from error
    (given,), (out,) = program.in_avals, program.out_avals
    self.check_program(given.dtype, given.shape, out.shape)
    self._call = jax.jit(program.call)

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """See `segjax.inference.Model.probabilities`."""
    return np.asarray(self._call(self.as_stored(images)))
