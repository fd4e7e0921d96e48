"""The temperature of a run: what its logits are divided by so that its probabilities hold.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. It belongs to a checkpoint, is
fitted on the validation split, and changes no predicted class.
"""

from __future__ import annotations

import os
from pathlib import Path

from segjax import textfiles
from segjax.errors import UserError, writing

FILE = "temperature.json"  # in the run's folder: step of a checkpoint -> its temperature


def temperature_of(workdir: str | os.PathLike, step: int) -> float | None:
  """The temperature that was fitted for a checkpoint, above 0; None where none was.

  Args:
    workdir: folder of a run.
    step: step of the checkpoint.

  Raises:
    UserError: the file is damaged.
  """
  row = _read(Path(workdir)).get(str(step))
  return None if row is None else row["temperature"]


def keep(workdir: str | os.PathLike, step: int, temperature: float, **about) -> Path:
  """Keeps a checkpoint's temperature with its run, beside those of other checkpoints.

  Args:
    workdir: folder of the run.
    step: step of the checkpoint.
    temperature: above 0.
    **about: what else to write, such as errors before and after.

  Returns:
    Path of the file.
  """
  workdir = Path(workdir)
  rows = _read(workdir) | {str(step): dict(temperature=temperature) | about}
  file = workdir / FILE
  with writing(file):
    textfiles.write_state(file, rows, indent=2)
  return file


def _read(workdir):
  file = workdir / FILE
  rows = textfiles.read_state(file) if file.exists() else {}
  for step, row in rows.items():
    value = row.get("temperature") if isinstance(row, dict) else None
    if not isinstance(value, float) or value <= 0:
      raise UserError(
        f"{file}: the temperature of step {step} is {value!r}, expected a number above 0; remove "
        "the file and fit it again, launch/evaluate.py --fit_temperature"
      )
  return rows
