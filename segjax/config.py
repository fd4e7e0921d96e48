"""The config of an experiment: every field with its default, and the tools around it.

A config file's `get_config(arg="")` starts from `default()` and says what differs. Durations
come in pairs, `x_steps` and `x_epochs`, of which at most one may be above 0.
"""

from __future__ import annotations

import inspect
import os
import runpy
from pathlib import Path

import ml_collections

from segjax import textfiles
from segjax.errors import UserError, check_fields, choose, did_you_mean

# Fields of each data source, see the functions of the same names in segjax.data.sources.
DATA_SOURCES = dict(
  road_scenes=dict(seed=0, num_train=500, num_val=48, height=256, width=512, classes="road"),
  kitti_road=dict(
    folder="", black="ignore", split_by="auto", train_fraction=272 / 289, split_seed=0
  ),
  aerial_scenes=dict(seed=0, num_train=1000, num_val=100, height=256, width=256),
  camvid=dict(folder="", classes="all"),
  floodnet=dict(folder="", merge_public=True),
  landcover=dict(folder="", split_by="auto", train_fraction=0.9, split_seed=0),
  dubai_aerial=dict(folder="", unlabeled="ignore"),
  ade20k=dict(folder="", all_below=10, split_by="auto", train_fraction=0.9, split_seed=0),
  cifar10_subset=dict(folder=""),
  digits=dict(size=8, train_fraction=0.8, split_seed=0),
  folder=dict(
    folder="",
    kind="segmentation",
    images="images",
    masks="masks",
    targets="targets",
    mask_suffix="",
    classes=(),
    ignore_value=255,
    ignore_colors=(),
    shift=0,
    split_by="auto",
    train_fraction=0.9,
    split_seed=0,
  ),
  tfds=dict(
    dataset="",
    data_dir="",
    image_key="image",
    label_key="label",
    train_split="train",
    val_split="val",
    classes=(),
    shift=0,
    ignore_value=255,
  ),
)

# Fields of each task and of its loss, see the classes in segjax.tasks.
TASKS = dict(
  segmentation=(
    dict(sigmoid=True),  # one logit for two classes
    dict(
      cross_entropy=1.0,  # weights of the parts of the loss
      dice=0.0,
      focal=0.0,
      focal_gamma=2.0,
      class_weights=(),  # of the cross-entropy, one a class
    ),
  ),
  classification=(
    dict(top_k=5),
    dict(label_smoothing=0.0, class_weights=()),
  ),
  colorization=(
    dict(output="regression", grid=20.0, temperature=0.38),  # output: or "bins"
    dict(norm="l1", rebalance=0.5),  # of the regression, l1 or l2; of the bins
  ),
  class_query=(dict(present=0.75), dict(cross_entropy=1.0, attention=0.0)),
  image_to_image=(
    dict(degrade=""),  # "": the source has target images; "noise" or "low_resolution": of images
    dict(
      l1=1.0,  # weights of the parts of the loss
      l2=0.0,
      content=0.0,
      style=0.0,
      features="efficientnet_lite0",  # whose features content and style compare: pip package,
      backbone="efficientnet_lite0",  # or a file of this backbone's weights
    ),
  ),
  rotation=({}, dict(label_smoothing=0.0)),
  dino=(
    dict(
      prototypes=1024,
      crops=4,
      temperature=0.1,
      teacher_start=0.04,
      teacher_end=0.04,
      teacher_steps=0,  # one of the two
      teacher_epochs=0.0,
      center_momentum=0.9,
      centering="mean",  # or "sinkhorn"
    ),
    {},
  ),
  simclr=(dict(temperature=0.5, width=128), {}),
)

NAMED = ("data.source.", "task.", "loss.", "model.")  # parts whose fields depend on a name


# Fields that older runs have in their config.json and that change nothing any more.
REMOVED = ("fused_loss",)


def default():
  """All fields with their defaults, as a fresh ConfigDict."""
  c = ml_collections.ConfigDict()
  c.name = "unnamed"
  c.seed = 0  # of initial parameters, data order, augmentation and dropout

  c.total_steps = 0  # length of the training: one of the two
  c.total_epochs = 10.0
  c.eval_steps = 0  # between evaluations, each with pictures and a checkpoint: one of the two
  c.eval_epochs = 1.0
  c.checkpoint_steps = 0  # between checkpoints besides those at evaluations: at most one
  c.checkpoint_epochs = 0.0
  c.keep_steps = ()  # of which checkpoints stay, besides the best and the latest: one of the two
  c.keep_epochs = ()
  c.log_steps = 10  # between lines of training loss
  c.steps_per_dispatch = 0  # that one call makes when the train split lies on the device; 0: as
  # many as there are between two lines on an accelerator, one on a CPU
  c.remat = False  # recompute all but convolutions in the backward pass: less memory, more time

  c.data = dict(
    source=data_source("road_scenes"),
    size=(256, 256),  # height, width in pixels that images are resized to
    batch_size=4,  # images, over all devices
    mean=(0.0, 0.0, 0.0),  # images in [0,1] become (image - mean) / std
    std=(1.0, 1.0, 1.0),
    skip_broken=False,  # leave examples with a broken file out, and say which, in place of an error
    fit="resize",  # train images are resized to size; "crop": a random part of this size
    eval_fit="resize",  # of evaluations; "crop": the middle; "native": the images' own sizes,
    eval_multiple=32,  # extended to multiples of so many pixels; a compilation a size
    threads=2,  # that decode
    workers=0,  # processes with so many threads each that decode train images; 0: this one
    cache_mb=2048,  # of each split, decoded, that stay in memory, shared out among the workers
    feed="auto",  # "host" sends batches to the device, "device" keeps the train split there
    device_mb=1024,  # largest split that "auto" keeps on an accelerator
  )
  c.model = dict(name="unet", dtype="float32")  # + any field of the class
  set_task(c, "segmentation")
  c.optimizer = dict(
    name="adam",  # sgd, adam, adamw
    momentum=0.9,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.0,  # L2 for sgd and adam, decoupled for adamw
    clip_norm=0.0,  # largest gradient norm, 0 for none
  )
  c.schedule = dict(
    name="constant",  # constant, step, multi_step, cosine, polynomial, one_cycle
    learning_rate=1e-3,
    warmup_steps=0,  # at most one of the two
    warmup_epochs=0.0,
    factor=0.1,  # of a step
    every_steps=0,  # between the steps of "step": one of the two
    every_epochs=0.0,
    milestone_steps=(),  # of "multi_step": one of the two
    milestone_epochs=(),
    power=0.9,  # of "polynomial"
    peak_fraction=0.3,  # of "one_cycle"
  )
  c.augment = dict(  # on the device, in training; see segjax.augment.make_augment
    flip=0.0,  # probability
    flip_vertical=0.0,  # probability
    scale_min=1.0,
    scale_max=1.0,
    aspect=0.0,
    crop_area_min=1.0,  # random resized crop: smallest share of the image; 1: none
    crop_area_max=1.0,
    crop_aspect=0.288,  # width to height from exp(+-this), here 3/4 to 4/3; of crops only
    rotate=0.0,  # degrees, +-; black and ignored beyond the border
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,  # radians
    rgb_shift=0.0,  # of [0,1], +- on each channel
    blur=0.0,  # pixels, largest sigma, drawn from 0
    noise=0.0,  # of [0,1], largest standard deviation, drawn from 0
    cutout=0.0,  # side of a hidden square, share of the shorter side; labels stay
  )
  c.batch_augment = dict(  # mixes examples, train only; see segjax.mixing.make_batch_augment
    mixup=0.0,  # probability that an example is blended with the next; class labels alone
    mixup_alpha=0.2,  # its weight is drawn from Beta(alpha, alpha)
    cutmix=0.0,  # probability that an example gets a rectangle of the next
    cutmix_alpha=1.0,  # its share is drawn from Beta(alpha, alpha)
  )
  c.aux_weight = 0.4  # of the loss of an auxiliary head, if the model has one
  c.init_from = ""  # weights to start from: a torch or safetensors file, the workdir of a run, or
  # "efficientnet_lite0" (ImageNet weights of a pip package)
  c.init_part = "all"  # or the submodule to load alone, e.g. "backbone"
  c.freeze = ""  # regular expression; parameters whose names it finds are not trained
  c.ema_decay = 0.0  # of a moving average of the parameters, which evaluation then uses; 0: none
  c.ema_decay_end = 0.0  # ema_decay goes there along a half cosine; 0: it stays

  c.best_metric = "val/mean_iou"  # the best checkpoint by it is kept beside the latest
  c.best_mode = "max"
  c.pictures = 4  # validation examples drawn at each evaluation
  c.writers = ("clu", "pictures")  # besides metrics.jsonl; clu: TensorBoard, needs TensorFlow
  return c


def read(spec):
  """The config of a file with its argument, `configs/unet_road.py:skip=0,smoke`, locked.

  Raises:
    UserError: no such file, or what its `get_config` says of the argument.
  """
  config = call_file(spec, "get_config")
  paths = {k: expand_home(v) for k, v in flatten(config).items() if str(v).startswith("~")}
  config.update_from_flattened_dict(paths)
  config.lock()
  return config


def call_file(spec, function, what="file"):
  """The result of a function of a Python file, called with the argument in `x.py:arg`.

  Raises:
    UserError: no such file, or it lacks the function.
  """
  file, arg = split_spec(spec)
  if not Path(file).is_file():
    raise UserError(no_such_file(file, what))
  names = runpy.run_path(file)
  if function not in names:
    raise UserError(f"{file}: no function {function!r} in it, expected `def {function}(arg)`")
  call = names[function]
  return call(arg) if arg or inspect.signature(call).parameters else call()


def split_spec(spec):
  """("a:b/x.py", "arg") of "a:b/x.py:arg"; the argument is "" where there is none."""
  spec = expand_home(spec)
  if spec.endswith(".py"):
    return spec, ""
  file, colon, arg = spec.partition(".py:")
  if colon:
    return f"{file}.py", arg
  file, _, arg = spec.partition(":")
  return file, arg


def expand_home(text):
  """A text that begins with "~" as a path in the home folder; anything else as it is."""
  return os.path.expanduser(text) if isinstance(text, str) else text


def no_such_file(file, what="file"):
  """The message for a missing Python file; names the nearest beside it, and all of them."""
  near = sorted(str(p) for p in Path(file).parent.glob("*.py"))
  hint = f"{did_you_mean(file, near)}; there is {', '.join(near)}" if near else ""
  return f"no such {what} {file!r}{hint}"


def data_source(name, **changes):
  """The fields of a data source as they stand in `config.data.source`."""
  choose(DATA_SOURCES, name, "data source")
  check_fields(changes, list(DATA_SOURCES[name]), f"data source {name!r}")
  return dict(name=name) | DATA_SOURCES[name] | changes


def image_source(name):
  """`data_source` for a task that looks at no labels; a "folder" then needs none."""
  return data_source(name, **(dict(kind="images") if name == "folder" else {}))


def initial_weights(backbone, weights):
  """The `init_from` of a backbone whose weights are "imagenet", of a pip package, or a file.

  Raises:
    UserError: "imagenet" for a backbone that no package carries.
  """
  if weights != "imagenet":
    return weights
  if backbone != "efficientnet_lite0":
    raise UserError(
      f"no package carries ImageNet weights of {backbone!r}, only of 'efficientnet_lite0'; "
      "give a file of torchvision's weights"
    )
  return backbone


def set_task(c, name, **changes):
  """Sets the fields of a task and of its loss in a config, `c.task` and `c.loss`.

  Args:
    c: ConfigDict to change.
    name: of the task.
    **changes: fields of either.
  """
  task, loss = choose(TASKS, name, "task")
  check_fields(changes, [*task, *loss], f"task {name!r}")
  c.task = dict(name=name) | {k: changes.get(k, v) for k, v in task.items()}
  c.loss = {k: changes.get(k, v) for k, v in loss.items()}


def parse_arg(arg, **defaults):
  """Reads a config file's argument, as in `--config=configs/x.py:data=kitti_road,smoke`.

  Args:
    arg: comma-separated `key=value`, or `key` alone for True.
    **defaults: the keys there are; a value is read as its default's type.

  Returns:
    ConfigDict of the values.

  Raises:
    UserError: unknown key or a value of another type.

  >>> parse_arg("smoke,data=x", smoke=False, data="y").smoke
  True
  """
  out = dict(defaults)
  for part in filter(None, arg.split(",")):
    key, _, text = part.partition("=")
    check_fields([key], list(defaults), "the config's argument")
    kind = type(defaults[key])
    try:
      if kind is bool:
        out[key] = {"": True, "1": True, "true": True, "0": False, "false": False}[text.lower()]
      else:
        out[key] = kind(text)
    except (KeyError, ValueError):
      raise UserError(f"config argument {key}={text!r}: expected a {kind.__name__}") from None
  return ml_collections.ConfigDict(out)


def write_arg(**values):
  """The argument that `parse_arg` reads as these values; what is False or empty is left out.

  >>> write_arg(data="x", smoke=True, weights="", small=False)
  'data=x,smoke'
  """
  told = {k: v for k, v in values.items() if v is not False and v != ""}
  return ",".join(k if v is True else f"{k}={v}" for k, v in told.items())


def smoke(config):
  """Shrinks an experiment until it trains, evaluates and saves within a minute on a CPU."""
  config.total_steps, config.total_epochs = 6, 0.0
  config.eval_steps, config.eval_epochs = 3, 0.0
  config.log_steps = 2
  config.data.size = (64, 64)
  config.data.batch_size = 4
  config.pictures = 2
  config.schedule.warmup_epochs = min(config.schedule.warmup_epochs, 1.0)
  if config.data.source.name in ("road_scenes", "aerial_scenes"):
    config.data.source.update(num_train=12, num_val=6, height=64, width=128)
  return config


def duration(config, name, steps_per_epoch, *, required=False):
  """Steps of the duration `name`, from `name_steps` or `name_epochs`; 0 where both are 0.

  Raises:
    UserError: both are set, or none where one is required.
  """
  steps, epochs = config[f"{name}_steps"], config[f"{name}_epochs"]
  if steps and epochs:
    raise UserError(
      f"{name}_steps={steps} and {name}_epochs={epochs:g} are both set; set one of them to 0"
    )
  if steps < 0 or epochs < 0 or (required and not steps and not epochs):
    raise UserError(f"{name}_steps={steps}, {name}_epochs={epochs:g}: expected one of them above 0")
  return int(steps) or (max(round(epochs * steps_per_epoch), 1) if epochs else 0)


def kept_steps(config, steps_per_epoch):
  """Steps from `keep_steps` or `keep_epochs`, at least 1 each.

  Raises:
    UserError: both are set.
  """
  if config.keep_steps and config.keep_epochs:
    raise UserError("keep_steps and keep_epochs are both set; empty one of them")
  steps = config.keep_steps or [max(round(e * steps_per_epoch), 1) for e in config.keep_epochs]
  return tuple(int(s) for s in steps)


def flatten(node, prefix=""):
  """ConfigDict or dict -> flat dict, `{"data.batch_size": 4, ...}`; lists become tuples."""
  out = {}
  for key, value in node.items():
    if hasattr(value, "items"):
      out |= flatten(value, f"{prefix}{key}.")
    else:
      out[prefix + key] = _plain(value)
  return out


def _plain(value):
  return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value


def save(config, file):
  """Writes the config as JSON."""
  textfiles.write_json(file, config.to_dict(), indent=2, default=list)


def load(file):
  """Reads a config that `save` wrote; fields that are newer than it get their defaults.

  Fields of the data source, the task, its loss and the net are left to what they are fields of.

  Raises:
    UserError: no such file, not JSON, or not a config: some of it is missing, a field is not known
      or has a value of another type.
  """
  values = textfiles.read_json(file, dict)
  for name in REMOVED:
    values.pop(name, None)
  try:
    _fill(values, _known(values))
  except UserError as error:
    raise UserError(
      f"{file}: {error}; the file is damaged or from a newer version: {textfiles.MEND}"
    ) from None
  return ml_collections.ConfigDict(_tuples(values))


def check(config):
  """Raises a UserError for a field that is not known or has a value of another type."""
  values = config.to_dict()
  _fill(values, _known(values))


def _known(values):
  """All fields with their defaults, those of the source, the task and its loss by their names."""
  for part in ("data", "model", "task", "loss", "optimizer", "schedule"):
    if not hasattr(values.get(part), "items"):
      raise UserError(f"no fields {part!r}")
  known = default().to_dict()
  task, loss = choose(TASKS, _name_of(values["task"], "task"), "task")
  known["task"], known["loss"] = dict(name="") | task, loss
  source = values["data"].get("source")
  fields = choose(DATA_SOURCES, _name_of(source, "data.source"), "data source")
  known["data"]["source"] = dict(name="") | fields
  _name_of(values["model"], "model")
  known["model"] = values["model"]  # whose fields are those of its class
  return known


def _name_of(part, where):
  name = part.get("name") if hasattr(part, "items") else None
  if not isinstance(name, str):
    raise UserError(f"{where}.name is {name!r}, expected a name")
  return name


def _fill(values, known, prefix=""):
  """Adds missing fields, but not to `NAMED` parts; a UserError names an unknown one."""
  for key in values:
    if key not in known:
      where = prefix.rstrip(".") or "the config"
      raise UserError(f"no field {key!r} in {where}{did_you_mean(key, known)}")
  for key, default_value in known.items():
    if key not in values and prefix in NAMED:
      continue
    value = values.setdefault(key, default_value)
    if isinstance(default_value, dict) and isinstance(value, dict):
      _fill(value, default_value, f"{prefix}{key}.")
    elif not _is_like(value, default_value):
      raise UserError(f"{prefix}{key} is {value!r}, expected a value such as {default_value!r}")


def _is_like(value, default_value):
  """Whether a value of JSON has the type of a default, and its elements that of its elements."""
  if isinstance(default_value, list | tuple):
    if not isinstance(value, list | tuple):
      return False
    return not default_value or all(_is_like(v, default_value[0]) for v in value)
  kind = type(default_value)
  if kind is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  return type(value) is kind


def _tuples(value):
  """Lists, which JSON makes of tuples, back to tuples."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
