"""From a config to the parts of an experiment."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from segjax import augment, models, textfiles
from segjax import config as config_lib
from segjax.data import rasters
from segjax.data.labels import LabelTable, table_of
from segjax.errors import UserError, check_fields, choose
from segjax.fields import defaults_of
from segjax.tasks import TASKS, own_loss
from segjax.training import class_balance, devices, freezing, optim, programs, steps, tiled
from segjax.training import eval_step as eval_step_lib
from segjax.training.state import init_state, wide_copy


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Model, task and optimiser of a run, without its data.

  Attributes:
    config: ConfigDict.
    labels: label table of the data.
    model: Flax module.
    task: a task of `segjax.tasks`.
    mesh: mesh of the devices.
    optimizer: optax GradientTransformation; its schedule needs `total_steps`.
    schedule: step -> learning rate.
    ema_decay: step -> decay of the moving averages.
    augment: augmentation of one example, see `segjax.augment`.
    batch_augment: augmentation of a batch, see `segjax.augment.mixing`.
    frozen: names of the parameters that are not trained.
    steps_per_epoch: steps per epoch, for durations in epochs.
  """

  config: Any
  labels: LabelTable
  model: Any
  task: Any
  mesh: Any
  optimizer: Any
  schedule: Any
  ema_decay: Any
  augment: Any
  batch_augment: Any
  frozen: tuple[str, ...] = ()
  steps_per_epoch: int = 1

  def init(self):
    """A fresh TrainState, with the weights of `config.init_from` if it names some.

    Returns:
      (TrainState, weights.Report or None).
    """
    shardings = self._shardings()
    state = self._init_program()(steps.key_bits(self.config.seed))
    c = self.config
    if not c.init_from:
      return state, None
    variables = devices.to_host(dict(params=state.params, batch_stats=state.batch_stats))
    from segjax.training import initial  # which needs orbax

    loaded, report = initial.load_initial(c.init_from, c.init_part, variables)
    if left := sorted(set(self.frozen) & set(report.missing)):
      raise UserError(
        f"init_from {c.init_from!r} has nothing for {len(left)} parameters that freeze "
        f"{c.freeze!r} keeps as they are, such as {left[0]}: they would stay random; give a file "
        "of this net, or freeze less"
      )
    places = dict(params=shardings.params, batch_stats=shardings.batch_stats)
    loaded = jax.device_put(loaded, places)
    params, batch_stats = loaded["params"], loaded["batch_stats"]
    # Some optimisers keep the parameters that they began with.
    opt_state = jax.jit(self.optimizer.init, out_shardings=shardings.opt_state)(params)
    state = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
    if state.ema_params is not None:
      ema = dict(ema_params=wide_copy(params), ema_batch_stats=wide_copy(batch_stats))
      state = state.replace(**ema)
    return state, report

  @programs.shared
  def _init_program(self):
    return jax.jit(self._init, out_shardings=self._shardings())

  def _shardings(self):
    return jax.tree.map(lambda x: x.sharding, self.abstract_state())

  @programs.shared
  def abstract_state(self):
    """Shapes, dtypes and shardings of the state, for restoring."""
    shapes = jax.eval_shape(self._init, steps.key_bits(self.config.seed))
    return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      shapes,
      devices.of_state(shapes, self.mesh, fsdp=self.config.mesh.fsdp),
    )

  def _places(self):
    """The mesh, and the shardings of the state where they are not copies on all of its devices."""
    if not self.config.mesh.fsdp:
      return dict(mesh=self.mesh)
    return dict(mesh=self.mesh, state_sharding=self._shardings())

  def _init(self, bits):
    c = self.config
    how = dict(size=c.data.size, channels=c.data.channels, ema=c.ema_decay > 0)
    return init_state(self.model, self.optimizer, steps.as_key(bits), **how)

  def train_step(self, data_on_device=False, multi_step=False):
    """See `steps.make_train_step`."""
    step = self._train_program(data_on_device, multi_step)
    return functools.partial(step.func, steps.key_bits(self.config.seed))

  @programs.shared
  def _train_program(self, data_on_device, multi_step):
    c = self.config
    return steps.make_train_step(
      self.model,
      self.task,
      self.optimizer,
      **self._images(),
      augment=self.augment,
      batch_augment=self.batch_augment,
      ema_decay=self.ema_decay,
      accumulate_steps=c.optimizer.get("accumulate_steps", 1),
      frozen=self.frozen,
      seed=c.seed,
      aux_weight=c.aux_weight,
      remat=c.remat,
      data_on_device=data_on_device,
      multi_step=multi_step,
    )

  def eval_mesh(self):
    """See `devices.eval_mesh_of`."""
    return devices.eval_mesh_of(self.config, self.mesh)

  def seen(self, step, batch):
    """What the net sees of a batch in a train step, augmented: (inputs, label), see the task.

    Args:
      step: updates done before.
      batch: see `steps.make_train_step`.
    """
    key = jax.random.fold_in(jax.random.key(self.config.seed), step)
    change = steps.both(self.augment, self.batch_augment)
    image, label = steps.read_batch(batch)
    key, _ = jax.random.split(key)
    return self.task.prepare(key, image, label, train=True, augment=change)

  @programs.shared
  def eval_step(self, measure=None):
    """See `eval_step.make_eval_step`; its state and its batches lie on `eval_mesh`."""
    mesh = self.eval_mesh()
    if self.config.data.eval_fit == "tiles":
      return tiled.make_eval_step(self.predict_step(), self.shown_step(), self.task, measure)
    how = dict(augment=self.augment, measure=measure) | self._images()
    if devices.is_local(mesh):
      how |= dict(mesh=mesh, state_sharding=None)
    return eval_step_lib.make_eval_step(self.model, self.task, **how)

  @programs.shared
  def predict_step(self):
    """See `steps.make_predict_step`."""
    return steps.make_predict_step(self.model, self.task, **self._images())

  @programs.shared
  def shown_step(self):
    """The predict step for one image of an evaluation, seen as the evaluation sees it."""
    step, data = self.predict_step(), self.config.data
    return tiled.make_predict_step(step, self.task, data) if data.eval_fit == "tiles" else step

  def _images(self):
    """Fields of all steps for images: their devices and their normalisation."""
    return dict(mean=self.config.data.mean, std=self.config.data.std) | self._places()


def build(config, labels, steps_per_epoch=1, class_weights=None):
  """Builds an Experiment, on as many devices as divide its batch.

  Args:
    config: ConfigDict of an experiment.
    labels: LabelTable of its data.
    steps_per_epoch: steps per epoch, for durations in epochs.
    class_weights: C floats in place of the rule that `config.loss.class_weights` names; None: where
      it names one, the labels of the train split are counted.

  Raises:
    UserError: unknown name or field, loss that does not fit the classes.
  """
  mesh = devices.mesh_of(config)
  make_task, loss, change = _check_names(config)
  total = config_lib.duration(config, "total", steps_per_epoch, required=True)
  count = config.optimizer.get("accumulate_steps", 1)  # the schedule counts updates
  schedule_fields = config_lib.in_steps(config.schedule, steps_per_epoch / count, "schedule.")
  fields = config_lib.in_steps(config.task, steps_per_epoch, "task.") | loss
  fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items() if k != "name"}
  if class_balance.rule(config.loss):
    fields["class_weights"] = tuple(class_weights or class_balance.count(config))
  task = make_task(classes=labels.names, palette=labels.palette, **fields)
  mix = augment.make_batch_augment(**config.batch_augment)
  if (last := max(config.batch_augment.classmix_classes, default=0)) >= max(len(labels), 1):
    raise UserError(
      f"batch_augment.classmix_classes has the class {last}, the data has 0 to {len(labels) - 1}"
    )
  model = models.make(**dict(config.model), num_classes=task.num_outputs)
  schedule = optim.make_schedule(**schedule_fields, total_steps=max(total // count, 1))
  optimizer = optim.make_optimizer(**config.optimizer, schedule=schedule)
  frozen, lora_rank = (), getattr(model, "lora_rank", 0)
  if config.freeze or lora_rank:
    image = jax.ShapeDtypeStruct((1, *config.data.size, config.data.channels), jnp.float32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    frozen = freezing.frozen_names(config.freeze, shapes["params"])
    freezing.check_lora(lora_rank, shapes["params"])
  if frozen:
    optimizer = optax.multi_transform(
      dict(trained=optimizer, frozen=optax.set_to_zero()), lambda p: freezing.labels(p, frozen)
    )
  return Experiment(
    config,
    labels,
    model,
    task,
    mesh,
    optimizer,
    schedule if count == 1 else lambda step: schedule(step // count),
    ema_decay=_make_ema_decay(config, task, total, count),
    augment=change,
    batch_augment=mix,
    frozen=frozen,
    steps_per_epoch=steps_per_epoch,
  )


def _check_names(config):
  """Checks the names of the task and of all fields.

  Returns:
    (class of the task, fields of its loss, augmentation).
  """
  task = choose(TASKS, config.task.name, "task")
  known = [k for k in defaults_of(task) if k != "palette"]
  loss = own_loss.bind(config.loss, known)
  check_fields(loss, known, "the loss")
  check_fields(config.task, ["name", *known], "the task")
  known = ["name", "learning_rate", *defaults_of(optim.make_schedule)]
  check_fields(config.schedule, known, "schedule")
  change = augment.make_augment(**config.augment)
  _check_colors(config)
  check_fields(config.batch_augment, list(defaults_of(augment.make_batch_augment)), "batch_augment")
  fits = dict(mixup=("class",), cutmix=("class", "mask", "masks"), classmix=("mask",))
  for name, fit in fits.items():
    if config.batch_augment[name] and task.label_kind not in fit:
      raise UserError(
        f"batch_augment.{name} mixes labels ({' or '.join(fit)}), the task {config.task.name!r} "
        f"has others ({task.label_kind}); set it to 0"
      )
  return task, loss, change


def _check_colors(config):
  """Raises a UserError where changes of colours, which clip to [0,1], would cut values off."""
  names = ("brightness", "contrast", "saturation", "hue", "rgb_shift", "noise")
  used = [name for name in names if config.augment[name]]
  pixels = rasters.of(config.data)
  if not used or pixels.is_rgb:
    return
  mean, std = (np.broadcast_to(x, pixels.channels)[:3] for x in (config.data.mean, config.data.std))
  if pixels.may_leave_range and ((mean < std).any() or (mean + std > 1).any()):
    raise UserError(
      f"augment: {', '.join(used)} expect values in [0,1] and clip to it; by data.mean "
      f"{tuple(mean.tolist())} and data.std {tuple(std.tolist())} many lie outside; set these "
      "fields to 0, or data.full_scale so that values lie in [0,1]"
    )


def _make_ema_decay(config, task, total, count):
  """step -> decay, see `config.ema_decay` and `ema_decay_end`; an update takes `count` steps."""
  start, end = config.ema_decay, config.ema_decay_end or config.ema_decay
  if not (0 <= start < 1 and 0 <= end <= 1):
    raise UserError(f"ema_decay={start}, ema_decay_end={end}: expected both from 0 to 1")
  if task.uses_ema_teacher and not start:
    raise UserError(f"the task {config.task.name!r} needs a teacher: set ema_decay, e.g. to 0.99")

  def decay(step):
    value = end - (end - start) * (1 + jnp.cos(jnp.pi * jnp.minimum(step / total, 1))) / 2
    # A short memory at first, or the initial parameters would weigh in for 1 / (1 - decay) steps;
    # a teacher must not run after its student, though.
    done = step // count
    return value if task.uses_ema_teacher else jnp.minimum(value, (1 + done) / (10 + done))

  return decay


def save_labels(labels, file):
  """Writes the label table beside the config, so that prediction needs no data set."""
  more = dict(overlapping=True) if labels.overlapping else {}
  textfiles.write_state(file, dict(classes=labels.classes) | more)


def load_labels(file):
  """Reads a label table that `save_labels` wrote; a UserError names a damaged file.

  Older versions wrote the list of the classes alone.
  """
  rows, overlapping = textfiles.read_json(file, (dict, list)), False
  if isinstance(rows, dict):
    textfiles.check_state(file, rows, ["classes", "overlapping"])
    rows, overlapping = rows.get("classes"), rows.get("overlapping", False)
  if not isinstance(rows, list):
    raise UserError(f"{file}: no list of 'classes' in it; {textfiles.MEND}")
  for row in rows:
    if not (isinstance(row, list) and len(row) == 2 and _is_class(*row)):
      raise UserError(
        f"{file}: found {row!r}, expected a class, [name, [red, green, blue]]; {textfiles.MEND}"
      )
  return dataclasses.replace(table_of(rows), overlapping=bool(overlapping))


def _is_class(name, color):
  return (
    isinstance(name, str)
    and isinstance(color, list)
    and len(color) == 3
    and all(type(c) is int and 0 <= c <= 255 for c in color)
  )
