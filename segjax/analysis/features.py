"""Features of images: outputs of the layer before the last, or of a stage of the backbone."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax import config as config_lib
from segjax.data import pipeline, rasters
from segjax.data.labels import IGNORE
from segjax.errors import UserError
from segjax.models.conv import Conv
from segjax.tasks import TASKS
from segjax.training import restore as restore_lib
from segjax.training import steps

LAYERS = (Conv, nn.Conv, nn.Dense)


@dataclasses.dataclass(frozen=True)
class Features:
  """Features of images, or of some pixels or crops of them.

  Attributes:
    vectors: f32[N,D].
    labels: i64[N], classes.
    examples: i64[N], index of each image in its source.
    places: i64[N,2], row and column of a pixel, or of a crop's middle, in its image; None for whole
      images.
  """

  vectors: np.ndarray
  labels: np.ndarray
  examples: np.ndarray
  places: np.ndarray | None = None


def penultimate(model, variables, image):
  """The features before the layer that makes the outputs: f32[B,D] or f32[B,h,w,D].

  The array that a classifier sows under this name, or else the input of the last layer
  with as many channels as the net has outputs. Of a net that is asked for one class at a time, the
  features for all classes, one after the other.

  Args:
    model: module of `segjax.models`, with `num_classes`.
    variables: variables of the module.
    image: f32[B,H,W,3], normalised.

  Raises:
    UserError: no layer has so many channels.
  """
  found, single = [], []

  def note(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if context.method_name == "__call__" and isinstance(context.module, LAYERS):
      if out.shape[-1] == model.num_classes:
        found.append(args[0])
      elif out.shape[-1] == 1:
        single.append(args[0])
    return out

  with nn.intercept_methods(note):
    _, sown = model.apply(variables, image, train=False, mutable=["intermediates"])
  for path, value in jax.tree_util.tree_leaves_with_path(sown):
    if "penultimate" in jax.tree_util.keystr(path):
      return value
  if found:
    return found[-1].astype(jnp.float32)
  if single and len(single[-1]) == len(image) * model.num_classes:
    x = single[-1].reshape(len(image), model.num_classes, *single[-1].shape[1:])
    x = x.transpose(0, 2, 3, 1, 4)
    return x.reshape(*x.shape[:3], -1).astype(jnp.float32)
  raise UserError(
    f"no layer of {type(model).__name__} has {model.num_classes} channels, and features are what "
    "the last such layer gets; --stage takes those of a stage of the backbone"
  )


def stage_features(model, variables, image, stage):
  """The outputs of a stage of the net's backbone.

  After rotation prediction a middle one knows more of the classes than the last, which has become
  one for turns (Gidaris et al., ICLR 2018, tables 1 and 2).

  Args:
    model: module of `segjax.models` with a `backbone`.
    variables: variables of the module.
    image: f32[B,H,W,3], normalised.
    stage: index among the features of the backbone; i is at stride 2^i, 0 is the image.

  Returns:
    f32[B,h,w,C], or f32[B,C], their mean over positions, of a net that gives a vector per image.

  Raises:
    UserError: no backbone, or none with such a stage.
  """
  run = lambda: model.apply(variables, image, train=False, mutable=["intermediates"])  # noqa: E731
  (output, _), found = _call_and_capture_backbones(run)
  if not found:
    raise UserError(f"{type(model).__name__} has no backbone, so there are no stages of one")
  if not 0 <= stage < len(found[-1]):
    raise UserError(f"stage {stage}: the backbone has the stages 0 to {len(found[-1]) - 1}")
  x = found[-1][stage].astype(jnp.float32)
  return x.mean((1, 2)) if output.ndim == 2 else x


def middle_stages(model, image):
  """Indices of the stages of a net's backbone from stride 4 on, but for the last: tuple of ints.

  Args:
    model: module of `segjax.models`.
    image: f32[B,H,W,3], or a jax.ShapeDtypeStruct.
  """
  run = lambda x: model.init(jax.random.key(0), x, train=False)  # noqa: E731
  _, found = _call_and_capture_backbones(lambda: jax.eval_shape(run, image))
  return tuple(range(2, len(found[-1]) - 1)) if found else ()


def _call_and_capture_backbones(call):
  """(result of a function, results of the backbones called in it)."""
  found = []

  def note(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if context.method_name == "__call__" and context.module.path == ("backbone",):
      found.append(out)
    return out

  with nn.intercept_methods(note):
    return call(), found


def sources_of(workdir, moved=()):
  """The examples that a run's features are of: its train and its validation split.

  Of nets that learn without labels on crops they are whole images, for `extract` to cut crops
  from; of others that learn on crops the middles of images; else resized images.

  Args:
    workdir: folder of a run.
    moved: present folder of the data if they have moved, see `restore.data_of_run`.

  Raises:
    UserError: the classes of the data overlap, or see `restore.data_of_run`.
  """
  config = config_lib.load(Path(workdir) / "config.json")
  fit = config.data.fit
  if fit == "crop" and TASKS[config.task.name].label_kind == "nothing":
    fit = "full"
  config.data.update(fit="resize", eval_fit=fit, eval_multiple=1)
  how = dict(moved=moved, labelled=False)
  pair = tuple(restore_lib.data_of_run(workdir, config, s, **how).source for s in ("train", "val"))
  if pair[0].source.labels.overlapping:
    raise UserError(
      f"{workdir}: its data have a mask for each class, and features are scored by one class of a "
      "pixel or image; give data with such classes"
    )
  return pair


def restore(workdir, step):
  """(Experiment, TrainState) of a run at a step that was kept, 0 being before training."""
  experiment, state = restore_lib.run(workdir, str(step or "latest"))
  return experiment, state if step else experiment.init()[0]


def extract(experiment, state, source, *, limit=1000, per_image=20, seed=0, stages=(None,)):
  """Features of a source's examples; where labels are masks, of some pixels, every class alike.

  Of a net that gives a vector per image, masks give the class of random crops of `data.size`: the
  most frequent in the crop. A crop of which less than half is labelled does not count. Of a net for
  pixels and images with one class each it is the mean over positions.

  Args:
    experiment: training.experiment.Experiment.
    state: TrainState.
    source: result of `sources_of`.
    limit: largest number of images, or of pixels or crops of each class; chosen at random.
    per_image: largest number of pixels of a class in one image, or of its crops; None: as many as
      make `limit` where all classes are alike, and at least 20.
    seed: random seed of the choice.
    stages: stages of the backbone, see `stage_features`; None: `penultimate`.

  Returns:
    list of Features, one per stage.
  """
  data, rng = experiment.config.data, np.random.default_rng(seed)
  variables = state.eval_variables()  # an argument, so that runs of one config share a program

  @jax.jit
  def run(variables, image):
    inputs, _ = experiment.task.prepare(None, steps.as_floats(image), None, train=False)
    image = inputs[0] if isinstance(inputs, tuple) else inputs
    image = steps.normalize(image, data.mean, data.std)
    of = experiment.model, variables, image
    found = [penultimate(*of) if stage is None else stage_features(*of, stage) for stage in stages]
    return found if masks else [x.mean((1, 2)) if x.ndim == 4 else x for x in found]

  if "label" not in source[0]:
    raise UserError("features are coloured by class; this data source has target images")
  masks = source[0]["label"].ndim == 2
  shape = data.batch_size, *data.size, data.channels
  image = jax.ShapeDtypeStruct(shape, rasters.of(data).kept)
  dense = len(jax.eval_shape(run, variables, image)[0].shape) == 4
  wanted = limit * (1 if dense else len(source.source.labels))
  per_image = per_image or max(20, math.ceil(wanted / len(source)))
  chosen = rng.permutation(len(source))[: None if masks else limit]
  if masks and not dense:
    images = (c for i in chosen for c in _crops(int(i), source[int(i)], data.size, per_image, rng))
  else:
    images = ((int(i), source[int(i)]["image"], source[int(i)]["label"], None) for i in chosen)
  found = [([], [], [], []) for _ in stages]
  while batch := list(itertools.islice(images, data.batch_size)):
    fill = [batch[-1][1]] * (data.batch_size - len(batch))
    outputs = run(variables, np.stack([image for _, image, *_ in batch] + fill))
    for (vectors, labels, indices, places), output in zip(found, outputs, strict=True):
      for (i, _, label, place), feature in zip(batch, np.asarray(output), strict=False):
        at = _pick(label, feature.shape, per_image, rng) if dense else [(..., place, int(label))]
        vectors.extend(feature[where].reshape(-1) for where, *_ in at)
        places.extend(pixel for _, pixel, _ in at)
        labels.extend(c for *_, c in at)
        indices.extend([i] * len(at))
  if not masks:
    return [Features(*map(np.array, parts[:3])) for parts in found]
  return [_balanced(parts, limit, copy.deepcopy(rng)) for parts in found]


def _balanced(parts, limit, rng):
  """Features of at most `limit` pixels or crops of each class."""
  parts = [np.array(p) for p in parts]
  labels = parts[1]
  chosen = [_at_most(np.flatnonzero(labels == c), limit, rng) for c in np.unique(labels)]
  keep = np.sort(np.concatenate(chosen))
  return Features(*(p[keep] for p in parts))


def _crops(index, example, size, count, rng):
  """(index, image, class, middle) of random crops of an example with a mask."""
  example = pipeline.extend_all(example, size)
  free = [m - n + 1 for m, n in zip(example["image"].shape[:2], size, strict=True)]
  for _ in range(count):
    top, left = (int(rng.integers(n)) for n in free)
    crop = pipeline.cut(example, top, left, size)
    label = crop["label"]
    scored = label[label != IGNORE]
    if 2 * scored.size >= label.size:
      middle = top + size[0] // 2, left + size[1] // 2
      yield index, crop["image"], np.bincount(scored).argmax(), middle


def _pick(label, shape, most, rng):
  """[(place among features, pixel, class), ...]: up to `most` of each class of a mask."""
  rows, columns = (
    ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape[:2], label.shape, strict=True)
  )
  small, out = label[rows[:, None], columns], []
  for c in np.setdiff1d(np.unique(small), [IGNORE]):
    for flat in _at_most(np.flatnonzero(small == c), most, rng):
      place = np.unravel_index(flat, small.shape)
      out.append((place, (rows[place[0]], columns[place[1]]), int(c)))
  return out


def _at_most(indices, most, rng):
  return indices if len(indices) <= most else rng.choice(indices, most, replace=False)
