"""Finished runs: restoring them, and what they say of images of any size."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from PIL import Image

from segjax import config as config_lib
from segjax.data import pipeline
from segjax.errors import UserError
from segjax.training import experiment as experiment_lib
from segjax.training.checkpoints import Checkpoints


def _checkpoints(workdir, config):
  best = dict(best_metric=config.best_metric, best_mode=config.best_mode)
  return Checkpoints(workdir / "checkpoints", read_only=True, **best)


def checkpoint_steps(workdir):
  """Steps of the checkpoints in a run's folder, increasing.

  Raises:
    UserError: no run in the folder.
  """
  workdir = Path(workdir)
  checkpoints = _checkpoints(workdir, config_lib.load(workdir / "config.json"))
  steps = checkpoints.steps()
  checkpoints.close()
  return steps


def restore(workdir, checkpoint="latest"):
  """Restores a run.

  Args:
    workdir: of a run.
    checkpoint: "latest", "best" or a step.

  Returns:
    (Experiment, TrainState).

  Raises:
    UserError: no run in the folder, or no such checkpoint.
  """
  workdir = Path(workdir)
  config = config_lib.load(workdir / "config.json")
  labels = experiment_lib.load_labels(workdir / "labels.json")
  experiment = experiment_lib.build(config, labels)
  checkpoints = _checkpoints(workdir, config)
  step = checkpoints.step_of(checkpoint)
  if step is None:
    raise UserError(f"{workdir}: no {checkpoint} checkpoint yet; train longer, or take 'latest'")
  state = checkpoints.restore(step, experiment.abstract_state())
  checkpoints.close()
  return experiment, state


def predict_image(predict_step, state, image, data):
  """The task's outputs for an image, pictures among them at the image's own size.

  The net sees the image as in evaluation: resized to the size it was trained at (one compilation
  whatever the images' sizes; what it says of each pixel is resized back bilinearly, so that class
  borders are smooth), or with `eval_fit="native"` at its own size, extended to a multiple of some
  pixels.

  Args:
    predict_step: from `steps.make_predict_step`.
    state: TrainState.
    image: u8[H,W,3].
    data: `config.data` of the run.

  Returns:
    The task's outputs with a batch axis of 1, e.g. logits f32[1,H,W,K].
  """
  native = data.eval_fit == "native"
  size = tuple(pipeline.multiples(image.shape[:2], data.eval_multiple) if native else data.size)
  if native:
    seen = pipeline.extend(image, size, mode="edge")
  else:
    seen = pipeline.resize(dict(image=image), size)["image"]

  def at_own_size(out):
    out = np.asarray(out)
    if out.ndim != 4 or out.shape[1:3] != size:
      return out
    return out[:, : image.shape[0], : image.shape[1]] if native else _resize(out[0], image)[None]

  return jax.tree.map(at_own_size, predict_step(state, seen[None]))


def _resize(maps, image):
  """f32[h,w,K] -> [H,W,K] of an image, bilinearly."""
  channels = [
    np.asarray(Image.fromarray(c).resize(image.shape[1::-1], Image.Resampling.BILINEAR))
    for c in np.ascontiguousarray(maps.transpose(2, 0, 1))
  ]
  return np.stack(channels, -1)
