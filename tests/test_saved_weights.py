"""Nets in safetensors files: `weights.save`, `weights.load`, `models.load`, `init_from`."""

import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light import random_variables

from segjax import models, weights
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.tasks.segmentation import Segmentation
from segjax.training import initial

UNET = dict(name="unet", num_classes=2, widths=(4, 6), norm="batch")


def flat(variables):
  return flax.traverse_util.flatten_dict(variables, sep="/")


def unet(**fields):
  net = models.make(**UNET | fields)
  return net, random_variables(net)


def saved(folder, **about):
  net, variables = unet()
  weights.save(variables, folder / "net.safetensors", UNET, **about)
  return folder / "net.safetensors", net, variables


def test_a_file_gives_net_and_variables_bit_for_bit(tmp_path):
  file, net, variables = saved(tmp_path, task="segmentation", classes=["a", "b"])
  again, loaded = models.load(file)
  assert again == net
  for k, v in flat(variables).items():
    assert flat(loaded)[k].dtype == v.dtype
    np.testing.assert_array_equal(flat(loaded)[k], v)
  assert flat(loaded).keys() == flat(variables).keys()
  assert weights.load(file)[1:] == (UNET, dict(task="segmentation", classes=["a", "b"]))
  assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_file_of_fewer_bits_is_widened(tmp_path):
  _, variables = unet()
  narrow = jax.tree.map(lambda x: x.astype(jnp.float16), variables)
  weights.save(narrow, tmp_path / "net.safetensors", UNET)
  _, loaded = models.load(tmp_path / "net.safetensors")
  for k, v in flat(narrow).items():
    assert flat(loaded)[k].dtype == np.float32
    np.testing.assert_array_equal(flat(loaded)[k], v.astype(np.float32))
  weights.save(narrow, tmp_path / "half.safetensors", UNET | dict(param_dtype=jnp.float16))
  _, loaded = models.load(tmp_path / "half.safetensors")
  kinds = {k: {str(x.dtype) for x in jax.tree.leaves(v)} for k, v in loaded.items()}
  assert kinds == dict(params={"float16"}, batch_stats={"float32"})


@pytest.mark.parametrize("name", ["fcn8s", "fcn16s"])
def test_every_score_of_an_fcn_may_be_of_other_classes(name):
  many, few = (
    random_variables(models.make(name, backbone="vgg11_bn", num_classes=k)) for k in (5, 2)
  )
  loaded, report = weights.load_variables(many, few)
  heads = {"params/score16", "params/head"} | ({"params/score8"} if name == "fcn8s" else set())
  assert {path.rpartition("/")[0] for path, *_ in report.other_classes} == heads
  np.testing.assert_array_equal(
    loaded["params"]["score16"]["kernel"], few["params"]["score16"]["kernel"]
  )


def test_other_programs_read_the_file(tmp_path):
  library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
  file, _, variables = saved(tmp_path)
  found = library.load_file(file)
  assert found.keys() == flat(variables).keys()
  for k, v in flat(variables).items():
    np.testing.assert_array_equal(found[k], v)


def test_dtypes_come_back(tmp_path):
  file = tmp_path / "net.safetensors"
  arrays = {
    name: jnp.arange(3).astype(name)
    for name in ("bfloat16", "float16", "float32", "int32", "uint8", "bool")
  }
  arrays["scalar"] = np.float64(0.1)
  weights.save(dict(params=arrays), file, dict(name="unet", dtype=jnp.bfloat16))
  variables, net_config, _ = weights.load(file)
  assert net_config == dict(name="unet", dtype="bfloat16")
  for name, array in arrays.items():
    found = variables["params"][name]
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found.astype(float), np.asarray(array).astype(float))


def test_what_cannot_be_written_is_named(tmp_path):
  file, variables = tmp_path / "net.safetensors", dict(params=dict(x=np.zeros(2)))
  with pytest.raises(UserError, match="no 'name'"):
    weights.save(variables, file, dict(num_classes=2))
  with pytest.raises(UserError, match=r"net_config: .*function"):
    weights.save(variables, file, dict(name="unet", activation=jax.nn.gelu))
  with pytest.raises(UserError, match="params/x is complex64"):
    weights.save(dict(params=dict(x=np.zeros(2, "c8"))), file, UNET)
  with pytest.raises(UserError, match=r"cannot write .*nowhere"):
    weights.save(variables, tmp_path / "nowhere" / "net.safetensors", UNET)
  assert not list(tmp_path.iterdir())


def test_a_damaged_file_or_another_ends_in_one_line(tmp_path):
  file, _, variables = saved(tmp_path)
  data, bad = file.read_bytes(), tmp_path / "bad.safetensors"
  length = int.from_bytes(data[:8], "little")
  header = json.loads(data[8 : 8 + length])

  def with_header(header):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]

  other_net = {**header, "__metadata__": header["__metadata__"] | dict(net='{"name": "fcn"}')}
  plain = {k: v for k, v in header.items() if k != "__metadata__"}
  flipped = bytearray(data)
  flipped[-3] ^= 1
  for content, words in {
    data[:-5]: "cut short",
    bytes(flipped): "other bytes than were written",
    with_header(other_net): "other bytes than were written",
    with_header(plain): "weights.load_torch reads those of others",
    b"": "not a file of segjax.weights.save",
    b"PK\3\4" + data: "not a file of segjax.weights.save",
  }.items():
    bad.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
      models.load(bad)
    assert str(bad) in str(caught.value)
  with pytest.raises(UserError, match="no such file"):
    models.load(tmp_path / "none.safetensors")
  weights.save(variables, bad, UNET | dict(name="unett"))
  with pytest.raises(UserError, match=r"bad.safetensors: unknown model 'unett'"):
    models.load(bad)


def test_a_training_starts_from_a_file(tmp_path):
  file, _, variables = saved(tmp_path, task="segmentation", classes=["a", "b"])
  _, mine = unet(num_classes=3)
  mine = jax.tree.map(lambda x: x + 1, mine)
  loaded, report = initial.load_initial(str(file), "all", mine)
  assert len(report.other_classes) == 2  # the last layer's kernel and bias
  for k, v in flat(loaded).items():
    own = k.split("/", 1)[1] in report.missing
    np.testing.assert_array_equal(v, flat(mine if own else variables)[k])
  loaded, report = initial.load_initial(str(file), "down1", mine)
  assert len(report.loaded) == sum("/down1/" in k for k in flat(variables))
  table = default_table(("b", "a"))
  with pytest.raises(UserError, match="same classes in another order: a, b"):
    initial.compare_classes(str(file), "all", table, Segmentation(table.names))
  table = default_table(("a", "c"))
  text = initial.compare_classes(str(file), "all", table, Segmentation(table.names))
  assert text == "its head was trained for other classes: a, b; here they are a, c"
  assert initial.compare_classes(str(file), "backbone", table, Segmentation(table.names)) == ""
