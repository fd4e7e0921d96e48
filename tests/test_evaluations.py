"""All scores of a run: counts of each image in one pass, intervals, boundaries, calibration."""

import csv
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import write_pairs
from PIL import Image
from scipy import ndimage, optimize, special
from sklearn.metrics import confusion_matrix

from segjax import config as config_lib
from segjax import metrics, textfiles
from segjax.analysis import evaluations, image_scores, report_images, worst_images
from segjax.analysis.document import Document
from segjax.data import pipeline
from segjax.errors import NoSplit, UserError
from segjax.inference import Predictor
from segjax.metrics.per_image import interval
from segjax.study import Result
from segjax.tasks.segmentation import COUNTS
from segjax.tasks.task import INDEX
from segjax.training import evaluation, input_pipeline, temperature, workdir
from segjax.training import experiment as experiment_lib
from segjax.training.checkpoints import Checkpoints, Position

CLASSES = ("ground", "thing", "nowhere")
NAMES = {"train": range(4), "val": range(4, 7), "test": range(7, 9)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A run that ended at step 2, its images at their own sizes, and what its net gives for them."""
  root = tmp_path_factory.mktemp("evaluations")
  data = write_pairs(root / "data", count=9, classes=CLASSES)
  for split, numbers in NAMES.items():
    (data / f"{split}.txt").write_text("\n".join(f"x{i:03d}" for i in numbers))
  c = config_lib.default()
  c.data.source = config_lib.data_source("folder", folder=str(data))
  c.data.update(size=(16, 24), batch_size=2, threads=1, eval_fit="full")
  c.model = dict(name="encoder_decoder", widths=(4,), dtype="float32")
  c.total_steps, c.total_epochs, c.eval_steps, c.eval_epochs = 4, 0.0, 2, 0.0
  c.task.sigmoid, c.writers, c.pictures = False, (), 0
  c.seed = 4  # its random net predicts all classes
  splits = [input_pipeline.make_source(c, s) for s in ("train", "val")]
  labels = splits[0].source.labels
  experiment = experiment_lib.build(c, labels)
  run = root / "run"
  run.mkdir()
  workdir.prepare(c, run, labels, workdir.fingerprint(*splits), 1)
  state = experiment.init()[0]
  params = jax.tree.map(lambda x: 3 * x, state.params)
  state = state.replace(params=params, step=jax.numpy.full_like(state.step, 2))
  checkpoints = Checkpoints(run / "checkpoints", best_metric="val/mean_iou", best_mode="max")
  checkpoints.save(2, state, Position(b"{}"), {"val/mean_iou": 0.5})
  checkpoints.close()
  step, shown = experiment.predict_step(), {}
  for split in ("val", "test"):
    source = input_pipeline.make_source(c, split)
    of = [source[i] for i in range(len(source))]
    logits = [np.asarray(step(state, e["image"][None]))[0, :40, :60] for e in of]
    shown[split] = [(x, e["label"][:40, :60]) for x, e in zip(logits, of, strict=True)]
  return SimpleNamespace(run=run, experiment=experiment, state=state, shown=shown)


@pytest.fixture
def run(world, tmp_path):
  return shutil.copytree(world.run, tmp_path / "run")


def counts_of(shown):
  """int[N,C,3] and the IoU of each image and class, by definition."""
  counts = [
    [[((p == c) & (y == c)).sum(), (y == c).sum(), (p == c).sum()] for c in range(len(CLASSES))]
    for p, y in ((x.argmax(-1), y) for x, y in shown)
  ]
  hit, truth, pred = np.moveaxis(np.array(counts), -1, 0)
  with np.errstate(invalid="ignore"):
    return np.array(counts), hit / (truth + pred - hit)


def outline_iou(shown):
  """Boundary IoU of images of 40x60 pixels, whose outlines are 1 pixel wide."""
  found = np.zeros((len(CLASSES), 2))
  for x, y in shown:
    for c in range(len(CLASSES)):
      p, t = (m & ~ndimage.binary_erosion(m, np.ones((3, 3))) for m in (x.argmax(-1) == c, y == c))
      found[c] += (p & t).sum(), (p | t).sum()
  return np.nanmean([a / b if b else np.nan for a, b in found])


def calibration_error(shown, temperature):
  p = np.concatenate([special.softmax(x / temperature, -1).reshape(-1, 3) for x, _ in shown])
  y = np.concatenate([y.ravel() for _, y in shown])
  best, right = p.max(-1), p.argmax(-1) == y
  bins = np.minimum((best * 15).astype(int), 14)
  gaps = [abs(right[bins == b].sum() - best[bins == b].sum()) for b in range(15)]
  return sum(gaps) / len(y)


def cross_entropy(shown, temperature):
  return -sum(
    np.take_along_axis(special.log_softmax(x / temperature, -1), y[..., None].astype(int), -1).sum()
    for x, y in shown
  )


def test_all_scores_of_a_run_are_those_of_its_predictions(world, run, no_pdf, capsys):
  evaluations.run(run, surfaces=True, fit_temperature=True)
  values, shown = json.loads((run / "evaluation_val_2.json").read_text()), world.shown["val"]
  counts, iou = counts_of(shown)
  assert counts[..., 2].min(0)[:2].sum() > 0 and len(counts) == 3
  own = np.nanmean(iou, 1)
  assert values["mean_iou_images"] == pytest.approx(own.mean(), rel=1e-12)
  assert values["mean_iou_worst_images"] == pytest.approx(own.min(), rel=1e-12)
  by_hand = metrics.mean_ious(counts)
  for name, value in by_hand.items():
    assert values[name] == pytest.approx(value, rel=1e-12)
    ends = metrics.bootstrap(counts, lambda rows, n=name: metrics.mean_ious(rows)[n])
    assert values["intervals"][name] == pytest.approx(ends, rel=1e-12)
  assert values["mean_boundary_iou"] == pytest.approx(outline_iou(shown), rel=1e-12)
  surfaces = [metrics.surface_scores(x.argmax(-1), y, num_classes=len(CLASSES)) for x, y in shown]
  dice = np.nanmean(np.nanmean([s["surface_dice"] for s in surfaces], 0))
  assert values["mean_surface_dice"] == pytest.approx(dice, rel=1e-12)

  assert values["ece"] == pytest.approx(calibration_error(shown, 1.0), rel=1e-4)
  of_classes = [values[f"ece/{c}"] for c in CLASSES]
  assert values["classwise_ece"] == pytest.approx(np.mean(of_classes), rel=1e-12)
  best = optimize.minimize_scalar(
    lambda t: cross_entropy(shown, np.exp(t)), bounds=(-3, 3), options=dict(xatol=1e-8)
  )
  assert values["temperature"] == pytest.approx(np.exp(best.x), rel=1e-3)
  cooled = calibration_error(shown, values["temperature"])
  assert values["calibrated_ece"] == pytest.approx(cooled, rel=1e-3, abs=1e-5)
  assert temperature.temperature_of(run, 2) == values["temperature"]
  assert temperature.temperature_of(run, 3) is None
  said = capsys.readouterr().out
  assert "A class that neither truth nor prediction has" in said
  assert f"at temperature {values['temperature']:.3f}" in said

  def table(end):
    return list(csv.reader((run / f"evaluation_val_2_{end}.csv").open()))

  matrix = [[int(v) for v in row[1:]] for row in table("confusion")[1:]]
  assert (
    np.sum(matrix) == 3 * 40 * 60 and np.diag(matrix).tolist() == counts[..., 0].sum(0).tolist()
  )
  classes = {row[0]: dict(zip(table("classes")[0], row, strict=True)) for row in table("classes")}
  assert float(classes["thing"]["f1"]) == pytest.approx(values["f1/thing"], rel=1e-12)
  assert float(classes["thing"]["ece"]) == values["ece/thing"]
  assert float(classes["thing"]["f1_low"]) == values["intervals"]["f1/thing"][0]
  order = np.argsort(own)
  assert [row[0] for row in table("images")[1:]] == [f"x{4 + i:03d}" for i in order]
  assert float(table("images")[1][3]) == pytest.approx(own.min(), rel=1e-12)
  for figure in ("confusion", "classes", "reliability"):
    assert (run / f"evaluation_val_2_{figure}.png").stat().st_size > 5000

  # The task's own numbers are those of an evaluation in training, bit for bit.
  exp = world.experiment
  batches = input_pipeline.eval_batches(exp.config, input_pipeline.make_source(exp.config, "val"))
  plain = evaluation.evaluate(exp.eval_step(), world.state, batches, exp.eval_mesh())
  assert float(exp.task.loss(plain)) == values["loss"]

  found = worst_images.find(run, "latest", (), 2)
  assert [name for name, _ in found.scores] == [f"x{4 + i:03d}" for i in order[:2]]
  assert found.scores[0][1] == pytest.approx(own.min(), rel=1e-12)


def test_another_split_uses_the_temperature_that_was_kept(world, run, no_pdf, capsys):
  temperature.keep(run, 2, 3.0, ece=0.1)
  evaluations.run(run, split="test")
  values = json.loads((run / "evaluation_test_2.json").read_text())
  assert (values["examples"], values["temperature"]) == (2, 3.0)
  assert values["as_at_training"] is True
  wanted = calibration_error(world.shown["test"], 3.0)
  assert values["calibrated_ece"] == pytest.approx(wanted, rel=1e-3)
  assert "mean_surface_dice" not in values
  with pytest.raises(UserError, match="fits on the val split, and --split is 'test'"):
    evaluations.run(run, split="test", fit_temperature=True)
  kept = json.loads((run / "temperature.json").read_text())
  kept["2"]["temperature"] = 1.5
  (run / "temperature.json").write_text(json.dumps(kept))
  with pytest.raises(UserError, match="damaged or edited"):
    temperature.temperature_of(run, 2)


def test_scores_are_shown_though_the_folder_is_read_only(world, run, monkeypatch, capsys):
  def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(textfiles, "write_state", refuse)
  with pytest.raises(UserError, match=r"cannot write .*evaluation_test_2\.json"):
    evaluations.run(run, split="test")
  assert "mean IoU of classes over images" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("view", "name"),
  [
    pytest.param(dict(mode="native"), "native", marks=pytest.mark.slow),
    pytest.param(dict(mode="resize", tile=(32, 64)), "resize_32x64", marks=pytest.mark.slow),
    (
      dict(tile=32, overlap=0.5, tta="flip,scales=1,1.5"),
      "tiles_32x32_overlap_0.5_flip_scales_1_1.5",
    ),
  ],
)
def test_a_view_is_scored_as_the_predictor_sees_it(world, run, no_pdf, capsys, view, name):
  """At the images' own sizes; the run's own numbers stay where they are."""
  evaluations.run(run, view=view, surfaces=True)  # of three images, by batches of two
  values = json.loads((run / f"evaluation_val_2_{name}.json").read_text())
  predict = Predictor(str(run), checkpoint="latest", **view)
  source = input_pipeline.make_source(world.experiment.config, "val").source
  found = [predict(e["image"]) for e in (source[i] for i in range(3))]
  labels = [source[i]["label"] for i in range(3)]
  matrix = sum(
    confusion_matrix(y.ravel(), p.label.ravel(), labels=range(3))
    for y, p in zip(labels, found, strict=True)
  )
  written = list(csv.reader((run / f"evaluation_val_2_{name}_confusion.csv").open()))
  assert [[int(v) for v in row[1:]] for row in written[1:]] == matrix.tolist()
  own = [
    -np.log(np.take_along_axis(p.probabilities, y[..., None].astype(int), -1)).mean()
    for y, p in zip(labels, found, strict=True)
  ]
  assert values["loss"] == pytest.approx(np.mean(own), rel=1e-4)
  each = [
    metrics.surface_scores(p.label, y, num_classes=3, tolerance=1.0)["surface_dice"]
    for y, p in zip(labels, found, strict=True)
  ]
  wanted = np.nanmean(np.nanmean(each, 0))
  assert values["mean_surface_dice"] == pytest.approx(wanted, rel=1e-6)
  assert values["view"].startswith(name.split("_")[0]) and not values["as_at_training"]
  assert f"3 val examples, seen as {values['view']}" in capsys.readouterr().out
  assert not (run / "evaluation_val_2.json").exists()
  if view == dict(mode="native"):  # as this run is evaluated
    evaluations.run(run)
    same = json.loads((run / "evaluation_val_2.json").read_text())
    assert same["mean_iou"] == values["mean_iou"]
    assert same["ece"] == pytest.approx(values["ece"], abs=1e-5)
  with pytest.raises(UserError, match="leave out --"):
    evaluations.run(run, view=view, fit_temperature=True)


def test_a_report_has_scores_on_test_where_there_is_one(world, run, monkeypatch):
  (run / "metrics.jsonl").write_text('{"step": 2, "val/loss": 1.0, "val/mean_iou": 0.5}\n')
  done = {"a": [Result("a", 0, world.experiment.config, run)]}
  document = Document("Scores")
  found = report_images.scores_on_test(document, done)
  _, iou = counts_of(world.shown["test"])
  wanted = np.nanmean(iou, 1).mean()
  assert found["a", 0]["val/mean_iou_images"] == pytest.approx(wanted, rel=1e-12)
  report_images.table_of_test(document, SimpleNamespace(metric="val/mean_iou"), done, found)
  text = document.markdown(run)
  assert "Test set" in text and f"| a | 1 | {found['a', 0]['val/mean_iou']:.4f} |" in text

  def lacking(*args, **how):
    raise NoSplit("no split 'test'")

  monkeypatch.setattr(report_images.restore, "data_of_run", lacking)
  assert report_images.scores_on_test(document, done) == found  # read where it is kept
  (run / "evaluation_test_2.json").unlink()
  assert report_images.scores_on_test(document, done) == {}


def test_scores_on_test_are_of_the_present_labels(world, run, tmp_path):
  (run / "metrics.jsonl").write_text('{"step": 2, "val/loss": 1.0, "val/mean_iou": 0.5}\n')
  config = config_lib.load(run / "config.json")
  moved = shutil.copytree(config.data.source.folder, tmp_path / "data")
  config.data.source.folder = str(moved)
  done = {"a": [Result("a", 0, config, run)]}
  before = report_images.scores_on_test(Document("a"), done)["a", 0]
  assert report_images.scores_on_test(Document("a"), done)["a", 0] == before
  mask = moved / "masks" / f"x{NAMES['test'][0]:03d}.png"
  Image.fromarray(2 - np.asarray(Image.open(mask))).save(mask)
  assert report_images.scores_on_test(Document("a"), done)["a", 0]["val/loss"] != before["val/loss"]


def test_a_temperature_needs_scored_pixels(world, run, tmp_path):
  folder = shutil.copytree(world.experiment.config.data.source.folder, tmp_path / "data")
  for i in NAMES["val"]:
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(folder / "masks" / f"x{i:03d}.png")
  with pytest.raises(UserError, match="no pixel is scored"):
    evaluations.run(run, folder=str(folder), fit_temperature=True)


# ---------------------------------------------------------------------------- rows of images


def test_rows_come_in_the_order_of_the_examples_whatever_the_batches():
  """Images of three sizes, batches of equal sizes with copies, two processes."""
  sizes = [(8, 8), (16, 8), (8, 8), (8, 16), (16, 8), (8, 8), (8, 8)]

  class Source:
    def __len__(self):
      return len(sizes)

    def __getitem__(self, i):
      return dict(image=np.full((*sizes[i], 3), i, np.uint8), label=np.full(sizes[i], i, np.uint8))

  def step(state, batch):
    valid, index = np.asarray(batch["valid"]), np.asarray(batch["index"])
    first = np.asarray(batch["image"])[:, 0, 0, 0]
    return {"pixels": (first * valid).sum(), INDEX: index, "images/value": first.astype(np.int32)}

  mesh = experiment_lib.steps.make_mesh(jax.devices()[:1])
  batches = list(pipeline.full_size_batches(pipeline.FullSize(Source(), 4, 1), batch_size=3))
  assert sum(b["valid"].size for b in batches) > 7  # there are copies
  assert all(b["size"].tolist() == [list(b["image"].shape[1:3])] * len(b["size"]) for b in batches)
  sums = evaluation.evaluate(step, None, batches, mesh)
  assert sums["images/value"].tolist() == sums[INDEX].tolist() == list(range(7))
  assert sums["pixels"] == 21 and sums["pixels"].dtype == np.int64
  parts = [evaluation.evaluate(step, None, batches[i::2], mesh) for i in (1, 0)]
  merged = evaluation.merge(parts)
  assert {k: v.tolist() for k, v in merged.items()} == {k: v.tolist() for k, v in sums.items()}
  resized = pipeline.eval_batches(pipeline.Resized(Source(), (8, 8), 1), batch_size=4)
  assert evaluation.evaluate(step, None, resized, mesh)["images/value"].tolist() == list(range(7))


def test_parts_are_put_together_once_with_the_values_of_the_whole(monkeypatch):
  index = np.array([3, 0, -1, 4, 2, -1, 1, 5], np.int32)
  value = np.where(index < 0, 99, 10 * index)
  parts = [
    {"pixels": np.int32(2**30), "loss": np.float32(0.1), INDEX: index[i : i + 2],
     "images/value": value[i : i + 2]}
    for i in range(0, 8, 2)
  ]  # fmt: skip
  calls, concatenate = [], np.concatenate
  monkeypatch.setattr(np, "concatenate", lambda x: calls.append(len(x)) or concatenate(x))
  found = evaluation.merge(iter(parts))
  assert calls == [4, 4]
  assert found["pixels"] == 2**32 and found["loss"] == 4 * np.float64(np.float32(0.1))
  assert found[INDEX].tolist() == [0, 1, 2, 3, 4, 5]
  assert found["images/value"].tolist() == [0, 10, 20, 30, 40, 50]
  assert evaluation.merge([]) is None


def random_rows(count, seed=0):
  rng = np.random.default_rng(seed)
  hit = rng.integers(0, 20, (count, len(CLASSES)))
  counts = np.stack(
    [hit, hit + rng.integers(0, 9, hit.shape), hit + rng.integers(0, 9, hit.shape)], -1
  )
  counts[rng.random(hit.shape) < 0.3] = 0
  counts[3] = 0  # an image that is not scored
  return {COUNTS: counts}


def test_scores_by_weights_are_those_of_drawn_images():
  rows = random_rows(45)
  found = image_scores.scores(rows, CLASSES)
  for name, value in metrics.mean_ious(rows[COUNTS]).items():
    assert found[name] == pytest.approx(value, rel=1e-12)
  ends = image_scores.intervals(rows, CLASSES, samples=200)
  for name in metrics.mean_ious(rows[COUNTS]):
    wanted = metrics.bootstrap(
      rows[COUNTS], lambda drawn, n=name: metrics.mean_ious(drawn)[n], samples=200
    )
    assert ends[name] == pytest.approx(wanted, rel=1e-12)
  order, own = image_scores.worst_first(rows)
  assert sorted(order) == np.flatnonzero(rows[COUNTS].any((1, 2))).tolist() and 3 not in order
  assert (np.diff(own[order]) >= 0).all()


def test_a_difference_over_images_is_paired():
  rows, other = random_rows(40), random_rows(40)
  other[COUNTS][..., 0] = np.minimum(other[COUNTS][..., 0] + 1, other[COUNTS][..., 1:].min(-1))
  weights = image_scores.draws(40)
  draws = {(v, 0): image_scores.scores(r, CLASSES, weights) for v, r in (("a", rows), ("b", other))}
  text = report_images.difference(draws, "a", "b", "mean_iou")
  gap = interval(draws["b", 0]["mean_iou"] - draws["a", 0]["mean_iou"])
  assert gap[0] > 0 and text.startswith("[+") and f"{gap[0]:+.2f}"[:4] in text
  spread = np.subtract(*interval(draws["a", 0]["mean_iou"])[::-1])
  assert gap[1] - gap[0] < spread / 2
  assert report_images.difference(draws, "a", "b", "loss") == ""
  assert report_images.difference({}, "a", "b", "mean_iou") == ""
