"""Finished runs on data: whose classes, which contents, what scale, and what is never replaced."""

import csv
import dataclasses
import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_pairs
from ml_collections import ConfigDict
from PIL import Image

from segjax import config as config_lib
from segjax import outputs
from segjax.analysis import baseline, class_statistics, features, figures, intact, predictions
from segjax.analysis.document import Document
from segjax.data import pipeline
from segjax.data.tiles import ArrayRows
from segjax.errors import UserError
from segjax.inference import Predictor, command, inputs, png, run_model
from segjax.inference.folder import Predictions
from segjax.inference.predict_files import Segmented
from segjax.study import Result
from segjax.training import evaluation, input_pipeline, restore, workdir
from segjax.training import experiment as experiment_lib
from segjax.training.checkpoints import Checkpoints, Position

SIZE = (16, 24)


def tiny_config(data, **fields):
  c = config_lib.default()
  c.data.source = config_lib.data_source("folder", folder=str(data), train_fraction=0.5)
  c.data.update(size=SIZE, batch_size=2, threads=1)
  c.model = dict(name="unet", widths=(2, 4), dtype="float32")
  c.total_steps, c.total_epochs, c.eval_steps, c.eval_epochs = 4, 0.0, 2, 0.0
  c.writers, c.pictures = (), 0
  for name, value in fields.items():
    c.update_from_flattened_dict({name: value})
  return c


def make_run(folder, data, **fields):
  """The folder of a run that ended at step 0, by the library's own functions."""
  config = tiny_config(data, **fields)
  sources = [input_pipeline.make_source(config, s) for s in ("train", "val")]
  labels = sources[0].source.labels
  experiment = experiment_lib.build(config, labels)
  folder.mkdir(parents=True)
  workdir.prepare(config, folder, labels, workdir.fingerprint(*sources), 1)
  checkpoints = Checkpoints(folder / "checkpoints", best_metric="val/mean_iou", best_mode="max")
  checkpoints.save(2, experiment.init()[0], Position(b"{}"), {"val/mean_iou": 0.5})
  checkpoints.close()
  return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A data set and a run on it; tests copy what they change."""
  root = tmp_path_factory.mktemp("world")
  data = write_pairs(root / "data", count=8)
  run = make_run(root / "run", data)
  experiment, state = restore.run(run)
  return SimpleNamespace(
    data=data, run=run, experiment=experiment, state=state, evaluating=compiled(experiment, "eval"),
    net=net_of(compiled(experiment, "predict"), state),
  )  # fmt: skip


def net_of(experiment, state):
  """The net as launch/predict.py has it."""
  predictor = Predictor(run_model.RunModel(experiment, state))
  return command.Net("", partial(Segmented, predictor), experiment.labels)


def compiled(experiment, kind):
  """An experiment whose step is compiled once for all tests."""
  step = getattr(experiment, f"{kind}_step")()

  class Compiled(type(experiment)):
    pass

  setattr(Compiled, f"{kind}_step", lambda self: step)
  fields = {f.name: getattr(experiment, f.name) for f in dataclasses.fields(experiment)}
  return Compiled(**fields)


@pytest.fixture
def run(world, tmp_path):
  return shutil.copytree(world.run, tmp_path / "run")


@pytest.fixture
def other(world, tmp_path):
  """A copy of the data, to be changed."""
  return shutil.copytree(world.data, tmp_path / "other")


def mend_masks(data):
  """Another label in the first rows of every mask."""
  for file in (data / "masks").iterdir():
    label = np.array(Image.open(file))
    label[:10] = 1
    Image.fromarray(label).save(file)


# ------------------------------------------------------------------- a run and its data


def use_evaluate(world, run, moved):
  return restore.data_of_run(run, world.experiment.config, "val", moved=moved)


USES = {
  "evaluate": use_evaluate,
  "crops": lambda world, run, moved: predictions.Predictor(run, moved=moved),
  "features": lambda world, run, moved: features.sources_of(run, moved),
  "side by side": lambda world, run, moved: predictions.side_by_side({"a": run}, moved=moved),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_other_classes_are_an_error_everywhere(world, other, use):
  moved = dict(folder=str(other))
  for names, why in (
    ("thing\nground\n", "the same classes in another order"),
    ("ground\ncar\n", "other classes"),
    ("ground\nthing\nmore\n", "other classes"),
  ):
    (other / "classes.txt").write_text(names)
    with pytest.raises(UserError, match=f"{why}.*ground, thing.*{names.split()[0]}"):
      use(world, world.run, moved)


def test_features_of_a_run_without_labels_may_be_of_other_classes(world, other):
  config = world.experiment.config.copy_and_resolve_references()
  config_lib.set_task(config, "simclr")
  (other / "classes.txt").write_text("thing\nground\n")
  moved = dict(folder=str(other))
  source = restore.data_of_run(world.run, config, "val", moved=moved, labelled=False).source
  assert source.source.labels.names == ("thing", "ground")


def test_moved_data_are_the_same_data(world, run, other, capsys):
  data = use_evaluate(world, run, dict(folder=str(other)))
  own = use_evaluate(world, run, {})
  assert (data.changed, own.changed) == ("", "")
  assert data.digest == own.digest
  assert (data.folder, own.folder) == (str(other), str(world.data))
  assert world.experiment.config.data.source.folder == str(world.data)  # not changed
  assert capsys.readouterr().out == ""


def test_other_contents_are_said(world, run, other, capsys):
  mend_masks(other)
  data = use_evaluate(world, run, dict(folder=str(other)))
  assert "images or labels of the val split are not those of the training" in data.changed
  assert f"  warning: {data.changed}\n" == capsys.readouterr().out
  (other / "images" / "x000.png").rename(other / "images" / "y.png")
  (other / "masks" / "x000.png").rename(other / "masks" / "y.png")
  assert (
    "has other examples than at the training"
    in (
      restore.data_of_run(run, world.experiment.config, "train", moved=dict(folder=str(other)))
    ).changed
  )


def test_a_run_of_an_older_version(world, run, other, capsys):
  """Its data.json has no hash of contents, or there is no such file."""
  kept = json.loads((run / "data.json").read_text())
  del kept["contents"], kept["checksum"]
  (run / "data.json").write_text(json.dumps(kept))
  assert use_evaluate(world, run, {}).changed == ""
  assert use_evaluate(world, run, dict(folder=str(world.data))).changed == ""
  assert "is not known" in use_evaluate(world, run, dict(folder=str(other))).changed
  (run / "data.json").unlink()
  assert use_evaluate(world, run, {}).changed == ""
  (run / "data.json").write_text("[")
  with pytest.raises(UserError, match=r"data\.json: not valid JSON"):
    use_evaluate(world, run, {})


def test_data_that_have_no_folder(tmp_path):
  config = tiny_config("", **{"data.source": config_lib.data_source("road_scenes", num_val=2)})
  assert restore.moved_to(config, None) == {}
  assert restore.moved_to(config, "x") == dict(folder="x")
  config.data.source = config_lib.data_source("tfds")
  assert restore.moved_to(config, "x") == dict(data_dir="x")


# ------------------------------------------------------------------- evaluation


def evaluate(world, run, moved=(), split="val"):
  data = restore.data_of_run(run, world.experiment.config, split, moved=moved)
  return outputs.evaluate_run(run, world.evaluating, world.state, data, split)


def test_an_evaluation_says_what_it_is_of(world, run, other, capsys):
  sums, file = evaluate(world, run)
  own = file.read_bytes()
  assert file.name == f"evaluation_val_{int(world.state.step)}.json"
  values = json.loads(own)
  assert values["folder"] == str(world.data)
  assert (values["split"], values["examples"], values["as_at_training"]) == ("val", 4, True)
  assert values["checkpoint"] == f"checkpoints/{values['step']}"
  summary = world.experiment.task.summary(sums)
  assert values["mean_iou"] == summary["mean_iou"]
  mend_masks(other)
  theirs, second = evaluate(world, run, dict(folder=str(other)))
  digest = json.loads(second.read_text())["digest"]
  assert second.name == f"evaluation_val_{values['step']}_other_{digest[:8]}.json"
  assert digest != values["digest"]
  assert file.read_bytes() == own
  assert (theirs["matrix"].sum(1) != sums["matrix"].sum(1)).all()
  assert evaluate(world, run, split="train")[1].name != file.name


def test_files_that_changed_in_place_do_not_replace_the_numbers_either(world, run, other):
  config = json.loads((run / "config.json").read_text())
  config["data"]["source"]["folder"] = str(other)
  del config["checksum"]
  (run / "config.json").write_text(json.dumps(config))
  config, names = config_lib.load(run / "config.json"), []
  for change in (lambda _: None, mend_masks):
    change(other)
    data = restore.data_of_run(run, config, "val")
    names.append(outputs.evaluate_run(run, world.evaluating, world.state, data, "val")[1].name)
  assert names[0] == f"evaluation_val_{int(world.state.step)}.json" != names[1]


def test_a_class_without_pixels_is_a_warning_and_nothing_scored_an_error(world, run, other, capsys):
  moved = dict(folder=str(other))
  names = use_evaluate(world, run, moved).source.source.names

  def fill_val(value):
    for name in names:
      Image.fromarray(np.full((40, 60), value, np.uint8)).save(other / "masks" / f"{name}.png")

  fill_val(0)
  evaluate(world, run, moved)
  assert "warning: val: nothing is labelled thing" in capsys.readouterr().out
  fill_val(255)
  with pytest.raises(UserError, match="no label of the val split is scored"):
    evaluate(world, run, moved)
  assert len(list(run.glob("evaluation_*.json"))) == 1


# ------------------------------------------------------------------- scale


def seen_shapes(image, outputs_of, eval_fit):
  """(shapes that the net gets, the probabilities) of a net as a run is evaluated."""
  shapes, data = [], ConfigDict(dict(size=SIZE, eval_fit=eval_fit, eval_overlap=0.5))

  def probabilities(batch):
    shapes.append(batch.shape[1:3])
    return outputs_of(batch)

  model = SimpleNamespace(
    classes=("a",), palette=np.zeros((1, 3), np.uint8), size=None, multiple=8, one_logit=False,
    batch=None, view=run_model.view_of(data), probabilities=probabilities,
  )  # fmt: skip
  return shapes, Predictor(model)(image).probabilities


@pytest.mark.parametrize(("fit", "shape", "seen"), [
  ("resize", (40, 60), SIZE),
  ("full", (40, 60), (40, 64)),
  ("crop", (40, 60), (40, 64)),
  ("crop", (10, 60), (16, 64)),  # to data.size at least, as in evaluation
  ("crop", (10, 20), SIZE),
  ("crop", SIZE, SIZE),
  ("full", (10, 20), (16, 24)),
  ("tiles", (10, 20), SIZE),
  ("tiles", (40, 60), SIZE),
])  # fmt: skip
def test_the_net_sees_an_image_at_the_scale_of_evaluation(fit, shape, seen):
  image = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
  red = lambda batch: batch[..., :1].astype("f4")  # noqa: E731
  shapes, out = seen_shapes(image, red, eval_fit=fit)
  assert set(shapes) == {tuple(seen)}
  assert out.shape == (*shape, 1)
  if fit != "resize" or shape == SIZE:
    np.testing.assert_allclose(out[..., 0], image[..., 0], rtol=1e-6)


def test_one_answer_for_an_image_is_of_its_middle_as_in_evaluation():
  image = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
  keep = []

  def seen(eval_fit):
    data = dict(size=SIZE, eval_multiple=8, eval_fit=eval_fit, eval_overlap=0.5)
    answers = object.__new__(run_model.Answers)
    answers.task = SimpleNamespace(label_kind="class", answer=lambda image, out: out)
    answers.config, answers._state = ConfigDict(dict(data=data)), None
    answers._step = lambda state, batch: keep.append(batch) or np.zeros((1, 3), "f4")
    assert answers.answer(ArrayRows(image)).shape == (1, 3)
    return keep[-1][0]

  evaluated = pipeline.CenterCrop([dict(image=image)], SIZE, 1)[0]["image"]
  np.testing.assert_array_equal(seen("crop"), evaluated)
  assert seen("full").shape == (40, 64, 3)


def test_a_scale_that_the_net_was_not_trained_at_is_said():
  def said(fit, eval_fit, shape=(40, 60)):
    data = ConfigDict(dict(size=SIZE, fit=fit, eval_fit=eval_fit, eval_overlap=0.25))
    return run_model.scale_warning(data, run_model.view_of(data), shape)

  assert said("resize", "resize") == ""
  assert [said("crop", eval_fit) for eval_fit in ("crop", "full", "tiles")] == [""] * 3
  assert "crops of 16x24" in said("crop", "resize")
  assert "squeezed to 16x24" in said("resize", "full")
  assert said("crop", "resize", SIZE) == ""


# ------------------------------------------------------------------- what prediction writes


def photo(file, shape=(40, 60), seed=0):
  pixels = np.random.default_rng(seed).integers(0, 255, (*shape, 3))
  file.parent.mkdir(exist_ok=True, parents=True)
  Image.fromarray(pixels.astype(np.uint8)).save(file)
  return file


def predict(world, given, folder):
  folder.mkdir(exist_ok=True)
  found = inputs.find(given, folder)
  return world.net.run(found, Predictions(folder, tuple(found.files.values())))


def rows(folder):
  data = (folder / "predictions.csv").read_bytes().decode("utf-8", "surrogateescape")
  return {row["file"]: row for row in csv.DictReader(data.splitlines())}


def listing(folder):
  return sorted(f.name for f in folder.iterdir())


KINDS = ("color", "index", "overlay")
SHARED = ["legend.png", "predictions.csv"]  # by all images of a folder


def test_results_never_lie_among_the_images(world, tmp_path):
  image = photo(tmp_path / "in" / "a.png")
  (tmp_path / "link").symlink_to(tmp_path / "in")
  for given in (image, tmp_path / "in", tmp_path / "link"):
    for folder in (tmp_path / "in", tmp_path / "link"):
      with pytest.raises(UserError, match="is the folder of the images"):
        predict(world, given, folder)
  assert listing(tmp_path / "in") == ["a.png"]


def test_the_table_is_complete_over_several_calls(world, tmp_path):
  a, b = (photo(tmp_path / n / f"{n}.png", seed=i) for i, n in enumerate("ab"))
  out = tmp_path / "out"
  assert predict(world, a, out) == []
  first = rows(out)["a.png"]
  predict(world, b, out)
  assert rows(out)["a.png"] == first
  assert listing(out) == sorted([f"{n}_{k}.png" for n in "ab" for k in KINDS] + SHARED)
  photo(a, shape=(30, 50))
  predict(world, a, out)
  assert list(rows(out)) == ["a.png", "b.png"]
  assert rows(out)["a.png"]["width"] == "50"
  assert (out / "predictions.csv").read_text().count("a.png") == 1
  index = np.asarray(Image.open(out / "a_index.png"))
  assert float(rows(out)["a.png"]["thing"]) == pytest.approx((index == 1).mean(), abs=1e-6)


def test_a_legend_lies_beside_the_pictures(world, tmp_path):
  predict(world, photo(tmp_path / "in" / "a.png"), tmp_path / "out")
  legend = np.asarray(Image.open(tmp_path / "out" / "legend.png"))
  colors = [color for _, color in world.experiment.labels.classes]
  assert len(colors) == 2
  assert [(legend == color).all(-1).sum() > 100 for color in colors] == [True] * 2


def test_the_checkpoint_that_is_used_is_named(run):
  assert restore.checkpoint_text(run, 2) == (
    "checkpoint of step 2, the latest and the best by val/mean_iou"
  )
  best = dict(best_metric="val/mean_iou", best_mode="max")
  checkpoints = Checkpoints(run / "checkpoints", **best)
  state = restore.run(run)[1]
  checkpoints.save(4, state, Position(b"{}"), {"val/mean_iou": 0.4})
  checkpoints.close()
  assert restore.checkpoint_text(run, 4) == (
    "checkpoint of step 4, the latest (the best by val/mean_iou is of step 2)"
  )
  assert restore.checkpoint_text(run, 2) == (
    "checkpoint of step 2, the best by val/mean_iou (the latest is of step 4)"
  )


def test_files_of_the_users_are_not_replaced(world, tmp_path):
  image, out = photo(tmp_path / "in" / "a.png"), tmp_path / "out"
  mine = photo(out / "a_overlay.png")
  before = mine.read_bytes()
  with pytest.raises(UserError, match=r"a_overlay\.png is there already and not a result"):
    predict(world, image, out)
  assert listing(out) == ["a_overlay.png"] and mine.read_bytes() == before
  mine.unlink()
  (out / "predictions.csv").unlink(missing_ok=True)
  legend = photo(out / "legend.png")
  before = legend.read_bytes()
  with pytest.raises(UserError, match=r"legend\.png is there already and not a result"):
    predict(world, image, out)
  assert listing(out) == ["legend.png"] and legend.read_bytes() == before
  legend.unlink()
  table = out / "predictions.csv"
  for text in ("name,price\nx,1\n", "\0\1", "file;width\n"):
    table.write_text(text)
    with pytest.raises(UserError, match=r"predictions\.csv is there already and not a table"):
      predict(world, image, out)
    assert table.read_text() == text


def test_pictures_without_a_row_are_ours_by_their_mark(world, tmp_path):
  """Of a version before the table was kept, or whose table was removed."""
  image, out = photo(tmp_path / "in" / "a.png"), tmp_path / "out"
  predict(world, image, out)
  (out / "predictions.csv").unlink()
  predict(world, image, out)
  for kind in KINDS:  # of an older version: no mark, but a row
    Image.open(out / f"a_{kind}.png").save(out / f"a_{kind}.png")
  assert predict(world, image, out) == []


def test_a_table_of_other_classes_stays(world, tmp_path):
  image, out = photo(tmp_path / "in" / "a.png"), tmp_path / "out"
  predict(world, image, out)
  before = (out / "predictions.csv").read_bytes()
  table = Predictions(out)
  with pytest.raises(UserError, match=r"other classes \(ground, thing; now cat\)"):
    table.begin(["a.png"], (), ["cat"])
  table.close()
  assert (out / "predictions.csv").read_bytes() == before


def test_two_images_of_one_stem_have_their_own_pictures(world, tmp_path):
  first, second = photo(tmp_path / "1" / "a.jpg"), photo(tmp_path / "2" / "a.png", seed=1)
  out = tmp_path / "out"
  for given in (first, second, second, first):
    predict(world, given, out)
  names = [f"{n}_{k}.png" for n in ("a", "a.png") for k in KINDS]
  assert listing(out) == sorted([*names, *SHARED])
  for base, name in (("a", "a.jpg"), ("a.png", "a.png")):
    share = (np.asarray(Image.open(out / f"{base}_index.png")) == 1).mean()
    assert float(rows(out)[name]["thing"]) == pytest.approx(share, abs=1e-6)


def test_images_of_one_stem_in_one_folder(world, tmp_path):
  for name in ("a.jpg", "a.png", "b.png"):
    photo(tmp_path / "in" / name)
  (tmp_path / "in" / "notes.txt").write_text("")
  assert predict(world, tmp_path / "in", tmp_path / "out") == []
  assert list(rows(tmp_path / "out")) == ["a.jpg", "a.png", "b.png"]
  assert len(list((tmp_path / "out").glob("*_index.png"))) == 3
  (note,) = inputs.find(tmp_path / "in", tmp_path / "out").notes
  assert "notes.txt" in note


def test_an_image_that_cannot_be_read_does_not_stop_the_others(world, tmp_path, capsys):
  for name in "abc":
    photo(tmp_path / "in" / f"{name}.png")
  (tmp_path / "in" / "b.png").write_text("nothing")
  (broken,) = predict(world, tmp_path / "in", tmp_path / "out")
  assert "b.png" in broken
  assert list(rows(tmp_path / "out")) == ["a.png", "c.png"]
  assert capsys.readouterr().out.count("60x40") == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_an_interrupted_prediction_leaves_a_complete_table(world, tmp_path, monkeypatch, error):
  for name in "abc":
    photo(tmp_path / "in" / f"{name}.png")
  seen = []

  def interrupted(*args, **kwargs):
    seen.append(args)
    if len(seen) == 3:
      raise error

  monkeypatch.setattr("builtins.print", interrupted)
  with pytest.raises(error):
    predict(world, tmp_path / "in", tmp_path / "out")
  monkeypatch.undo()
  assert list(rows(tmp_path / "out")) == ["a.png", "b.png", "c.png"]
  assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("torn", ["b.png,4", "b.png,4,4,0.25"])
def test_a_kill_at_any_time_leaves_rows_for_all_pictures(tmp_path, torn):
  """Without `close`, as after SIGKILL; a torn last row is left out of the next table."""
  table = Predictions(tmp_path)
  table.begin(["a.png", "b.png"], ["index.png"], ["x"])
  pictures = {"index.png": np.zeros((4, 4), np.uint8)}
  table.add("a.png", (4, 4), [pictures], lambda: dict(x=1.0))
  assert list(rows(tmp_path)) == ["a.png"]
  with (tmp_path / "predictions.csv").open("a") as file:
    file.write(torn)
  again = Predictions(tmp_path)
  again.begin(["c.png"], ["index.png"], ["x"])
  again.add("c.png", (4, 4), [pictures], lambda: dict(x=0.5))
  assert list(rows(tmp_path)) == ["a.png", "c.png"]
  assert rows(tmp_path)["c.png"]["x"] == "0.500000"


def test_a_full_disk_leaves_neither_picture_nor_row(tmp_path, monkeypatch):
  table = Predictions(tmp_path)
  table.begin(["a.png", "b.png"], ["index.png", "color.png"], ["x"])
  pictures = {k: np.zeros((4, 4), np.uint8) for k in ("index.png", "color.png")}
  table.add("a.png", (4, 4), [pictures], lambda: dict(x=1.0))
  before = listing(tmp_path), (tmp_path / "predictions.csv").read_bytes()
  write, made = png.PngWriter.write, []

  def full(writer, rows):
    made.append(writer)
    if len(made) == 2:
      raise OSError(28, "No space left on device")
    write(writer, rows)

  monkeypatch.setattr(png.PngWriter, "write", full)
  with pytest.raises(UserError, match=r"b_color\.png: .*No space left"):
    table.add("b.png", (4, 4), [pictures], lambda: dict(x=1.0))
  table.close()
  assert (listing(tmp_path), (tmp_path / "predictions.csv").read_bytes()) == before


def test_names_of_every_kind(tmp_path):
  names = ["=1+1.png", "-a.png", "@b.png", 'ä,"x".png', "b\udce9.png", "a b.png"]
  for k in range(2):  # the second time over the table of the first
    table = Predictions(tmp_path)
    table.begin(names, (), ["=road"])
    for name in names:
      table.add(name, (4, 4), [], lambda: {"=road": float(k)})
    table.close()
  found = rows(tmp_path)
  assert list(found) == ["./=1+1.png", "./-a.png", "./@b.png", *names[3:]]
  assert {row["=road"] for row in found.values()} == {"1.000000"}
  assert list(Predictions(tmp_path).rows) == names


# ------------------------------------------------------------------- analysis


def test_color_and_position_alone_need_pixels_of_two_classes(world):
  task = world.experiment.task

  def source(*labels):
    return [dict(image=np.zeros((4, 4, 3), np.uint8), label=np.array(x, np.uint8)) for x in labels]

  nothing, ground, thing = (np.full((4, 4), v) for v in (255, 0, 1))
  for labels, text in (
    ((nothing,), "no class"),
    ((nothing, ground), "are of ground, a regression"),
  ):
    with pytest.raises(UserError, match=text):
      baseline.color_and_position(source(*labels), source(ground), task)
  sums = baseline.color_and_position(
    source(nothing, ground, thing), source(ground), task, pixels_per_image=3
  )
  assert sums["pixels"] == 16


ROWS = [
  {"step": 0, "info/steps_per_epoch": 2.0},
  {"step": 2, "train/loss": 2.0, "train/steps": 2},
  {"step": 2, "val/loss": 1.0, "val/mean_iou": 0.5},
  {"step": 4, "train/loss": 1.0, "train/steps": 2},
  {"step": 4, "val/loss": None, "val/mean_iou": 0.6},
]


def write_rows(run, rows):
  (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_curves_without_the_info_row_are_over_steps(run):
  ends = figures.series(ROWS, "val/loss")[0]
  assert ends.tolist() == [2]
  (places,), text = figures.epoch_axis([ROWS], [ends])
  assert (places.tolist(), text) == ([1], "epoch")
  (places,), text = figures.epoch_axis([ROWS[1:]], [ends])
  assert (places.tolist(), text) == ([2], "step")
  assert figures.epoch_axis([ROWS, ROWS[1:]], [ends, ends])[1] == "step"
  write_rows(run, ROWS[1:])
  assert figures.curves(run, "t", run / "figures" / "curves.png").is_file()


def test_values_of_other_kinds_are_left_out_of_curves(run):
  bad = [*ROWS[1:], {"step": 6, "val/loss": "x", "train/loss": [1], "train/steps": None}]
  assert figures.series(bad, "val/loss")[0].tolist() == [2]
  assert figures.interval_means(bad, "train/loss", [2, 4]).tolist() == [2, 1]
  write_rows(run, [{"step": 2, "val/loss": 1.0}])
  assert figures.curves(run, "t", run / "c.png").is_file()
  write_rows(run, [{"step": 2}])
  assert figures.curves(run, "t", run / "d.png") is None


def test_a_folder_that_cannot_be_written_to_is_one_line(run, tmp_path):
  write_rows(run, ROWS)
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot write .*curves\.png"):
    figures.curves(run, "t", tmp_path / "file" / "curves.png")
  picture = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(UserError, match=r"cannot write .*sheet\.png"):
    figures.write_picture(picture, tmp_path / "nowhere" / "sheet.png")
  (tmp_path / "folder.png").mkdir()
  for write in (lambda f: figures.curves(run, "t", f), lambda f: figures.write_picture(picture, f)):
    with pytest.raises(UserError, match=r"cannot write .*folder\.png"):
      write(tmp_path / "folder.png")


def write_sums(run, **more):
  np.savez(run / "val_sums.npz", step=2, **dict(matrix=np.eye(2, dtype=int)) | more)


def test_sums_of_the_last_evaluation(run):
  with pytest.raises(UserError, match=r"no .*val_sums\.npz; the run was not evaluated yet"):
    evaluation.read_sums(run)
  write_sums(run)
  assert evaluation.read_sums(run)["matrix"].tolist() == [[1, 0], [0, 1]]
  file = run / "val_sums.npz"
  data = file.read_bytes()
  damaged = [data[:n] for n in (0, 3, 30, len(data) // 2, len(data) - 30)]
  damaged += [b"{}", data.replace(b"NUMPY", b"NUMPX"), data.replace(b"step", b"stop")]
  for content in damaged:
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"val_sums\.npz: (damaged|no 'step')"):
      evaluation.read_sums(run)


def result(run, **fields):
  config = config_lib.load(run / "config.json")
  return Result(**dict(variant="a", seed=0, config=config, workdir=run) | fields)


def damage_metrics(run):
  write_rows(run, ROWS[:2])


def damage_sums(run):
  (run / "val_sums.npz").write_bytes((run / "val_sums.npz").read_bytes()[:300])


def damage_matrix(run):
  write_sums(run, matrix=np.eye(3, dtype=int))


def damage_labels(run):
  (run / "labels.json").write_text("[")


def damage_checkpoint(run):
  folder = run / "checkpoints" / "2" / "state"
  largest = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
  largest.unlink()


@pytest.mark.parametrize("damage", [
  damage_metrics, damage_sums, damage_matrix, damage_labels, damage_checkpoint,
])  # fmt: skip
def test_a_damaged_run_is_a_line_of_the_report(run, tmp_path, capsys, damage):
  write_rows(run, ROWS)
  write_sums(run)
  whole = shutil.copytree(run, tmp_path / "whole")
  damage(run)
  given = [result(run), result(whole, seed=1), result(whole, variant="b", error="before")]
  first, second, third = intact.checked(given)
  assert str(run) in first.error and "\n" not in first.error
  assert (second.error, third.error) == ("", "before")
  assert f"a, seed 0: {first.error}" in capsys.readouterr().out


def test_pictures_that_cannot_be_drawn_are_a_line_of_the_report():
  document = Document("t")

  def fails():
    raise UserError("no such folder")

  assert intact.or_line(document, "Stages of a", fails) is None
  assert document.blocks == [("text", "Stages of a: not drawn (no such folder).")]
  with pytest.raises(KeyError):
    intact.or_line(document, "x", lambda: {}["ours"])


def test_markdown_holds_no_html_of_names(tmp_path):
  document = Document("<script>1</script>")
  document.heading("a <b>")
  document.text("1 < 2 &lt;")
  document.table(("<i>", "x"), [("a|b", "two\nlines")])
  document.figure(tmp_path / "f.png", "<img src=x>")
  text = document.markdown(tmp_path)
  assert "<" not in text
  assert "# &lt;script>1&lt;/script>" in text
  assert "1 &lt; 2 &amp;lt;" in text
  assert "| a\\|b | two lines |" in text
  assert "![&lt;img src=x>](f.png)" in text


def test_costs_that_are_damaged_are_measured_anew(tmp_path):
  from segjax.benchmark import cost

  file = tmp_path / "cost.json"
  assert cost.load(file) is None
  one = cost.Cost("cpu", (4, 5), 1, 0.1, 0.2, 3.0, 0.4, 5.0, 0.6, 7.0)
  one.save(file)
  assert cost.load(file) == one
  good = file.read_text()
  for text in ("", "[]", "{}", good.replace('"cpu"', "3"), good.replace("7.0", '"x"'), good[:40]):
    file.write_text(text)
    assert cost.load(file) is None
  with pytest.raises(UserError, match="cannot write"):
    one.save(tmp_path / "nowhere" / "cost.json")


def test_weights_are_proposed_for_classes_that_occur():
  pixels = np.array([60, 20, 0])
  counted = class_statistics.ClassStatistics(
    ("a", "b", "c"), pixels, pixels > 0, np.array([80, 40, 0]), 0, 2
  )
  lost, _, first, _, second, rule = class_statistics.proposal(counted).splitlines()
  assert lost == "classes without a pixel: 'c' (weight 1 below)"
  assert first.endswith('="(0.8333, 1.25, 1)"')
  assert second.endswith('="(1.751, 4.184, 1)"')
  assert rule == "or counted by each training: --config.loss.class_weights=median_frequency"
  assert "0.000" not in class_statistics.table(counted)
  one = dataclasses.replace(counted, pixels=np.array([60, 0, 0]))
  assert "class_weights" not in class_statistics.proposal(one)
  assert "of class 'a', 'b', 'c' have none" in class_statistics.proposal(one)


def test_rows_of_another_process_in_a_new_table_stay(tmp_path):
  one, other = Predictions(tmp_path), Predictions(tmp_path)  # neither sees a table
  for table, name in ((one, "a"), (other, "b"), (one, "c")):
    table.begin([name], ["index.png"], ["sky"])
    table.add(name, (2, 2), [], lambda: dict(sky=1.0))
  assert list(Predictions(tmp_path).rows) == ["a", "b", "c"]
