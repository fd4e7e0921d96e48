"""A net, a loss, a data set and an augmentation of one's own, from a folder elsewhere."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, launch, launch_all
from PIL import Image

from segjax import augment, inference, models, outputs, own_code, project, training
from segjax import config as config_lib
from segjax import study as study_lib
from segjax.analysis import regions
from segjax.analysis.predictions import Predictor
from segjax.data import rasters, sources
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.inference import run_model
from segjax.training import optim, restore
from segjax.training import workdir as workdir_lib
from segjax.training.writers import read_metrics

MODULES = ("parts", "squares", "canary", "broken", "study")


def example():
  """The two files that configs/README.md shows."""
  text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
  text = text.partition("## Your own code")[2].partition("\n## ")[0]
  return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def forget(patch):
  """Nobody has named a config yet, and no module of these tests is imported."""
  patch.setattr(own_code, "_allowed", set())
  patch.setattr(own_code, "_folders", [])
  patch.setattr(sys, "path", [p for p in sys.path if "extension" not in p])
  for name in MODULES:
    patch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def fresh(monkeypatch):
  forget(monkeypatch)
  yield monkeypatch
  for name in MODULES:
    sys.modules.pop(name, None)


def write(folder):
  parts, config = example()
  (folder / "parts.py").write_text(parts)
  (folder / "squares.py").write_text(config)
  return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
  return write(tmp_path_factory.mktemp("extension"))


def read(elsewhere, arg="smoke", **fields):
  config = config_lib.read(f"{elsewhere / 'squares.py'}:{arg}")
  config.update_from_flattened_dict(
    {"pictures": 0, "writers": (), "total_steps": 4, "eval_steps": 2, "data.size": (16, 16)}
    | {"data.batch_size": 3} | fields
  )  # fmt: skip
  return config


@pytest.fixture(scope="module")
def run(elsewhere, tmp_path_factory):
  """A run that has been trained, and its scalars."""
  with pytest.MonkeyPatch.context() as patch:
    forget(patch)
    folder = tmp_path_factory.mktemp("extension_runs") / "run"
    training.train(read(elsewhere, **{"loss.cross_entropy": 0.0, "model.width": 3}), folder)
  return folder, [r for r in read_metrics(folder / "metrics.jsonl") if "val/loss" in r][-1]


def mean_brier(experiment, state, source, weight):
  """The loss of the example by hand, from probabilities of each validation image."""
  step, found = experiment.predict_step(), []
  for example in (source[i] for i in range(len(source))):
    p = 1 / (1 + np.exp(-np.asarray(step(state, example["image"][None]), np.float64)[0, ..., 0]))
    found.append(weight * (p - example["label"]) ** 2)
  return np.mean(found)


def test_a_run_is_evaluated_and_predicted_with_its_own_code(run, elsewhere, fresh, tmp_path):
  folder, row = run
  read(elsewhere)
  experiment, state = restore.run(folder)
  assert type(experiment.model).__name__ == "SmallNet" and experiment.model.width == 3
  data = restore.data_of_run(folder, experiment.config, "val")
  by_hand = mean_brier(experiment, state, data.source, weight=2.0)
  assert row["val/loss"] == pytest.approx(by_hand, rel=1e-5)
  sums, _ = outputs.evaluate_run(folder, experiment, state, data, "val")
  assert float(experiment.task.loss(sums)) == row["val/loss"]
  assert not workdir_lib.differences(config_lib.load(folder / "config.json"), experiment.config)

  image = sources.make("parts:Squares", "val")[0]["image"]
  Image.fromarray(image).save(tmp_path / "x.png")
  model = run_model.RunModel(experiment, state)
  predict = inference.Predictor(model)
  assert predict(tmp_path / "x.png").label.shape == (32, 32)
  assert len(predict(file for file in [tmp_path / "x.png"] * 2)) == 2
  for how, text in (
    (dict(tile="64"), "tile is '64', expected whole numbers"),
    (dict(tile=64.0), "tile is 64.0, expected whole numbers"),
    (dict(tile=(64, 64, 64)), "expected whole numbers of pixels: a side"),
    (dict(batch_size=1.5), "batch_size is 1.5, expected a whole number"),
  ):
    with pytest.raises(UserError, match=re.escape(text)):
      inference.Predictor(model, **how)
  found = regions.best_and_worst(Predictor(folder, "latest", ()), 2)
  assert len(found) == 2


def test_a_foreign_folder_imports_nothing(run, elsewhere, fresh, tmp_path):
  folder, _ = run
  copy = tmp_path / "run"
  subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
  fresh.syspath_prepend(str(tmp_path))
  (tmp_path / "canary.py").write_text("open('sung', 'w').close()\n")
  fresh.chdir(tmp_path)
  config = json.loads((copy / "config.json").read_text())
  del config["checksum"]
  places = [("model", "name"), ("data", "source", "name"), ("optimizer", "name"), ("loss", "own"),
            ("augment", "own")]  # fmt: skip
  for place in places:
    changed = json.loads(json.dumps(config))
    part = changed
    for key in place[:-1]:
      part = part[key]
    part[place[-1]] = "canary:sing"
    (copy / "config.json").write_text(json.dumps(changed))
    for use in (lambda: restore.run(copy), lambda: data_of(copy)):
      with pytest.raises(UserError, match=r"folder of a run alone.*--config=FILE\.py"):
        use()
    workdir_lib.defaults(config_lib.load(copy / "config.json"))
    assert not (tmp_path / "sung").exists() and "canary" not in sys.modules
  # One that the command line has named does not let others in.
  read(elsewhere)
  with pytest.raises(UserError, match=r"augmentation 'canary:sing' is code outside segjax"):
    restore.run(copy)


def data_of(folder):
  return restore.data_of_run(folder, config_lib.load(folder / "config.json"), "val")


@pytest.mark.slow
def test_a_study_of_own_nets(elsewhere, fresh, tmp_path):
  study = study_lib.Study(
    title="", question="", seeds=(0,),
    variants={w: f"{elsewhere / 'squares.py'}:smoke,width={w}" for w in "23"},
    overrides={"pictures": 0, "writers": (), "total_steps": 1, "data.size": "(16, 16)"},
    changes={"3": {"optimizer.name": "rmsprop", "optimizer.decay": 0.8}},
  )  # fmt: skip
  results = study_lib.run(study, tmp_path)
  assert [r.error for r in results] == ["", ""]
  first, second = (study_lib.identity(r.config) for r in results)
  assert first != second
  forget(fresh)
  again = study_lib.run(study, tmp_path)
  assert all(r.complete() for r in again)

  config = study_lib.make_config(study, "2", 0)
  for field, value in (
    ("loss.own", "parts:other"),
    ("augment.most", 0.2),
    ("data.source.count", 9),
  ):
    other = study_lib.make_config(study, "2", 0)
    study_lib.override(other, field, value)
    assert study_lib.identity(other) != study_lib.identity(config), field
  other.model = dict(name="parts:SmallNet")
  config.model = dict(name="parts:SmallNet", width=8)  # the default of the class
  other.data.source = dict(name="parts:Squares")
  assert config.data.source.count == 8  # its default too
  assert study_lib.identity(other) == study_lib.identity(config)


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model": dict(name="parts:SmallNett")}, r"model .* no 'SmallNett' in .*; did you mean 'Sma"),
    ({"model": dict(name="part:SmallNet")}, r"no module 'part'; did you mean 'parts'\?; looked in"),
    ({"model": dict(name="parts:SmallNet", widht=3)}, r"no field 'widht'; did you mean 'width'"),
    ({"model": dict(name="parts:darken")}, r"has no field 'num_classes'"),
    ({"model": dict(name="parts:np")}, r"expected a class or function"),
    ({"model": dict(name="broken:Net")}, r"broken\.py:2: importing it failed: ZeroDivision"),
    ({"model": dict(name="argparse:Namespace")}, r"gives Namespace, expected a module of flax"),
    ({"data.source": dict(name="parts:Squares", cuont=3)}, r"did you mean 'count'"),
    ({"data.source": dict(name="parts:darken")}, r"needs the field 'image'"),
    ({"data.source": dict(name="builtins:dict")}, r"<class 'dict'> does not say what"),
    ({"loss.wieght": 1.0}, r"loss 'parts:brier' has no field 'wieght'; did you mean 'weight'"),
    ({"loss.own": ""}, r"no field 'weight' in loss"),
    ({"augment.moost": 1.0}, r"'parts:darken' has no field 'moost'; did you mean 'most'"),
    ({"augment.own": ""}, r"no field 'most' in augment"),
    ({"augment.own": "parts:brier"}, r"no argument 'key', which segjax passes"),
    ({"loss.own": "parts:darken"}, r"no argument 'logits', which segjax passes"),
  ],
)  # fmt: skip
def test_errors_name_what_is_wrong(fields, message, elsewhere, fresh, tmp_path):
  (elsewhere / "broken.py").write_text("x = 1\nx / 0\n")
  config = read(elsewhere)
  with config.unlocked():
    for field, value in fields.items():
      part, _, last = field.rpartition(".")
      part = config[part] if part else config
      part[last] = value
  with pytest.raises(UserError, match=message):
    training.train(config, tmp_path / "run")


def test_results_of_other_shapes(elsewhere, fresh):
  (elsewhere / "broken.py").write_text(
    "def loss(logits, label, *, valid):\n  return logits.sum()\n"
    "def crop(key, image, label):\n  return image[1:], label\n"
    "def flip(key, image, label, *, flip):\n  return image, label\n"
    "def examples(logits, label, *, valid):\n  return logits.mean((1, 2, 3))\n"
  )
  config = read(elsewhere)
  own_code._allowed.update(f"broken:{name}" for name in ("loss", "crop", "flip", "examples"))
  logits, label = jnp.arange(8.0).reshape(2, 2, 2, 1), jnp.zeros((2, 2, 2), int)
  config.loss.own = "broken:loss"
  with config.unlocked():
    del config.loss.weight
  build = lambda: experiment_of(config).task.statistics(  # noqa: E731
    logits, label, jnp.array([True, False]), evaluating=False
  )
  with pytest.raises(UserError, match=r"shape \(\), expected \(2, 2, 2\), a loss per pixel, or"):
    build()
  config.loss.own = "broken:examples"
  assert float(build()["own_examples"]) == 1.5  # of the first example, 0 to 3
  with pytest.raises(UserError, match="returns arrays of shape"):
    change = augment.make_augment(own="broken:crop")
    change(jax.random.key(0), jnp.zeros((4, 4, 3)), jnp.zeros((4, 4), int))
  with pytest.raises(UserError, match="argument 'flip', the name of a field of ours"):
    augment.make_augment(own="broken:flip")


def experiment_of(config):
  from segjax.data.labels import default_table
  from segjax.training import experiment

  return experiment.build(config, default_table(("ground", "square")))


def test_an_own_augmentation_comes_after_ours(elsewhere, fresh):
  read(elsewhere)
  key, image = jax.random.key(3), jax.random.uniform(jax.random.key(0), (8, 8, 3))
  label = jnp.arange(64).reshape(8, 8)
  how = dict(flip=1.0, own="parts:darken", most=0.25)
  changed, moved = augment.make_augment(**how)(key, image, label)
  drawn = jax.random.uniform(jax.random.fold_in(key, 16), minval=0.75)
  np.testing.assert_allclose(changed, image[:, ::-1] * drawn, rtol=1e-6)
  np.testing.assert_array_equal(moved, label[:, ::-1])


def test_a_module_beside_the_config_may_be_hidden(elsewhere, fresh):
  (elsewhere / "queue.py").write_text("class Net: pass\n")
  read(elsewhere)
  own_code._allowed.add("queue:Queue")
  with pytest.raises(UserError, match=r"'queue' is also the name of .*, which hides .*queue\.py"):
    models.make("queue:Queue")
  (elsewhere / "queue.py").unlink()


def test_classes_and_functions_in_a_config(elsewhere, fresh, tmp_path):
  config = tmp_path / "extension_direct.py"
  config.write_text(
    "from flax import linen as nn\nfrom segjax import config as config_lib\nimport parts\n"
    "class Here(nn.Module):\n  num_classes: int\n"
    "def get_config(arg=''):\n  c = config_lib.default()\n"
    "  c.model = dict(name=dict(out=parts.SmallNet, here=Here, no=lambda **k: 0)[arg or 'out'])\n"
    "  if arg == 'here': c.loss.own = parts.brier\n"
    "  return c\n"
  )
  fresh.syspath_prepend(str(elsewhere))
  assert config_lib.read(str(config)).model.name == "parts:SmallNet"
  with pytest.raises(UserError, match=r"model\.name is <function .*has no name that evaluation"):
    config_lib.read(f"{config}:no")
  with pytest.raises(UserError, match="stands in a config by its name, 'package"):
    config_lib.read(f"{config}:here")
  config.write_text(config.read_text().replace("  if arg", "  if 0 and arg"))
  assert config_lib.read(f"{config}:here").model.name == "extension_direct:Here"
  assert models.make("extension_direct:Here", num_classes=2).num_classes == 2


# ---------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("name", optim.names())
def test_every_optimiser_of_optax_makes_a_step(name):
  params = dict(kernel=jnp.ones((3, 4)), bias=jnp.ones(4))
  grads = jax.tree.map(lambda x: 0.5 * x, params)
  optimizer = optim.make_optimizer(name, lambda step: 0.1, weight_decay=0.01, clip_norm=1.0)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  # adadelta and adafactor scale by the parameters, lars and lamb by their norm
  assert all(np.isfinite(u).all() and (u < 0).all() for u in jax.tree.leaves(updates))


def test_an_optimiser_has_its_own_defaults_and_fields():
  params, grads = jnp.full(3, 2.0), jnp.array([1.0, -2.0, 0.5])

  def first(optimizer):
    return optimizer.update(grads, optimizer.init(params), params)[0]

  c = config_lib.default()
  c.optimizer.name, c.optimizer.weight_decay = "lion", 0.3
  config_lib.settle_optimizer(c)
  assert c.optimizer.to_dict() == dict(
    name="lion",
    b1=0.9,
    b2=0.99,
    weight_decay=0.3,
    clip_norm=0.0,
    accumulate_steps=1,
    layer_decay=1.0,
  )
  found = optim.make_optimizer(**c.optimizer, schedule=lambda step: 0.1)
  np.testing.assert_array_equal(first(found), first(optax.lion(0.1, weight_decay=0.3)))
  config_lib.change_optimizer(c, "rmsprop")  # by the command line
  assert c.optimizer.to_dict() == optim.settings("rmsprop") | dict(name="rmsprop", weight_decay=0.3)
  config_lib.change_optimizer(c, "adam")
  assert c.optimizer.to_dict() == dict(
    name="adam",
    momentum=0.9,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.3,
    clip_norm=0.0,
    accumulate_steps=1,
    layer_decay=1.0,
  )
  c.optimizer = dict(name="rmsprop", momentum=0.9)  # written by hand: all of it counts
  config_lib.settle_optimizer(c)
  assert c.optimizer.momentum == 0.9 and c.optimizer.decay == 0.9
  found = optim.make_optimizer(**c.optimizer, schedule=lambda step: 0.1)
  np.testing.assert_array_equal(first(found), first(optax.rmsprop(0.1, momentum=0.9)))
  before = c.optimizer.to_dict()
  config_lib.settle_optimizer(c)
  assert c.optimizer.to_dict() == before

  for fields, message in (
    (dict(name="lyon"), "unknown optimizer 'lyon'; did you mean 'lion'"),
    (dict(name="lion", b3=0.5), r"optimizer 'lion' has no field 'b3' \(fields: b1"),
    (dict(name="adam", b3=0.5), r"optimizer 'adam' has no field 'b3' \(fields: mom"),
    (dict(name="lbfgs"), "optimizer 'lbfgs' needs the loss"),
  ):
    with pytest.raises(UserError, match=message):
      optim.make_optimizer(**fields, schedule=lambda step: 0.1)


# ---------------------------------------------------------------------------- commands


def test_the_command_runs_elsewhere(tmp_path):
  def segjax(*args):
    return subprocess.run(
      [sys.executable, "-m", "segjax", *args], cwd=tmp_path, capture_output=True, text=True,
      check=False,
    )  # fmt: skip

  done = segjax("evaluate", "--help")
  assert "Folder of the run" in done.stdout and "Evaluates a finished" in done.stdout, done
  done = segjax("trian")
  assert done.returncode == 1 and "unknown command 'trian'; did you mean 'train'" in done.stderr
  assert "commands: analyze, benchmark, evaluate" in segjax().stdout


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert config_lib.read("configs/unet_road.py:smoke").name == "unet_road"
  study = study_lib.read("configs/studies/skip_connections.py:smoke")
  assert study_lib.make_config(study, "skips", 0).name == "unet_road"
  with pytest.raises(
    UserError, match=r"no such file 'configs/unet_raod\.py'; did you mean 'configs/unet_road\.py'"
  ):
    config_lib.read("configs/unet_raod.py")
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "unet_road.py").write_text("def get_config(): return None + 1")
  with pytest.raises(TypeError):  # the one that lies here comes first
    config_lib.read("configs/unet_road.py")
  assert project.folder() == ROOT


@pytest.mark.slow
def test_launchers(elsewhere, tmp_path):
  spec, runs = f"--config={elsewhere / 'squares.py'}:smoke", f"--workdir={tmp_path / 'run'}"
  (elsewhere / "study.py").write_text(
    "from segjax.study import Study\ndef get_study(arg=''):\n"
    f"  spec = {str(elsewhere / 'squares.py')!r} + ':smoke,width='\n"
    "  return Study(title='t', question='q', variants={w: spec + w for w in '23'}, seeds=(0,))\n"
  )
  done = launch("train", spec, runs, "--config.optimizer.name=adafactor")
  assert done.returncode == 0, done.stderr
  saved = json.loads((tmp_path / "run" / "config.json").read_text())
  assert saved["optimizer"]["name"] == "adafactor" and saved["optimizer"]["decay_rate"] == 0.8
  Image.new("RGB", (40, 30)).save(tmp_path / "x.png")
  predict = ["predict", [runs, f"--input={tmp_path / 'x.png'}", f"--output={tmp_path / 'out'}"]]
  cases = [["evaluate", [runs]], predict]
  study = ["study", [f"--study={elsewhere / 'study.py'}", f"--runs={tmp_path / 'pool'}",
                     f"--output={tmp_path / 'report'}"]]  # fmt: skip
  shown = ["analyze", ["augment", spec, f"--output={tmp_path / 'sheets'}"]]
  jobs = [("evaluate", [runs], {})]
  jobs += [(n, [*args, spec], {}) for n, args in cases] + [(*shown, {}), (*study, {})]
  done = launch_all(jobs, tmp_path / "jobs")
  assert done[0].returncode == 1 and done[0].stderr.count("\n") == 1, done[0].stderr
  assert "'parts:brier' is code outside segjax" in done[0].stderr
  assert "--config=FILE" in done[0].stderr
  for one in done[1:]:
    assert one.returncode == 0, (one.args, one.stderr, one.stdout)
  assert "mean IoU" in done[1].stdout
  assert (tmp_path / "report" / "report.html").is_file()


class Odd:
  """A source whose examples are one thing, changed by a function."""

  labels = default_table(("ground", "square"))
  names = ("a", "b")

  def __init__(self, split, change):
    self.change = change

  def __len__(self):
    return 2

  def __getitem__(self, i):
    image = np.full((6, 8, 3), 100, np.uint8)
    return self.change(image, np.ones((6, 8), np.int64))


@pytest.mark.parametrize(
  ("change", "text"),
  [
    (lambda image, label: (image, label), "example 'b' is a tuple, expected a dict of image"),
    (lambda image, label: None, "example 'b' is a NoneType, expected a dict"),
    (lambda image, label: dict(image=image, mask=label), "has image, mask, expected image and"),
    (
      lambda image, label: dict(image=image, label=label.T),
      r"label is int64\[8, 6\], expected who",
    ),
    (lambda image, label: dict(image=image, label=label[::2, ::2]), r"label is int64\[3, 4\], exp"),
    (
      lambda image, label: dict(image=image, label=label * 0.5),
      r"label is float64\[6, 8\], expect",
    ),
    (
      lambda image, label: dict(image=image, label=-label),
      "label has the value -1, expected 0 to 1",
    ),
    (
      lambda image, label: dict(image=image, label=label + 1),
      "label has the value 2, expected 0 to",
    ),
    (
      lambda image, label: dict(image=image / 255, label=label),
      r"image is float64\[6, 8, 3\], exp",
    ),
    (lambda image, label: dict(image=image[..., 0], label=label), r"image is uint8\[6, 8\], expec"),
    (lambda image, label: dict(image=image.astype(np.uint16), label=label), r"is uint16\[6, 8, 3"),
    (lambda image, label: dict(image=image.transpose(2, 0, 1), label=label), r"is uint8\[3, 6, 8"),
    (lambda image, label: dict(image=image, target=label), r"target is int64\[6, 8\], expected ui"),
  ],
)
def test_examples_of_an_own_source_are_checked(change, text, monkeypatch):
  monkeypatch.setattr(own_code, "_allowed", {f"{__name__}:Odd"})
  source = sources.make(f"{__name__}:Odd", "val", change=change)
  with pytest.raises(UserError, match=text) as error:
    source[1]
  assert f"data source '{__name__}:Odd'" in str(error.value)


def test_values_of_an_own_source(monkeypatch):
  monkeypatch.setattr(own_code, "_allowed", {f"{__name__}:Odd"})

  def value(change, **how):
    return sources.make(f"{__name__}:Odd", "val", change=change, **how)[0]

  assert set(value(lambda image, label: dict(image=image))) == {"image"}
  alone = sources.make(f"{__name__}:Odd", "val", change=lambda image, label: dict(image=image))
  assert sources.labelled(alone, "nothing", "the data", "simclr")[0]["label"] == 0
  with pytest.raises(UserError, match="the data, example 'a' has an image alone, unet needs a lab"):
    sources.labelled(alone, "mask", "the data", "unet")
  label = value(lambda image, label: dict(image=image, label=(label > 0).tolist()))["label"]
  assert label.dtype == np.uint8 and label.sum() == 48
  floats = rasters.Pixels(3, "float32")
  for number in (np.nan, np.inf):
    with pytest.raises(UserError, match="nan or infinite"):
      value(
        lambda image, label, n=number: dict(image=np.full(image.shape, n, np.float32), label=label),
        pixels=floats,
      )
