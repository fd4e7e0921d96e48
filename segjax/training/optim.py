"""Learning-rate schedules and optimisers from optax, by name."""

from __future__ import annotations

import functools
import inspect
from numbers import Real

import optax

from segjax import own_code
from segjax.errors import UserError, choose
from segjax.fields import THREE
from segjax.training.layer_decay import scale_by_layer

# Of optax, but not for a training step that knows the gradient and a schedule alone.
UNFIT = dict(
  lbfgs="needs the loss at other parameters",
  optimistic_adam="takes no schedule; take optimistic_adam_v2",
  rprop="takes no schedule",
  sm3="takes no schedule",
)


def make_schedule(
  name,
  *,
  learning_rate,
  total_steps,
  warmup_steps=0,
  factor=0.1,
  every_steps=0,
  milestone_steps=(),
  power=0.9,
  peak_fraction=0.3,
):
  """Builds a learning-rate schedule, step -> learning rate.

  Args:
    name: "constant"; "step" (times `factor` each `every_steps`); "multi_step" (times `factor` at
      each of `milestone_steps`); "cosine" (to 0); "polynomial" (to 0, as (1 - t)^power);
      "one_cycle" (cosine up from 1/25 in `peak_fraction` of the time, then down to 0: Smith and
      Topin, "Super-Convergence", 2018).
    learning_rate: the largest one.
    total_steps: number of steps of the training; warm-up included.
    warmup_steps: linear from 0, before the others start; none with "one_cycle".
    factor: factor of a step.
    every_steps: between steps.
    milestone_steps: counted from the start of training.
    power: power of the polynomial.
    peak_fraction: share of a cycle before its peak, in (0,1).

  Raises:
    UserError: unknown name; "step" without `every_steps`, "one_cycle" with a warm-up, or a
      `peak_fraction` that is none.
  """
  rest = max(total_steps - warmup_steps, 1)
  if name == "step" and every_steps <= 0:
    raise UserError("schedule 'step' needs schedule.every_epochs or schedule.every_steps above 0")
  if name == "one_cycle" and warmup_steps:
    raise UserError("schedule 'one_cycle' warms up by itself; set schedule.warmup_* to 0")
  if not 0 < peak_fraction < 1:
    raise UserError(f"schedule.peak_fraction is {peak_fraction}, expected one between 0 and 1")
  factors = {}  # of milestones at one step, such as those within the warm-up, the product
  for milestone in milestone_steps:
    step = max(int(milestone) - warmup_steps, 0)
    factors[step] = factors.get(step, 1.0) * factor
  makers = dict(
    constant=lambda: optax.constant_schedule(learning_rate),
    step=lambda: optax.exponential_decay(learning_rate, every_steps, factor, staircase=True),
    multi_step=lambda: optax.piecewise_constant_schedule(learning_rate, factors),
    cosine=lambda: optax.cosine_decay_schedule(learning_rate, rest),
    polynomial=lambda: optax.polynomial_schedule(learning_rate, 0.0, power, rest),
    one_cycle=lambda: optax.cosine_onecycle_schedule(rest, learning_rate, peak_fraction),
  )
  schedule = choose(makers, name, "schedule")()
  if not warmup_steps:
    return schedule
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, schedule], [warmup_steps])


def make_optimizer(name, schedule, *, accumulate_steps=1, **fields):
  """Builds an optimiser.

  Args:
    name: one of `make_shared`, any other optimiser of optax, or "package.module:function" of
      your own, a function of (learning_rate, ...).
    schedule: update -> learning rate.
    accumulate_steps: steps of a training whose mean gradient makes one update, with which the
      schedule counts; parameters change at each multiple of it alone.
    **fields: of `make_shared`; or arguments of that function, and `weight_decay`, `clip_norm` and
      `layer_decay`, which mean the same for all: an optimiser without a weight decay of its own has
      it added to the gradient.

  Returns:
    optax GradientTransformation.

  Raises:
    UserError: unknown name or field, or `accumulate_steps` below 1.
  """
  if accumulate_steps < 1:
    raise UserError(f"optimizer.accumulate_steps is {accumulate_steps}, expected 1 or more")
  if accumulate_steps > 1:
    inner = make_optimizer(name, schedule, **fields)
    return optax.MultiSteps(inner, accumulate_steps).gradient_transformation()
  if name in THREE:
    own_code.check_arguments(make_shared, fields, f"optimizer {name!r}", ("name", "schedule"))
    return make_shared(name, schedule, **fields)
  make, what = factory(name), f"optimizer {name!r}"
  clip_norm, weight_decay = fields.pop("clip_norm", 0.0), fields.pop("weight_decay", 0.0)
  layer_decay = fields.pop("layer_decay", 1.0)
  parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  if "weight_decay" in own_code.arguments(make):
    fields["weight_decay"] = weight_decay
  elif weight_decay:
    parts.append(optax.add_decayed_weights(weight_decay))
  own_code.check_arguments(make, fields, what, ("learning_rate",))
  return _chain(parts, make(learning_rate=schedule, **fields), layer_decay)


def _chain(parts, optimizer, layer_decay):
  """The parts before an optimiser, itself, and the factors of its updates."""
  last = [] if layer_decay == 1 else [scale_by_layer(layer_decay)]
  return optax.chain(*parts, optimizer, *last)


def factory(name):
  """The function of optax, or of one's own, that builds an optimiser from `learning_rate`.

  Raises:
    UserError: unknown name, or one of `UNFIT`.
  """
  if name in UNFIT:
    raise UserError(f"optimizer {name!r} {UNFIT[name]}; choose another")
  return own_code.choose({n: getattr(optax, n) for n in names()}, name, "optimizer")


@functools.cache
def names():
  """Names of the optimisers of optax that take a schedule, sorted; a tuple."""
  found = []
  for name, thing in vars(optax).items():
    public = inspect.isfunction(thing) and not name.startswith(("_", "scale_by_"))
    first = next(iter(inspect.signature(thing).parameters), "") if public else ""
    if first == "learning_rate" and name not in UNFIT:
      found.append(name)
  return tuple(sorted(found))


def settings(name):
  """The fields of `config.optimizer` for an optimiser beyond `THREE`, with their defaults.

  Those whose default is not a number, a bool or a text are left out; a config may add them.
  """
  found = own_code.defaults(factory(name))
  plain = {k: v for k, v in found.items() if isinstance(v, Real | str) and k != "learning_rate"}
  return plain | dict(weight_decay=0.0, clip_norm=0.0, accumulate_steps=1, layer_decay=1.0)


def make_shared(
  name,
  schedule,
  *,
  momentum=0.9,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  weight_decay=0.0,
  clip_norm=0.0,
  layer_decay=1.0,
):
  """Builds one of the optimisers that share their fields.

  Args:
    name: "sgd" (with `momentum`), "adam" or "adamw"; or any other optimiser of optax, or
      "package.module:function" of your own: the fields below but the last three are then those of
      that function.
    schedule: step -> learning rate.
    momentum: momentum of SGD.
    b1: decay of Adam's first moment.
    b2: decay of Adam's second moment.
    eps: epsilon of Adam.
    weight_decay: for "sgd" and "adam" added to the gradient (L2, as in PyTorch), for "adamw"
      decoupled (Loshchilov and Hutter, ICLR 2019).
    clip_norm: largest global norm of the gradient; 0 for no clipping.
    layer_decay: factor between the learning rates of neighbouring blocks of the backbone, the last
      block's against the head's too; 0.65 to 0.9 to fine-tune a transformer, 1 for none.

  Returns:
    optax GradientTransformation.
  """
  makers = dict(
    sgd=lambda: optax.sgd(schedule, momentum or None),
    adam=lambda: optax.adam(schedule, b1, b2, eps),
    adamw=lambda: optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay),
  )
  parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  if weight_decay and name in ("sgd", "adam"):
    parts.append(optax.add_decayed_weights(weight_decay))
  return _chain(parts, choose(makers, name, "optimizer")(), layer_decay)
