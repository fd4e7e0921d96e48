"""A net for prediction from the folder of a run or from an exported file."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

from segjax.errors import UserError
from segjax.inference.model import Model

# Classes for exported files, by ending; `class(path)` is a Model. Imported when they are needed.
FORMATS = {
  ".onnx": "segjax.export.onnx_model:OnnxModel",
  ".stablehlo": "segjax.export.stablehlo_model:StableHloModel",
}


def load(path: str | os.PathLike, checkpoint: str | int = "best") -> Model:
  """The net in the folder of a run, or in an exported file.

  Args:
    path: folder, or file with an ending of `FORMATS`.
    checkpoint: of a run: "latest", "best" or a step.

  Raises:
    UserError: no such folder or file, another ending, or a run of another task than segmentation.
  """
  path = Path(path)
  if path.is_dir():
    from segjax.inference import run_model  # which needs jax

    return run_model.load(path, checkpoint)
  if not path.exists():
    raise UserError(f"no such file or folder: {path.absolute()}; expected a run or an exported net")
  ending = path.suffix.lower()
  if ending not in FORMATS:
    raise UserError(f"{path}: not an exported net, expected a file {' or '.join(FORMATS)}")
  module, _, name = FORMATS[ending].partition(":")
  if not _is_there(module):
    raise UserError(f"{path}: this version of segjax reads no {ending} files")
  return getattr(importlib.import_module(module), name)(path)


def _is_there(module):
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:
    return False
