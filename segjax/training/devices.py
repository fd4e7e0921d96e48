"""A mesh of devices: where batches, images' rows and the state lie on it.

`data` divides a batch, `space` the rows of its images. XLA divides the programs by that: batch
norm's statistics and all sums are those of the whole batch, and convolutions exchange the rows that
they need of their neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from segjax.errors import UserError
from segjax.tasks import TASKS

SMALL = 2**10  # values; a smaller array stays whole, as gathering it would cost more than it saves


def make_mesh(
  devices: Sequence[jax.Device] | None = None, *, data: int = -1, space: int = 1
) -> Mesh:
  """A mesh with the axes "data" and "space".

  Axes are Auto: convolutions divide the batch alone over Explicit ones.

  Args:
    devices: jax devices, all of them by default.
    data: parts of a batch; -1: as many as there are devices for.
    space: parts of an image's rows.
  """
  devices = list(jax.devices() if devices is None else devices)
  data = len(devices) // space if data == -1 else data
  devices = devices[: data * space]
  return jax.make_mesh((data, space), ("data", "space"), (AxisType.Auto,) * 2, devices=devices)


def mesh_of(config: Any) -> Mesh:
  """The mesh of a config, on as many of its devices as there are and as divide the batch.

  A run may be evaluated on fewer devices than it was trained on, which `check` insists on.

  Args:
    config: ConfigDict of an experiment.
  """
  data, count = config.mesh.data, jax.device_count()
  space = math.gcd(config.mesh.space, jax.local_device_count(), config.data.size[0])
  wanted = count // space if data == -1 else min(max(data, 1), count // space)
  return make_mesh(data=math.gcd(config.data.batch_size, wanted), space=space)


def eval_mesh_of(config: Any, mesh: Mesh | None = None) -> Mesh:
  """The mesh of evaluations: each process's own where images differ in size among them.

  Tiles are put before the net one image after another, so one device has them all.

  Args:
    config: ConfigDict of an experiment.
    mesh: of its training; None: `mesh_of`.

  Raises:
    UserError: tiles, in several processes.
  """
  several, fit = jax.process_count() > 1, config.data.eval_fit
  if several and fit == "tiles":
    raise UserError("data.eval_fit='tiles' works in one process; use 'full' or 'resize'")
  if fit == "tiles":
    return make_mesh(jax.local_devices()[:1])
  if several and fit == "full":
    return local_mesh()
  return mesh_of(config) if mesh is None else mesh


def check(config: Any) -> None:
  """Raises a UserError where the devices are too few, or divide neither batch nor rows.

  Args:
    config: ConfigDict of an experiment.
  """
  data, space, count = config.mesh.data, config.mesh.space, jax.device_count()
  _check_space(config, count)
  if data != -1 and (data < 1 or data * space > count):
    raise UserError(
      f"mesh.data is {data} and mesh.space {space}, which need {data * space} devices; there are "
      f"{count}. Use mesh.data=-1, as many as there are"
    )
  if jax.process_count() > 1 and config.nan_debug:
    raise UserError("nan_debug=True works in one process: leave --distributed out")
  if jax.process_count() > 1 and data not in (-1, count // space):
    raise UserError(
      f"mesh.data is {data}, expected -1 or {count // space}: several processes use all their "
      "devices"
    )
  data, batch_size = count // space if data == -1 else data, config.data.batch_size
  if batch_size % data:
    by = f"the {count} devices" if space == 1 else f"the {data} groups of {space} devices"
    raise UserError(
      f"data.batch_size is {batch_size}, not divisible by {by}; use a multiple "
      f"of {data}, e.g. --config.data.batch_size={-(-batch_size // data) * data}"
    )


def _check_space(config, count):
  space, local = config.mesh.space, jax.local_device_count()
  if space < 1 or local % space:
    raise UserError(
      f"mesh.space is {space}, expected a divisor of the {local} devices of "
      f"{'this machine' if count == local else 'each process'}"
    )
  if config.data.size[0] % space:
    raise UserError(
      f"mesh.space is {space}, which does not divide the {config.data.size[0]} rows of data.size; "
      "use another size"
    )
  data = config.data
  extends = data.eval_fit == "full" and not TASKS[config.task.name].forbids_padding
  if extends and jax.process_count() == 1 and data.eval_multiple % space:
    raise UserError(
      f"mesh.space is {space}, which does not divide data.eval_multiple={data.eval_multiple}, of "
      "which the rows of images are multiples in an evaluation; use a multiple of both"
    )


# ---------------------------------------------------------------------------- shardings


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device has a copy of."""
  return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, stacked: bool = False) -> NamedSharding:
  """Sharding along the first axis, of stacked batches along their second."""
  return NamedSharding(mesh, PartitionSpec(*([None] if stacked else []), "data"))


def in_rows(mesh: Mesh) -> NamedSharding:
  """Sharding of images [B,H,W,...]: along the batch, and along the rows."""
  return NamedSharding(mesh, PartitionSpec("data", "space"))


def of_batch(mesh: Mesh) -> NamedSharding | None:
  """Sharding of all arrays of a batch; None where `put_batch` gives images another one."""
  return batched(mesh) if mesh.shape["space"] == 1 else None


def divide(tree: Any, mesh: Mesh) -> Any:
  """Within a program: divides arrays along the batch, those from three axes on in rows too."""
  if mesh.size == 1:
    return tree

  def place(x):
    sharding = in_rows(mesh) if x.ndim > 2 else batched(mesh) if x.ndim else replicated(mesh)
    return jax.lax.with_sharding_constraint(x, sharding)

  return jax.tree.map(place, tree)


def rows_alone(tree: Any, mesh: Mesh) -> Any:
  """Within a program: divides images in rows, and the batch not at all."""
  if mesh.shape["space"] == 1:
    return tree
  sharding = NamedSharding(mesh, PartitionSpec(None, "space"))
  put = lambda x: jax.lax.with_sharding_constraint(x, sharding) if x.ndim > 2 else x  # noqa: E731
  return jax.tree.map(put, tree)


def of_state(abstract: Any, mesh: Mesh, *, fsdp: bool = False) -> Any:
  """Shardings of a state.

  Args:
    abstract: tree of arrays or ShapeDtypeStructs.
    mesh: result of `make_mesh`.
    fsdp: whether each array is divided over "data", along the largest axis that allows it; else
      every device has a copy.

  Returns:
    Tree of NamedShardings.
  """

  def place(x):
    fit = [n for n in x.shape if n % mesh.shape["data"] == 0]
    if not fsdp or x.size < SMALL or not fit:
      return replicated(mesh)
    axis = x.shape.index(max(fit))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

  return jax.tree.map(place, abstract)


def whole(tree: Any, mesh: Mesh) -> Any:
  """Within a program: arrays that are divided by FSDP, put together on every device."""
  if mesh.size == 1:
    return tree
  put = lambda x: jax.lax.with_sharding_constraint(x, replicated(mesh))  # noqa: E731
  return jax.tree.map(put, tree)


# ---------------------------------------------------------------------------- transfers


def put_batch(batch: dict, mesh: Mesh, *, stacked: bool = False) -> dict:
  """Moves this process's part of a batch to the devices; batches of one process are whole.

  Args:
    batch: dict of numpy arrays [B,...].
    mesh: result of `make_mesh`.
    stacked: whether the first axis counts batches, and the second is B.

  Returns:
    dict of jax.Array, divided over the devices along B, "image" along its rows too.
  """
  split = batched(mesh, stacked)
  shardings = dict.fromkeys(batch, split)
  if "image" in batch:
    shardings["image"] = in_rows(mesh)
  return {k: jax.make_array_from_process_local_data(shardings[k], x) for k, x in batch.items()}


def is_local(mesh: Mesh) -> bool:
  """Whether a mesh is of one process, of several that there are."""
  return jax.process_count() > 1 and len({d.process_index for d in mesh.devices.flat}) == 1


def local_mesh() -> Mesh:
  """A mesh of this process's devices alone, which divide batches."""
  return make_mesh(jax.local_devices())


def to_local(tree: Any, mesh: Mesh) -> Any:
  """A state on each device of a mesh of this process; all processes must call it."""
  return jax.device_put(to_host(tree), replicated(mesh))


def _same(x):  # one function, so that a shape is compiled once
  return x


def to_host(tree: Any) -> Any:
  """Arrays of a state, wherever their parts lie, as numpy arrays; all processes must call it."""

  def gather(x):
    if x.is_fully_addressable or x.is_fully_replicated:
      return x
    return jax.jit(_same, out_shardings=replicated(x.sharding.mesh))(x)

  return jax.device_get(jax.tree.map(gather, tree))
