"""Finished runs: restoring them, the data they are used on, predictions for images of any size."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from segjax import config as config_lib
from segjax import textfiles
from segjax.data import pipeline
from segjax.errors import UserError, choose
from segjax.tasks import TASKS
from segjax.training import class_balance, feeding
from segjax.training import experiment as experiment_lib
from segjax.training import workdir as workdir_lib
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
  weights = class_balance.read(workdir, config, labels)
  experiment = experiment_lib.build(config, labels, class_weights=weights)
  checkpoints = _checkpoints(workdir, config)
  step = checkpoints.step_of(checkpoint)
  if step is None:
    raise UserError(f"{workdir}: no {checkpoint} checkpoint yet; train longer, or take 'latest'")
  state = checkpoints.restore(step, experiment.abstract_state())
  checkpoints.close()
  return experiment, state


# ---------------------------------------------------------------------------- data of a run


@dataclasses.dataclass(frozen=True)
class RunData:
  """A split that a run is used on.

  Attributes:
    source: of its examples, made to fit as in the run's evaluation.
    folder: where its files lie; empty where they are drawn.
    digest: 16 hex digits over the contents of its files, or over its names where it has no files.
    changed: how it differs from the data that the run was trained with, a sentence; empty where it
      does not.
  """

  source: Any
  folder: str
  digest: str
  changed: str


def data_of_run(workdir, config, split, *, moved=(), labelled=True):
  """The data that a run is used on; every place that puts a run beside data gets it here.

  Data with other contents than those of the training are taken, and a printed line says so.

  Args:
    workdir: of the run.
    config: ConfigDict of the run; not changed.
    split: "train" or "val".
    moved: fields of `config.data.source` that say where the data lie now, see `moved_to`.
    labelled: see `feeding.make_source`.

  Returns:
    RunData.

  Raises:
    UserError: the classes are not the run's, by name and order, or see `feeding.make_source`.
  """
  workdir, config, moved = Path(workdir), copy.deepcopy(config), dict(moved)
  elsewhere = any(v and v != config.data.source.get(k) for k, v in moved.items())
  config.data.source.update(moved)
  source = feeding.make_source(config, split, labelled=labelled)
  labels = experiment_lib.load_labels(workdir / "labels.json")
  task = choose(TASKS, config.task.name, "task")
  if task.needs_of(config.task) in ("mask", "class"):
    workdir_lib.check_classes(workdir, labels, source.source.labels)
  names = workdir_lib.names_of(source)
  contents = workdir_lib.contents_of(source)
  changed = _difference(workdir, split, names, contents, elsewhere)
  if changed:
    print(f"  warning: {changed}", flush=True)
  return RunData(source, _root(source, config), contents or names[1], changed)


def moved_to(config, folder):
  """Fields of `config.data.source` for data that lie in another folder now; {} for no folder."""
  name = "data_dir" if "data_dir" in config.data.source else "folder"
  return {name: str(folder)} if folder else {}


def _difference(workdir, split, names, contents, elsewhere):
  """How a split differs from that of the training, by the run's data.json: a sentence or ""."""
  file = workdir / "data.json"
  trained = textfiles.read_json(file, dict) if file.exists() else {}
  before = trained.get("contents")
  before = before.get(split) if isinstance(before, dict) else None
  if trained.get(split, names) != names:
    return (
      f"the {split} split has other examples than at the training (number and hash of their "
      f"names: {trained[split]} then, {names} now)"
    )
  if None not in (before, contents):
    return "" if before == contents else (
      f"images or labels of the {split} split are not those of the training (hash of their "
      f"contents: {before} then, {contents} now)"
    )  # fmt: skip
  if elsewhere and contents:
    return (
      f"whether the {split} split is that of the training is not known: the run is of a version "
      "that kept no hash of the contents"
    )
  return ""


def _root(source, config):
  """The folder of a source's files, or an empty text."""
  while not hasattr(source, "root") and hasattr(source, "source"):
    source = source.source
  root = getattr(source, "root", config.data.source.get("data_dir", ""))
  return str(Path(root).absolute()) if root else ""


# ---------------------------------------------------------------------------- prediction


def predict_image(predict_step, state, image, data, *, whole=True):
  """The task's outputs for an image, pictures among them at the image's own size.

  The net sees the image at the scale of the run's evaluation: with `eval_fit="resize"` resized to
  the size it was trained at (one compilation whatever the images' sizes; maps of outputs are
  resized back bilinearly, so that class borders are smooth); with "native" and "crop" at its own
  size, extended to a multiple of some pixels, with "crop" to `data.size` at least.

  Args:
    predict_step: from `steps.make_predict_step`.
    state: TrainState.
    image: u8[H,W,3].
    data: `config.data` of the run.
    whole: False for a task with one answer for an image: with `eval_fit="crop"` the net then sees
      the middle of the image, as in evaluation.

  Returns:
    The task's outputs with a batch axis of 1, e.g. logits f32[1,H,W,K].
  """
  own_scale, size = data.eval_fit != "resize", tuple(data.size)
  if not own_scale:
    seen = pipeline.resize(dict(image=image), size)["image"]
  elif data.eval_fit == "crop" and not whole:
    seen = pipeline.Middle([dict(image=image)], size, 0)[0]["image"]
  else:
    least = size if data.eval_fit == "crop" else (0, 0)
    size = _extended(image.shape[:2], data.eval_multiple, least)
    seen = pipeline.extend(image, size, mode="edge")

  def at_own_size(out):
    out = np.asarray(out)
    if out.ndim != 4 or out.shape[1:3] != size:
      return out
    if own_scale:
      return out[:, : image.shape[0], : image.shape[1]]
    return _resize(out[0], image)[None]

  return jax.tree.map(at_own_size, predict_step(state, seen[None]))


def _extended(shape, multiple, least):
  """The size that an image is extended to: `least` where it fits in, else to multiples."""
  if all(n <= m for n, m in zip(shape, least, strict=True)):
    return least
  size = pipeline.multiples(shape, multiple)
  return tuple(max(n, m) for n, m in zip(size, least, strict=True))


def scale_warning(data, shape):
  """A sentence where a net sees an image at another scale than those it was trained on, or "".

  Args:
    data: `config.data` of the run.
    shape: (height, width) of the image, pixels.
  """
  size = f"{data.size[0]}x{data.size[1]}"
  if tuple(shape) == tuple(data.size) or (data.fit == "crop") == (data.eval_fit != "resize"):
    return ""
  if data.fit == "crop":
    return (
      f"the net was trained on crops of {size} at the images' own scale, but is evaluated, and so "
      f"predicts, on whole images squeezed to that size; a run with data.eval_fit='native' keeps "
      "the scale"
    )
  return (
    f"the net was trained on whole images squeezed to {size}, but is evaluated, and so predicts, "
    f"at the images' own scale (data.eval_fit={data.eval_fit!r})"
  )


def _resize(maps, image):
  """f32[h,w,K] -> [H,W,K] of an image, bilinearly."""
  channels = [
    np.asarray(Image.fromarray(c).resize(image.shape[1::-1], Image.Resampling.BILINEAR))
    for c in np.ascontiguousarray(maps.transpose(2, 0, 1))
  ]
  return np.stack(channels, -1)
