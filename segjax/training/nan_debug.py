"""Steps whose loss or gradient is not finite: kept with their batch, repeated, looked at."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.errors import UserError
from segjax.training import array_files, steps
from segjax.training.checkpoints import NotFinite
from segjax.training.trees import by_name, copy

FILE = "not_finite.npz"  # in the folder of a run: "state/<name>" and "batch/<name>"
MOST = 12  # lines of a list


# ---------------------------------------------------------------------------- keeping it


def watched(step, task, workdir):
  """A train step that looks at its loss at once, and keeps what it was given where that is none.

  Args:
    step: result of `steps.make_train_step`, of batches that the host sends.
    task: a task of `segjax.tasks`.
    workdir: path of the run.

  Returns:
    train_step(state, batch) as `step`; it raises NotFinite.
  """

  def watched_step(state, batch):
    before = copy(state)  # the step takes the arrays of its state for the next one
    state, sums = step(state, batch)
    found = jax.device_get(sums)
    norm = float(found.pop("grad_norm"))
    loss = float(task.loss(found))
    if not (math.isfinite(loss) and math.isfinite(norm)):
      write(workdir / FILE, before, batch)
      raise NotFinite(
        f"not finite at step {int(before.step) + 1}: loss {loss}, gradient norm {norm}; its batch "
        f"and the state before it are in {workdir / FILE}, and launch/analyze.py replay "
        f"--workdir={workdir} repeats it"
      )
    return state, sums

  return watched_step


def _named(tree, prefix):
  return {f"{prefix}/{name}": x for name, x in by_name(tree).items()}


def write(file, state, batch):
  """Writes a state and a batch, whole or not at all."""
  array_files.write(file, jax.device_get(_named(state, "state") | _named(batch, "batch")))


def read(file, like):
  """Reads what `write` has written.

  Args:
    file: path.
    like: state of arrays or ShapeDtypeStructs.

  Returns:
    (state, batch), of numpy arrays.

  Raises:
    UserError: no such file, a damaged one, or one of another net.
  """
  if not file.is_file():
    raise UserError(
      f"no {file}: no step was kept. Where a training ends as not finite, the same command with "
      "--config.nan_debug=True resumes from its last checkpoint and keeps the step"
    )
  arrays = array_files.read(file, "remove it")
  names = list(_named(like, "state"))
  lost = [n for n in names if n not in arrays]
  if lost:
    raise UserError(f"{file}: {lost[0]} is not in it, so it is of another net; remove it")
  # NumPy's files know no bfloat16.
  leaves = [
    arrays[n].view(x.dtype) if arrays[n].dtype.kind == "V" else arrays[n]
    for n, x in zip(names, jax.tree.leaves(like), strict=True)
  ]
  state = jax.tree.unflatten(jax.tree.structure(like), leaves)
  start = "batch/"
  return state, {k.removeprefix(start): x for k, x in arrays.items() if k.startswith(start)}


# ---------------------------------------------------------------------------- looking at it


def report(experiment, state, batch):
  """Lines about a kept step: what goes in, what comes out, and where it ceases to be finite.

  Args:
    experiment: Experiment of the run.
    state: TrainState before the step.
    batch: dict of arrays, see `steps.make_train_step`.
  """
  lines = [f"step {int(state.step) + 1}"]
  lines += [f"  {_about(f'batch {k}', x)}" for k, x in batch.items()]
  lines += _list("state before the step, not finite", _broken(_named(state, "")))
  new, sums = repeat(experiment, state, batch)
  norm = float(sums.pop("grad_norm"))
  lines.append(f"  loss {float(experiment.task.loss(sums))}, gradient norm {norm}")
  terms = {k: x for k, x in sums.items() if np.ndim(x) == 0}
  lines += [f"  {k}: {float(x):.6g}" for k, x in terms.items()]
  broken = layers(experiment, state, batch)
  lines += _list("layers whose output is not finite, in the order of the net", broken)
  lines += _list("parameters after the step, not finite", _broken(_named(new.params, "")))
  return lines


def repeat(experiment, state, batch):
  """Makes a step again; (state, sums) on the host. The same key is drawn from, that of the step."""
  placed = jax.device_put(state, jax.tree.map(lambda x: x.sharding, experiment.abstract_state()))
  return jax.device_get(experiment.train_step()(placed, steps.put_batch(batch, experiment.mesh)))


def layers(experiment, state, batch):
  """Names of the layers whose output is not finite for a batch as the step has augmented it.

  Args:
    experiment: Experiment.
    state: TrainState.
    batch: dict of arrays.

  Returns:
    list of texts, a layer's before those that use it.
  """
  found, task, data = [], experiment.task, experiment.config.data
  inputs, _ = experiment.seen(state.step, jax.tree.map(jnp.asarray, batch))
  how = dict(mean=data.mean, std=data.std, train=True, step=state.step)
  how |= dict(rngs=dict(dropout=jax.random.key(0)))
  variables = dict(params=state.params, batch_stats=state.batch_stats)
  net = steps.Net(experiment.model, variables, **how)
  if task.uses_ema_teacher:
    net.teacher = steps.Net(experiment.model, state.eval_variables(), **how)

  def look(next_function, args, kwargs, context):
    out = next_function(*args, **kwargs)
    if context.method_name == "__call__":
      name = "/".join(context.module.path) or "net"
      found.append((name, type(context.module).__name__, out))
    return out

  with nn.intercept_methods(look):
    task.outputs(net, inputs)
  return [f"{name} ({kind})" for name, kind, out in found if _broken(_named(out, ""))]


def _broken(arrays):
  """Names of the arrays that have values that are not finite, with their number."""
  count = {k: int((~np.isfinite(np.asarray(x, np.float32))).sum()) for k, x in arrays.items()}
  return [f"{k.strip('/')}: {n} of {np.size(arrays[k])}" for k, n in count.items() if n]


def _about(name, x):
  x = np.asarray(x)
  return f"{name}: {x.dtype}{list(x.shape)}, from {x.min()} to {x.max()}"


def _list(title, items):
  more = [f"    ... and {len(items) - MOST} more"] if len(items) > MOST else []
  return [f"  {title}: {'' if items else 'none'}", *(f"    {i}" for i in items[:MOST]), *more]
