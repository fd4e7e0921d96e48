"""The fields of a config: names, defaults, meanings.

Each default stands in one place. Those of the task, its loss, the optimiser, the schedule and the
augmentation are the defaults of the class or function that takes them, documented there:
`segjax.reference` makes the tables in configs/README.md of it.
"""

from __future__ import annotations

import inspect

import ml_collections

from segjax import own_code
from segjax.errors import UserError, check_fields, choose

FIELDS = {
  "name": ("unnamed", "begins the name of the run's folder"),
  "seed": (0, "seed of initial parameters, data order, augmentation and dropout"),
  "total_steps": (0, "length of the training; set this or total_epochs"),
  "total_epochs": (10.0, "the same in epochs"),
  "eval_steps": (
    0,
    "steps between evaluations, each with pictures and a checkpoint; set this or eval_epochs",
  ),
  "eval_epochs": (1.0, "the same in epochs"),
  "checkpoint_steps": (
    0,
    "steps between further checkpoints; set at most this or checkpoint_epochs",
  ),
  "checkpoint_epochs": (0.0, "the same in epochs"),
  "keep_steps": (
    (),
    "steps whose checkpoints stay, besides the best and the latest; not with keep_epochs",
  ),
  "keep_epochs": ((), "the same in epochs"),
  "log_steps": (10, "steps between rows of training"),
  "steps_per_dispatch": (
    0,
    "steps per jitted call, where the train split lies on the device; 0: `log_steps` on an "
    "accelerator, 1 on a CPU",
  ),
  "remat": (False, "recomputes all but convolutions in the backward pass: less memory, more time"),
  "data.size": ((256, 256), "height, width in pixels that images are resized to"),
  "data.batch_size": (4, "images, over all devices"),
  "data.mean": ((0.0, 0.0, 0.0), "images become (image - mean) / std, channel by channel"),
  "data.std": ((1.0, 1.0, 1.0), "see `data.mean`; either may be one number for all channels"),
  "data.channels": (
    3,
    "channels of the images; other than 3 of uint8, see "
    "[Images of many channels](#images-of-many-channels-16-bits-or-floats)",
  ),
  "data.dtype": ("uint8", "of the values in the files; or `uint16`, `int16`, `float32`"),
  "data.full_scale": (
    0.0,
    "value in the files that becomes 1; 0: 255, 65535 and 32767 by the dtype, floats as they are",
  ),
  "data.skip_broken": (
    False,
    "leaves out examples with a broken file and names them; else an error",
  ),
  "data.max_pixels": (
    0,
    "pixels of the largest image that is read; 0: 178,956,970, Pillow's limit against files that "
    "would fill the memory",
  ),
  "data.fit": (
    "resize",
    "train images are resized to the size; `crop`: a random part of this size",
  ),
  "data.eval_fit": (
    "resize",
    "the same in evaluations; `crop`: the middle; `full`: their own sizes, extended to multiples "
    "of `data.eval_multiple`; `tiles`: tiles of the size at the images' own scale",
  ),
  "data.eval_overlap": (0.25, "share of a tile that the next one has too, for `tiles`"),
  "data.eval_multiple": (32, "pixels; each size that results is compiled once"),
  "data.threads": (2, "number of threads that decode"),
  "data.workers": (0, "number of processes that decode train images; 0: in this one"),
  "data.cache_mb": (
    2048,
    "decoded images of each split kept in memory, 2^20 bytes over all workers",
  ),
  "data.feed": ("auto", "`host` sends batches to the device, `device` keeps the train split there"),
  "data.device_mb": (1024, "largest split that `auto` keeps on an accelerator, 2^20 bytes"),
  "model.name": (
    "unet",
    "`python -m segjax.models` lists them; further fields: those of its class",
  ),
  "model.dtype": (
    "float32",
    "dtype of the computation; `bfloat16` and `float16` for a GPU, `float64`",
  ),
  "mesh.data": (-1, "parts of a batch, each on devices of its own; -1: as many as there are"),
  "mesh.space": (1, "devices that share the rows of each image: for images too large for one"),
  "mesh.fsdp": (
    False,
    "divides parameters, optimiser state and averages over `mesh.data` too, instead of a copy on "
    "each device",
  ),
  "optimizer.accumulate_steps": (
    1,
    "steps whose mean gradient makes one update; the schedule counts updates, all else steps of "
    "`data.batch_size` images",
  ),
  "aux_weight": (0.4, "weight of the loss of an auxiliary head, if the net has one"),
  "init_from": (
    "",
    "weights to start from: a torch or safetensors file (of `weights.save` too), the workdir of a "
    "run, or `efficientnet_lite0` to `2` (ImageNet weights of a pip package)",
  ),
  "init_part": ("all", "or the submodule to load alone, such as `backbone`"),
  "freeze": (
    "",
    "regular expression; parameters whose names it finds are not trained: `^backbone/`",
  ),
  "ema_decay": (
    0.0,
    "decay of a moving average of the parameters, which is then evaluated; 0: none",
  ),
  "ema_decay_end": (0.0, "`ema_decay` approaches it along a half cosine; 0: it stays"),
  "best_metric": ("val/mean_iou", "metric of the best checkpoint, which is kept beside the latest"),
  "best_mode": ("max", "or `min`"),
  "early_stopping.patience": (0, "evaluations without an improvement that end it; 0: none do"),
  "early_stopping.metric": ("", "such as `val/loss`; empty: `best_metric`, by `best_mode`"),
  "early_stopping.mode": ("max", "or `min`; of a metric that is named"),
  "early_stopping.min_delta": (0.0, "smallest change of the metric that is an improvement"),
  "nan_debug": (False, "keeps a step that is not finite for `launch/analyze.py replay`; slower"),
  "pictures": (4, "validation examples drawn at each evaluation"),
  "writers": (
    ("clu", "pictures"),
    "besides metrics.jsonl; `clu`: TensorBoard, needs TensorFlow; "
    "`wandb`: Weights & Biases, needs the extra `wandb`, offline unless WANDB_MODE is set",
  ),
}

# Which fields of a task's class stand in `task` and which in `loss`.
TASK_FIELDS = dict(
  segmentation=(
    ("sigmoid",),
    (
      "cross_entropy", "label_smoothing", "class_weights", "focal", "focal_gamma", "ohem",
      "ohem_share", "dice", "dice_weighted", "jaccard", "tversky", "tversky_alpha", "tversky_beta",
      "tversky_gamma", "lovasz", "boundary", "own",
    ),
  ),
  classification=(("top_k",), ("label_smoothing", "class_weights")),
  colorization=(("output", "grid", "temperature"), ("norm", "rebalance")),
  class_query=(("present",), ("cross_entropy", "attention")),
  mask_classification=(("mask_steps",), ("cross_entropy", "mask", "dice", "no_object")),
  multi_label=(
    ("thresholds",),
    (
      "cross_entropy", "label_smoothing", "focal", "focal_gamma", "ohem", "ohem_share", "dice",
      "jaccard", "tversky", "tversky_alpha", "tversky_beta", "tversky_gamma", "lovasz", "boundary",
      "own", "class_weights",
    ),
  ),
  image_to_image=(("degrade",), ("l1", "l2", "content", "style", "features", "backbone")),
  rotation=((), ("label_smoothing",)),
  dino=(
    (
      "prototypes", "crops", "temperature", "teacher_start", "teacher_end", "teacher_steps",
      "center_momentum", "centering",
    ),
    (),
  ),
  simclr=(("temperature", "width"), ()),
)  # fmt: skip

# Defaults of a config that differ from those of the class.
CHANGED = dict(segmentation=dict(sigmoid=True))

# Backbones whose weights pip packages carry, see `segjax.weights.pretrained`.
PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")

# Optimisers that share fields, and those fields; others of optax have fields and defaults of their
# own.
THREE, SHARED = ("sgd", "adam", "adamw"), ("momentum", "b1", "b2", "eps")

# Arguments of the functions of `segjax.data.sources`. They are repeated, and a test compares them,
# because those functions need packages that a config does without.
DATA_SOURCES = dict(
  road_scenes=dict(
    seed=0, num_train=500, num_val=48, num_test=48, height=256, width=512, classes="road"
  ),
  kitti_road=dict(
    folder="", black="ignore", split_by="auto", train_fraction=272 / 289, split_seed=0
  ),
  aerial_scenes=dict(seed=0, num_train=1000, num_val=100, num_test=100, height=256, width=256),
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
    test_split="test",
    classes=(),
    shift=0,
    ignore_value=255,
  ),
)


def default():
  """All fields with their defaults, as a fresh ConfigDict."""
  from segjax import augment
  from segjax.training import optim

  parts = ("data", "mesh", "model", "optimizer", "early_stopping")
  c = ml_collections.ConfigDict({part: {} for part in parts})
  for name, (value, _) in FIELDS.items():
    part, _, field = name.rpartition(".")
    (c[part] if part else c)[field] = value
  c.data.source = data_source("road_scenes")
  set_task(c, "segmentation")
  c.optimizer = dict(name="adam") | optimizer_defaults("adam")
  c.schedule = dict(name="constant", learning_rate=1e-3) | defaults_of(optim.make_schedule)
  c.augment = defaults_of(augment.make_augment)
  c.batch_augment = defaults_of(augment.make_batch_augment)
  return c


def optimizer_defaults(name):
  """The fields of an optimiser with their defaults, without its name."""
  from segjax.training import optim

  shared = defaults_of(optim.make_shared) | dict(accumulate_steps=1)
  return shared if name in THREE else optim.settings(name)


def defaults_of(function):
  """The defaults of a function's or a dataclass's arguments, with `x_epochs` beside `x_steps`."""
  arguments = inspect.signature(function).parameters.items()
  found = {k: p.default for k, p in arguments if p.default is not inspect.Parameter.empty}
  epochs = {k: v for k, v in found.items() if k.endswith("_steps")}
  return found | {
    f"{k.removesuffix('_steps')}_epochs": v if isinstance(v, tuple) else float(v)
    for k, v in epochs.items()
  }


def task_fields(name):
  """Two dicts: the fields of a task and of its loss, with their defaults.

  Raises:
    UserError: no such task.
  """
  of_task, of_loss = choose(TASK_FIELDS, name, "task")
  from segjax.tasks import TASKS

  known = defaults_of(TASKS[name]) | CHANGED.get(name, {})
  epochs = [f"{k.removesuffix('_steps')}_epochs" for k in of_task if k.endswith("_steps")]
  return {k: known[k] for k in (*of_task, *epochs)}, {k: known[k] for k in of_loss}


def data_source(name, **changes):
  """The fields of a data source, ours or your own, as they stand in `config.data.source`."""
  if own_code.is_own(name) or callable(name):
    return dict(name=name) | changes
  choose(DATA_SOURCES, name, "data source")
  check_fields(changes, list(DATA_SOURCES[name]), f"data source {name!r}")
  return dict(name=name) | DATA_SOURCES[name] | changes


def image_source(name):
  """`data_source` for a task that looks at no labels; a "folder" then needs none."""
  return data_source(name, **(dict(kind="images") if name == "folder" else {}))


def set_task(c, name, **changes):
  """Sets the fields of a task and of its loss in a config, `c.task` and `c.loss`.

  Args:
    c: ConfigDict to change.
    name: name of the task.
    **changes: fields of either.
  """
  task, loss = task_fields(name)
  check_fields(changes, [*task, *loss], f"task {name!r}")
  c.task = dict(name=name) | {k: changes.get(k, v) for k, v in task.items()}
  c.loss = {k: changes.get(k, v) for k, v in loss.items()}


def initial_weights(backbone, weights):
  """The `init_from` of a backbone whose weights are "imagenet", of a pip package, or a file.

  Raises:
    UserError: "imagenet" for a backbone that no package carries.
  """
  if weights != "imagenet":
    return weights
  if backbone not in PACKAGED:
    raise UserError(
      f"no package carries ImageNet weights of {backbone!r}, only of {', '.join(PACKAGED)}; give a "
      "file of its weights, see `python -m segjax.models`"
    )
  return backbone


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
    config.data.source.update(num_train=12, num_val=6, num_test=6, height=64, width=128)
  return config
