"""Claims of folders: one process at a time works in a folder, on network folders too.

`flock` does not suffice there. Over NFS version 3 a lock outlives a client that has crashed; mounts
with `nolock` or `local_lock`, BeeGFS by default and Lustre with `localflock` keep locks within each
machine, so that two machines hold the same one. A claim needs files alone: `claim.7` names its
owner and is made by an exclusive open, which one process wins (over NFS from version 3 on). The
owner renews its time every `BEAT` seconds. It is dead when its process is gone, where that can be
seen (on the same machine), or else after `DEAD` seconds without a sign of life, by the clock of the
file server alone. Whoever finds the folder free makes the file of the next number. Numbers never
go back, so a process that was suspended and taken for dead sees that another has come after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import tempfile
import threading
import time
from pathlib import Path

from segjax.errors import UserError, writing

BEAT = 10.0  # seconds; a client of NFS may see a time that is 60 seconds old
DEAD = 120.0  # seconds
NAME = re.compile(r"claim\.(\d+)")


class InUse(UserError):
  """Another process works in the folder."""


class TakenOver(UserError):
  """Another process works in the folder, as this one was taken for dead."""


class Claim:
  """A folder's claim, held by this process.

  Attributes:
    folder: Path.
    number: number of the claim's file.
  """

  def __init__(self, folder, number):
    self.folder, self.number = folder, number
    self._file, self._over = folder / f"claim.{number}", threading.Event()
    threading.Thread(target=self._beat, name="claim", daemon=True).start()

  def _beat(self):
    while not self._over.wait(BEAT):
      with contextlib.suppress(OSError):  # the file server may be away for a while
        os.utime(self._file)

  def check(self):
    """Raises TakenOver where another process has claimed the folder since."""
    if _newest(self.folder) > self.number:
      raise TakenOver(
        f"{self.folder} was taken over by {owner(self.folder) or 'another process'}: this one gave "
        f"no sign of life for {DEAD:.0f} seconds. Nothing more is written; the other one continues"
      )

  def release(self):
    """Gives the folder free."""
    self._over.set()
    with contextlib.suppress(OSError):
      self._file.write_text("{}")


def claim(folder):
  """Claims a folder for this process.

  Args:
    folder: Path; it is there.

  Returns:
    Claim.

  Raises:
    InUse: another process holds it.
    UserError: the folder cannot be written to.
  """
  number = _newest(folder)
  holder = number and owner(folder)
  if not holder:
    number += 1
    holder = _make(folder, number)
  if holder:
    raise InUse(f"{folder} is in use: {holder} trains in it")
  for older in _numbers(folder):
    if older < number:
      (folder / f"claim.{older}").unlink(missing_ok=True)
  return Claim(folder, number)


def _make(folder, number):
  """Makes the file of a claim; returns who was faster, or nothing."""
  file = folder / f"claim.{number}"
  me = dict(host=socket.gethostname(), pid=os.getpid(), machine=_machine(), since=_start())
  with writing(file):
    try:
      descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
      return owner(folder) or "another process"
    try:
      with os.fdopen(descriptor, "w") as stream:
        stream.write(json.dumps(me))
    except OSError:  # a full disk: an empty file would pass for a claim that is being written
      file.unlink(missing_ok=True)
      raise
  if _newest(folder) > number:  # made after others had come, gone, and removed their files
    file.unlink(missing_ok=True)
    return owner(folder) or "another process"
  return ""


def owner(folder):
  """The living process that works in a folder, a text such as "process 7 on moon", or nothing."""
  number = _newest(folder)
  file = folder / f"claim.{number}"
  try:
    with file.open("rb") as stream:  # opening asks the server of NFS for the present state
      text, renewed = stream.read(1000), os.fstat(stream.fileno()).st_mtime
  except PermissionError:  # another user's
    text, renewed = b"", os.stat(file).st_mtime
  except OSError:
    return ""
  try:
    found = json.loads(text)
    name = found and f"process {found['pid']} on {found['host']}"
  except (ValueError, KeyError, TypeError):  # its owner is writing it, or died then
    found, name = {}, "another process"
  if not name:
    return ""
  lives = _lives(found)
  if lives is None:
    lives = abs(_now(folder) - renewed) < DEAD  # later than now: the clock was set back since
  return name if lives else ""


def _lives(found):
  """Whether the owner of a claim lives; None where that cannot be seen from here."""
  if not found.get("since") or found.get("machine") != _machine():
    return None
  try:
    os.kill(found["pid"], 0)
  except ProcessLookupError:
    return False
  except PermissionError:  # somebody else's
    pass
  since = _start(found["pid"])
  return None if since is None else since == found["since"]


def _numbers(folder):
  try:
    return [int(m[1]) for m in map(NAME.fullmatch, os.listdir(folder)) if m]
  except (FileNotFoundError, NotADirectoryError):
    return []


def _newest(folder):
  return max(_numbers(folder), default=0)


def _machine():
  """Where a process number means this process: a boot of a system, and its container."""
  try:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return ""


def _start(pid="self"):
  """When a process of this machine started, a text; empty for an ended one, None if not shown."""
  try:
    state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return None
  return "" if state in "ZX" else fields[18]


def _now(folder):
  """The time by the clock of the folder's file server, seconds."""
  try:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now") as file:
      return os.fstat(file.fileno()).st_mtime
  except OSError:
    return time.time()
