"""Variables of a net in one .safetensors file, with what builds the net beside them.

The tensors are called "params/down1/conv1/kernel" and so on, so any program that reads safetensors
reads them. The file's own `__metadata__` holds JSON texts: `net`, the arguments of `models.make`;
`about`, anything else, such as the names of the classes; and a checksum of the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from segjax import textfiles
from segjax.errors import UserError, writing
from segjax.weights.torch_files import read_tensors

FORMAT = "segjax"  # in the metadata of each of our files
LONGEST = 2**24  # bytes of a header that is read
# numpy's names of dtypes -> those of safetensors.
KINDS = dict(float64="F64", float32="F32", float16="F16", bfloat16="BF16", int64="I64", int32="I32",
             int16="I16", int8="I8", uint8="U8", bool="BOOL")  # fmt: skip


def save(
  variables: Mapping[str, Any],
  file: str | os.PathLike,
  net_config: Mapping[str, Any],
  **about: Any,
) -> None:
  """Writes the variables of a net and its config as safetensors, whole or not at all.

  Args:
    variables: {"params": …, "batch_stats": …} of arrays; empty collections are left out.
    file: path; a file that is there is replaced.
    net_config: arguments of `models.make`, `name` and `num_classes` among them; values of JSON.
    **about: further values of JSON, which `load` returns, such as `classes`.

  Raises:
    UserError: no `name`, a value that JSON does not have, an array that safetensors does not have,
      or a file that cannot be written.
  """
  file = Path(file)
  if not isinstance(net_config.get("name"), str):
    raise UserError(
      f"{file}: net_config has no 'name', expected the arguments of models.make, such as "
      "dict(name='unet', num_classes=2)"
    )
  net, about = (_json(file, k, v) for k, v in (("net_config", net_config), ("about", about)))
  flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
  arrays = {name: np.asarray(flat[name]) for name in sorted(flat)}
  header, start = {}, 0
  for name, array in arrays.items():
    if array.dtype.name not in KINDS:
      raise UserError(f"{file}: {name} is {array.dtype}, expected one of {', '.join(KINDS)}")
    end = start + array.nbytes
    kind = KINDS[array.dtype.name]
    header[name] = dict(dtype=kind, shape=array.shape, data_offsets=(start, end))
    start = end
  metadata = dict(format=FORMAT, net=net, about=about, checksum=_checksum(net, about, arrays))
  text = json.dumps({"__metadata__": metadata} | header).encode()
  text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes

  def write(part):
    with part.open("wb") as stream:
      stream.write(len(text).to_bytes(8, "little") + text)
      stream.writelines(map(_bytes, arrays.values()))

  with writing(file):
    textfiles.replace(file, write)


def _bytes(array):
  """The bytes of an array as safetensors has them."""
  return array.astype(array.dtype.newbyteorder("<")).tobytes()


def _checksum(net, about, arrays):
  """64 hex digits over both texts and all arrays."""
  digest = hashlib.sha256(f"{net}\n{about}\n".encode())
  for name in sorted(arrays):
    digest.update(f"{name} {arrays[name].dtype.name} {arrays[name].shape}\n".encode())
    digest.update(_bytes(arrays[name]))
  return digest.hexdigest()


def _json(file, what, value):
  try:
    return json.dumps(dict(value), default=_name_of_dtype)
  except TypeError as error:
    raise UserError(
      f"{file}: {what}: {error}; expected values of JSON: give names, such as 'gelu' for a function"
    ) from None


def _name_of_dtype(value):
  """The name of a dtype such as jnp.bfloat16; a TypeError for anything else."""
  if isinstance(value, np.dtype) or hasattr(value, "dtype"):
    return np.dtype(value).name
  raise TypeError(f"{value!r} is no value of JSON")


def is_saved(file: str | os.PathLike) -> bool:
  """Whether a file is one of `save`."""
  return _header(Path(file)).get("__metadata__", {}).get("format") == FORMAT


def load(file: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
  """Reads a file that `save` wrote.

  Args:
    file: path.

  Returns:
    (variables, net_config, about): nested dict of numpy arrays, and what `save` was given.

  Raises:
    UserError: no such file, a file of another program, or a damaged one.
  """
  file = Path(file)
  if not file.is_file():
    raise UserError(f"{file.absolute()}: no such file, expected one of weights.save")
  header = _header(file)
  metadata = header.get("__metadata__", {})
  if metadata.get("format") != FORMAT:
    raise UserError(
      f"{file}: not a file of segjax.weights.save; weights.load_torch reads those of others"
    )
  tensors = read_tensors(file)
  for name, array in tensors.items():
    if header[name]["dtype"] == "BF16":  # which was widened
      tensors[name] = array.astype(jnp.bfloat16)
  try:
    if metadata["checksum"] != _checksum(metadata["net"], metadata["about"], tensors):
      raise ValueError("other bytes than were written")
    net, about = json.loads(metadata["net"]), json.loads(metadata["about"])
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"{file}: damaged ({error}); write it again, or get it again") from None
  return flax.traverse_util.unflatten_dict(tensors, sep="/"), _tuples(net), about


def _header(file):
  """The header of a safetensors file, or an empty dict for another file."""
  with file.open("rb") as stream:
    size = int.from_bytes(stream.read(8), "little")
    text = stream.read(size) if 2 <= size <= LONGEST else b""
  try:
    header = json.loads(text) if text.startswith(b"{") else {}
  except (ValueError, RecursionError):
    return {}
  metadata = header.get("__metadata__", {})
  return header if isinstance(metadata, dict) else {}


def _tuples(value):
  """Lists of JSON as tuples, which fields of nets are."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
