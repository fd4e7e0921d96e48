"""Work beside the steps, which it must not hold."""

import collections
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor


class Background:
  """One thread that works in order; a later `submit` or `wait` raises the errors of its calls.

  On Linux it runs where the steps leave a core idle, and so do the threads that its work starts:
  XLA's threads wait for each other, so one that shares its core would hold them all.
  """

  def __init__(self, name):
    self._pool = ThreadPoolExecutor(1, name, initializer=_give_way)
    self._errors = collections.deque()
    self._last = None

  def submit(self, call, *args):
    """Puts a call behind those before it and returns."""
    self._raise()
    self._last = self._pool.submit(self._run, call, args)

  def wait(self):
    """Blocks until all is done."""
    if self._last is not None:
      self._last.result()
    self._raise()

  def close(self):
    """Waits, and ends the thread; errors that nobody has waited for are dropped."""
    self._pool.shutdown()

  def _run(self, call, args):
    try:
      call(*args)
    except Exception as error:
      self._errors.append(error)

  def _raise(self):
    try:
      error = self._errors.popleft()
    except IndexError:
      return
    self._errors.clear()  # those after it follow from it
    raise error


def _give_way():
  if sys.platform == "linux":  # elsewhere this would set the priority of the whole process
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
