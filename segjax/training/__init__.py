"""State, optimisers, steps, checkpoints, writers and the loop.

The package itself imports nothing, so that `segjax.training.steps`, `.state` and `.optim` work
where only jax, flax, optax, ml_collections and numpy are installed.
"""


def train(config, workdir, profile_steps=(), before_evaluation=None):
  """Trains an experiment; see `segjax.training.loop.train`."""
  from segjax.training import loop

  return loop.train(config, workdir, profile_steps, before_evaluation)
