"""What launch/export.py does: writes a run's net, and compares the file with the net."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
from ml_collections import ConfigDict

import segjax
from segjax import cli, textfiles, weights
from segjax import config as config_lib
from segjax.data import pipeline, rasters
from segjax.errors import UserError, choose, writing
from segjax.export import batches, onnx_file, open_model, stablehlo_file
from segjax.export.about import About
from segjax.export.net import check_task, probabilities_of
from segjax.export.net import stored as as_stored
from segjax.inference.run_model import last_sums, threshold_of, view_of
from segjax.pictures import spread
from segjax.training import restore
from segjax.training.experiment import Experiment
from segjax.training.state import TrainState

FORMATS = dict(stablehlo=stablehlo_file.write, onnx=onnx_file.write, safetensors=weights.save)
LARGEST_DIFFERENCE, LEAST_EQUAL = 1e-4, 0.9999  # of probabilities; share of the labels
PACKAGES = ("jax", "flax", "numpy", "jax2onnx", "onnx")  # whose versions a file names


def run(
  workdir: str,
  file: Path,
  *,
  form: str,
  size: tuple[int, int] | None = None,
  batch: int | None = None,
  checkpoint: str | int = "best",
  stored: str = "float32",
  images: int = 8,
  folder: str | None = None,
) -> None:
  """Writes a run's net to a file, compares the two, and prints what it has done.

  Args:
    workdir: folder of the run.
    file: path; an exported file that is there is replaced.
    form: one of FORMATS.
    size: (height, width) of the images, pixels; None for that of the run.
    batch: images of a call; None for any number.
    checkpoint: "latest", "best" or a step.
    stored: dtype of the weights in the file, "float32" or "float16".
    images: number of validation images for the comparison.
    folder: where the run's data lie now, if they have moved.

  Raises:
    UserError: the file is somebody else's, the run is of no task that is exported, or the file and
      the net disagree; then no file is written.
  """
  choose(FORMATS, form, "format")
  _check_ours(file)
  if form == "safetensors" and (size or batch):
    raise UserError("--size and --batch are for stablehlo and onnx; leave them out")
  if form == "onnx":
    onnx_file.converter()  # before anything that takes long
  experiment, state = restore.run(workdir, checkpoint)
  print(f"{workdir}: {restore.checkpoint_text(workdir, int(state.step))}")
  cli.make_folder(file.parent)
  if form == "safetensors":
    _save_weights(file, experiment, state, workdir, stored)
    return
  check_task(experiment.config.task.name)
  size = size or tuple(experiment.config.data.size)
  shown = some_images(workdir, experiment.config, size, images, folder)
  about = about_net(
    experiment,
    state,
    size=size,
    batch=batch,
    stored=stored,
    folder=_name(workdir),
    sums=last_sums(workdir),
  )
  write_net(file, experiment, state, form=form, about=about, images=shown)


def size_of(texts: Sequence[str]) -> tuple[int, int] | None:
  """(height, width) of the texts of --size, or None where there are none.

  Raises:
    UserError: texts that are no size.
  """
  if texts and not (len(texts) == 2 and all(n.strip().isdecimal() and int(n) for n in texts)):
    raise UserError(f"--size={','.join(texts)}: expected HEIGHT,WIDTH in pixels")
  return tuple(map(int, texts)) or None


def write_net(
  file: Path,
  experiment: Experiment,
  state: TrainState,
  *,
  form: str,
  about: About,
  images: np.ndarray,
) -> None:
  """Writes a net to a file, whole or not at all, where both agree on images.

  Args:
    file: path.
    experiment: Experiment.
    state: TrainState.
    form: "stablehlo" or "onnx".
    about: About.
    images: u8[N,H,W,3] of the size that `about` has, or f32[N,H,W,C], scaled.

  Raises:
    UserError: see `run`.
  """
  function = probabilities_of(experiment, state, about.weights)
  stored = about.pixels.unscaled(images)

  def write_and_check(part):
    FORMATS[form](function, about, part)
    found = batches.probabilities(open_model(part), images)
    _check(found, _predicted(function, stored), about.thresholds)
    if about.weights != "float32":
      full = _predicted(probabilities_of(experiment, state), stored)
      said = _agreement(found, full, about.thresholds)[2]
      print(f"  {about.weights} in place of float32: {said}")
    if about.view["mode"] == "resize" and stored.dtype != images.dtype:
      full = _predicted(function, images * np.float32(about.pixels.one))
      said = _agreement(found, full, about.thresholds)[2]
      print(f"  resized images rounded to {about.dtype} in place of floats: {said}")

  with writing(file):
    textfiles.replace(file, write_and_check)
  count, (height, width) = about.batch or "any number of", about.size
  of = "" if about.pixels.is_rgb else f" with {about.pixels.text}"
  print(
    f"{file}: {file.stat().st_size / 2**20:.1f} MB, {count} images of {height}x{width}{of}, "
    f"classes {', '.join(about.classes)}"
  )


def _check_ours(file):
  """Raises a UserError where a file is there that no export wrote."""
  with contextlib.suppress(UserError):
    if not file.exists() or (file.is_file() and (weights.is_saved(file) or open_model(file))):
      return
  raise UserError(
    f"{file} is there already and not a whole file of launch/export.py; remove it, or choose "
    "another --output"
  )


def some_images(
  workdir: str, config: ConfigDict, size: tuple[int, int], count: int, folder: str | None = None
) -> np.ndarray:
  """Images of a run's validation split, or random pixels where it is not there; see `noise`."""
  try:
    moved = restore.moved_to(config, folder)
    source = restore.data_of_run(workdir, config, "val", moved=moved, labelled=False).source.source
    chosen = [source[i]["image"] for i in spread(len(source), count)]
  except UserError as error:
    if folder:
      raise
    print(f"  note: no validation images ({error}); random pixels are compared")
    return batches.noise(count, size, rasters.of(config.data))
  return np.stack([pipeline.resize(dict(image=image), size)["image"] for image in chosen])


def _check(found, wanted, thresholds):
  """Prints how the probabilities of a file and of the net agree.

  Raises:
    UserError: they disagree.
  """
  difference, equal, text = _agreement(found, wanted, thresholds)
  if not (difference <= LARGEST_DIFFERENCE and equal >= LEAST_EQUAL):
    raise UserError(
      f"the file and the net disagree on {len(found)} images: {text}; expected at most "
      f"{LARGEST_DIFFERENCE:g} and at least {LEAST_EQUAL:.2%}. The file is not kept"
    )
  print(f"  the file and the net agree on {len(found)} images: {text}")


def _predicted(function, images):
  """Probabilities by the net itself, one image after another."""
  step = jax.jit(function)
  with jax.default_matmul_precision("float32"):  # of a GPU too
    return np.stack([np.asarray(step(image[None]))[0] for image in images])


def _agreement(found, wanted, thresholds):
  """(largest difference of a probability, share of equal labels, both in words).

  Args:
    found: f32[N,H,W,C].
    wanted: f32[N,H,W,C].
    thresholds: of classes that overlap, whose masks are the labels; else None.
  """
  difference = float(np.abs(found - wanted).max())
  limits = thresholds and np.array(thresholds, np.float32)
  pairs = ((p.argmax(-1) if limits is None else p >= limits) for p in (found, wanted))
  equal = float(np.equal(*pairs).mean())
  text = f"largest difference of a probability {difference:.2g}, {equal:.4%} of the labels equal"
  return difference, equal, text


def about_net(
  experiment: Experiment,
  state: TrainState,
  *,
  size: tuple[int, int],
  batch: int | None,
  stored: str = "float32",
  folder: str = "",
  sums: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> About:
  """The metadata of a net.

  Args:
    experiment: Experiment.
    state: TrainState.
    size: (height, width), pixels.
    batch: images of a call; None for any number.
    stored: dtype of the weights.
    folder: name of the run's folder.
    sums: those of the run's last evaluation, see `run_model.last_sums`.
  """
  task, data = experiment.task, experiment.config.data
  view, overlapping = view_of(data), task.label_kind == "masks"
  thresholds = tuple(map(float, task.limits)) if overlapping else None
  # A file has one size: what the run sees whole at its own size, the file sees in tiles.
  mode = "resize" if view.mode == "resize" else "tiles"
  return About(
    classes=tuple(task.classes),
    palette=tuple(tuple(map(int, color)) for color in task.palette[: len(task.classes)]),
    size=tuple(map(int, size)),
    batch=batch,
    one_logit=not overlapping and bool(task.sigmoid),
    thresholds=thresholds,
    max_f1_threshold=threshold_of(sums, thresholds)[0],
    view=dict(mode=mode, overlap=view.overlap),
    channels=data.channels,
    dtype=data.dtype,
    full_scale=float(data.full_scale),
    mean=tuple(map(float, np.broadcast_to(data.mean, data.channels))),
    std=tuple(map(float, np.broadcast_to(data.std, data.channels))),
    weights=stored,
    run=_identity(folder, experiment, state),
    versions=_versions(),
  )


def _name(workdir):
  return Path(workdir).absolute().name


def _identity(folder, experiment, state):
  """Which run and which of its checkpoints."""
  config = experiment.config
  text = json.dumps(config.to_dict(), sort_keys=True, default=list)
  return dict(
    name=config.name,
    folder=folder,
    config=hashlib.sha256(text.encode()).hexdigest()[:16],
    step=int(state.step),
    task=config.task.name,
    net=_net(experiment),
  )


def _net(experiment):
  """Arguments of `models.make` for a run's net, as JSON has them."""
  fields = config_lib.flatten(experiment.config.model)
  return fields | dict(num_classes=experiment.task.num_outputs)


def _versions():
  found = dict(segjax=segjax.__version__, python=sys.version.split()[0])
  for name in PACKAGES:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return found


def _save_weights(file, experiment, state, workdir, dtype):
  """Writes the variables of evaluation with the net's config, for `models.load`."""
  variables = jax.tree.map(as_stored(dtype), jax.device_get(state.eval_variables()))
  data, table = experiment.config.data, experiment.labels
  about = dict(
    task=experiment.config.task.name,
    classes=list(table.names),
    palette=[list(color) for _, color in table.classes],
    size=list(data.size),
    mean=list(data.mean),
    std=list(data.std),
    images=rasters.of(data).text,
    run=_identity(_name(workdir), experiment, state),
    versions=_versions(),
  )
  weights.save(variables, file, _net(experiment), **about)
  print(f"{file}: {file.stat().st_size / 2**20:.1f} MB; segjax.models.load gives net and variables")
