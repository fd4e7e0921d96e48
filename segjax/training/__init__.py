"""State, optimisers, steps, checkpoints, writers and the loop.

The package itself imports nothing, so that `segjax.training.steps`, `.state` and `.optim` work
where only jax, flax, optax, ml_collections and numpy are installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import os

  from ml_collections import ConfigDict

  from segjax.training.state import TrainState

__all__ = ["train"]


def train(
  config: ConfigDict,
  workdir: str | os.PathLike,
  profile_steps: Sequence[int] = (),
  before_evaluation: Callable[[], None] | None = None,
  until: int = 0,
) -> TrainState:
  """Trains an experiment; see `segjax.training.loop.train` for arguments and errors."""
  from segjax.training import loop

  return loop.train(config, workdir, profile_steps, before_evaluation, until)
