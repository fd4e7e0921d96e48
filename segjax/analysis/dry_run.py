"""A training that does not begin: what a batch looks like, and what its step will need."""

from __future__ import annotations

import math
import os
from itertools import chain
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from segjax import errors, models
from segjax.augment.mixing import Mixed
from segjax.benchmark.timing import peak_bytes
from segjax.data import rasters
from segjax.legends import colorize, values_of, with_legend
from segjax.models.cost import static_cost
from segjax.pictures import blend, displayed, overlay, panel, to_u8
from segjax.training import class_balance, input_pipeline, preflight, steps
from segjax.training import experiment as experiment_lib
from segjax.training.plan import make_plan

SHOWN = 8  # images in the sheet
ASKED = (220, 30, 60)  # colour of a class that is asked for


def dry_run(config, file):
  """Prints what a training would need and saves what its first batch looks like; trains nothing.

  Everything is checked that a training checks before its first step, which is compiled too.

  Args:
    config: ConfigDict of an experiment.
    file: path of the sheet, a PNG.

  Raises:
    UserError: anything the user can mend, as `training.train`.
  """
  preflight.check_config(config)
  source = input_pipeline.make_source(config, "train", training=True)
  val_source = input_pipeline.make_source(config, "val")
  labels, per_epoch = source.source.labels, len(source) // config.data.batch_size
  iterator = input_pipeline.train_iterator(config, source, data_on_device=False)
  plan = make_plan(config, per_epoch)
  weights = class_balance.rule(config.loss) and class_balance.count(config, source.source)
  experiment = experiment_lib.build(config, labels, per_epoch, weights or None)
  preflight.check_experiment(experiment, val_source[0]["label"])
  state = experiment.abstract_state()
  batch = input_pipeline.next_batch(iterator, 1, experiment.mesh)
  _line("net", f"{config.model.name}: {models.count_params(state.params):,} parameters")
  examples = f"{len(source)} train and {len(val_source)} val examples"
  _line("data", f"{examples}, {per_epoch} steps per epoch, {plan.total} in all")
  _line("batch", ", ".join(f"{name} {_shape(x)}" for name, x in batch.items()))
  inputs, label = jax.jit(experiment.seen, static_argnums=0)(0, batch)
  changed = ", augmented" if experiment.augment or experiment.batch_augment else ""
  _line("net sees", ", ".join(map(_shape, jax.tree.leaves(inputs))) + changed)
  _, flops, _ = static_cost(experiment.model, tuple(config.data.size), config.data.channels)
  if not math.isnan(flops):
    _line("FLOPs", f"{flops / 1e9:.2f} G per image, a train step takes about three times as many")
  picture = sheet(experiment, jax.device_get(inputs), jax.device_get(label))
  file = Path(file)
  with errors.writing(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)
  _line("sheet", file)
  _line("compiling", "the train step")
  _memory(experiment, state, source, batch)
  print("nothing was trained, and no run was made")


def _memory(experiment, state, source, batch):
  """Compiles the train step as the training calls it and prints the memory that XLA plans."""
  config = experiment.config
  on_device = input_pipeline.is_on_device(config, source)
  calls = input_pipeline.steps_per_dispatch(config, on_device)
  step, first = steps.unbound(experiment.train_step(on_device, multi_step=calls > 1))
  args, split = (batch,), 0
  if on_device:
    stacked = (calls,) if calls > 1 else ()
    shape = lambda x: jax.ShapeDtypeStruct((len(source), *x.shape[1:]), x.dtype)  # noqa: E731
    whole = {k: shape(batch[k]) for k in ("image", "label")}
    split = sum(x.size * x.dtype.itemsize for x in whole.values())
    index = jax.ShapeDtypeStruct((*stacked, config.data.batch_size), np.int32)
    args = whole, dict(index=index)
  compiled = step.lower(*first, state, *args).compile()
  memory, needed = compiled.memory_analysis(), peak_bytes(compiled)
  device = experiment.mesh.devices.flat[0]
  parts = [f"state and batch {_mb(memory.argument_size_in_bytes - split)}"]
  parts += [f"train split {_mb(split)}"] if split else []
  parts += [f"temporaries {_mb(memory.temp_size_in_bytes)}"]
  _line("memory", f"{_mb(needed)} of each {device.device_kind}: {', '.join(parts)}, by XLA's plan")
  there = _room(device)
  if there:
    _line("there is", _mb(there))
  if there and needed > there:
    _line("warning", "the step does not fit; lower data.batch_size or data.size, set remat=True, "
          "mesh.fsdp=True, or model.dtype=bfloat16")  # fmt: skip


def _room(device):
  """Bytes of memory of a device, of which a CPU has those of the machine; None if unknown."""
  found = (device.memory_stats() or {}).get("bytes_limit")
  if found or device.platform != "cpu" or not hasattr(os, "sysconf"):
    return found
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sheet(experiment, inputs, label):
  """What the net sees of a batch as a picture: labels over the images, and a legend.

  Args:
    experiment: Experiment.
    inputs: inputs of the net, arrays of the host; images are f32[N,H,W,C].
    label: their labels.

  Returns:
    u8[height,width,3].
  """
  pixels = rasters.of(experiment.config.data)
  show = to_u8 if pixels.is_rgb else displayed
  images = [
    x for x in jax.tree.leaves(inputs) if np.ndim(x) == 4 and x.shape[-1] == pixels.channels
  ]
  asked = inputs[1] if isinstance(inputs, tuple) else None
  cells, shown = [], set()
  for kind in images:
    for i in range(min(len(kind), SHOWN)):
      cell = [(_caption(experiment, label, asked, i), show(kind[i]))]
      truth = label[i] if not isinstance(label, Mixed) and len(label) == len(kind) else None
      if np.ndim(truth) == 3:
        cell.append(("target", to_u8(truth)))
      elif np.ndim(truth) == 2:
        cell.append(_labelled(experiment, cell[0][1], truth, asked))
        shown |= set() if asked is not None else values_of(experiment.labels, truth)
      cells.append(cell)
  wide = 4 // max(map(len, cells)) or 1
  rows = [list(chain(*cells[i : i + wide])) for i in range(0, len(cells), wide)]
  return with_legend(panel(rows), experiment.labels, shown)


def _labelled(experiment, image, label, asked):
  """(title, u8[H,W,3]) of a mask over its image: all classes, or where the asked one is."""
  if asked is not None:
    return "where it is", blend(image, ASKED, label == 1)
  colors = colorize(experiment.labels, label)
  return "label over it", overlay(image, colors)


def _caption(experiment, label, asked, i):
  """What stands above an image: its number or class, or the two classes that are mixed in it."""
  names = experiment.labels.names
  if asked is not None:
    return f"image {i}, asked: {names[asked[i] + 1]}"
  if isinstance(label, Mixed):
    return f"{names[label.own[i]]} {label.share[i]:.2f}, {names[label.other[i]]}"
  if experiment.task.label_kind_of(experiment.config.task) == "class" and np.ndim(label) == 1:
    return f"image {i}: {names[label[i]]}"
  return f"image {i}"


def _shape(x):
  return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def _mb(count):
  return f"{count / 1e6:,.1f} MB"


def _line(what, text):
  print(f"  {what:<12}{text}", flush=True)
