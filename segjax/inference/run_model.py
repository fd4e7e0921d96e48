"""Trained runs before images of any size; the one module of this package that needs jax."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from segjax import metrics
from segjax.data import pipeline, rasters, sizes
from segjax.data.tiles import Rows
from segjax.errors import UserError
from segjax.inference.model import View
from segjax.pictures import displayed
from segjax.tasks import PIXELWISE
from segjax.training import evaluation, restore
from segjax.training.experiment import Experiment
from segjax.training.state import TrainState

__all__ = ["Answers", "RunModel", "last_sums", "load", "scale_warning", "threshold_of", "view_of"]


class RunModel:
  """The `Model` of a run of segmentation, also into classes that overlap.

  Attributes:
    view: as the run is evaluated.
    thresholds: of classes that overlap, see `Model`; else None.
    pixels: rasters.Pixels of its images.
    max_f1_threshold: threshold of the largest F1 at the run's last evaluation, or None.
    threshold_step: step of that evaluation, or None.
    config: ConfigDict of the run.
    labels: its label table.
    step: of the checkpoint.
  """

  def __init__(self, experiment: Experiment, state: TrainState, sums: Mapping | None = None):
    """Takes what `restore.run` gives, and the sums of the run's last evaluation.

    Raises:
      UserError: a run of another task.
    """
    task, data = experiment.task, experiment.config.data
    if experiment.config.task.name not in PIXELWISE:
      raise UserError(
        f"a run of the task {experiment.config.task.name!r}; probabilities of pixels are of "
        f"{' and '.join(map(repr, PIXELWISE))}"
      )
    overlapping = task.label_kind == "masks"
    self.config, self.labels, self.step = experiment.config, experiment.labels, int(state.step)
    self.classes, self.palette = tuple(task.classes), task.palette[: len(task.classes)]
    self.size, self.batch, self.multiple = None, None, data.eval_multiple
    self.one_logit = not overlapping and task.sigmoid
    self.thresholds = task.limits if overlapping else None
    self.max_f1_threshold, self.threshold_step = threshold_of(sums or {}, self.thresholds)
    self.view, self.pixels = view_of(data), rasters.of(data)
    step = experiment.predict_step()
    self._call = jax.jit(lambda state, images: task.probabilities(step(state, images)))
    self._state = state

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """See `Model.probabilities`."""
    return np.asarray(self._call(self._state, images))


class Answers:
  """What a run of another task says of whole images, such as colours or the class of an image.

  Attributes:
    config, labels, step, pixels: see `RunModel`.
    task: the run's task.
  """

  def __init__(self, experiment: Experiment, state: TrainState):
    """Takes what `restore.run` gives."""
    self.task = experiment.task.for_prediction()
    self.config, self.labels, self.step = experiment.config, experiment.labels, int(state.step)
    self.pixels = rasters.of(self.config.data)
    self._step = dataclasses.replace(experiment, task=self.task).predict_step()
    self._state = state

  def answer(self, rows: Rows) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """See `Task.answer`.

    The net sees the image at the scale of the run's evaluation: with `eval_fit="resize"` resized to
    the size it was trained at (one compilation whatever the images' sizes; maps of outputs are
    resized back bilinearly); else at its own size, extended to a multiple of some pixels.

    Args:
      rows: the image, see `segjax.data.tiles.Rows`.
    """
    image = rows.read(rows.height)
    data, view = self.config.data, view_of(self.config.data)
    if view.mode == "resize":
      seen = sizes.resize_image(image, view.size)
    elif data.eval_fit == "crop" and self.task.label_kind == "class":
      seen = pipeline.CenterCrop([dict(image=image)], view.size, 0)[0]["image"]
    else:
      least = view.size if data.eval_fit == "crop" else (0, 0)
      size = sizes.multiples(image.shape[:2], data.eval_multiple, least)
      seen = sizes.extend_image(image, size)
    back = lambda maps: _back(np.asarray(maps), seen.shape[:2], image.shape[:2], view)  # noqa: E731
    outputs = jax.tree.map(back, self._step(self._state, seen[None]))
    return self.task.answer(displayed(image), outputs)


def _back(maps, seen, size, view):
  """Maps f32[1,h,w,K] at an image's own size; anything else as it is."""
  if maps.ndim != 4 or maps.shape[1:3] != seen:
    return maps
  if view.mode != "resize":
    return maps[:, : size[0], : size[1]]
  return sizes.resize_maps(maps, size)


def view_of(data: ConfigDict) -> View:
  """The View of a run's evaluation, by `config.data`."""
  mode = dict(resize="resize", full="native", crop="native", tiles="tiles")[data.eval_fit]
  return View(mode, None if data.eval_fit == "full" else tuple(data.size), data.eval_overlap)


def threshold_of(
  sums: Mapping, own: Sequence[float] | None = None
) -> tuple[float | tuple[float, ...] | None, int | None]:
  """(threshold of the largest F1, step) of an evaluation's sums; None where they have none.

  Args:
    sums: statistics of an evaluation.
    own: thresholds of classes that overlap, which then get one each; of a class that has none, as
      the evaluation had no pixel of it, its own stays.
  """
  if own is not None:
    if len(sums.get("histograms", ())) != len(own):
      return None, None
    best = [metrics.max_f1(scores)[1] for scores in sums["histograms"]]
    chosen = (b if 0 < b < 1 else o for b, o in zip(best, own, strict=True))
    return tuple(map(float, chosen)), int(sums["step"])
  threshold = metrics.max_f1(sums["histogram"])[1] if "histogram" in sums else 0.0
  return (float(threshold), int(sums["step"])) if 0 < threshold < 1 else (None, None)


def last_sums(workdir: str | os.PathLike) -> dict[str, np.ndarray]:
  """The sums of a run's last evaluation; {} where there are none or their file is damaged."""
  try:
    return evaluation.read_sums(workdir)
  except UserError:
    return {}


def load(workdir: str | os.PathLike, checkpoint: str | int = "best") -> RunModel:
  """The `Model` of a run.

  Args: see `segjax.training.restore.run`.

  Raises:
    UserError: no such run or checkpoint, or a run of a task that is not `PIXELWISE`.
  """
  return RunModel(*restore.run(workdir, checkpoint), last_sums(workdir))


def scale_warning(data: ConfigDict, view: View, shape: Sequence[int]) -> str:
  """A sentence where a net sees an image at another scale than those it was trained on, or "".

  Args:
    data: `config.data` of the run.
    view: of the prediction.
    shape: (height, width) of the image, pixels.
  """
  size = f"{data.size[0]}x{data.size[1]}"
  own_scale = view.mode != "resize"
  if tuple(shape) == tuple(data.size) or (data.fit == "crop") == own_scale:
    return ""
  if data.fit == "crop":
    return (
      f"the net was trained on crops of {size} at the images' own scale, and predicts on whole "
      "images squeezed to that size; mode 'native' or 'tiles' keeps the scale"
    )
  return (
    f"the net was trained on whole images squeezed to {size}, and predicts at the images' own "
    f"scale; mode 'resize' is as in training"
  )
