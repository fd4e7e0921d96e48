"""Weights as people have them: wrapped, nested, averaged, quantised, hostile."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_torch_files import EYE, ORDERED, Call, Global, Stored, both, refused, tensor, write_zip

from segjax import models, weights
from segjax.errors import UserError
from segjax.weights.torch_files import read_tensors


@functools.cache
def variables(backbone="resnet18", name="classifier", **fields):
  """Zeros in place of the variables of a net."""
  net = models.make(name, num_classes=10, **(dict(backbone=backbone) if backbone else {}), **fields)
  shapes = jax.eval_shape(
    lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
  )
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def entries(seed=0):
  """Some entries of a ResNet-18 under torchvision's names."""
  rng = np.random.default_rng(seed)
  return {
    "conv1.weight": rng.normal(size=(64, 3, 7, 7)).astype("f4"),
    "bn1.weight": rng.normal(size=64).astype("f4"),
    "bn1.running_var": rng.random(64).astype("f4"),
    "bn1.num_batches_tracked": np.array(7),
    "layer1.0.conv1.weight": rng.normal(size=(64, 64, 3, 3)).astype("f4"),
  }


def prefixed(prefix, named=None):
  return {prefix + k: v for k, v in (named or entries()).items()}


def check_loaded(loaded, named):
  """The four arrays of `entries` are where they belong, in our layout."""
  backbone, stats = loaded["params"]["backbone"], loaded["batch_stats"]["backbone"]
  modules = {"conv1": backbone["conv1"], "layer1.0.conv1": backbone["layer1_0"]["conv1"]}
  for name, module in modules.items():
    kernel = named[f"{name}.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(module["kernel"], kernel)
  np.testing.assert_array_equal(backbone["bn1"]["scale"], named["bn1.weight"])
  np.testing.assert_array_equal(stats["bn1"]["var"], named["bn1.running_var"])


# ------------------------------------------------------------------- prefixes


@pytest.mark.parametrize("prefix", [
  "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.",
  "_fsdp_wrapped_module._checkpoint_wrapped_module.", "a.b.c.d.",
])  # fmt: skip
def test_a_prefix_of_all_names_is_taken_off_and_reported(prefix):
  loaded, report = weights.load_torch(prefixed(prefix), variables())
  check_loaded(loaded, entries())
  assert len(report.loaded) == 4 and not report.unexpected
  assert report.prefix == prefix
  assert f"taken off the names of the file: {prefix!r}" in str(report)
  assert (prefix + "conv1.weight", "backbone/conv1/kernel") in report.loaded


def test_names_that_fit_keep_their_prefix():
  for prefix in ("", "backbone.", "encoder."):
    loaded, report = weights.load_torch(prefixed(prefix), variables())
    check_loaded(loaded, entries())
    assert report.prefix == "" and "taken off" not in str(report)


def test_wrappers_between_modules_are_taken_off():
  named = {k.replace("layer1.0.", "layer1._orig_mod.0."): v for k, v in entries().items()}
  loaded, report = weights.load_torch(named, variables())
  check_loaded(loaded, entries())
  assert report.prefix == "_orig_mod."


def test_what_stands_beside_a_prefix_is_unexpected():
  averaged = prefixed("module.") | {"n_averaged": np.zeros(1)}
  lightning = prefixed("model.") | {"criterion.pos_weight": np.ones(3, "f4")}
  detector = prefixed("backbone.body.") | {"rpn.head.conv.weight": np.ones((3, 3, 3, 3), "f4")}
  for named, other in (
    (averaged, "n_averaged"),
    (lightning, "criterion.pos_weight"),
    (detector, "rpn.head.conv.weight"),
  ):
    loaded, report = weights.load_torch(named, variables())
    check_loaded(loaded, entries())
    assert report.unexpected == (other,)


def test_two_nets_in_one_file_are_an_error():
  both_nets = prefixed("student.") | prefixed("teacher.", entries(1))
  with pytest.raises(UserError, match=r"without 'student\.' and without 'teacher\.'"):
    weights.load_torch(both_nets, variables())
  with pytest.raises(UserError, match=r"both .*conv1.weight and .*conv1.weight would become"):
    weights.load_torch(entries() | prefixed("backbone.", entries(1)), variables())


def test_only_entries_of_the_part_decide():
  named = prefixed("model.") | {"fc.weight": np.zeros((10, 512), "f4")}
  loaded, report = weights.load_torch(named, variables(), only="backbone")
  check_loaded(loaded, entries())
  assert report.unexpected == ("fc.weight",)


# ------------------------------------------------------------------- nested and averaged


@pytest.mark.parametrize("nested", [
  lambda d: dict(model=dict(state_dict=d)),
  lambda d: dict(state_dict=dict(model=dict(net=d)), epoch=3),
  lambda d: dict(net=d),
  lambda d: dict(network=d, optimizer=dict(state={0: dict(exp_avg=np.ones(3))})),
  lambda d: dict(module=d, best=np.ones(())),
  lambda d: dict(ema=d, updates=3),
  lambda d: dict(model=d, model_ema=prefixed("module.", entries(1))),
  lambda d: dict(state_dict={"loss.weight": np.ones(3)} | prefixed("model.", d)),
])  # fmt: skip
def test_a_state_dict_is_found_where_checkpoints_keep_it(nested):
  loaded, _ = weights.load_torch(nested(entries()), variables())
  check_loaded(loaded, entries())


def test_two_state_dicts_are_an_error():
  with pytest.raises(UserError, match="has tensors under model and net, expected one"):
    weights.load_torch(dict(model=entries(), net=entries(1)), variables())
  with pytest.raises(UserError, match="has tensors under model_ema and ema, expected one"):
    weights.load_torch(dict(ema=entries(), model_ema=entries(1)), variables())


def test_a_mapping_that_holds_itself():
  top = dict(epoch=1)
  top["model"] = top["net"] = top
  with pytest.raises(UserError, match="no tensors by name"):
    read_tensors(top)
  read_tensors(top | entries())


# ------------------------------------------------------------------- types and layouts


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "i8", "?"])
def test_whole_numbers_are_no_weights(dtype):
  named = entries() | {"conv1.weight": np.ones((64, 3, 7, 7), dtype)}
  message = rf"conv1\.weight is {np.dtype(dtype).name}, expected floating point; of a quantised"
  with pytest.raises(UserError, match=message):
    weights.load_torch(named, variables())
  named = entries() | {"index": np.ones(3, dtype)}  # which goes nowhere
  assert weights.load_torch(named, variables())[1].unexpected == ("index",)


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_other_floats_become_ours(dtype):
  named = {k: v.astype(dtype) if v.dtype == "f4" else v for k, v in entries().items()}
  loaded, _ = weights.load_torch(named, variables())
  kernel = loaded["params"]["backbone"]["conv1"]["kernel"]
  assert kernel.dtype == np.float32
  np.testing.assert_allclose(kernel, entries()["conv1.weight"].transpose(2, 3, 1, 0), rtol=1e-3)


def test_complex_and_quantised_tensors_are_refused_by_name(tmp_path):
  with pytest.raises(UserError, match="dtype complex64, expected real numbers"):
    weights.load_torch({"conv1.weight": np.ones((64, 3, 7, 7), "c8")}, variables())
  for kind in ("ComplexFloat", "QInt8"):
    top = {"conv1.weight": tensor(kind)}
    refused(write_zip(tmp_path / kind, top, {"0": EYE}), r"quantised or complex tensors .*Storage")
  storage = Stored(("storage", Global("torch", "CharStorage"), "0", "cpu", 24))
  quantised = Call(Global("torch._utils", "_rebuild_qtensor"), (storage, 0, (6,), (1,)))
  refused(write_zip(tmp_path / "q", {"w": quantised}, {"0": EYE}), "quantised or complex tensors")


def test_a_transposed_convolution_is_not_taken_for_a_convolution():
  mine = variables(None, "unet", widths=(4, 8), up="transposed2", up_keeps=True)
  assert mine["params"]["up1"]["kernel"].shape == (2, 2, 8, 8)
  down = {"down1.conv1.weight": np.ones((4, 3, 3, 3), "f4")}
  first = next(iter(mine["params"]["down1"]))
  named = {f"down1.{first}.weight": down.popitem()[1]}
  assert len(weights.load_torch(named, mine)[1].loaded) == 1
  named["up1.weight"] = np.ones((8, 8, 2, 2), "f4")
  with pytest.raises(UserError, match=r"up1\.weight .* may be of a transposed convolution"):
    weights.load_torch(named, mine)


# ------------------------------------------------------------------- hostile files


def doubled(times=45):
  """A tuple that holds another one twice, that holds another one twice ...: 2^45 steps to hash."""
  return b")q\x00" + b"h\x00\x86q\x00" * times


@both
@pytest.mark.parametrize("place", ["setitem", "setitems", "ordered", "kind", "old keys"])
def test_keys_that_take_forever_to_hash_are_refused(tmp_path, write, place):
  key = doubled()
  top = {
    "setitem": b"}" + key + b"Ns",
    "setitems": b"}(" + key + b"Nu",
    "ordered": Call(ORDERED, ([[key, 1]],)),
    "kind": {"w": Call(Global("torch._utils", "_rebuild_tensor_v2"),
                       (Stored(("storage", key, "0", "cpu", 6)), 0, (6,), (1,)))},
    "old keys": {"w": tensor()},
  }[place]  # fmt: skip
  storages = {"0": EYE}
  path = write(tmp_path / "a.pth", top, storages)
  if place == "old keys":
    if write is write_zip:
      pytest.skip("of the old format alone")
    good = b"](X\x01\x00\x00\x000q\x00e."
    assert path.read_bytes().count(good) == 1
    path.write_bytes(path.read_bytes().replace(good, b"](" + key + b"e."))
  start = time.perf_counter()
  refused(path, "tuple as the key of a dict|impossible")
  assert time.perf_counter() - start < 5


@both
def test_plain_keys_of_every_kind_are_read(tmp_path, write):
  x = np.arange(6, dtype="f4").reshape(2, 3)
  top = {"w": tensor(), "more": {3: 1, 0.5: 2, None: 3, True: 4, ("a", 1): 6}}
  got = read_tensors(write(tmp_path / "a.pth", top, {"0": EYE}))
  np.testing.assert_array_equal(got["w"], x)
