"""Evaluates an exported file on a split of data, as a run is evaluated."""

from __future__ import annotations

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from segjax import config as config_lib
from segjax.data.labels import table_of
from segjax.errors import UserError
from segjax.export import batches as batches_lib
from segjax.export import open_model
from segjax.inference.model import Model
from segjax.tasks.segmentation import Segmentation
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
      sizes that it does not take.
  """
  model = open_model(file)
  config = _config(model, spec, folder)
  source = input_pipeline.make_source(config, split)
  table = table_of(zip(model.classes, model.palette, strict=True))
  workdir.check_classes(file, table, source.source.labels)
  task = _task(table, model.one_logit, config)
  sums = evaluate(model, task, input_pipeline.eval_batches(config, source), config.data)
  for warning in coverage.of_sums(split, model.classes, sums):
    print(f"  warning: {warning}")
  run = model.about.run
  print(f"{file}: step {run['step']} of {run['folder']}; {len(source)} {split} examples")
  print(task.table(sums))
  return sums


def evaluate(model: Model, task: Segmentation, batches, data: ConfigDict) -> dict[str, np.ndarray]:
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
    return statistics(tiled.logits_of(found, one=task.sigmoid), label, batch["valid"])

  return evaluation.evaluate(step, None, batches, mesh)


def _config(model, spec, folder) -> ConfigDict:
  """The config of the data, at the size that the file takes."""
  if not (spec or folder):
    raise UserError(
      "--model needs data to evaluate on: --config=FILE.py[:ARGUMENT], or --folder=PATH with "
      "images/, masks/ and classes.txt"
    )
  config = config_lib.read(spec) if spec else config_lib.default()
  with config.unlocked():
    if not spec:
      config.data.source = config_lib.data_source("folder")
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


def _task(table, one_logit, config):
  """The task of the config where it is segmentation, else a plain one, with the file's classes."""
  same = config.task.name == "segmentation" and config.task.sigmoid == one_logit
  loss = {k: tuple(v) if isinstance(v, list) else v for k, v in config.loss.items()} if same else {}
  if isinstance((loss.get("class_weights") or (0,))[0], str):
    loss |= dict(class_weights=(), dice_weighted=False)
    print("  note: the loss is without class weights, which would be counted on the train split")
  return Segmentation(table.names, table.palette, sigmoid=one_logit, **loss)
