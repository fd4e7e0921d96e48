"""Finished runs: restoring them, and segmenting images of any size with them."""

from __future__ import annotations

from pathlib import Path

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
  """Logits at the image's own size.

  The net sees the image as in evaluation: resized to the size it was trained at (one compilation
  whatever the images' sizes; the logits are resized back bilinearly, so that class borders are
  smooth), or with `eval_fit="native"` at its own size, extended to a multiple of some pixels.

  Args:
    predict_step: from `steps.make_predict_step`.
    state: TrainState.
    image: u8[H,W,3].
    data: `config.data` of the run.

  Returns:
    f32[H,W,K].
  """
  height, width = image.shape[:2]
  if data.eval_fit == "native":
    size = pipeline.multiples((height, width), data.eval_multiple)
    padded = pipeline.extend(image, size, mode="edge")
    return np.asarray(predict_step(state, padded[None]))[0, :height, :width]
  size = data.size
  small = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
  logits = np.asarray(predict_step(state, np.asarray(small)[None])[0])
  channels = [
    np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BILINEAR))
    for c in np.ascontiguousarray(logits.transpose(2, 0, 1))
  ]
  return np.stack(channels, -1)
