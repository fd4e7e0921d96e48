"""What launchers show without a stack of frames: errors, with "did you mean", and being stopped."""

from __future__ import annotations

from difflib import get_close_matches


class UserError(ValueError):
  """Something the user can mend: names the file or field, what was found, what was expected."""


class Stopped(Exception):
  """Training was asked to stop by a signal; the state is saved. `signal` is its number."""

  def __init__(self, number, step):
    super().__init__(number, step)
    self.signal, self.step = number, step


def choose(table, name, what):
  """`table[name]`, or a UserError that names the nearest key and lists all of them."""
  if name not in table:
    near = get_close_matches(str(name), table, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"unknown {what} {name!r}{hint} ({what}s: {', '.join(sorted(table))})")
  return table[name]


def check_fields(fields, known, what):
  """Raises a UserError for the first of `fields` that is not in `known`."""
  for field in fields:
    if field not in known:
      near = get_close_matches(field, known, 1)
      hint = f"; did you mean {near[0]!r}?" if near else ""
      raise UserError(f"{what} has no field {field!r}{hint} (fields: {', '.join(known)})")
