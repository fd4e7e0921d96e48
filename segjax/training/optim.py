"""Learning-rate schedules and optimisers from optax, by name."""

from __future__ import annotations

import optax

from segjax.errors import UserError, choose


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
    total_steps: of the training; warm-up included.
    warmup_steps: linear from 0, before the others start; none with "one_cycle".
    factor: of a step.
    every_steps: between steps.
    milestone_steps: counted from the start of training.
    power: of the polynomial.
    peak_fraction: of a cycle, in (0,1).

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
  makers = dict(
    constant=lambda: optax.constant_schedule(learning_rate),
    step=lambda: optax.exponential_decay(learning_rate, every_steps, factor, staircase=True),
    multi_step=lambda: optax.piecewise_constant_schedule(
      learning_rate, {max(int(s) - warmup_steps, 0): factor for s in milestone_steps}
    ),
    cosine=lambda: optax.cosine_decay_schedule(learning_rate, rest),
    polynomial=lambda: optax.polynomial_schedule(learning_rate, 0.0, power, rest),
    one_cycle=lambda: optax.cosine_onecycle_schedule(rest, learning_rate, peak_fraction),
  )
  schedule = choose(makers, name, "schedule")()
  if not warmup_steps:
    return schedule
  warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([warmup, schedule], [warmup_steps])


def make_optimizer(
  name, schedule, *, momentum=0.9, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=0.0
):
  """Builds an optimiser.

  Args:
    name: "sgd" (with `momentum`), "adam" or "adamw".
    schedule: step -> learning rate.
    momentum: of SGD.
    b1: decay of Adam's first moment.
    b2: decay of Adam's second moment.
    eps: of Adam.
    weight_decay: for "sgd" and "adam" added to the gradient (L2, as in PyTorch), for "adamw"
      decoupled (Loshchilov and Hutter, ICLR 2019).
    clip_norm: largest global norm of the gradient; 0 for no clipping.
  """
  makers = dict(
    sgd=lambda: optax.sgd(schedule, momentum or None),
    adam=lambda: optax.adam(schedule, b1, b2, eps),
    adamw=lambda: optax.adamw(schedule, b1, b2, eps, weight_decay=weight_decay),
  )
  parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  if weight_decay and name in ("sgd", "adam"):
    parts.append(optax.add_decayed_weights(weight_decay))
  return optax.chain(*parts, choose(makers, name, "optimizer")())
