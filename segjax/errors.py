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
# Faults of the machine, whatever a file holds: what has them where no file is named, and what mends
# them. Those of None may be ours where no file is named.
OF_MACHINE = {
  (errno.EACCES, errno.EPERM): (None, "check its permissions and those of its folders"),
  (errno.EIO, errno.ESTALE): (None, "check the disk, or the server of the folder"),
  (errno.EROFS,): (None, "it lies on a file system that is read-only; choose another folder"),
  (errno.ENOSPC, errno.EDQUOT): ("the output, or shared memory (/dev/shm)", "free some space"),
  (errno.EMFILE, errno.ENFILE): ("this process", "raise the limit on open files (ulimit -n)"),
}
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
    fault = "" if isinstance(error, UserError) else _write_fault(error)
    if not fault:
      raise
    raise UserError(f"cannot write {what}: {fault}; {advice}") from error


def _write_fault(error):
  """What a disk, a permission or a quota has refused, however libraries wrap it, or nothing."""
  while error is not None:
    if isinstance(error, OSError) and (error.errno in WRITE_FAULTS or error.errno is None):
      return str(error) or type(error).__name__
    for text in map(os.strerror, WRITE_FAULTS):  # TensorStore's has a thousand characters around it
      if text in str(error):
        return text
    error = error.__cause__
  return ""


def explain(error):
  """One line for an error that the user can mend, or None: then it is ours and keeps its stack."""
  if isinstance(error, UserError):
    return str(error)
  if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
    return f"{str(error.filename)[:80]}...: longer than the name of a file can be; shorten it"
  if isinstance(error, OSError) and "temporary directory" in str(error):  # of Python or Matplotlib
    return f"{' '.join(str(error).split())[:300]}; set TMPDIR to a folder that can be written to"
  if isinstance(error, OSError):
    for numbers, (nameless, mend) in OF_MACHINE.items():
      if error.errno in numbers and (name := error.filename or nameless):
        return f"{name}: {error.strerror}; {mend}"
  if isinstance(error, MemoryError) or (
    isinstance(error, OSError | RuntimeError) and NO_MEMORY.search(str(error))
  ):
    first = " ".join(str(error).split())[:160]
    return (
      f"out of memory ({first or type(error).__name__}); in a training lower data.batch_size or "
      "data.size, set remat=True, or model.dtype=bfloat16; in evaluate.py and predict.py set "
      "--tiles=256"
    )
  return _no_backend(error)


def fault_of_machine(error):
  """The line for an error in reading a file where the machine, not its content, is behind it."""
  return None if isinstance(error, UserError) else explain(error)


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
