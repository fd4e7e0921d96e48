"""Exported files: they agree with the net, evaluate alike, need little, and bad ones are named."""

import dataclasses
import json
import os
import subprocess
import sys
import zipfile

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, write_pairs
from light import EACH_CHANGE, NETS, build, random_variables
from test_training import tiny_config

from segjax import losses, models, training
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.export import about as about_lib
from segjax.export import (
  batches,
  benchmark,
  command,
  evaluation,
  net,
  onnx_file,
  onnx_model,
  open_model,
  stablehlo_file,
)
from segjax.inference import View
from segjax.models import layers
from segjax.tasks import TASKS, ClassQuery, MaskClassification, Segmentation
from segjax.training import experiment as experiment_lib
from segjax.training import input_pipeline, restore, tiled
from segjax.training.evaluation import evaluate, read_sums
from segjax.training.state import TrainState

SIZE = (16, 24)
OTHERS = ("classifier", "projection", "prototypes")  # nets that segment nothing
SEGMENTING = [name for name in NETS if name.split("/")[0] not in OTHERS]
ANY_BATCH = ("attention_segmenter", "deeplabv3_plus", "eomt", "segformer", "unet/none")
ABOUT = about_lib.About(
  classes=("ground", "thing", "sky"),
  palette=((0, 0, 0), (255, 0, 1), (2, 3, 4)),
  size=SIZE,
  batch=None,
  one_logit=False,
  thresholds=None,
  max_f1_threshold=0.25,
  view=dict(mode="resize", overlap=0.25),
  channels=3,
  dtype="uint8",
  full_scale=0.0,
  mean=(0.1, 0.2, 0.3),
  std=(1.0, 2.0, 3.0),
  weights="float32",
  run=dict(name="x", folder="y", step=3, net={}),
  versions=dict(segjax="0"),
)


def noise(count=3, size=SIZE):
  return np.random.default_rng(1).integers(0, 256, (count, *size, 3)).astype(np.uint8)


class Small(layers.Layered):
  """A net of our convolution, norm and last layer that compiles fast."""

  num_classes: int = 1

  @layers.nn.compact
  def __call__(self, image, *, train: bool):
    x = self.build(layers.ConvNorm, 4, name="hidden")(image, train=train)
    return layers.logits_layer(self)(x)


@pytest.fixture(scope="module")
def small_net():
  models.MODELS["small"] = Small
  yield
  del models.MODELS["small"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_net):
  """(workdir, data, file) of a run of three steps, and its file for JAX."""
  root = tmp_path_factory.mktemp("export")
  data = write_pairs(root / "data", count=10)
  config = tiny_config(data, total_steps=3, pictures=0)
  config.model = dict(name="small", norm="batch", dtype="float32")
  config.task.sigmoid = True
  config.data.update(mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
  training.train(config, root / "run")
  file = root / "net.stablehlo"
  command.run(str(root / "run"), file, form="stablehlo", checkpoint="latest")
  return root / "run", data, file


# ---------------------------------------------------------------------------- the whole way


def write_spec(file, data, **fields):
  file.write_text(
    "from segjax import config as c\n"
    "def get_config():\n"
    "  config = c.default()\n"
    f"  config.data.source = c.data_source('folder', folder={str(data)!r}, train_fraction=0.7)\n"
    f"  config.data.update({dict(size=SIZE, batch_size=2) | fields})\n"
    "  config.task.sigmoid = True\n"
    "  return config\n"
  )
  return str(file)


def test_a_file_gives_the_evaluation_of_its_run(run, capsys):
  workdir, data, file = run
  model = open_model(file)
  assert model.about.run["step"] == 3 and model.about.run["net"]["name"] == "small"
  assert model.view == View("resize", SIZE) and model.one_logit
  capsys.readouterr()
  spec = write_spec(workdir.parent / "tiny.py", data)
  found, wanted = evaluation.run(file, spec), read_sums(workdir)
  np.testing.assert_array_equal(found["matrix"], wanted["matrix"])
  assert found["pixels"] == wanted["pixels"]
  assert found["cross_entropy"] == pytest.approx(wanted["cross_entropy"], rel=1e-5)
  assert f"{file}: step 3 of run; 3 val examples" in capsys.readouterr().out
  # A folder alone, whose split is another.
  found = evaluation.run(file, None, folder=str(data))
  assert found["matrix"].sum() == found["pixels"] > 0


def test_a_file_is_evaluated_by_tiles_as_its_run(run, tmp_path):
  workdir, data, file = run
  fields = dict(eval_fit="tiles", eval_overlap=0.5)
  found = evaluation.run(file, write_spec(tmp_path / "tiny.py", data, **fields))
  experiment, state = restore.run(workdir, "latest")
  experiment.config.data.update(fields)
  source = input_pipeline.make_source(experiment.config, "val")
  batches = input_pipeline.eval_batches(experiment.config, source)
  wanted = evaluate(experiment.eval_step(), state, batches, experiment.eval_mesh())
  np.testing.assert_array_equal(found["matrix"], wanted["matrix"])
  assert found["cross_entropy"] == pytest.approx(wanted["cross_entropy"], rel=1e-5)
  # A folder alone is seen as the file's run was evaluated.
  model = open_model(file)
  model.view = View("tiles", SIZE, 0.5)
  config = evaluation._config(model, None, str(data))
  assert (config.data.eval_fit, config.data.eval_overlap) == ("tiles", 0.5)


def test_a_file_is_timed_beside_another(run, tmp_path, capsys, monkeypatch):
  """The net of a config is written where the file is missing; the last line is JSON."""
  spec = tmp_path / "tiny.py"
  spec.write_text(
    "from segjax import config as c\n"
    "def get_config():\n"
    "  config = c.default()\n"
    "  config.model = dict(name='small', norm='none', dtype='float32')\n"
    "  config.data.update(size=(8, 12), batch_size=2)\n"
    "  return config\n"
  )
  file = tmp_path / "net.stablehlo"
  arguments = ["benchmark", str(file), f"--config={spec}", "--repeats=2"]
  monkeypatch.setattr(sys, "argv", arguments)
  benchmark.main()
  assert float(json.loads(capsys.readouterr().out.splitlines()[-1])["infer_s"]) > 0
  model = open_model(file)
  assert model.batch == 2 and model.size == (8, 12) and model.classes == ("class0", "class1")


def test_sizes_on_the_command_line():
  assert command.size_of([]) is None and command.size_of(["16", " 24"]) == (16, 24)
  for texts in (["16"], ["0", "24"], ["16", "-1"], ["a", "b"], ["1", "2", "3"]):
    with pytest.raises(UserError, match=f"--size={','.join(texts)}: expected HEIGHT,WIDTH"):
      command.size_of(texts)


def test_a_net_of_one_batch_size_sees_each_image_once(run):
  _, _, file = run
  model, images = open_model(file), noise(5)
  wanted = model.probabilities(images)
  counts = []

  class Fixed:
    batch = 2

    def probabilities(self, images):
      counts.append(len(images))
      return model.probabilities(images)

  np.testing.assert_allclose(batches.probabilities(Fixed(), images), wanted, atol=1e-6)
  assert counts == [2, 2, 2]
  np.testing.assert_allclose(batches.probabilities(model, noise(9))[:5], wanted, atol=1e-6)


@pytest.mark.slow
def test_jax_alone_reads_the_file(run, tmp_path):
  """The lines of the package's docstring, in a process where segjax cannot be imported."""
  _, _, file = run
  images = noise()
  np.save(tmp_path / "images.npy", images)
  code = f"""
    import sys, numpy as np
    sys.modules["segjax"] = sys.modules["flax"] = None
    import json, zipfile, jax.export
    with zipfile.ZipFile({str(file)!r}) as file:
      metadata = json.loads(file.read("metadata.json"))
      program = jax.export.deserialize(bytearray(file.read("model.stablehlo")))
    assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
    assert metadata["classes"] == ["ground", "thing"] and metadata["size"] == [16, 24]
    images = np.load("images.npy")
    probabilities = jax.jit(program.call)(images)
    np.save("found.npy", probabilities)
  """
  lines = "\n".join(line[4:] for line in code.splitlines())
  done = subprocess.run(
    [sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  experiment, state = restore.run(run[0], "latest")
  wanted = jax.jit(net.probabilities_of(experiment, state))(images)
  found = np.load(tmp_path / "found.npy")
  assert found.shape == (3, *SIZE, 2)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)


def test_a_file_of_weights_is_a_net(run, tmp_path):
  workdir, file = run[0], tmp_path / "net.safetensors"
  command.run(str(workdir), file, form="safetensors", checkpoint="latest")
  loaded, variables = models.load(file)
  experiment, state = restore.run(workdir, "latest")
  assert loaded == experiment.model
  jax.tree.map(np.testing.assert_array_equal, variables, jax.device_get(state.eval_variables()))
  with pytest.raises(UserError, match=r"holds weights alone.*--format=onnx"):
    open_model(file)


def test_a_file_that_disagrees_is_not_kept(run, tmp_path, monkeypatch):
  workdir, _, good = run
  file, before = tmp_path / "net.stablehlo", good.read_bytes()
  file.write_bytes(before)
  write = stablehlo_file.write

  def other(function, about, part):
    write(lambda images: function(images[:, :, ::-1]), about, part)

  monkeypatch.setitem(command.FORMATS, "stablehlo", other)
  with pytest.raises(UserError, match=r"disagree on 3 images.*not kept"):
    command.run(str(workdir), file, form="stablehlo", checkpoint="latest")
  assert [p.name for p in tmp_path.iterdir()] == [file.name] and file.read_bytes() == before


def test_without_data_random_pixels_are_compared(run, tmp_path, capsys):
  workdir, data, _ = run
  moved = data.rename(tmp_path / "elsewhere")
  try:
    how = dict(form="stablehlo", checkpoint="latest", images=2, batch=2, stored="float16")
    command.run(str(workdir), tmp_path / "noise.stablehlo", **how)
    text = capsys.readouterr().out
    assert "no validation images" in text and "agree on 2 images" in text
    assert "float16 in place of float32: largest" in text
    command.run(str(workdir), tmp_path / "moved.stablehlo", **how, folder=str(moved))
    text = capsys.readouterr().out
    assert "agree on 2 images" in text and "no validation images" not in text
  finally:
    moved.rename(data)
  model = open_model(tmp_path / "noise.stablehlo")
  assert model.batch == 2 and model.about.weights == "float16"
  with zipfile.ZipFile(model.file) as archive:
    program = jax.export.deserialize(bytearray(archive.read("model.stablehlo")))
  assert "tensor<3x3x3x4xf16>" in program.mlir_module()
  with pytest.raises(UserError, match=r"uint8 \(3, 16, 24, 3\), expected .*16x24.*, 2 at a time"):
    model.probabilities(noise())


# ---------------------------------------------------------------------------- what is refused


def test_a_file_of_others_is_not_replaced(run, tmp_path):
  file = tmp_path / "net.stablehlo"
  file.write_text("mine")
  with pytest.raises(UserError, match="is there already"):
    command.run(str(run[0]), file, form="stablehlo")
  assert file.read_text() == "mine"
  with pytest.raises(UserError, match="unknown format 'onxx'; did you mean 'onnx'"):
    command.run(str(run[0]), tmp_path / "x", form="onxx")


def test_bad_files_end_in_one_line(run, tmp_path):
  data, bad = run[2].read_bytes(), tmp_path / "bad.stablehlo"
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 1
  for content in (data[:-100], bytes(flipped), b"PK\3\4", b"PK"):
    bad.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.stablehlo: .*(damaged|cannot read)"):
      open_model(bad)
  with zipfile.ZipFile(run[2]) as archive:
    metadata = json.loads(archive.read("metadata.json"))
    program = archive.read("model.stablehlo")
  for change, words in (
    (dict(format="segjax-export-9"), "'segjax-export-9', this version of segjax reads"),
    (dict(size=[16]), r"its 'size' is \[16\]"),
    (dict(classes="road"), "its 'classes' is"),
    (dict(one_logit="yes"), "its 'one_logit' is"),
    (dict(view=dict(mode="x", overlap=0.25)), "its 'view' is"),
    (dict(palette=[[0, 0, 0]]), "2 classes, 1 colours"),
  ):
    with zipfile.ZipFile(bad, "w") as archive:
      archive.writestr("metadata.json", json.dumps(metadata | change))
      archive.writestr("model.stablehlo", program)
    with pytest.raises(UserError, match=words):
      open_model(bad)
  with zipfile.ZipFile(bad, "w") as archive:
    archive.writestr("metadata.json", json.dumps(metadata))
    archive.writestr("model.stablehlo", b"none")
  with pytest.raises(UserError, match="JAX cannot read its program"):
    open_model(bad)
  with pytest.raises(UserError, match="no such file"):
    open_model(tmp_path / "none.onnx")


def test_images_that_a_file_does_not_take_are_named(run):
  model = open_model(run[2])
  for images in (noise(size=(16, 16)), noise()[0], noise() / 255, noise(0)):
    with pytest.raises(UserError, match="expected uint8 of 16x24 pixels with 3 channels, any"):
      model.probabilities(images)


def test_data_of_other_classes_are_refused(run, tmp_path):
  other = write_pairs(tmp_path / "other", classes=("ground", "other"))
  with pytest.raises(UserError, match=r"other classes.*ground, thing; .*ground, other"):
    evaluation.run(run[2], None, folder=str(other))
  with pytest.raises(UserError, match="--model needs data"):
    evaluation.run(run[2], None)


def test_metadata_come_back():
  assert about_lib.read(ABOUT.texts() | dict(more="1"), "x") == ABOUT
  with pytest.raises(UserError, match="not exported by segjax"):
    about_lib.read({}, "x")
  for name in ABOUT.texts():
    with pytest.raises(UserError, match=name if name != "format" else "not exported"):
      about_lib.read({k: v for k, v in ABOUT.texts().items() if k != name}, "x")


def test_onnx_without_its_packages_says_how_to_install_them(run, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  with pytest.raises(UserError, match="pip install --no-deps jax2onnx=="):
    command.run(str(run[0]), tmp_path / "net.onnx", form="onnx")
  (tmp_path / "net.onnx").write_bytes(b"\x08\x0b")
  with pytest.raises(UserError, match="pip install onnxruntime"):
    open_model(tmp_path / "net.onnx")


def test_a_checksum_finds_changed_bytes():
  data = b"graph\x0a\x08checksum\x12\x40" + b"0" * 64 + b"\x12\x01x"
  digest = onnx_model.hashlib.sha256(data).hexdigest().encode()
  signed = data.replace(b"0" * 64, digest)
  assert onnx_model.is_intact(signed) and onnx_model.is_intact(b"another file")
  assert not onnx_model.is_intact(signed.replace(b"graph", b"grape"))


# ---------------------------------------------------------------------------- probabilities


def experiment_of(task, variables, network):
  """An Experiment with as much as an export takes, and its state."""
  config, table = tiny_config("none"), default_table(task.classes)
  config.task.name = next(name for name, kind in TASKS.items() if kind is type(task))
  config.data.update(mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
  experiment = experiment_lib.Experiment(config, table, network, task, *[None] * 6)
  return experiment, TrainState(jnp.int32(3), opt_state=None, **variables)


def test_probabilities_name_the_classes_of_the_task():
  """Of one logit, of several, of asked classes against the background."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(2, 4, 5, 3)), jnp.float32)
  one = Segmentation(("a", "b"), sigmoid=True)
  asked = ClassQuery(tuple("abcd"))
  for found, wanted in (
    (one.probabilities(logits[..., :1]), one.predict(logits[..., :1])),
    (one.probabilities(logits), Segmentation(tuple("abc")).predict(logits)),
    (net._of_asked(logits), asked.predict(dict(logits=logits))),
  ):
    np.testing.assert_array_equal(found.argmax(-1), wanted)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
  assert net._of_asked(logits).shape == (2, 4, 5, 4)


def test_logits_of_a_files_probabilities():
  for probabilities, one_logit in (([0.25, 0.75], True), ([0.2, 0.3, 0.5], False), ([1, 0], True)):
    logits = tiled.logits_of(np.array([probabilities], np.float32), one=one_logit)
    found = losses.class_probabilities(jnp.asarray(logits))
    np.testing.assert_allclose(found, [probabilities], atol=1e-6)


def test_what_cannot_be_exported_is_named():
  network = models.make("unet", widths=(4, 8), num_classes=2)
  variables = random_variables(network)
  experiment, state = experiment_of(Segmentation(("a", "b")), variables, network)
  experiment.config.task.name = "dino"
  with pytest.raises(UserError, match="a run of the task 'dino'"):
    net.probabilities_of(experiment, state)
  experiment.config.task.name = "segmentation"
  with pytest.raises(UserError, match="'int8', expected one of float32, float16"):
    net.probabilities_of(experiment, state, "int8")
  large = jax.tree.map(lambda x: x + 1e6, state.params)
  with pytest.raises(UserError, match="weights up to 1e"):
    net.probabilities_of(experiment, state.replace(params=large), "float16")


# ---------------------------------------------------------------------------- ONNX


def net_and_state(name):
  """A net of `light.NETS`, with random weights, as an export takes it."""
  network, task = build(name), Segmentation(tuple("abc"))
  if name == "attention_segmenter":
    task = ClassQuery(tuple("abcd"))
  elif name == "eomt":
    task = MaskClassification(tuple("abc"))
  # With scales of 1 a residual net's values grow from block to block, until rounding decides.
  tame = lambda path, x: np.float32(0.7) * x if path[-1].key == "scale" else x  # noqa: E731
  variables = jax.tree_util.tree_map_with_path(tame, random_variables(network))
  return experiment_of(task, variables, network)


SOME_NETS = pytest.mark.parametrize(
  "names",
  [
    pytest.param([n for n in SEGMENTING if n in EACH_CHANGE], marks=pytest.mark.slow),
    pytest.param([n for n in SEGMENTING if n not in EACH_CHANGE], marks=pytest.mark.weekly),
  ],
)


def as_exported(name):
  """(the function that an export writes, what a file says about it)."""
  classes = 4 if name == "attention_segmenter" else 3
  palette = ((0, 0, 0),) * classes
  about = dict(size=(32, 48), classes=tuple("abcd"[:classes]), palette=palette)
  return net.probabilities_of(*net_and_state(name)), dataclasses.replace(ABOUT, **about)


WITHOUT_SEGJAX = """
import json, sys, zipfile
import jax, numpy as np
known = np.load("known.npz")
for name in known:
  if name != "images":
    with zipfile.ZipFile(name.replace("/", "_")) as archive:
      program = jax.export.deserialize(bytearray(archive.read("model.stablehlo")))
    assert program.platforms == ("cpu", "cuda", "tpu")
    found = np.asarray(jax.jit(program.call)(known["images"]))
    np.testing.assert_allclose(found, known[name], rtol=0, atol=1e-5, err_msg=name)
assert not {"segjax", "flax"} & sys.modules.keys()
"""


@SOME_NETS
def test_stablehlo_agrees_with_every_net(names, tmp_path, light_backbones):
  """A new process reads the programs with jax alone."""
  known = dict(images=noise(2, (32, 48)))
  for name in names:
    function, about = as_exported(name)
    stablehlo_file.write(function, about, tmp_path / name.replace("/", "_"))
    known[name] = np.asarray(jax.jit(function)(known["images"]))
  np.savez(tmp_path / "known.npz", **known)
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  done = subprocess.run(
    [sys.executable, "-c", WITHOUT_SEGJAX], cwd=tmp_path, env=env, capture_output=True, text=True,
    check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr


@SOME_NETS
def test_onnx_agrees_with_every_net(names, tmp_path, light_backbones):
  """Those of one batch convert in a fraction of the time, so some alone are for any batch."""
  pytest.importorskip("jax2onnx", reason=f"jax2onnx is not installed: {onnx_file.INSTALL}")
  images, file = noise(3, (32, 48)), tmp_path / "net.onnx"
  for name in names:
    function, about = as_exported(name)
    about = dataclasses.replace(about, batch=None if name in ANY_BATCH else 3)
    onnx_file.write(function, about, file)
    model = open_model(file)
    assert model.about == about
    wanted = np.asarray(jax.jit(function)(images))
    found = model.probabilities(images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4, err_msg=name)
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() >= 0.9999, name
    if name in ANY_BATCH:
      np.testing.assert_allclose(model.probabilities(images[:1]), wanted[:1], rtol=0, atol=1e-4)
  check_without_jax(file, images, found)
  check_damage(file)


def check_without_jax(file, images, wanted):
  """A new process reads the file as segjax does, and imports no jax."""
  np.savez(file.with_suffix(".npz"), images=images, wanted=wanted)
  code = f"""
import sys, numpy as np
from segjax.export import open_model
from segjax.export.batches import probabilities
known = np.load({str(file.with_suffix(".npz"))!r})
found = probabilities(open_model({str(file)!r}), known["images"])
np.testing.assert_array_equal(found, known["wanted"])
assert not {{"jax", "flax", "jaxlib"}} & sys.modules.keys()
"""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


def check_damage(file):
  data = file.read_bytes()
  flipped = bytearray(data)
  flipped[len(data) // 2] ^= 1
  for content, words in (
    (bytes(flipped), "do not fit its 'checksum'"),
    (data[:-5], "onnxruntime cannot read it"),
    (b"", "not an exported net"),
    (b"\x89PNG and so on", "not an exported net"),
  ):
    file.write_bytes(content)
    with pytest.raises(UserError, match=words):
      open_model(file)
