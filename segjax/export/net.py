"""The function of an exported file: images as image files have them -> f32[B,H,W,C]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.data import rasters
from segjax.errors import UserError
from segjax.tasks import SEGMENTING
from segjax.training.experiment import Experiment
from segjax.training.state import TrainState
from segjax.training.steps import Net

WEIGHTS = ("float32", "float16")


def check_task(name: str) -> None:
  """Raises a UserError for a task whose nets are not exported."""
  if name not in SEGMENTING:
    raise UserError(f"a run of the task {name!r}; an exported net is of {' or '.join(SEGMENTING)}")


def probabilities_of(
  experiment: Experiment, state: TrainState, weights: str = "float32"
) -> Callable[[jax.Array], jax.Array]:
  """The net of a run with its normalisation and its softmax or sigmoid, in float32.

  Args:
    experiment: Experiment.
    state: TrainState; the averaged parameters are taken where there are some.
    weights: "float32", or "float16": the function holds its weights in 16 bits, and widens them.

  Returns:
    A function of images that holds its weights: u8[B,H,W,3] in RGB, or [B,H,W,C] of the run's
    channels and `data.dtype`.

  Raises:
    UserError: a run of another task, or weights that float16 cannot hold.
  """
  name, task, model = experiment.config.task.name, experiment.task, experiment.model
  check_task(name)
  convert = stored(weights)
  if getattr(model, "dtype", jnp.float32) != jnp.float32:
    model = model.clone(dtype=jnp.float32)
  data = experiment.config.data
  one = rasters.of(data).one
  variables = jax.tree.map(convert, jax.device_get(state.eval_variables()))

  def call(images):
    image = images.astype(jnp.float32)
    image = image if one == 1 else image / one
    wide = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float32), variables)
    net = Net(model, wide, mean=data.mean, std=data.std, train=False)
    inputs, _ = task.prepare(None, image, None, train=False)
    outputs = task.outputs(net, inputs)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs
    return _of_asked(logits) if name == "class_query" else task.probabilities(logits)

  return call


def _of_asked(logits):
  """Of logits of each class against all else: the background's, the first class, is 0."""
  return jax.nn.softmax(jnp.concatenate([jnp.zeros_like(logits[..., :1]), logits], -1))


def stored(weights: str) -> Callable[[Any], np.ndarray]:
  """A function of an array: as it is stored in a file.

  Args:
    weights: "float32" or "float16".

  Raises:
    UserError: another dtype; and of the function, weights that float16 cannot hold.
  """
  if weights not in WEIGHTS:
    raise UserError(f"weights is {weights!r}, expected one of {', '.join(WEIGHTS)}")

  def convert(array: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # which is an error below
      found = np.asarray(array, np.float32).astype(weights)
    if not np.isfinite(found).all():
      raise UserError(
        f"weights={weights!r}: the net has weights up to {np.abs(array).max():.3g}, which this "
        "dtype does not hold; use float32"
      )
    return found

  return convert
