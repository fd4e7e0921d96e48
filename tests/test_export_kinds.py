"""Exported nets of overlapping classes, and of images that are no photographs."""

import dataclasses
import json
import zipfile

import flax.linen as nn
import jax
import numpy as np
import pytest
from light import random_variables
from test_class_masks import CLASSES, draw, save, write
from test_rasters import write as write_tiff

from segjax import config as config_lib
from segjax import metrics, models
from segjax.data import label_sets, labels, rasters, sizes
from segjax.errors import UserError
from segjax.export import about as about_lib
from segjax.export import batches, command, evaluation, onnx_file, open_model
from segjax.inference import Predictor, View, run_model
from segjax.inference import command as predict_command
from segjax.inference import inputs as inputs_lib
from segjax.inference.folder import Predictions
from segjax.training import experiment as experiment_lib
from segjax.training import input_pipeline
from segjax.training.evaluation import evaluate
from segjax.training.state import TrainState

SIZE = (24, 32)
LIMITS = (0.4, 0.5, 0.6)
KINDS = {  # name: (Pixels, least, largest)
  "uint16": (rasters.Pixels(6, "uint16"), 0, 65535),
  "uint16 of 10000": (rasters.Pixels(4, "uint16", 10000.0), 0, 12000),
  "int16": (rasters.Pixels(2, "int16"), -32768, 32767),
  "uint8": (rasters.Pixels(1, "uint8"), 0, 255),
  "float32": (rasters.Pixels(2, "float32"), -40.0, 10.0),
}


class Tiny(nn.Module):
  """A net that sees a pixel and those beside it, and compiles at once."""

  num_classes: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, image, *, train: bool):
    return nn.Conv(self.num_classes, (3, 3), name="logits")(image)


@pytest.fixture(scope="module", autouse=True)
def tiny_net():
  models.MODELS["tiny"] = Tiny
  yield
  del models.MODELS["tiny"]


def config_of(pixels=rasters.RGB, **fields):
  c = config_lib.default()
  c.data.update(size=SIZE, batch_size=2, threads=1, **dataclasses.asdict(pixels))
  mean, std = (-10.0, 5.0) if pixels.dtype == "float32" else (0.3, 0.2)
  c.data.update(mean=(mean,) * pixels.channels, std=(std,) * pixels.channels)
  c.model = dict(name="tiny", dtype="float32")
  c.total_steps, c.total_epochs = 1, 0.0
  c.update_from_flattened_dict(fields)
  return c


def made(config, table):
  """(experiment, state) with drawn weights."""
  experiment = experiment_lib.build(config, table)
  variables = random_variables(experiment.model, channels=config.data.channels)
  return experiment, TrainState(np.int32(3), opt_state=None, **variables)


def exported(file, experiment, state, sums=None, batch=None):
  """The file's net, which the command's own check has seen too."""
  data = experiment.config.data
  about = command.about_net(
    experiment, state, size=tuple(data.size), batch=batch, folder="run", sums=sums or {}
  )
  images = batches.noise(3, data.size, about.pixels)
  form = file.suffix.removeprefix(".")
  command.write_net(file, experiment, state, form=form, about=about, images=images)
  return open_model(file)


def agree(file_net, run_net, images, atol):
  """Both give the same labels, and probabilities that differ by at most `atol`."""
  found, wanted = Predictor(file_net)(images), Predictor(run_net)(images)
  assert len(found) == len(wanted) == len(images)
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=atol)
    np.testing.assert_array_equal(one.label, other.label)
    np.testing.assert_array_equal(one.image, other.image)
  return found


# ------------------------------------------------------------------- overlapping classes


def of_overlapping(folder, **fields):
  c = config_of(**fields)
  own = dict(folder=str(folder), kind="multi_label", train_fraction=0.5, classes=CLASSES)
  c.data.source = config_lib.data_source("folder", **own)
  config_lib.set_task(c, "multi_label", dice=1.0, thresholds=LIMITS)
  return c


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory):
  """(folder of the set, experiment, state, sums of its evaluation, file)."""
  folder = tmp_path_factory.mktemp("overlapping")
  config = of_overlapping(write(folder / "set"))
  experiment, state = made(config, label_sets.overlapping_table(CLASSES))
  found = input_pipeline.eval_batches(config, input_pipeline.make_source(config, "val"))
  sums = evaluate(experiment.eval_step(), state, found, experiment.eval_mesh()) | dict(step=3)
  return folder / "set", experiment, state, sums, folder / "net.stablehlo"


@pytest.fixture(scope="module")
def overlapping_file(overlapping):
  _, experiment, state, sums, file = overlapping
  return exported(file, experiment, state, sums)


def test_a_file_of_overlapping_classes_predicts_as_its_run(overlapping, overlapping_file):
  _, experiment, state, sums, _ = overlapping
  run = run_model.RunModel(experiment, state, sums)
  found = agree(overlapping_file, run, [draw(i)[0] for i in range(3)], 1e-5)
  for one in found:
    assert one.label.shape == (*SIZE, 3) and 0.1 < one.label.mean() < 0.9
    np.testing.assert_array_equal(one.label, one.probabilities >= np.float32(LIMITS))
    assert abs(one.probabilities.sum(-1) - 1).max() > 0.1
  about = overlapping_file.about
  assert about.classes == CLASSES and about.thresholds == LIMITS and not about.one_logit
  assert about.run["task"] == "multi_label" and about.run["step"] == 3
  best = (metrics.max_f1(scores)[1] for scores in sums["histograms"])
  best = [b if b > 0 else own for b, own in zip(best, LIMITS, strict=True)]
  assert about.max_f1_threshold == pytest.approx(best) and tuple(best) != LIMITS
  chosen = Predictor(overlapping_file, threshold="max_f1").threshold
  assert chosen == Predictor(run, threshold="max_f1").threshold == about.max_f1_threshold


def test_a_file_of_overlapping_classes_is_evaluated_as_its_run(overlapping, tmp_path, capsys):
  folder, _, _, sums, file = overlapping
  spec = tmp_path / "spec.py"
  spec.write_text(
    "from test_export_kinds import of_overlapping\n"
    f"def get_config():\n  return of_overlapping({str(folder)!r})\n"
  )
  found = evaluation.run(file, str(spec))
  assert found.keys() == sums.keys() - {"step", "images/index"}
  for name in found:
    np.testing.assert_allclose(found[name], sums[name], rtol=1e-5, err_msg=name)
  text = capsys.readouterr().out
  assert "AP" in text and all(name in text for name in CLASSES)
  # Of a folder alone, whose classes are found by name.
  found = evaluation.run(file, None, folder=str(folder), split="train")
  scored = 7 * SIZE[0] * SIZE[1]
  assert found["histograms"].sum((1, 2)).tolist() == [scored] * 3


def test_the_files_that_predict_writes_are_those_of_the_run(overlapping, tmp_path):
  folder, experiment, state, sums, file = overlapping
  net = predict_command.open_net(None, str(file), "best")
  assert "from probability 0.4 on road, 0.5 on shadow, 0.6 on car" in net.title
  given = inputs_lib.find(folder / "images" / "x1.png", tmp_path)
  net.run(given, Predictions(tmp_path, tuple(given.files.values())))
  want = Predictor(run_model.RunModel(experiment, state, sums))(folder / "images" / "x1.png")
  for k, name in enumerate(CLASSES):
    mask = rasters.RGB.read(tmp_path / "masks" / name / "x1.png")[..., 0]
    np.testing.assert_array_equal(mask, 255 * want.label[..., k])


def test_masks_are_compared_by_the_thresholds():
  found, wanted = np.float32([[0.45, 0.55]]), np.float32([[0.35, 0.65]])
  assert command._agreement(found, wanted, None)[1] == 1
  assert command._agreement(found, wanted, (0.4, 0.6))[1] == 0
  assert command._agreement(found, wanted, (0.4, 0.5))[1] == 0.5


def test_data_of_another_kind_are_refused(overlapping, overlapping_file, tmp_path):
  folder, file = overlapping[0], overlapping[-1]
  spec = tmp_path / "spec.py"
  spec.write_text("from segjax import config\ndef get_config():\n  return config.default()\n")
  with pytest.raises(UserError, match=r"a net of multi_label, and the config's task is 'segment"):
    evaluation.run(file, str(spec))
  save(folder.parent / "other" / "masks" / "tree" / "x0.png", np.zeros(SIZE, np.uint8))
  save(folder.parent / "other" / "images" / "x0.png", draw(0)[0])
  with pytest.raises(UserError, match=r"a folder tree/, and no class of this name"):
    evaluation.run(file, None, folder=str(folder.parent / "other"))


# ------------------------------------------------------------------- images of many kinds


def image_of(kind, size=(30, 50)):
  """Values of an image file, [H,W,C]."""
  pixels, least, most = KINDS[kind]
  rng = np.random.default_rng(1)
  values = least + (most - least) * rng.random((*size, pixels.channels))
  values = np.rint(values) if pixels.dtype != "float32" else values
  values[0, 0], values[0, 1] = least, most
  return values.astype(pixels.dtype)


def net_of(kind, **fields):
  """(experiment, state) of three classes."""
  fields = {"data.eval_fit": "tiles", "data.eval_multiple": 1, "task.sigmoid": False} | fields
  return made(config_of(KINDS[kind][0], **fields), labels.default_table(tuple("abc")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_takes_the_values_of_image_files(kind, tmp_path, capsys):
  experiment, state = net_of(kind)
  run, pixels, values = run_model.RunModel(experiment, state), KINDS[kind][0], image_of(kind)
  model = exported(tmp_path / "net.stablehlo", experiment, state)
  assert model.pixels == pixels and model.view == View("tiles", SIZE, 0.25)
  assert "rounded" not in capsys.readouterr().out  # tiles are as they are
  (found,) = agree(model, run, [values], 1e-5)
  assert np.unique(found.label).tolist() == [0, 1, 2]
  file = write_tiff(tmp_path / "x.tif", values.squeeze(-1) if pixels.channels == 1 else values)
  np.testing.assert_array_equal(Predictor(model)(file).label, found.label)
  # The program itself, without segjax.
  with zipfile.ZipFile(model.file) as archive:
    program = jax.export.deserialize(bytearray(archive.read("model.stablehlo")))
    metadata = json.loads(archive.read("metadata.json"))
  part = values[None, : SIZE[0], : SIZE[1]]
  assert program.in_avals[0].dtype == metadata["dtype"] == values.dtype
  assert metadata["channels"] == pixels.channels and len(metadata["mean"]) == pixels.channels
  wanted = run.probabilities(pixels.scaled(part))
  np.testing.assert_allclose(jax.jit(program.call)(part), wanted, rtol=0, atol=1e-5)
  wrong = part if pixels.dtype != "float32" else part[..., :1]
  said = rf"expected float32 of 24x32 pixels with {pixels.channels} channels, scaled"
  with pytest.raises(UserError, match=said):
    model.probabilities(wrong)


def test_resized_whole_numbers_are_rounded(tmp_path, capsys):
  """The file sees what a resized image file would hold; a line says what that changes."""
  experiment, state = net_of("uint8", **{"data.eval_fit": "resize"})
  run, pixels = run_model.RunModel(experiment, state), KINDS["uint8"][0]
  model = exported(tmp_path / "net.stablehlo", experiment, state)
  small = sizes.resize_image(pixels.scaled(image_of("uint8")), SIZE)
  wanted = run.probabilities(np.rint(small * 255)[None] / np.float32(255))
  np.testing.assert_allclose(model.probabilities(small[None]), wanted, rtol=0, atol=1e-5)
  assert abs(run.probabilities(small[None]) - wanted).max() > 1e-5
  noise = batches.noise(3, SIZE, pixels)
  change = abs(run.probabilities(noise) - model.probabilities(noise)).max()
  said = f"rounded to uint8 in place of floats: largest difference of a probability {change:.2g},"
  assert said in capsys.readouterr().out


def test_values_end_where_their_dtype_does():
  ends = dict(uint8=(0, 255), uint16=(0, 65535), int16=(-32768, 32767))
  for dtype, (least, most) in ends.items():
    pixels = rasters.Pixels(1, dtype)
    every = np.arange(least, most + 1).astype(dtype)
    np.testing.assert_array_equal(pixels.unscaled(pixels.scaled(every)), every)
    assert pixels.unscaled(np.float32([-9, 9])).tolist() == [least, most]
    assert pixels.unscaled(np.float32([2])).dtype == dtype
  assert rasters.Pixels(1, "float32", 4.0).unscaled(np.float32([-0.5])).tolist() == [-2]


# ------------------------------------------------------------------- ONNX, files


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 2])
def test_onnx_agrees_with_the_runs(overlapping, tmp_path, batch):
  """Casts of each dtype, a sigmoid for each class."""
  pytest.importorskip("jax2onnx", reason=f"jax2onnx is not installed: {onnx_file.INSTALL}")
  _, experiment, state, sums, _ = overlapping
  run = run_model.RunModel(experiment, state, sums)
  model = exported(tmp_path / "net.onnx", experiment, state, sums, batch)
  assert model.thresholds == LIMITS
  agree(model, run, [draw(i)[0] for i in range(3)], 1e-4)
  for kind, (pixels, _, _) in KINDS.items():
    experiment, state = net_of(kind)
    model = exported(tmp_path / "net.onnx", experiment, state, batch=batch)
    agree(model, run_model.RunModel(experiment, state), [image_of(kind)], 1e-4)
    (given,) = model._session.get_inputs()
    assert given.type == f"tensor({pixels.dtype.replace('float32', 'float')})"


def test_files_with_metadata_that_make_no_sense_are_named(overlapping_file, tmp_path):
  known, file = overlapping_file.about, tmp_path / "net.stablehlo"
  assert about_lib.read(known.texts(), file) == known
  for name, wrong in dict(
    thresholds=(LIMITS[:2], [1.5, 0.5, 0.5], 0.5, "half"),
    max_f1_threshold=(0.5, [0.5], [0, 0.5, 0.5]),
    one_logit=(1,),
    palette=([[0, 0, 256]] * 3, [[0, 0, -1]] * 3),
    size=([0, 32],),
    batch=(0, "any"),
    channels=(0, 2.5, "3"),
    dtype=("int32", 8),
    full_scale=(2.0, -1.0, "x"),
    mean=([0.5], 0.5),
    std=([0.5] * 4, [None] * 3),
  ).items():
    for value in wrong:
      with pytest.raises(UserError, match=rf"net.stablehlo: its '{name}' is .* is damaged, export"):
        about_lib.read(known.texts() | {name: json.dumps(value)}, file)
  with pytest.raises(UserError, match="its 'thresholds' is"):
    about_lib.read(known.texts() | dict(one_logit="true"), file)
  one = dict(thresholds="null", max_f1_threshold="[0.5, 0.5, 0.5]")
  with pytest.raises(UserError, match="its 'max_f1_threshold' is"):
    about_lib.read(known.texts() | one, file)


@pytest.mark.parametrize(
  "change",
  [
    dict(dtype="uint16"),
    dict(size=[24, 24]),
    dict(batch=3),
    dict(channels=4, mean=[0.5] * 4, std=[0.5] * 4),
    dict(classes=["a"], palette=[[1, 2, 3]], thresholds=[0.5], max_f1_threshold=None),
  ],
  ids="_".join,
)
def test_a_program_that_is_not_as_its_metadata_say_is_named(overlapping_file, tmp_path, change):
  with zipfile.ZipFile(overlapping_file.file) as archive:
    program, metadata = archive.read("model.stablehlo"), json.loads(archive.read("metadata.json"))
  with zipfile.ZipFile(tmp_path / "net.stablehlo", "w") as archive:
    archive.writestr("metadata.json", json.dumps(metadata | change))
    archive.writestr("model.stablehlo", program)
  said = r"by its .* and its program takes uint8\[b.*,24,32,3\] and gives \[b.*,24,32,3\]"
  with pytest.raises(UserError, match=said):
    open_model(tmp_path / "net.stablehlo")


def test_a_file_of_the_first_format_is_of_segmentation_of_photographs(overlapping_file, tmp_path):
  """Versions that write it know neither thresholds nor other images, and refuse newer files."""
  known = overlapping_file.about
  old = dict(format=json.dumps("segjax-export-1"), max_f1_threshold="0.25", one_logit="false")
  texts = {k: v for k, v in (known.texts() | old).items() if k not in about_lib.ADDED}
  assert len(texts) == len(known.texts()) - 4
  found = about_lib.read(texts, "x")
  plain = dict(thresholds=None, max_f1_threshold=0.25, format="segjax-export-1")
  assert found == dataclasses.replace(known, **plain) and found.pixels.is_rgb
  assert known.format == "segjax-export-2"
