"""SIGTERM, SIGHUP and Ctrl-C, noted from the start of a program on, so that none is lost.

KeyboardInterrupt is not enough: raised in a callback, such as JAX has for garbage collection,
Python prints and drops it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last: a terminal that is closed
TOGETHER = 0.5  # seconds; a terminal and a wrapper may both send the same Ctrl-C


class StopSignals:
  """Notes the first signal and interrupts the program; in a training, only from the second on.

  Attributes:
    signal: number of the first signal, or 0.
    interrupted: whether KeyboardInterrupt was raised, which may have been dropped.
  """

  def __init__(self):
    self.signal, self.interrupted = 0, False
    self._patient, self._listening, self._when = False, False, 0.0

  def listen(self):
    """Takes the signals over for the rest of the program."""
    self._take_over()
    self._listening = True

  @contextlib.contextmanager
  def patiently(self, but=()):
    """Context in which the first signal is noted alone: who is in it looks at `signal`.

    Without `listen` it takes the signals over meanwhile.

    Args:
      but: numbers of signals that stay whose they are.

    Raises:
      KeyboardInterrupt: a signal came before, and its interrupt was dropped.
    """
    old = {}
    if self._listening:
      self.check()
    else:
      self.signal, self.interrupted = 0, False
      with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
        old = self._take_over(but)
    self._patient = True
    try:
      yield self
    finally:
      self._patient = False
      for number, handler in old.items():
        signal.signal(number, handler)

  def _take_over(self, but=()):
    """{number: its former handler}; SIGHUP stays ignored where it is, as under nohup."""
    kept = (signal.SIGHUP,) if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else ()
    return {n: signal.signal(n, self._note) for n in SIGNALS if n not in (*kept, *but)}

  def check(self):
    """Raises KeyboardInterrupt where one was raised and dropped."""
    if self.interrupted:
      raise KeyboardInterrupt

  def _note(self, number, _):
    first, now = not self.signal, time.monotonic()
    self.signal = self.signal or number
    if self._patient:
      if first:
        self._when = now
        with contextlib.suppress(OSError):  # not print, which a signal may have interrupted
          os.write(1, b"stopping after this step; once more to stop at once\n")
        return
      if now - self._when < TOGETHER:
        return
    self.interrupted = True
    raise KeyboardInterrupt


STOP = StopSignals()
