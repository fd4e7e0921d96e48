"""From a config to its data: sources made to fit, batches, a split on the device."""

from __future__ import annotations

import jax
import numpy as np

from segjax.config import RENAMED
from segjax.data import checks, label_sets, limits, pipeline, rasters, sources
from segjax.errors import UserError, choose
from segjax.tasks import PIXELWISE, TASKS
from segjax.training import devices, steps


def processes():
  """This process's place among all, as the pipelines take it."""
  return dict(process_index=jax.process_index(), process_count=jax.process_count())


def make_source(config, split, *, training=False, labelled=True):
  """The source of a split: resized, or at its own sizes, for training or evaluation.

  Args:
    config: ConfigDict of an experiment.
    split: "train", "val" or "test".
    training: whether the images are for training; else they are for evaluation.
    labelled: whether an example has the "label" that the task asks for; else it is as the source
      has it.

  Raises:
    UserError: see `segjax.data.sources.make`; a field with a wrong value, or one that does not fit
      the task.
  """
  data = config.data
  if config.seed < 0:
    raise UserError(f"seed is {config.seed}, expected 0 or more")
  for field in ("fit", "eval_fit"):
    fits = dict(fit=("resize", "crop"), eval_fit=("resize", "full", "crop", "tiles"))[field]
    if data[field] not in fits:
      new = RENAMED.get(f"data.{field}", {}).get(data[field])
      hint = f"; {data[field]!r} is now called {new!r}" if new else ""
      expected = " or ".join(map(repr, fits))
      raise UserError(f"data.{field} is {data[field]!r}, expected {expected}{hint}")
  task = choose(TASKS, config.task.name, "task")
  if task.forbids_padding and data.eval_fit == "full" and data.eval_multiple > 1:
    raise UserError(
      f"data.eval_fit is 'full', which extends images, and the task {config.task.name!r} scores "
      "every pixel; use 'resize', or data.eval_multiple=1"
    )
  if data.eval_fit == "tiles" and config.task.name not in PIXELWISE:
    raise UserError(
      f"data.eval_fit is 'tiles', which joins probabilities of classes, and the task is "
      f"{config.task.name!r}; use 'resize' or 'full'"
    )
  kind, pixels = task.label_kind_of(config.task), rasters.of(data)
  if task.of_photographs and not pixels.is_rgb:
    raise UserError(
      f"the task {config.task.name!r} is for photographs, 3 channels of uint8; data.channels is "
      f"{data.channels}, data.dtype {data.dtype!r}"
    )
  limits.set_limit(data.max_pixels)
  how = dict(complete=not data.skip_broken, pixels=pixels)
  source = sources.make(split=split, **how, **data.source)
  if data.skip_broken:
    total = len(source)
    source, faults = sources.without_broken(source, max(data.threads, 1))
    if faults:
      print(f"{split}: left out (data.skip_broken) {checks.report(faults, total)}")
  if labelled:
    what, user = f"data source {data.source.name!r}", f"the task {config.task.name!r}"
    crops = data["fit" if training else "eval_fit"] == "crop"
    least = tuple(data.size) if task.forbids_padding and crops else (0, 0)
    source = sources.labelled(source, kind, what, user, least)
  cache_mb = data.cache_mb / max(data.workers, 1) if training else data.cache_mb
  if (data.fit == "crop") if training else (data.eval_fit in ("full", "tiles")):
    extended = not training and data.eval_fit == "full"
    return pipeline.FullSize(source, data.eval_multiple if extended else 1, cache_mb)
  if not training and data.eval_fit == "crop":
    return pipeline.CenterCrop(source, data.size, cache_mb)
  return pipeline.Resized(source, data.size, cache_mb)


def is_on_device(config, source):
  """Whether training keeps the whole split on the device, by `config.data.feed`.

  Raises:
    UserError: unknown feed, or "device" with crops.
  """
  data = config.data
  if data.feed not in ("auto", "host", "device"):
    raise UserError(f"data.feed is {data.feed!r}, expected 'auto', 'host' or 'device'")
  if data.fit == "crop":
    if data.feed == "device":
      raise UserError("data.feed='device' needs data.fit='resize': crops are cut on the host")
    return False
  if config.nan_debug:  # which keeps a step with its batch
    return False
  labels = source.source.labels
  of_label = label_sets.dtype_of(len(labels)).itemsize if labels.overlapping else 1
  if getattr(source.source, "key", "") == "target":
    of_label = 3
  per_pixel = data.channels * rasters.of(data).kept.itemsize + of_label
  megabytes = len(source) * data.size[0] * data.size[1] * per_pixel / 2**20
  accelerated = jax.default_backend() != "cpu"
  return data.feed == "device" or (
    data.feed == "auto" and accelerated and megabytes <= data.device_mb
  )


def steps_per_dispatch(config, data_on_device):
  """Steps of one call, by `config.steps_per_dispatch`.

  Raises:
    UserError: more than one, but the host sends the batches.
  """
  if config.nan_debug:  # which looks at each step
    return 1
  wanted = config.steps_per_dispatch
  if wanted > 1 and not data_on_device:
    raise UserError(
      f"steps_per_dispatch is {wanted}, which needs the train split on the device; set "
      "data.feed='device', or steps_per_dispatch=1"
    )
  if wanted < 0:
    raise UserError(f"steps_per_dispatch is {wanted}, expected 0 (automatic) or more")
  if wanted:
    return wanted
  accelerated = jax.default_backend() != "cpu"
  return max(config.log_steps, 1) if data_on_device and accelerated else 1


def train_iterator(config, source, data_on_device):
  """The batches of a training, see `pipeline.train_iterator`.

  Args:
    config: ConfigDict of an experiment.
    source: result of `make_source` for training.
    data_on_device: whether the batches are indices of a split on the device.
  """
  data = config.data
  return pipeline.train_iterator(
    source,
    batch_size=data.batch_size,
    seed=config.seed,
    crop=data.size if data.fit == "crop" else None,
    indices_only=data_on_device,
    num_threads=data.threads,
    num_workers=data.workers,
    **processes(),
  )


def next_batch(iterator, count, mesh):
  """The batch of the next call, on the devices.

  Args:
    iterator: result of `train_iterator`.
    count: steps of the call; from 2 on their batches are stacked.
    mesh: mesh of the devices.

  Raises:
    UserError: a process that reads data has ended.
  """
  try:
    batches = _draw(iterator, count)
  except RuntimeError as error:
    if "Worker process was terminated" not in str(error):
      raise
    raise UserError(
      f"a process that reads data has ended ({error}); it may have run out of memory, or of shared "
      "memory (/dev/shm; docker run --shm-size): lower data.workers, data.cache_mb or "
      "data.batch_size"
    ) from error
  if count == 1:
    return steps.put_batch(batches[0], mesh)
  return steps.put_batch(jax.tree.map(lambda *x: np.stack(x), *batches), mesh, stacked=True)


def _draw(iterator, count):
  return [next(iterator) for _ in range(count)]


def put_split(source, mesh, num_threads):
  """A `Resized` source as arrays on every device, {"image": [N,H,W,C], "label": [N,...]}."""
  source = pipeline.Resized(source.source, source.size, cache_mb=0)  # the host needs no copy
  examples = checks.map_threads(source.__getitem__, len(source), max(num_threads, 1))
  arrays = {k: np.stack([e[k] for e in examples]) for k in ("image", "label")}
  return jax.device_put(arrays, steps.replicated(mesh))


def eval_batches(config, source):
  """One pass over a source of `make_source`, see `pipeline.eval_batches`."""
  data = config.data
  if isinstance(source, pipeline.FullSize):
    how = dict(batch_size=data.batch_size, num_threads=data.threads)
    how |= dict(devices=devices.eval_mesh_of(config).shape["data"])
    return pipeline.full_size_batches(source, **how, **processes())
  return pipeline.eval_batches(
    source, batch_size=data.batch_size, num_threads=data.threads, **processes()
  )
