"""Files of PyTorch and .safetensors: every format and type, and files that must be refused."""

import contextlib
import copyreg
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict, namedtuple

import numpy as np
import pytest

from segjax.errors import UserError
from segjax.weights.torch_files import read_tensors

# ------------------------------------------------------------------- files without PyTorch

Global = namedtuple("Global", "module name")
Call = namedtuple("Call", "function args")
Build = namedtuple("Build", "target state")
Stored = namedtuple("Stored", "id")

ORDERED = Global("collections", "OrderedDict")
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
EYE = struct.pack("<6f", *range(6))


def ops(x):
  """Opcodes that push x; bytes are opcodes already."""
  match x:
    case bytes():
      code = x
    case Global(module, name):
      code = f"c{module}\n{name}\n".encode()
    case Call(function, args):
      code = ops(function) + ops(args) + b"R"
    case Build(target, state):
      code = ops(target) + ops(state) + b"b"
    case Stored(saved):
      code = ops(saved) + b"Q"
    case dict():
      code = b"}(" + b"".join(ops(k) + ops(v) for k, v in x.items()) + b"u"
    case list():
      code = b"](" + b"".join(map(ops, x)) + b"e"
    case tuple():
      code = b"(" + b"".join(map(ops, x)) + b"t"
    case _:
      code = pickle.dumps(x, 2)[2:-1]
  return code


def pickled(x):
  return b"\x80\x02" + ops(x) + b"."


def tensor(
  kind="Float", key="0", count=6, *, size=(2, 3), stride=(3, 1), offset=0, view=(), more=()
):
  """A float32 tensor [2,3] that fills the storage "0", or a variation of it."""
  saved = ("storage", Global("torch", kind + "Storage"), key, "cpu", count, *view)
  return Call(REBUILD, (Stored(saved), offset, size, stride, False, Call(ORDERED, ()), *more))


def write_zip(path, top, storages, compression=zipfile.ZIP_STORED, **entries):
  """A file of torch.save: `top` pickled, and {key: bytes}."""
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickled(top))
    for name, data in entries.items():
      archive.writestr("archive/" + name, data)
    for key, data in storages.items():
      archive.writestr("archive/data/" + key, data)
  return path


def write_old(path, top, storages, itemsize=4):
  """A file of torch.save before 1.6."""
  system = dict(protocol_version=1001, little_endian=True)
  parts = [0x1950A86A20F9469CFC6C, 1001, system, top, list(storages)]
  data = [struct.pack("<q", len(v) // itemsize) + v for v in storages.values()]
  path.write_bytes(b"".join([*map(pickled, parts), *data]))
  return path


def write_safetensors(path, header, data, width=0):
  text = json.dumps(header).encode().ljust(width)
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)
  return path


WRITERS = {"zip": write_zip, "old": write_old}
both = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def refused(path, match):
  with pytest.raises(UserError, match=match) as caught:
    read_tensors(path)
  assert str(path) in str(caught.value)


def same(got, expected):
  assert list(got) == list(expected)
  for name, array in expected.items():
    mine, wanted = got[name], np.asarray(array)
    assert (mine.shape, mine.dtype) == (wanted.shape, wanted.dtype), name
    assert mine.tobytes() == wanted.tobytes(), name
    assert mine.flags.owndata and mine.flags.c_contiguous and mine.flags.writeable, name


# ------------------------------------------------------------------- formats and types

TYPES = {
  "Double": ("F64", np.array([0.1, -0.0, np.nan, 1e300])),
  "Float": ("F32", np.array([0.1, -0.0, np.nan, 1e30], "f4")),
  "Half": ("F16", np.array([0.1, -0.0, np.nan, 6e4], "f2")),
  "Long": ("I64", np.array([1, -1, 2**62, -(2**63)])),
  "Int": ("I32", np.array([1, -1, 2**30, -(2**31)], "i4")),
  "Short": ("I16", np.array([1, -1, 2**14, -(2**15)], "i2")),
  "Char": ("I8", np.array([1, -1, 127, -128], "i1")),
  "Byte": ("U8", np.array([1, 0, 127, 255], "u1")),
  "Bool": ("BOOL", np.array([True, False, False, True])),
  "BFloat16": ("BF16", np.array([1.0, -0.0, np.nan, 1.5e30], "f4")),
}


def stored(name, array):
  """(bytes of a file, tensors read from it)."""
  if name != "BFloat16":
    return array.tobytes(), array
  upper = array.view("u4") & 0xFFFF0000
  return (upper >> 16).astype("u2").tobytes(), upper.view("f4")


@pytest.mark.parametrize("name", TYPES)
def test_every_type_in_every_format(tmp_path, name):
  kind, array = TYPES[name]
  data, expected = stored(name, array)
  itemsize = len(data) // 4
  top = {
    "x": tensor(name, "a", 4, size=(2, 2), stride=(2, 1)),
    "one": tensor(name, "a", 4, size=(), stride=(), offset=1),
  }
  expected = {"x": expected.reshape(2, 2), "one": expected[1]}
  same(read_tensors(write_zip(tmp_path / "new.pth", top, {"a": data})), expected)
  same(read_tensors(str(write_old(tmp_path / "old.pth", top, {"a": data}, itemsize))), expected)
  swapped = data if name == "Bool" else np.frombuffer(data, f"u{itemsize}").byteswap().tobytes()
  big = write_zip(tmp_path / "big.pth", top, {"a": swapped}, byteorder=b"big")
  same(read_tensors(big), expected)
  header = {
    "__metadata__": {"format": "pt"},
    "x": dict(dtype=kind, shape=[2, 2], data_offsets=[0, 4 * itemsize]),
    "one": dict(dtype=kind, shape=[], data_offsets=[4 * itemsize, 5 * itemsize]),
  }
  data += data[itemsize : 2 * itemsize]
  same(read_tensors(write_safetensors(tmp_path / "any.bin", header, data)), expected)


@both
def test_views_of_one_storage(tmp_path, write):
  top = {
    "transposed": tensor(size=(3, 2), stride=(1, 3)),
    "sliced": tensor(size=(2, 2), stride=(3, 1), offset=1),
    "expanded": tensor(size=(2, 3), stride=(0, 2), offset=1),
    "last": tensor(size=(), stride=(), offset=5),
    "one": tensor(size=(1, 2), stride=(1000, 1), offset=4),
    "empty": tensor(size=(0, 3), stride=(3, 1), offset=6),
    "hollow": tensor(key="1", count=0, size=(3, 0), stride=(1, 1)),
  }
  x = np.arange(6, dtype="f4").reshape(2, 3)
  expected = dict(transposed=x.T, sliced=x[:, 1:], expanded=np.array([[1, 3, 5]] * 2, "f4"))
  expected |= dict(last=x[1, 2], one=x[1:, 1:], empty=x[:0])
  expected["hollow"] = np.zeros((3, 0), "f4")
  same(read_tensors(write(tmp_path / "a.pth", top, {"0": EYE, "1": b""})), expected)


def test_storages_that_are_views_in_the_old_format(tmp_path):
  top = {"x": tensor(view=[("v", 2, 3)], size=(2,), stride=(1,), offset=1)}
  top["y"] = tensor(view=[None], size=(1,), stride=(1,))
  x = np.arange(6, dtype="f4")
  same(read_tensors(write_old(tmp_path / "a", top, {"0": EYE})), {"x": x[3:5], "y": x[:1]})
  top["x"] = tensor(view=[("v", 2, 3)], size=(3,), stride=(1,), offset=1)
  refused(write_old(tmp_path / "b", top, {"0": EYE}), "out of its storage")
  top["x"] = tensor(view=[("v", 4, 3)], size=(1,), stride=(1,))
  refused(write_old(tmp_path / "c", top, {"0": EYE}), "impossible")


def test_files_of_python_2_and_of_the_first_versions(tmp_path):
  def text(x):
    return b"U" + bytes([len(x)]) + x.encode()

  saved = (text("storage"), Global("torch", "FloatStorage"), text("0"), text("cpu"), 6, None)
  rebuild = Global("torch._utils", "_rebuild_tensor")
  made = Call(rebuild, (Stored(saved), 0, (6,), (1,)))
  top = Call(ORDERED, ([[text("b"), made], [text("a"), made]],))
  x = np.arange(6, dtype="f4")
  same(read_tensors(write_old(tmp_path / "a.pth", top, {"0": EYE})), {"b": x, "a": x})


@both
def test_what_surrounds_tensors(tmp_path, write):
  filled = ops(Call(ORDERED, ())) + b"(" + ops("a") + ops(tensor()) + b"u"
  whole = Build(filled, {"_metadata": {"": {"version": 1}}, "items": 3})
  parameter = Call(
    Global("torch._utils", "_rebuild_parameter"), (tensor(), True, Call(ORDERED, ()))
  )
  x = np.arange(6, dtype="f4").reshape(2, 3)
  same(read_tensors(write(tmp_path / "a", whole, {"0": EYE})), {"a": x})
  plain = {"p": parameter, "i": 3, "f": 0.5, "s": "text", "n": None, "l": [1], "d": {}, 4: 5}
  plain["size"] = Call(Global("torch", "Size"), ((2, 3),))
  plain["type"] = Global("torch", "float32")
  plain["set"] = [Call(Global(module, "set"), ([1],)) for module in ("builtins", "__builtin__")]
  same(read_tensors(write(tmp_path / "b", plain, {"0": EYE})), {"p": x})


@both
def test_checkpoints(tmp_path, write):
  x = np.arange(6, dtype="f4").reshape(2, 3)
  for key in ("state_dict", "model", "model_state_dict", "model_state"):
    top = {"epoch": 3, "best": tensor(), key: {"module.b": tensor(), "module.a": tensor(), "n": 1}}
    named = {"module.b": x, "module.a": x}
    same(read_tensors(write(tmp_path / key, top, {"0": EYE})), named)
  top = {"model": "unet", "state_dict": {"module.b": tensor(), "a": tensor()}}
  same(read_tensors(write(tmp_path / "a", top, {"0": EYE})), {"module.b": x, "a": x})
  top = {"model": {"a": tensor()}, "state_dict": {"a": tensor()}}
  refused(write(tmp_path / "b", top, {"0": EYE}), "state_dict and model")
  refused(write(tmp_path / "c", {"weights\n": {"a": tensor()}, 1: 2}, {"0": EYE}), "weights, 1")
  for name, top in {"d": {3: tensor()}, "e": tensor(), "f": [tensor()]}.items():
    refused(write(tmp_path / name, top, {"0": EYE}), "no tensors by name")
  for name, top in {"g": {}, "h": 1, "i": None}.items():
    refused(write(tmp_path / name, top, {}), "no tensors by name")


def test_zip_may_be_compressed_but_not_to_a_bomb(tmp_path):
  ones, size = np.ones(2**12, "f4"), dict(size=(2**12,), stride=(1,))
  top = {"a": tensor(count=2**12, **size)}
  path = write_zip(tmp_path / "a", top, {"0": ones.tobytes()}, zipfile.ZIP_DEFLATED)
  assert path.stat().st_size < 2**11
  same(read_tensors(path), {"a": ones})
  path = write_zip(tmp_path / "b", top, {"0": ones.tobytes()}, zipfile.ZIP_LZMA)
  refused(path, "compression")
  zeros = bytes(70 * 2**20)
  top = {"a": tensor(count=len(zeros) // 4)}
  refused(write_zip(tmp_path / "c", top, {"0": zeros}, zipfile.ZIP_DEFLATED), "unfolds")


def test_zip_entry_that_lies_about_its_size(tmp_path):
  path = write_zip(tmp_path / "a", {"a": tensor()}, {"0": bytes(2**24)}, zipfile.ZIP_DEFLATED)
  path.write_bytes(path.read_bytes().replace(struct.pack("<I", 2**24), struct.pack("<I", 24)))
  tracemalloc.start()
  refused(path, "damaged")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**20


# ------------------------------------------------------------------- safetensors


@pytest.mark.parametrize("width", [0x180, 0x4B50])
def test_safetensors_whose_length_looks_like_another_format(tmp_path, width):
  header = {"module.b": dict(dtype="U8", shape=[0, 2], data_offsets=[0, 0])}
  header |= {"module.a": dict(dtype="U8", shape=[3], data_offsets=[0, 3])}
  path = write_safetensors(tmp_path / "a.pth", header, b"abc", width)
  assert path.read_bytes()[:2] in (b"PK", b"\x80\1")
  expected = {"module.b": np.zeros((0, 2), "u1"), "module.a": np.frombuffer(b"abc", "u1")}
  same(read_tensors(path), expected)


@pytest.mark.parametrize(
  ("entry", "match"),
  {
    "type": (dict(dtype="F8_E4M3"), "F8_E4M3.*expected one of F64"),
    "beyond": (dict(data_offsets=[4, 12]), "does not fit"),
    "backward": (dict(data_offsets=[8, 4]), "does not fit"),
    "negative": (dict(data_offsets=[-8, 0]), "does not fit"),
    "too few": (dict(data_offsets=[0, 4]), "does not fit"),
    "negative shape": (dict(shape=[-1, -2]), "does not fit"),
    "huge": (dict(shape=[2**40, 2**40]), "does not fit"),
    "fraction": (dict(shape=[2.0]), "does not fit"),
    "no list": (dict(shape=2), "does not fit"),
    "offsets": (dict(data_offsets=3), "damaged"),
  }.values(),
)
def test_bad_safetensors(tmp_path, entry, match):
  header = {"x": dict(dtype="F32", shape=[2], data_offsets=[0, 8]) | entry}
  refused(write_safetensors(tmp_path / "a.safetensors", header, bytes(8)), match)


# ------------------------------------------------------------------- damage


@both
@pytest.mark.parametrize(
  "bad",
  [
    dict(size=(3, 3)),
    dict(stride=(4, 1)),
    dict(offset=1),
    dict(offset=-1, size=(1,), stride=(1,)),
    dict(size=(2,), stride=(-1,), offset=1),
    dict(size=(-1,), stride=(1,)),
    dict(size=(2, 3), stride=(1,)),
    dict(size=(2**62, 2**62), stride=(4, 4)),
    dict(size=(2,), stride=(2**63,)),
    dict(size=(3, 2**63 - 1), stride=(2**62, 2**62)),
    dict(size=(True,), stride=(1,)),
    dict(size=(1.0,), stride=(1,)),
    dict(size=6, stride=1),
    dict(size=(1,) * 65, stride=(1,) * 65),
    dict(offset=None),
  ],
)
def test_reaching_out_of_a_storage(tmp_path, write, bad):
  refused(write(tmp_path / "a.pth", {"w": tensor(**bad)}, {"0": EYE}), "'w' reaches out")


@both
def test_storages_that_are_wrong(tmp_path, write):
  far = tensor(count=2**40, size=(2**40,), stride=(1,))
  refused(write(tmp_path / "a", {"w": far}, {"0": EYE}), "reaches out|has 6 elements")
  wide = tensor(size=(2**40,), stride=(0,))
  refused(write(tmp_path / "b", {"w": wide}, {"0": EYE}), "unfolds")
  refused(write(tmp_path / "c", {"w": tensor(key="1")}, {"0": EYE}), "damaged")
  for name, bad in {"d": dict(count=-1), "e": dict(count="6"), "f": dict(view=(3, 4))}.items():
    refused(write(tmp_path / name, {"w": tensor(**bad)}, {"0": EYE}), "impossible|damaged")
  loose = Call(REBUILD, ("no storage", 0, (1,), (1,)))
  refused(write(tmp_path / "g", {"w": loose}, {}), "reaches out")
  for name, saved in {"h": "storage", "i": ("other", "F32", "0", "cpu", 6), "j": 3}.items():
    refused(write(tmp_path / name, {"w": Stored(saved)}, {"0": EYE}), "impossible|damaged")
  negated = tensor(more=({"neg": True},))
  refused(write(tmp_path / "k", {"w": negated}, {"0": EYE}), "resolve_neg")


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
def test_cut_short_anywhere(tmp_path, form):
  path = tmp_path / "a.pth"
  if form == "safetensors":
    write_safetensors(path, {"x": dict(dtype="U8", shape=[24], data_offsets=[0, 24])}, EYE)
  else:
    WRITERS[form](path, {"x": tensor()}, {"0": EYE})
  data = path.read_bytes()
  for length in range(0, len(data), 5):
    path.write_bytes(data[:length])
    refused(path, "again")


def test_storage_of_the_old_format_with_another_length(tmp_path):
  shorter = tensor(count=5, size=(5,), stride=(1,))
  refused(write_old(tmp_path / "a", {"w": shorter}, {"0": EYE}), "has 6 elements, not 5")


def test_damaged_bytes_of_a_zip(tmp_path):
  path = write_zip(tmp_path / "a.pth", {"x": tensor()}, {"0": EYE})
  path.write_bytes(path.read_bytes().replace(EYE, EYE[::-1]))
  refused(path, "CRC")
  refused(write_zip(path, {"x": tensor()}, {"0": EYE}, byteorder=b"middle"), "middle")


def test_what_is_no_such_file(tmp_path):
  path = tmp_path / "a.pth"
  refused(path, "No such file.*check the path")
  refused(tmp_path, "directory.*check the path")
  pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
  for data, match in {
    b"": "starts with b''",
    pointer: "git lfs pull",
    b"\n<!DOCTYPE html><html>": "web page",
    b"weights": "weights",
    pickle.dumps([1, 2]): "not torch.save's",
    pickle.dumps(np.ones(2)): "numpy.*refused",
  }.items():
    path.write_bytes(data)
    refused(path, match)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("photo.png", b"")
  refused(path, "0 data.pkl")


# ------------------------------------------------------------------- hostile pickles


def payloads(marker):
  """Pickles that make the folder `marker`."""
  os_module = Call(Global("importlib", "import_module"), ("os",))
  nested = Call(Global("builtins", "getattr"), (os_module, "mkdir"))
  return {
    "os.system": Call(Global("os", "system"), (f"mkdir {marker}",)),
    "exec": Call(Global("builtins", "exec"), (f"import os; os.mkdir({str(marker)!r})",)),
    "old exec": Call(Global("__builtin__", "exec"), (f"import os; os.mkdir({str(marker)!r})",)),
    "getattr": Call(nested, (str(marker),)),
    "by the stack": Call(ops("os") + ops("mkdir") + b"\x93", (str(marker),)),
    "inst": b"(" + ops(str(marker)) + b"ios\nmkdir\n",
    "obj": b"(" + ops(Global("os", "mkdir")) + ops(str(marker)) + b"o",
    "new": ops(Global("os", "mkdir")) + ops((str(marker),)) + b"\x81",
    "ext": Call(b"\x82\xf0", (str(marker),)),
  }


@pytest.fixture
def extension():
  """Code 240 stands for os.mkdir, and the pickle module has it in its cache already."""
  copyreg.add_extension(os.mkdir.__module__, "mkdir", 240)
  assert pickle.loads(b"\x80\x02\x82\xf0.") is os.mkdir
  yield
  copyreg.remove_extension(os.mkdir.__module__, "mkdir", 240)
  copyreg.clear_extension_cache()


@both
@pytest.mark.parametrize("name", payloads(""))
def test_nothing_of_a_pickle_runs(tmp_path, write, name, extension):
  marker = tmp_path / "marker"
  bad = payloads(marker)[name]
  for top in (bad, {"x": tensor(), "bad": bad}, {"x": tensor(offset=bad)}):
    refused(write(tmp_path / "a.pth", top, {"0": EYE}), "refused")
    assert not marker.exists()
  with contextlib.suppress(pickle.UnpicklingError):
    pickle.loads(pickled(bad))
  assert marker.exists() or name == "new"  # so the others are what they should be


def test_every_pickle_of_the_old_format_is_restricted(tmp_path):
  marker, path = tmp_path / "marker", tmp_path / "a.pth"
  bad = payloads(marker)["os.system"]
  for place in range(5):
    parts = [0x1950A86A20F9469CFC6C, 1001, {}, {"x": tensor()}, ["0"]]
    parts[place] = bad
    path.write_bytes(b"".join(map(pickled, parts)) + struct.pack("<q", 6) + EYE)
    refused(path, "os.system.*state_dict")
    assert not marker.exists()


@both
def test_whole_module_is_refused_by_name(tmp_path, write):
  module = ops(Global("torch.nn.modules.linear", "Linear")) + b")\x81"
  module = Build(module, {"weight": tensor()})
  refused(write(tmp_path / "a.pth", module, {"0": EYE}), r"torch\.nn.*Linear.*model\.state_dict")


@both
@pytest.mark.parametrize("target", [REBUILD, ORDERED, Global("torch", "Size"), tensor(), "F32", {}])
@pytest.mark.parametrize(
  "state", [{"x": 1}, (None, {"function": 1, "__defaults__": (1,), "key": 2})]
)
def test_build_alters_nothing(tmp_path, write, target, state):
  path = write(tmp_path / "a.pth", {"x": tensor(), "y": Build(target, state)}, {"0": EYE})
  refused(path, "alters|damaged")
  path = write(tmp_path / "b.pth", {"x": tensor()}, {"0": EYE})
  assert read_tensors(path)["x"].shape == (2, 3)


@both
def test_pickles_that_would_take_all_memory(tmp_path, write):
  refused(write(tmp_path / "a", {"x": b"Nr" + struct.pack("<I", 2**24)}, {}), "larger")
  nested = b")" + b"\x85" * 60_000
  refused(write(tmp_path / "b", b"}" + nested + b"Ns", {}), "larger")
  pairs = ops(([[i, i] for i in range(1000)],)) + b"r\x01\0\0\0"
  again = (ops(ORDERED) + b"j\x01\0\0\0" + b"R") * 1000
  refused(write(tmp_path / "c", pairs + b"](" + again + b"e", {}), "unfolds")
  refused(write(tmp_path / "d", b"}B\xff\xff\xff\x7f", {}), "damaged")


# ------------------------------------------------------------------- mappings


def test_mapping_of_arrays():
  class Lazy:
    def numpy(self):
      return np.ones(2, "f4")

  x = np.arange(6, dtype="f8").reshape(2, 3)
  same(
    read_tensors({"module.a": x.T, "module.b": Lazy(), "step": 3}),
    {"module.a": x.T, "module.b": np.ones(2, "f4")},
  )
  assert not np.shares_memory(read_tensors({"a": x})["a"], x)
  same(read_tensors(OrderedDict(state_dict={"a": x, "n": np.float64(2)})), {"a": x})
  with pytest.raises(UserError, match="no tensors"):
    read_tensors({"a": 1})
  with pytest.raises(UserError, match="'a' has the dtype <U1"):
    read_tensors({"a": np.array("x")})


def test_mapping_of_jax_arrays():
  import jax.numpy as jnp

  x = jnp.asarray([1.5, -0.25], jnp.bfloat16)
  same(
    read_tensors({"a": x, "b": x.astype("f4")}), dict.fromkeys("ab", np.array([1.5, -0.25], "f4"))
  )


# ------------------------------------------------------------------- PyTorch itself

formats = pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])


def tensors(torch):
  torch.manual_seed(0)
  x = torch.randn(4, 6)
  types = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
  types += [torch.int8, torch.uint8, torch.bool]
  return OrderedDict(
    {str(t): (x * 9).to(t) for t in types},
    x=x,
    transposed=x.T,
    sliced=x[1:, ::2],
    row=x[2],
    expanded=x[:1].expand(3, 6),
    last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    scalar=torch.tensor(2.5),
    count=torch.tensor(7),
    empty=torch.zeros(0, 3),
    hollow=torch.zeros(3, 0, 2),
    parameter=torch.nn.Parameter(torch.randn(3)),
  )


def as_numpy(named):
  import torch

  return {
    k: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for k, v in named.items()
  }


@pytest.mark.torch
@formats
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_torch_files_of_every_kind_of_tensor(tmp_path, new, protocol):
  torch = pytest.importorskip("torch")
  named, path = tensors(torch), tmp_path / "a.pth"
  torch.save(named, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
  same(read_tensors(path), as_numpy(named))


@pytest.mark.torch
def test_torch_mapping():
  torch = pytest.importorskip("torch")
  same(read_tensors(tensors(torch)), as_numpy(tensors(torch)))


def small_net(torch):
  return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())


@pytest.mark.torch
@formats
def test_torch_state_dict_and_checkpoint(tmp_path, new):
  torch = pytest.importorskip("torch")
  net, path = small_net(torch), tmp_path / "a.pth"
  assert net.state_dict()._metadata
  torch.save(net.state_dict(), path, _use_new_zipfile_serialization=new)
  expected = as_numpy(net.state_dict())
  assert len(expected) == 7
  same(read_tensors(path), expected)
  state = dict(state={0: dict(step=torch.tensor(3.0), exp_avg=torch.ones(2))}, param_groups=[{}])
  checkpoint = dict(epoch=3, arch="net", model=torch.nn.DataParallel(net).state_dict())
  checkpoint |= dict(optimizer=state, best=torch.tensor(0.5), size=torch.Size([3]))
  checkpoint |= dict(
    raw=torch.ones(2, dtype=torch.int8).untyped_storage(), type=torch.int8, set={1}
  )
  torch.save(checkpoint, path, _use_new_zipfile_serialization=new)
  same(read_tensors(path), as_numpy(torch.nn.DataParallel(net).state_dict()))


@pytest.mark.torch
@formats
def test_torch_module_is_refused(tmp_path, new):
  torch = pytest.importorskip("torch")
  torch.save(small_net(torch), tmp_path / "a.pth", _use_new_zipfile_serialization=new)
  refused(tmp_path / "a.pth", r"Sequential.*refused.*model\.state_dict")


@pytest.mark.torch
def test_torch_safetensors(tmp_path):
  torch = pytest.importorskip("torch")
  library = pytest.importorskip("safetensors.torch")
  named = {k: v.detach().clone().contiguous() for k, v in tensors(torch).items()}
  library.save_file(named, tmp_path / "a.safetensors", metadata={"format": "pt"})
  got, expected = read_tensors(tmp_path / "a.safetensors"), as_numpy(named)
  same({k: got[k] for k in expected}, expected)
