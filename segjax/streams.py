"""Standard streams of a program that are closed, of another encoding, or without a reader."""

from __future__ import annotations

import os
import select
import sys


def open_closed():
  """Opens the null device in place of standard streams that are closed, as after `>&-`.

  Python leaves such a stream out, and the next file would take its number: what the libraries print
  would go into a checkpoint.
  """
  for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:
      number = os.open(os.devnull, os.O_RDWR)  # the first that is free
      os.set_inheritable(number, True)
      setattr(sys, name, os.fdopen(number, mode))


def show_any_text():
  """Escapes characters that the terminal cannot show, which would end the program."""
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")


def reader_is_gone():
  """Whether nobody reads the standard output any more, as after `| head`; then silences it."""
  poll = select.poll()
  poll.register(sys.stdout.fileno(), select.POLLOUT)
  gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
  if gone:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit would flush again
  return gone
