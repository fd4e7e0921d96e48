"""A net for prediction from the folder of a run or from an exported file."""

from __future__ import annotations

import os
from pathlib import Path

from segjax.errors import UserError
from segjax.inference.model import Model


def load(path: str | os.PathLike, checkpoint: str | int = "best") -> Model:
  """The net in the folder of a run, or in an exported file.

  Args:
    path: folder, or file of `launch/export.py`.
    checkpoint: of a run: "latest", "best" or a step.

  Raises:
    UserError: no such folder or file, another file, or a run of another task than segmentation.
  """
  path = Path(path)
  if path.is_dir():
    from segjax.inference import run_model  # which needs jax

    return run_model.load(path, checkpoint)
  if not path.exists():
    raise UserError(f"no such file or folder: {path.absolute()}; expected a run or an exported net")
  from segjax.export import open_model  # which imports this package

  return open_model(path)
