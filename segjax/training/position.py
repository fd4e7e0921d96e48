"""The position in the data that a checkpoint holds."""

from __future__ import annotations

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Position:
  """Where a data iterator stood, in place of itself."""

  state: bytes

  @classmethod
  def of(cls, iterator):
    """The position of an iterator; a Position is itself."""
    if isinstance(iterator, cls):
      return iterator
    state = iterator.get_state()
    return cls(state if isinstance(state, bytes) else json.dumps(state, indent=4).encode())

  def get_state(self):
    """See grain's iterators."""
    return self.state


def set_position(iterator, folder):
  """Sets an iterator to the position in a checkpoint's folder.

  Processes have the same position, the number of the next batch; so a run may resume with another
  number of them.

  Raises:
    StopIteration: there is no position; other errors: it is damaged.
  """
  file = next(folder.glob("process_0-of-*.json"))
  iterator.set_state(json.loads(file.read_text(encoding="utf-8")))
  iterator.start_prefetch()
