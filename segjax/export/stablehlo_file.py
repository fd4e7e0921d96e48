"""Writes a net as StableHLO with its metadata, in one file for cpu, cuda and tpu."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

from segjax import ops
from segjax.export.about import About
from segjax.export.stablehlo_model import METADATA, PROGRAM

PLATFORMS = ("cpu", "cuda", "tpu")


def write(function: Callable, about: About, file: Path) -> None:
  """Writes the file.

  Args:
    function: of the images, see `segjax.export.net.probabilities_of`.
    about: About; its size is exported, and its batch, None being any number.
    file: path.
  """
  batch = jax.export.symbolic_shape("batch")[0] if about.batch is None else about.batch
  images = jax.ShapeDtypeStruct((batch, *about.size, about.channels), jnp.dtype(about.dtype))
  with ops.plain_forms():
    program = jax.export.export(jax.jit(function), platforms=PLATFORMS)(images)
  metadata = {k: json.loads(v) for k, v in about.texts().items()}
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr(METADATA, json.dumps(metadata, indent=2))
    archive.writestr(PROGRAM, program.serialize())
