"""Sources that are drawn, not read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from segjax.data.labels import LabelTable
from segjax.errors import UserError

FIRST_VAL = 1_000_000  # index of the first scene of "val"


@dataclasses.dataclass(frozen=True)
class Drawn:
  """Drawn scenes, each a pure function of (seed, index); nothing is read or stored.

  Attributes:
    labels: label table.
    names: one a scene.
    seed: of the drawings.
    first: index of the first scene.
    height: pixels.
    width: pixels.
    draw: (seed, index, height=, width=) -> image u8[H,W,3] and label u8[H,W].
  """

  labels: LabelTable
  names: tuple[str, ...]
  seed: int
  first: int
  height: int
  width: int
  draw: Callable

  def __len__(self):
    return len(self.names)

  def __getitem__(self, i):
    index = range(self.first, self.first + len(self))[i]  # IndexError beyond the last one
    image, label = self.draw(self.seed, index, height=self.height, width=self.width)
    return dict(image=image, label=label)

  def faults(self, i):
    """None: a drawing is never broken, and `checks.check` need not draw it."""
    return []


def drawn(labels, prefix, split, draw, *, seed, num_train, num_val, height, width):
  """The scenes of a split; "train" and "val" never share an index."""
  if seed < 0:
    raise UserError(f"data.source.seed is {seed}, expected 0 or more")
  if num_train > FIRST_VAL:
    raise UserError(
      f"data.source.num_train is {num_train}, expected at most {FIRST_VAL}, where val begins"
    )
  count, first = (num_train, 0) if split == "train" else (num_val, FIRST_VAL)
  names = tuple(f"{prefix}_{first + i:07d}" for i in range(count))
  return Drawn(labels, names, seed, first, height, width, draw)
