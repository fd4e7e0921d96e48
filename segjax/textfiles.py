"""Small files, written whole or not at all; text in UTF-8, read with one line of error."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os

from segjax.errors import UserError

MEND = (
  "restore the file, or remove it and start the same training again: that writes it anew and "
  "resumes from the latest checkpoint"
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # that a cell of a spreadsheet begins with
CHECKSUM = "checksum"  # key in a state file; a file without it, of an older version, is taken


def to_bytes(text):
  """A text in UTF-8; names of files that are not UTF-8 as they are."""
  return text.encode("utf-8", "surrogateescape")


def shown(name):
  """The name of a file with what is not UTF-8 in it as backslash and digits."""
  return to_bytes(name).decode("utf-8", "backslashreplace")


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
  """Writes a text file, see `to_bytes` and `replace`."""
  replace(file, lambda part: part.write_bytes(to_bytes(text)))


def cell(text):
  """A text of a table; with an apostrophe first where a spreadsheet would take it for a formula."""
  return f"'{text}" if str(text).startswith(FORMULA) else text


def csv_text(rows):
  """Rows as CSV; nan is an empty cell."""
  text = io.StringIO(newline="")
  csv.writer(text, lineterminator="\n").writerows(
    ["" if isinstance(v, float) and math.isnan(v) else v for v in row] for row in rows
  )
  return text.getvalue()


def write_csv(file, rows):
  """Writes rows as CSV, see `to_bytes` and `replace`."""
  content = to_bytes(csv_text(rows))
  replace(file, lambda part: part.write_bytes(content))


def write_json(file, value, **how):
  """Writes a value as JSON, see `replace`; `how` is of json.dumps."""
  replace_text(file, json.dumps(value, **how) + "\n")


def read_json(file, kind, mend=MEND):
  """Reads a JSON file, with or without a byte order mark.

  Args:
    file: path.
    kind: dict or list of the whole, or a tuple of both.
    mend: end of the message where it is damaged.

  Raises:
    UserError: no such file, not UTF-8, not JSON, or not of this kind.
  """
  if not file.is_file():
    raise UserError(f"no {file.absolute()}; expected the folder of a training run")
  try:
    value = json.loads(file.read_bytes().decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    raise UserError(f"{file}: not text in UTF-8 ({error}); {mend}") from None
  except json.JSONDecodeError as error:
    raise UserError(f"{file}: not valid JSON ({error}); {mend}") from None
  except RecursionError:
    raise UserError(f"{file}: not valid JSON (nested too deep); {mend}") from None
  if not isinstance(value, kind):
    expected = "a list" if kind is list else "an object"
    raise UserError(f"{file}: found {str(value)[:40]!r}, expected {expected}; {mend}")
  return value


def checksum(value):
  """Sixteen hex digits of SHA-256 over a JSON value, however it is laid out."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write_state(file, value, **how):
  """Writes a dict as JSON with a checksum of itself, see `write_json`."""
  plain = json.loads(json.dumps(value, **how))  # as it will be read
  write_json(file, {CHECKSUM: checksum(plain)} | plain, **how)


def read_state(file, known=None):
  """Reads a dict that `write_state` wrote.

  Args:
    file: path.
    known: keys that there may be; None: all.

  Returns:
    dict, without the checksum.

  Raises:
    UserError: see `read_json`; or it is not what was written, or has a key that is not known.
  """
  value = read_json(file, dict)
  check_state(file, value, known)
  return value


def check_state(file, value, known=None):
  """Takes the checksum out of the dict in a state file; see `read_state`."""
  key = next(iter(value), CHECKSUM)
  if key != CHECKSUM and value[key] == checksum({k: v for k, v in value.items() if k != key}):
    raise UserError(f"{file}: damaged: {key!r} in it stands in place of {CHECKSUM!r}; {MEND}")
  found = value.pop(CHECKSUM, None)
  if found is not None and found != checksum(value):
    raise UserError(
      f"{file}: damaged or edited: its content does not fit its {CHECKSUM!r}. If you edited it, "
      f"remove the {CHECKSUM!r} entry; else {MEND}"
    )
  more = sorted(value.keys() - set(known)) if known is not None else ()
  if more:
    raise UserError(f"{file}: unknown {more[0]!r} in it; {MEND}")
