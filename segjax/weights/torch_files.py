"""Reads the tensors of PyTorch checkpoints and of .safetensors files, without PyTorch.

The pickle in a checkpoint is loaded by `segjax.weights.unpickling`, which runs nothing of it. No
tensor is copied out of a storage before its bounds are checked.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segjax.errors import UserError
from segjax.weights.unpickling import DTYPES, Storage, Tensor, are_sizes, check_keys, unpickle

# Where checkpoints keep their state dict; averaged weights are taken where there are no others.
NESTED = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module")
AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
MOST_MAPPINGS = 100  # that are looked at for a state dict


def _array(raw, kind, offset, size, *, strides=None, order="<"):
  """Copies an array out of the bytes `raw`; `offset` and `strides` count bytes."""
  view = np.ndarray(size, order + DTYPES[kind], raw, offset, strides)
  array = np.array(view, view.dtype.newbyteorder("="), order="C")
  if kind == "BOOL":
    return array.astype(bool)
  if kind == "BF16":  # the upper half of a float32
    wide = np.empty(array.shape, "f4")
    np.left_shift(array, 16, out=wide.view("u4"), dtype="u4")
    return wide
  return array


def _arrays(top, read, order, spend):
  """Copies the `Tensor`s of a state dict; `read(key)` gives the bytes of a storage."""
  raw, arrays = {}, {}
  for name, (storage, offset, size, stride) in _pick(top, lambda v: isinstance(v, Tensor)).items():
    fits = isinstance(storage, Storage) and all(map(are_sizes, ((offset,), size, stride)))
    fits = fits and len(size) == len(stride)
    if fits and 0 in size:  # may belong to a storage that is not in the file
      arrays[name] = _array(b"", storage.kind, 0, size)
      continue
    if fits:
      key, kind, start, length = storage
      if key not in raw:
        raw[key] = read(key)
      itemsize = np.dtype(DTYPES[kind]).itemsize
      last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
      fits = last < length and (start + last + 1) * itemsize <= len(raw[key])
    if not fits:
      raise UserError(f"tensor {name!r} reaches out of its storage: cut short? get the file again")
    spend(math.prod(size) * itemsize)
    strides = [step * itemsize for step in stride]
    start = (start + offset) * itemsize
    arrays[name] = _array(raw[key], kind, start, size, strides=strides, order=order)
  return arrays


def _pick(top, is_tensor):
  """The name -> tensor pairs of a state dict, or of the one that a checkpoint has under NESTED."""
  top = top if isinstance(top, Mapping) else {}
  found = _nested(top, is_tensor, set())
  named = {k: v for k, v in found.items() if is_tensor(v)}
  if not named or not all(isinstance(k, str) for k in named):
    some = [str(k) for k in list(top)[:8] if isinstance(k, str | int)]
    keys = ", ".join(" ".join(k.split())[:40] for k in some) or "none"
    raise UserError(
      "has no tensors by name, expected a state dict, by itself or under one of "
      f"{', '.join(NESTED)} (keys found: {keys}); save model.state_dict()"
    )
  return named


def _nested(top, is_tensor, seen):
  """The state dict within a mapping, or the mapping itself; `seen` holds the ids of those around.

  A file may hold a mapping at many places, or in itself, so each is looked at once.
  """
  seen.add(id(top))
  for keys in (NESTED, AVERAGED):
    inner = {}
    for key in keys:
      value = top.get(key)
      if isinstance(value, Mapping) and id(value) not in seen and len(seen) < MOST_MAPPINGS:
        found = _nested(value, is_tensor, seen)
        if any(map(is_tensor, found.values())):
          inner[key] = found
    if len(inner) > 1:
      raise UserError(f"has tensors under {' and '.join(inner)}, expected one; save only that one")
    if inner:
      return inner.popitem()[1]
  return top


def _read_zip(path, spend):
  """The format since PyTorch 1.6: one pickle, and an entry for each storage."""
  with zipfile.ZipFile(path) as archive:
    roots = [n[:-8] for n in archive.namelist() if n.endswith("/data.pkl")]
    if len(roots) != 1:
      raise UserError(f"is a zip file with {len(roots)} data.pkl, expected one; get it again")

    def entry(name):
      info = archive.getinfo(roots[0] + name)
      if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"has {name!r} in a compression other than deflate; save it anew")
      spend(info.file_size)
      with archive.open(info) as file:
        return file.read(info.file_size)  # without a size, more might be unfolded

    order = "<"  # the first versions do not say
    if roots[0] + "byteorder" in archive.namelist():
      order = {b"little": "<", b"big": ">"}[entry("byteorder")]
    top, _, _ = unpickle(entry("data.pkl"), 0, spend)
    return _arrays(top, lambda key: entry("data/" + key), order, spend)


def _read_old(data, spend):
  """The format before 1.6: magic, protocol, system, object, keys, then the storages themselves."""
  end = 0
  for expected in (0x1950A86A20F9469CFC6C, 1001):
    found, _, end = unpickle(data, end, spend)
    if found != expected:
      raise UserError("is a pickle but not torch.save's; save model.state_dict() by torch.save")
  _, _, end = unpickle(data, end, spend)
  top, storages, end = unpickle(data, end, spend)
  keys, _, end = unpickle(data, end, spend)
  raw = {}
  check_keys(keys)
  for key in keys:
    kind, total = storages[key]
    # Little-endian from any machine, whatever the file says of its system.
    count = int.from_bytes(data[end : end + 8], "little")
    if count != total:
      raise UserError(f"storage {key!r} has {count} elements, not {total}; get the file again")
    start, end = end + 8, end + 8 + total * np.dtype(DTYPES[kind]).itemsize
    raw[key] = memoryview(data)[start:end]
  return _arrays(top, raw.__getitem__, "<", spend)


def _read_safetensors(data, spend):
  """Eight bytes that say how long the JSON header is, the header, the tensors."""
  start = 8 + int.from_bytes(data[:8], "little")
  header, raw, arrays = json.loads(data[8:start]), memoryview(data)[start:], {}
  header.pop("__metadata__", None)
  for name, entry in header.items():
    kind, size, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in DTYPES:
      raise UserError(f"tensor {name!r} is {kind!r}, expected one of {', '.join(DTYPES)}")
    fits = are_sizes(size) and are_sizes([begin, end]) and end <= len(raw)
    if not fits or end - begin != math.prod(size) * np.dtype(DTYPES[kind]).itemsize:
      raise UserError(f"tensor {name!r} does not fit its place: cut short? get the file again")
    spend(end - begin)
    arrays[name] = _array(raw, kind, begin, size)
  return _pick(arrays, lambda v: True)


def _read_file(path):
  length = path.stat().st_size
  with path.open("rb") as file:
    data = file.read(9)
    zipped = data.startswith(b"PK\3\4")
    data += b"" if zipped else file.read()
  left = 2**26 + 20 * length

  def spend(size):
    nonlocal left
    left -= size
    if left < 0:
      raise UserError("unfolds to far more than its size, which is refused; save it anew")

  if zipped:
    return _read_zip(path, spend)
  if data[8:9] == b"{":  # first, for the length before it may be any eight bytes
    return _read_safetensors(data, spend)
  if data.startswith(b"\x80"):
    return _read_old(data, spend)
  if data.startswith(b"version https://git-lfs"):
    raise UserError("is a pointer of git-lfs, not the weights themselves; run git lfs pull")
  if data.lstrip().startswith(b"<"):
    raise UserError("is a web page, not weights; check the address that it came from")
  raise UserError(
    f"starts with {data[:16]!r}, expected a file of torch.save or .safetensors; get it again"
  )


def _is_array(value):
  arrays = hasattr(value, "numpy") or hasattr(value, "__array__")
  return arrays and not isinstance(value, np.generic)


def _as_array(name, value):
  if hasattr(value, "detach"):  # a PyTorch tensor
    value = value.detach().cpu()
    value = value.float() if str(value.dtype) == "torch.bfloat16" else value
  array = np.array(value.numpy() if hasattr(value, "numpy") else value, order="C")
  if array.dtype.name == "bfloat16":  # as JAX has it
    array = array.astype("f4")
  if array.dtype.kind not in "biuf":
    raise UserError(f"{name!r} has the dtype {array.dtype}, expected real numbers; leave it out")
  return array


def read_tensors(source: str | os.PathLike | Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The tensors of a state dict by name, in the order of the file.

  The format is found by content: .safetensors, or the formats of `torch.save`: now (a zip file) or
  wrote before PyTorch 1.6. A checkpoint may hold its state dict under one of `NESTED`, at several
  levels too, or else under one of `AVERAGED`. Other objects than tensors are left out.

  Args:
    source: path of a file; or a mapping of names to arrays of NumPy, JAX or PyTorch.

  Returns:
    Name -> array that owns its memory, with the shape and type of the file, except that bfloat16
    is widened to float32.

  Raises:
    UserError: the file is none of these, is damaged, has no tensors, or its pickle asks for
      anything but plain tensors, in which case nothing of it has run.
  """
  given = isinstance(source, Mapping)
  where = "state dict" if given else source
  try:
    if not given:
      return _read_file(Path(source))
    return {name: _as_array(name, value) for name, value in _pick(source, _is_array).items()}
  except UserError as error:
    raise UserError(f"{where}: {str(error)[:600]}") from None
  except OSError as error:
    raise UserError(f"{where}: cannot be read ({error}); check the path and the file") from error
  except MemoryError:
    raise
  except Exception as error:  # whatever the parsers make of a damaged file
    what = f"{type(error).__name__}: {str(error)[:100]}"
    raise UserError(f"{where}: is damaged, cut short or unknown ({what}); get it again") from error
