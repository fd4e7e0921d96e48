"""Evaluates an exported file on a split of data, as a run is evaluated."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from segjax import config as config_lib
from segjax.data import rasters
from segjax.errors import UserError, choose
from segjax.export import batches as batches_lib
from segjax.export import open_model
from segjax.export.about import Exported
from segjax.fields import defaults_of
from segjax.inference.model import Model
from segjax.tasks import TASKS, MultiLabel, Segmentation, own_loss
from segjax.training import coverage, evaluation, input_pipeline, restore, steps, tiled, workdir


def run(
  file: str | os.PathLike, spec: str | None, *, folder: str | None = None, split: str = "val"
) -> dict[str, np.ndarray]:
  """Evaluates a file and prints the table of its scores.

  Args:
    file: path of a file that `launch/export.py` wrote.
    spec: config file, with an argument after a colon if it takes one, whose data, task and loss are
      taken; None for a folder of images and masks.
    folder: where the data lie, if not where the config says.
    split: "train", "val" or another split of the data.

  Returns:
    dict of sums, see the task's `statistics`.

  Raises:
    UserError: neither config nor folder; the data have other classes than the file, or images of
      another size or kind than it takes.
  """
  model = open_model(file)
  config = _config(model, spec, folder)
  source = input_pipeline.make_source(config, split)
  workdir.check_classes(file, model.labels, source.source.labels)
  task = _task(model, config)
  sums = evaluate(model, task, input_pipeline.eval_batches(config, source), config.data)
  for warning in coverage.of_sums(split, model.classes, sums):
    print(f"  warning: {warning}")
  run = model.about.run
  print(f"{file}: step {run['step']} of {run['folder']}; {len(source)} {split} examples")
  print(task.table(sums))
  return sums


def evaluate(
  model: Model, task: Segmentation | MultiLabel, batches, data: ConfigDict
) -> dict[str, np.ndarray]:
  """Sums of a task's statistics over batches, see `segjax.training.evaluation.evaluate`.

  Args:
    model: the net.
    task: of its classes.
    batches: of `input_pipeline.eval_batches`.
    data: `config.data`, of the size and the batch that the net takes.
  """
  mesh = steps.make_mesh(jax.devices()[:1])
  if data.eval_fit == "tiles":
    predict = tiled.joined_step(lambda _, images: model.probabilities(images), task, data)
    return evaluation.evaluate(tiled.make_eval_step(None, predict, task), None, batches, mesh)
  statistics = jax.jit(functools.partial(task.statistics, evaluating=True))

  def step(_, batch):
    found = batches_lib.probabilities(model, np.asarray(batch["image"]))
    label = batch["label"].astype(jnp.int32)
    return statistics(tiled.task_logits(task, found), label, batch["valid"])

  return evaluation.evaluate(step, None, batches, mesh)


def _config(model: Exported, spec, folder) -> ConfigDict:
  """The config of the data, at the size that the file takes."""
  if not (spec or folder):
    raise UserError(
      "--model needs data to evaluate on: --config=FILE.py[:ARGUMENT], or --folder=PATH with "
      "images/, masks/ and classes.txt"
    )
  config = config_lib.read(spec) if spec else config_lib.default()
  if spec:
    _check_kind(model, config)
  with config.unlocked():
    if not spec:
      config.data.source = config_lib.data_source("folder")
      config.data.update({k: getattr(model.pixels, k) for k in ("channels", "dtype", "full_scale")})
      if model.labels.overlapping:  # their masks lie in folders of their names
        config_lib.set_task(config, "multi_label")
        config.data.source.update(kind="multi_label", classes=model.classes)
      if model.view.mode != "resize":  # a file of one size predicts an image's own size by tiles
        config.data.update(eval_fit="tiles", eval_overlap=model.view.overlap)
        config.data.eval_multiple = model.multiple
    config.data.source.update(restore.moved_to(config, folder))
  if model.size != tuple(config.data.size):
    if spec and config.data.eval_fit != "full":
      height, width = config.data.size
      what = "tiles" if config.data.eval_fit == "tiles" else "images and labels"
      print(
        f"  note: the config evaluates at {height}x{width}, the file takes {model.size[0]}x"
        f"{model.size[1]}: {what} are brought to that"
      )
    config.data.size = model.size
  config.data.batch_size = model.batch or config.data.batch_size
  return config


def _check_kind(model, config):
  """Raises a UserError where a config is of labels or of images of another kind than the file."""
  task = choose(TASKS, config.task.name, "task")
  wanted = ("masks", "multi_label") if model.labels.overlapping else ("mask", "segmentation")
  if task.label_kind_of(config.task) != wanted[0]:
    raise UserError(
      f"{model.file}: a net of {wanted[1]}, and the config's task is {config.task.name!r}, whose "
      f"labels are of another kind; use a config of {wanted[1]}"
    )
  found, pixels = rasters.of(config.data), model.pixels
  if (found.channels, found.dtype, found.one) != (pixels.channels, pixels.dtype, pixels.one):
    raise UserError(
      f"{model.file}: takes images of {pixels.text}, and those of the config are {found.text}; set "
      "data.channels, data.dtype and data.full_scale, or use another config"
    )


def _task(model, config):
  """The task of the file, with the loss of the config where its task is the same."""
  table = model.labels
  name = "multi_label" if table.overlapping else "segmentation"
  same = config.task.name == name and config.task.get("sigmoid", False) == model.one_logit
  loss = own_loss.bind(config.loss, list(defaults_of(TASKS[name]))) if same else {}
  loss = {k: tuple(v) if isinstance(v, list) else v for k, v in loss.items()}
  if isinstance((loss.get("class_weights") or (0,))[0], str):
    loss = {k: v for k, v in loss.items() if k not in ("class_weights", "dice_weighted")}
    print("  note: the loss is without class weights, which would be counted on the train split")
  if table.overlapping:
    return MultiLabel(table.names, table.palette, thresholds=model.thresholds, **loss)
  return Segmentation(table.names, table.palette, sigmoid=model.one_logit, **loss)
