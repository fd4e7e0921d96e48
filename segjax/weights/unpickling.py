"""The pickle in a PyTorch checkpoint, loaded without PyTorch and without running anything of it.

A pickle names functions to call. Here it may name only those of a state dict of plain tensors,
and each name stands for an inert object of this module. Opcodes are read before anything is loaded.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections import namedtuple
from collections.abc import Mapping

from segjax.errors import UserError

# As stored; `torch_files` then turns BF16 into float32 and BOOL into bool.
DTYPES = dict(F64="f8", F32="f4", F16="f2", BF16="u2", I64="i8", I32="i4", I16="i2", I8="i1")
DTYPES |= dict(U8="u1", BOOL="u1")

_STORAGES = dict(Double="F64", Float="F32", Half="F16", BFloat16="BF16", Long="I64", Int="I32")
_STORAGES |= dict(Short="I16", Char="I8", Byte="U8", Bool="BOOL")
_STORAGES = {f"torch.{word}Storage": kind for word, kind in _STORAGES.items()}
_STORAGES["torch.storage.UntypedStorage"] = "U8"

# Without the text of protocol 0 and, above all, EXT*, whose objects find_class does not see.
_OPCODES = re.compile(
  "PROTO|FRAME|STOP|MARK|(STACK_)?GLOBAL|REDUCE|NEWOBJ|BUILD|BINPERSID|NONE|NEW(TRUE|FALSE)|"
  "BININT[12]?|LONG[14]|BINFLOAT|(SHORT_)?BIN(STRING|BYTES|UNICODE)|(EMPTY_)?(TUPLE|LIST|DICT)|"
  "TUPLE[123]|APPENDS?|SETITEMS?|MEMOIZE|(LONG_)?BIN(PUT|GET)"
)

# Globals of tensors that hold no plain real numbers.
_NOT_REAL = re.compile(
  r"torch\.(_utils\._rebuild_qtensor|(Q|Complex)\w+Storage|(q|complex|per_)\w+)"
)

_PLAIN = (str, bytes, float, bool, type(None))
_LONGEST_KEY = 16  # elements of a tuple

Storage = namedtuple(
  "Storage", "key kind start length"
)  # a part of the storage under key in the file
Tensor = namedtuple("Tensor", "storage offset size stride")  # unchecked, as the pickle says it


class _Mapping(dict):
  """Stands for an OrderedDict; the opcode BUILD, which brings its attributes, does nothing."""

  __slots__ = ()

  def __setstate__(self, state):
    pass


class _Admitted:
  """A function that a pickle may call but not alter: BUILD finds only `__setstate__`."""

  __slots__ = ("function",)

  def __init__(self, function):
    self.function = function

  def __call__(self, *args):
    return self.function(*args)

  def __setstate__(self, state):
    raise UserError("its pickle alters a function, which is refused; do not trust the file")


def _rebuild_tensor(storage, offset, size, stride, *rest):
  if rest[2:] and rest[2]:
    raise UserError("has a tensor with a pending sign or conjugate; resolve_neg() it and save anew")
  return Tensor(storage, offset, size, stride)


def _first(value, *_):
  return value


def check_keys(keys):
  """Refuses keys of a dict that may take forever to hash, as tuples of tuples of tuples do."""
  for key in keys:
    parts = key if type(key) is tuple and len(key) <= _LONGEST_KEY else (key,)
    for part in parts:
      if type(part) not in _PLAIN and not (type(part) is int and abs(part) < 2**63):
        raise UserError(
          f"its pickle has a {type(part).__name__} as the key of a dict, which is refused; "
          "save model.state_dict() alone"
        )


class _Unpickler(pickle._Unpickler):
  """Admits the globals of a plain state dict; `storages` gathers key -> (kind, elements).

  The unpickler in Python, not the one in C, so that keys are seen before they are hashed.
  """

  dispatch = dict(pickle._Unpickler.dispatch)

  def __init__(self, data, spend):
    super().__init__(io.BytesIO(data), encoding="utf-8")
    self.spend = spend
    self.storages = {}

  def _ordered_dict(self, items=()):
    self.spend(100 * len(items))
    check_keys(items if isinstance(items, Mapping) else [key for key, _ in items])
    return _Mapping(items)

  def load_setitem(self):
    """See pickle."""
    check_keys(self.stack[-2:-1])
    super().load_setitem()

  def load_setitems(self):
    """See pickle."""
    check_keys(self.stack[::2])
    super().load_setitems()

  def load_dict(self):
    """See pickle."""
    check_keys(self.stack[::2])
    super().load_dict()

  dispatch[pickle.SETITEM[0]] = load_setitem
  dispatch[pickle.SETITEMS[0]] = load_setitems
  dispatch[pickle.DICT[0]] = load_dict

  def find_class(self, module, name):
    full = f"{module}.{name}"
    if full in _STORAGES:
      return _STORAGES[full]
    if re.fullmatch(r"torch\.(bool|u?int(8|16|32|64)|b?float(16|32|64))", full):
      return full
    admitted = {
      "collections.OrderedDict": self._ordered_dict,
      "torch._utils._rebuild_tensor": _rebuild_tensor,
      "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
      "torch._utils._rebuild_parameter": _first,
      "torch.Size": _first,
      "builtins.set": _first,
      "__builtin__.set": _first,
    }
    if full in admitted:
      return _Admitted(admitted[full])
    if _NOT_REAL.fullmatch(full):
      raise UserError(
        f"has quantised or complex tensors (its pickle asks for {full!r}), expected plain real "
        "numbers; save the state dict of the net before it was quantised"
      )
    raise UserError(
      f"its pickle asks for {full[:100]!r}, which is refused, for it could run code: only plain "
      "tensors are read; in PyTorch, save anew by torch.save(model.state_dict(), path)"
    )

  def persistent_load(self, saved):
    what, kind, key, _, total, *view = saved
    start, length = view[0][1:] if view and view[0] else (0, total)  # views: old format only
    fits = are_sizes((total, start, length)) and start + length <= total
    fits = fits and isinstance(kind, str) and kind in DTYPES
    if not (fits and what == "storage" and isinstance(key, str)):
      raise UserError("describes a storage in an impossible way; get the file again")
    self.storages[key] = kind, total
    return Storage(key, kind, start, length)


def are_sizes(values):
  """Whether values are a short tuple or list of integers that sizes may be."""
  plain = isinstance(values, tuple | list) and len(values) <= 64
  return plain and all(type(v) is int and 0 <= v < 2**63 for v in values)


def unpickle(data, start, spend):
  """Loads the pickle that begins at data[start]; returns (object, its storages, its end)."""
  file, tuples = io.BytesIO(data), 0
  file.seek(start)
  for count, (opcode, arg, _) in enumerate(pickletools.genops(file)):
    if not _OPCODES.fullmatch(opcode.name):
      raise UserError(f"its pickle has the opcode {opcode.name}, which is refused; save it anew")
    tuples += "TUPLE" in opcode.name
    # A tensor takes about five tuples, and no index of the memo is beyond the bytes read.
    if tuples > 50_000 or (opcode.name == "LONG_BINPUT" and arg > count):
      raise UserError("its pickle is larger than a state dict's; save model.state_dict() alone")
  unpickler = _Unpickler(data[start : file.tell()], spend)
  return unpickler.load(), unpickler.storages, file.tell()
