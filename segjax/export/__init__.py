"""Nets in one file that runs without its run's folder: StableHLO for JAX, ONNX for anything else.

`launch/export.py` writes such files. Preprocessing and softmax are inside: images u8[B,H,W,3] in
RGB go in, or [B,H,W,K] of the run's channels and dtype as image files have them; probabilities
f32[B,H,W,C] come out, of overlapping classes by a sigmoid each. `open_model` reads both, ONNX
without jax. A file needs no segjax either. StableHLO, a zip file with a program and its metadata:

  import json, zipfile, jax.export
  with zipfile.ZipFile("road.stablehlo") as file:
    metadata = json.loads(file.read("metadata.json"))
    program = jax.export.deserialize(bytearray(file.read("model.stablehlo")))
  probabilities = jax.jit(program.call)(images)

ONNX:

  import json, onnxruntime
  session = onnxruntime.InferenceSession("road.onnx")
  metadata = session.get_modelmeta().custom_metadata_map  # name -> JSON
  probabilities = session.run(["probabilities"], {"images": images})[0]

`metadata["classes"]`, `["thresholds"]`, `["size"]` and so on: see `segjax.export.about.About`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from segjax.errors import UserError

if TYPE_CHECKING:
  from segjax.inference.model import Model

__all__ = ["open_model"]


def open_model(file: str | os.PathLike) -> Model:
  """The net in an exported file, by its content.

  Args:
    file: path of a file of `launch/export.py --format=onnx` or `--format=stablehlo`.

  Raises:
    UserError: no such file, another file, or a damaged one.
  """
  file = Path(file)
  if not file.is_file():
    raise UserError(f"{file.absolute()}: no such file, expected one of launch/export.py")
  with file.open("rb") as stream:
    start = stream.read(9)
  if start.startswith(b"PK"):
    from segjax.export.stablehlo_model import StableHloModel

    return StableHloModel(file)
  if start[8:9] == b"{":
    raise UserError(
      f"{file}: holds weights alone, which segjax.models.load reads; export the run with "
      "--format=onnx or --format=stablehlo"
    )
  if start[:1] != b"\x08":  # with which the version of ONNX begins
    raise UserError(f"{file}: not an exported net, expected a file of launch/export.py")
  from segjax.export.onnx_model import OnnxModel

  return OnnxModel(file)
