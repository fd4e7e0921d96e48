"""One run as a command: what an engine starts, wherever it starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

IN_USE = 75  # exit code: another process trains the run; EX_TEMPFAIL of sysexits.h
ERROR = "error: "  # how the launchers begin the line of an error
# Variables that decide numbers, or where data and packages are; the others are the worker's own.
TAKEN = ("JAX_", "NVIDIA_TF32_OVERRIDE", "PYTHONPATH", "SEGJAX_", "XLA_FLAGS")


class Command:
  """A command in a process of its own, whose output is added to a log file; it can be pickled.

  Attributes:
    words: program and arguments.
    log: path.
    folder: folder to run in: this process's, which paths are relative to.
    env: environment variables besides those of the place where it runs.
  """

  def __init__(self, words, log):
    self.words, self.log, self.folder = words, Path(log).absolute(), os.getcwd()
    self.env = {k: v for k, v in os.environ.items() if k.startswith(TAKEN)}
    self._child, self._begin, self._asked = None, 0, False

  def __call__(self):
    """Runs it to its end; returns its `result`."""
    self.start()
    self._child.wait()
    return self.result()

  def __getstate__(self):
    return self.__dict__ | dict(_child=None, _asked=False)

  def start(self):
    """Starts the process.

    Ctrl-C in a terminal does not reach it, nor SIGUSR2, by which Slurm announces the end of a job
    to all of its processes and which would end this one: who starts it stops it by `stop`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
      with self.log.open("ab") as log:
        self._begin = log.tell()
        self._child = subprocess.Popen(
          self.words, cwd=self.folder, env=os.environ | self.env, stdin=subprocess.DEVNULL,
          stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, before)

  def done(self):
    """Whether it has ended."""
    return self._child.poll() is not None

  def result(self):
    """Why it failed, a line; empty where it did not, None where another process trains the run."""
    code = self._child.returncode
    if code in (0, IN_USE):
      return None if code else ""
    with self.log.open("rb") as log:
      log.seek(self._begin)
      lines = log.read().decode("utf-8", "replace").splitlines()
    said = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    ended = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return said[-1] if code == 1 and said else f"{ended}, see {self.log}"

  def ask_to_stop(self):
    """Has it save and end; once alone, as a second signal would end it at once."""
    if self._child is not None and self._child.returncode is None and not self._asked:
      self._asked = True
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._child.pid, signal.SIGTERM)

  def stop(self):
    """Has it save and end, and waits for that; a signal handler may call it."""
    self.ask_to_stop()
    with contextlib.suppress(ChildProcessError, AttributeError):  # ended, or not begun
      os.waitpid(self._child.pid, 0)  # not Popen.wait, which the handler may have interrupted


def end_with_parent():
  """Has this process save and end soon after its parent has ended, by SIGKILL perhaps."""
  parent = os.getppid()

  def watch():
    while os.getppid() == parent:
      time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=watch, name="parent", daemon=True).start()
