"""Evaluation of a run through a Predictor: by tiles, resized, over scales and mirrored images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from segjax.data import tiles
from segjax.inference import run_model
from segjax.inference.predictor import Predictor
from segjax.training import tiled
from segjax.training.experiment import Experiment
from segjax.training.state import TrainState


def of_run(
  experiment: Experiment, state: TrainState, *, tta: str = "", **how
) -> tuple[Experiment, Callable, str]:
  """A run as it is evaluated through a Predictor; labels stay as their files have them.

  Args:
    experiment: of the run.
    state: its checkpoint.
    tta, how: arguments of `Predictor`.

  Returns:
    (the experiment, whose examples are whole images at their own sizes; a function of a `measure`
    or None -> eval step of one image after the other, see `eval_step.make_eval_step`; a text that
    names the view).

  Raises:
    UserError: an argument that does not fit, or a run whose net gives no probabilities of pixels.
  """
  model = run_model.RunModel(experiment, state)
  batch_size = experiment.config.data.batch_size
  predictor = Predictor(model, tta=tta, batch_size=batch_size, **how)
  config = experiment.config.copy_and_resolve_references()
  config.data.eval_fit = "tiles"
  task = experiment.task

  def maps_of(_, image):
    blocks = predictor.blocks(tiles.ArrayRows(image))
    return np.concatenate([maps for _, maps in blocks])

  def step_of(measure=None):
    predict = experiment.predict_step()
    return tiled.make_eval_step(predict, tiled.as_logits(maps_of, task), task, measure)

  return dataclasses.replace(experiment, config=config), step_of, _text(predictor.view, tta)


def _text(view, tta):
  text = view.mode
  if view.size and view.mode != "native":
    text += " {}x{}".format(*view.size)
  if view.mode == "tiles":
    text += f", overlap {view.overlap:g}"
  return f"{text}, {tta.replace(' ', '')}" if tta else text
