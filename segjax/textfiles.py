"""Small files, written whole or not at all; text in UTF-8, read with one line of error."""

from __future__ import annotations

import json
import os

from segjax.errors import UserError

MEND = "restore the file, or start a new run"


def replace(file, write):
  """Calls `write(part)` with a path beside `file`, then gives that its name.

  Killed at any time, it leaves the old file or the new one.
  """
  part = file.with_name(f"{file.name}.{os.getpid()}")
  try:
    write(part)
    with part.open("rb+") as written:
      os.fsync(written.fileno())
    part.replace(file)
  finally:
    part.unlink(missing_ok=True)


def replace_text(file, text):
  """Writes a text file in UTF-8, see `replace`."""
  replace(file, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(file, value, **how):
  """Writes a value as JSON, see `replace`; `how` is of json.dumps."""
  replace_text(file, json.dumps(value, **how) + "\n")


def read_json(file, kind, missing="expected the folder of a training run"):
  """Reads a JSON file.

  Args:
    file: path.
    kind: dict or list, of the whole.
    missing: end of the message where there is no such file.

  Raises:
    UserError: no such file, not UTF-8, not JSON, or not of this kind.
  """
  if not file.is_file():
    raise UserError(f"no {file.absolute()}; {missing}")
  try:
    value = json.loads(file.read_bytes().decode("utf-8"))
  except UnicodeDecodeError as error:
    raise UserError(f"{file}: not text in UTF-8 ({error}); {MEND}") from None
  except json.JSONDecodeError as error:
    raise UserError(f"{file}: not valid JSON ({error}); {MEND}") from None
  except RecursionError:
    raise UserError(f"{file}: not valid JSON (nested too deep); {MEND}") from None
  if not isinstance(value, kind):
    expected = dict(dict="an object", list="a list")[kind.__name__]
    raise UserError(f"{file}: found {str(value)[:40]!r}, expected {expected}; {MEND}")
  return value
