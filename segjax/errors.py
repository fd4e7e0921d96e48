"""Errors that users can mend: one line each, with the nearest known name where one is unknown."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from difflib import SequenceMatcher

# Errors that a disk, its permissions or its quota can cause.
WRITE_FAULTS = frozenset(
  getattr(errno, name)
  for name in (
    "EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENODEV",
    "ENOENT", "ENOSPC", "ENOTDIR", "ENXIO", "EPERM", "EROFS", "ESTALE",
  )
  if hasattr(errno, name)
)  # fmt: skip
NO_MEMORY = re.compile(
  r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|cannot allocate memory|can't start new thread",
  re.IGNORECASE,
)
CUTOFF = 0.6  # of the similarity of two names, from 0 to 1; as difflib.get_close_matches has it
CLOSE = 0.8  # of two fields of one part of a config, so that no field of another part comes first


class UserError(ValueError):
  """Something the user can mend: names the file or field, what was found, what was expected.

  Attributes:
    of_all: whether all processes of a run raise it, so that none waits for another.
  """

  of_all = False


class NoSplit(UserError):
  """A data set that lacks a split, such as "test"."""


class Stopped(Exception):
  """Training was asked to stop by a signal; the state is saved. `signal` is its number."""

  of_all = True  # processes of a run

  def __init__(self, number, step):
    super().__init__(number, step)
    self.signal, self.step = number, step


# ---------------------------------------------------------------------------- names


def nearest(name, known, count=1):
  """The names in `known` that are most like `name`, whatever the case, the best first.

  Of dotted names the last part alone may be alike ("batch_size": "data.batch_size"), or its
  initials ("lr": "schedule.learning_rate"); first come those that differ in a letter or two of it.

  >>> nearest("UNet", ["fcn", "unet"])
  ['unet']
  >>> nearest("lr", ["data.size", "schedule.learning_rate"])
  ['schedule.learning_rate']
  """
  wanted = _plain(name)
  scores = {str(k): _likeness(wanted, _plain(k)) for k in known}
  least = max(CUTOFF, 0.9 * max(scores.values(), default=0.0))
  return sorted((k for k in scores if scores[k] >= least), key=lambda k: -scores[k])[:count]


def _plain(name):
  return str(name).lower().replace("-", "_").replace(" ", "_")


def _likeness(wanted, known):
  last, tail = wanted.rpartition(".")[2], known.rpartition(".")[2]
  parts = tail.split("_")
  if wanted == known:
    return 2.0
  near = SequenceMatcher(None, last, tail).ratio()
  if near > CLOSE and wanted.rpartition(".")[0] == known.rpartition(".")[0] != "":
    return 1.6
  if last == tail:
    return 1.5
  if len(last) > 1 and last == "".join(p[:1] for p in parts):
    return 1.2
  alike = SequenceMatcher(None, wanted, known).ratio()
  if known != tail:
    alike = max(alike, near, 0.7 * (last in parts))
  return alike


def did_you_mean(name, known, count=1):
  """ "; did you mean 'x'?" for an unknown name, or nothing where no known one is like it."""
  near = nearest(name, known, count)
  return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def choose(table, name, what):
  """`table[name]`, or a UserError that names the nearest key and lists all of them."""
  if name not in table:
    known = ", ".join(sorted(table))
    raise UserError(f"unknown {what} {name!r}{did_you_mean(name, table)} ({what}s: {known})")
  return table[name]


def check_fields(fields, known, what):
  """Raises a UserError for the first of `fields` that is not in `known`."""
  for field in fields:
    if field not in known:
      hint = did_you_mean(field, known)
      raise UserError(f"{what} has no field {field!r}{hint} (fields: {', '.join(known)})")


# ---------------------------------------------------------------------------- messages of errors


@contextlib.contextmanager
def writing(what, advice="check the permissions and the free space"):
  """Context in which a fault of the disk becomes a UserError; any other error keeps its stack.

  Args:
    what: the thing that is written, mostly a path.
    advice: end of the message.
  """
  try:
    yield
  except Exception as error:
    if isinstance(error, UserError) or not is_write_fault(error):
      raise
    raise UserError(f"cannot write {what}: {error}; {advice}") from error


def is_write_fault(error):
  """Whether the disk, a permission or a quota is behind an error, however libraries wrap it."""
  while error is not None:
    if isinstance(error, OSError) and (error.errno in WRITE_FAULTS or error.errno is None):
      return True
    if any(os.strerror(n) in str(error) for n in WRITE_FAULTS):
      return True
    error = error.__cause__
  return False


def explain(error):
  """One line for an error that the user can mend, or None: then it is ours and keeps its stack."""
  if isinstance(error, UserError):
    return str(error)
  if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
    return f"{str(error.filename)[:80]}...: longer than the name of a file can be; shorten it"
  if isinstance(error, OSError) and error.errno == errno.ENOSPC:
    return f"cannot write {error.filename or 'the output'}: {error.strerror}; free some space"
  if isinstance(error, MemoryError) or (
    isinstance(error, OSError | RuntimeError) and NO_MEMORY.search(str(error))
  ):
    first = " ".join(str(error).split())[:160]
    return (
      f"out of memory ({first or type(error).__name__}); lower data.batch_size or data.size, set "
      "remat=True, or model.dtype=bfloat16"
    )
  return _no_backend(error)


def _no_backend(error):
  """The line for an accelerator that JAX cannot use, or None."""
  asked, frames = os.environ.get("JAX_PLATFORMS", ""), error.__traceback__
  while frames is not None and frames.tb_next is not None:
    frames = frames.tb_next
  # JAX asserts that its CUDA plugin is there, without a message.
  asserted = isinstance(error, AssertionError) and frames is not None
  asserted = asserted and frames.tb_frame.f_globals.get("__name__") == "jax._src.xla_bridge"
  if not (asserted or (isinstance(error, RuntimeError) and "initialize backend" in str(error))):
    return None
  why = " ".join(str(error).split())[:200] or "its plugin is not installed"
  return (
    f"JAX has no device: JAX_PLATFORMS is {asked!r} ({why}); install the accelerator's package, "
    "e.g. pip install 'jax[cuda13]', or unset JAX_PLATFORMS"
  )
