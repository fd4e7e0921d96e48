"""Multi-label segmentation: sets of classes as labels, losses, metrics, files, a run to its end."""

import csv
import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from conftest import shows
from PIL import Image
from scipy import ndimage
from sklearn import metrics as sk
from test_class_masks import CLASSES, SIZE, draw, read, save, write
from test_metrics_beyond import error as calibration_error

from segjax import config as config_lib
from segjax import losses, metrics, pictures, training
from segjax.analysis import commands, dry_run, evaluations, examples, features
from segjax.data import label_sets, sources, tiffs
from segjax.data.labels import LabelTable
from segjax.errors import UserError
from segjax.export import command as export
from segjax.export import evaluation
from segjax.inference import Predictor, command, inputs, run_model
from segjax.inference.folder import Predictions
from segjax.legends import colorize, values_of
from segjax.tasks import MultiLabel
from segjax.tasks.task import INDEX
from segjax.training import class_balance, coverage, input_pipeline, measures, restore
from segjax.training import experiment as experiment_lib
from segjax.training.evaluation import evaluate, merge, read_sums
from segjax.training.writers import read_metrics

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 6, 8, 3)).astype(np.float32)
PLANES = RNG.random((4, 6, 8, 3)) < (0.5, 0.3, 0.6)
PLANES[0, ..., 1] = False  # a class that an image lacks
IGNORED = RNG.random((4, 6, 8)) < 0.2
LABEL = np.where(IGNORED, 255, label_sets.join(PLANES))
VALID = np.array([True, True, False, True])


def sigmoid(z):
  return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


@functools.partial(jax.jit, static_argnames=("task", "evaluating"))
def counted(task, logits, label, valid, evaluating):
  return task.statistics(logits, label, valid, evaluating=evaluating)


def loss_of(logits, label, valid=None, **how):
  task = MultiLabel(CLASSES, **dict(cross_entropy=0.0) | how)
  valid = np.ones(len(label), bool) if valid is None else valid
  sums = task.statistics(jnp.asarray(logits), jnp.asarray(label), valid, evaluating=False)
  return task.loss(sums)


# ------------------------------------------------------------------- sets


@pytest.mark.parametrize("count", [1, 7, 8, 30])
def test_sets_of_classes_come_back_and_never_look_ignored(count):
  rng = np.random.default_rng(count)
  planes = rng.random((50, 40, count)) < 0.5
  planes[0, 0], planes[0, 1] = True, False
  label = label_sets.join(planes)
  assert label.dtype == (np.uint8 if count <= 7 else np.int32)
  assert not (label == 255).any() and label.min() >= 0
  np.testing.assert_array_equal(label_sets.split(label, count), planes)
  np.testing.assert_array_equal(label_sets.split(jnp.asarray(label, jnp.int32), count), planes)
  label[1] = 255
  assert not label_sets.split(label, count)[1].any()
  with pytest.raises(UserError, match="31 overlapping classes, expected at most 30"):
    label_sets.overlapping_table([f"c{i}" for i in range(31)])


def test_sets_are_shown_in_mixed_colours():
  table = LabelTable((("a", (200, 0, 0)), ("b", (0, 100, 40))), overlapping=True)
  label = np.array([[0, 1, 2, 3, 255]])
  colors = colorize(table, label)[0]
  assert colors[:4].tolist() == [[0, 0, 0], [200, 0, 0], [0, 100, 40], [100, 50, 20]]
  assert values_of(table, label) == {0, 1, 255}
  assert values_of(table, label[:, :2]) == {0}


def test_drawn_scenes_overlap():
  how = dict(num_val=4, height=64, width=96)
  source = sources.make("road_scenes", "val", classes="overlapping", **how)
  every, road = (sources.make("road_scenes", "val", classes=c, **how) for c in ("all", "road"))
  found = np.zeros(4, int)
  for i in range(4):
    planes = label_sets.split(source[i]["label"], 4)
    drivable, lane, shadow, vehicle = np.moveaxis(planes, -1, 0)
    names = np.array(every.labels.names)[every[i]["label"]]
    np.testing.assert_array_equal(drivable, road[i]["label"] == 1)
    np.testing.assert_array_equal(lane, names == "lane_marking")
    np.testing.assert_array_equal(vehicle, names == "vehicle")
    assert set(names[shadow]) <= {"ground", "sidewalk", "road", "lane_marking"}
    np.testing.assert_array_equal(source[i]["image"], every[i]["image"])
    found += planes.any((0, 1))
  assert (found > 0).all()


# ------------------------------------------------------------------- losses, by smp's formulas


def cross_entropy(z, y):
  z = np.asarray(z, np.float64)
  return (np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).mean()


def focal(z, y, gamma=2.0):
  z = np.asarray(z, np.float64)
  lost = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
  return ((1 - np.exp(-lost)) ** gamma * lost).mean()


def of_classes(score):
  """1 - score of each class of an image, [P,C] of pixels."""

  def loss(z, y):
    p, y = sigmoid(z), y.astype(np.float64)
    return np.mean([1 - score(p[:, c], y[:, c]) for c in range(p.shape[1])])

  return loss


def dice(p, y):
  return (2 * (p * y).sum() + 1) / ((p + y).sum() + 1)


def jaccard(p, y):
  overlap = (p * y).sum()
  return (overlap + 1) / ((p + y).sum() - overlap + 1)


def tversky(p, y, alpha=0.2, beta=0.9):
  hit, false, missed = (p * y).sum(), (p * (1 - y)).sum(), ((1 - p) * y).sum()
  return (hit + 1) / (hit + alpha * false + beta * missed + 1)


def lovasz_hinge(z, y):
  """Mean over the classes of an image."""
  out = []
  for c in range(z.shape[1]):
    signs = 2.0 * y[:, c] - 1
    errors = 1 - z[:, c].astype(np.float64) * signs
    order = np.argsort(-errors, kind="stable")
    truth = y[order, c].astype(np.float64)
    union = truth.sum() + np.cumsum(1 - truth)
    index = 1 - (truth.sum() - np.cumsum(truth)) / union
    index[1:] = index[1:] - index[:-1]
    out.append(np.maximum(errors[order], 0) @ index)
  return np.mean(out)


FORMULAS = {  # mode "multilabel" of segmentation_models.pytorch, of one image
  "cross_entropy": (dict(cross_entropy=1.0), cross_entropy),
  "focal": (dict(focal=1.0), focal),
  "dice": (dict(dice=1.0), of_classes(dice)),
  "jaccard": (dict(jaccard=1.0), of_classes(jaccard)),
  "tversky": (dict(tversky=1.0, tversky_alpha=0.2, tversky_beta=0.9), of_classes(tversky)),
  "lovasz": (dict(lovasz=1.0), lovasz_hinge),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_losses_are_those_of_the_formulas(name, scale):
  """Of several images the mean: over their scored pixels, or over images and classes."""
  fields, formula = FORMULAS[name]
  found = float(loss_of(scale * LOGITS, LABEL, VALID, **fields))
  chosen = [(LOGITS[i][~IGNORED[i]] * scale, PLANES[i][~IGNORED[i]]) for i in np.flatnonzero(VALID)]
  if name in ("cross_entropy", "focal"):
    want = formula(*map(np.concatenate, zip(*chosen, strict=True)))
  else:
    want = np.mean([formula(*of) for of in chosen])
  assert found == pytest.approx(want, rel=2e-5)


def test_smoothing_and_hardest_pixels():
  z, y = LOGITS.astype(np.float64), PLANES.astype(np.float64)
  of = lambda y: np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))  # noqa: E731
  label = label_sets.join(PLANES)
  found = loss_of(LOGITS, label, cross_entropy=1.0, label_smoothing=0.2)
  assert float(found) == pytest.approx(of(0.8 * y + 0.1).mean(), rel=1e-5)
  hardest = [np.sort(of(y)[i, ..., c], axis=None)[-12:] for i in range(4) for c in range(3)]
  found = loss_of(LOGITS, label, ohem=1.0, ohem_share=0.25)
  assert float(found) == pytest.approx(np.mean(hardest), rel=1e-5)


def test_a_class_weight_is_of_its_own_pixels():
  """The sum is `torch.nn.BCEWithLogitsLoss`'s with `pos_weight`, the mean is over the weights."""
  z, y, weights = LOGITS.astype(np.float64), PLANES.astype(np.float64), (2.0, 3.0, 0.5)
  each = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
  own = np.where(PLANES, weights, 1.0) * (~IGNORED & VALID[:, None, None])[..., None]
  how = dict(cross_entropy=1.0, class_weights=weights)
  step = jax.jit(lambda z: [loss_of(z, LABEL, VALID, label_smoothing=s, **how) for s in (0, 0.2)])
  found, smooth = map(float, step(LOGITS))
  assert found == pytest.approx((own * each).sum() / own.sum(), rel=1e-5)
  each = 0.9 * each + 0.1 * (each - z * (1 - 2 * y))
  assert smooth == pytest.approx((own * each).sum() / own.sum(), rel=1e-5)


@pytest.mark.parametrize("rule", ["inverse", "median_frequency"])
def test_a_rule_weighs_a_class_against_all_else(rule, tmp_path):
  folder = write(tmp_path, without=[("car", i) for i in range(8)] + [("shadow", 2)])
  save(folder / "masks" / "car" / "x0.png", np.zeros(SIZE, np.uint8))  # a class that is nowhere
  config = tiny(folder, **{"loss.class_weights": (rule,)})
  source = input_pipeline.make_source(config, "train").source
  planes = np.array([label_sets.split(source[i]["label"], 3) for i in range(len(source))])
  counts = [np.stack([(~p).sum((1, 2)), p.sum((1, 2))], 1) for p in np.moveaxis(planes, -1, 0)]
  want = [1.0, 1.0, 1.0]
  for c in range(2):
    weight = losses.class_weights(counts[c], rule)
    want[c] = weight[1] / weight[0]
  assert want[0] > 1 < want[1]
  assert class_balance.count(config) == pytest.approx(want, rel=1e-12)
  task = experiment_lib.build(config, source.labels, class_weights=want).task
  assert task.class_weights == tuple(want)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_gradients_are_finite(size):
  """Also of an image without a scored pixel, of absent classes, and of all that is wrong."""
  fields = dict(cross_entropy=1.0, focal=1.0, ohem=1.0, dice=1.0, jaccard=1.0, tversky=1.0,
                tversky_gamma=0.75, lovasz=1.0, boundary=0.01)  # fmt: skip
  label = LABEL.copy()
  label[1] = 255
  for logits in (size * np.sign(LOGITS), size * (1 - 2.0 * PLANES), size * (2.0 * PLANES - 1)):
    value, grads = jax.value_and_grad(loss_of)(jnp.asarray(logits, jnp.float32), label, **fields)
    assert np.isfinite(float(value)) and np.isfinite(np.asarray(grads)).all()
    assert not np.asarray(grads)[label == 255].any()
  nothing = np.full_like(label, 255)
  assert float(loss_of(LOGITS, nothing, **fields)) == 0.0


def test_a_loss_of_ones_own_sees_an_image_and_a_class():
  seen = {}

  def own(logits, label, *, valid):
    seen.update(shape=logits.shape, values=set(np.unique(label[valid])))
    return jnp.where(valid, logits[..., 0] * label, 0.0)

  found = loss_of(LOGITS, LABEL, VALID, own=own)
  scored = ~IGNORED & VALID[:, None, None]
  assert seen == dict(shape=(12, 6, 8, 1), values={0, 1})
  want = (LOGITS * PLANES)[scored].sum() / (3 * scored.sum())
  assert float(found) == pytest.approx(want, rel=1e-5)


# ------------------------------------------------------------------- metrics, by scikit-learn


def summary_of(task, parts=((0, 2), (2, 4))):
  slices = [slice(*part) for part in parts]
  sums = [counted(task, LOGITS[p], LABEL[p], VALID[p], True) for p in slices]
  total = merge(map(jax.device_get, sums))
  return task.summary(total), total


@pytest.mark.parametrize("thresholds", [(), (0.2, 0.5, 0.7)])
def test_metrics_are_scikit_learns(thresholds):
  task = MultiLabel(CLASSES, thresholds=thresholds)
  found, total = summary_of(task)
  scored = ~IGNORED & VALID[:, None, None]
  p, y = sigmoid(LOGITS)[scored], PLANES[scored]
  pred = p >= np.array(thresholds or (0.5,))
  for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score),
                      ("f1", sk.f1_score), ("iou", sk.jaccard_score)):  # fmt: skip
    want = score(y, pred, average=None)
    np.testing.assert_allclose([found[f"{name}/{c}"] for c in CLASSES], want, rtol=1e-12)
    assert found[f"mean_{name}"] == pytest.approx(score(y, pred, average="macro"), rel=1e-12)
  binned = np.floor(p * 256) / 256
  for k, c in enumerate(CLASSES):
    want = sk.average_precision_score(y[:, k], binned[:, k])
    assert found[f"average_precision/{c}"] == pytest.approx(want, rel=1e-12)
    above = p[:, k] >= np.arange(256)[:, None] / 256
    f1 = 2 * (above & y[:, k]).sum(1) / (above.sum(1) + y[:, k].sum())
    assert found[f"max_f1/{c}"] == pytest.approx(f1.max(), rel=1e-12)
    assert found[f"max_f1_threshold/{c}"] == f1.argmax() / 256
  each = []
  for i in np.flatnonzero(VALID):
    mine = ~IGNORED[i]
    own = sigmoid(LOGITS[i][mine]) >= np.array(thresholds or (0.5,))
    there = (PLANES[i][mine] | own).any(0)
    each.append(sk.jaccard_score(PLANES[i][mine], own, average=None, zero_division=0)[there].mean())
  assert found["mean_iou_images"] == pytest.approx(np.mean(each), rel=1e-12)
  whole = summary_of(task, ((0, 4),))[0]
  assert whole == pytest.approx(found, rel=1e-6)
  table = task.table(total)
  assert f"{found['average_precision/shadow']:.4f}" in table and "threshold" in table


def test_boundaries_surfaces_and_calibration_are_those_of_each_mask():
  task = MultiLabel(CLASSES, thresholds=(0.4, 0.5, 0.6))
  width, tolerance = np.array([1, 2, 1, 2]), np.array([1, 0, 1, 1])
  batch = dict(valid=VALID, width=width, tolerance=tolerance, label=LABEL)
  measure = jax.jit(measures.of_batch(task, maps=True))
  sums = jax.device_get(measure(jnp.asarray(LOGITS), jnp.asarray(LABEL), batch))
  scored = ~IGNORED & VALID[:, None, None]
  pred, truth = np.asarray(task.predict(LOGITS)), PLANES
  for i, c in np.ndindex(4, 3):
    found = sums[measures.BOUNDARIES][i, c].tolist()
    outlines = [
      m & ~ndimage.binary_erosion(m, np.ones((3, 3)), width[i])
      for m in (x[i, ..., c] & scored[i] for x in (truth, pred))
    ]
    assert found == [np.sum(np.all(outlines, 0)), *map(np.sum, outlines)]
  for c in range(3):
    maps = [x[..., c].astype(int) for x in (pred, truth)]
    how = dict(num_classes=2, valid=scored, tolerance=tolerance)
    want = metrics.contour_counts(*maps, **how)[:, 1]
    np.testing.assert_array_equal(sums[measures.CONTOURS][:, c], want)
    p, y = sigmoid(LOGITS[..., c])[scored], truth[..., c][scored]
    found = measures.calibration_of(sums, measures.CALIBRATION)
    assert found["class_ece"][c] == pytest.approx(calibration_error(p, y), abs=2e-6)
  p, y = sigmoid(LOGITS)[scored].ravel(), truth[scored].ravel()
  answers = calibration_error(np.maximum(p, 1 - p), (p > 0.5) == y)
  assert found["ece"] == pytest.approx(answers, abs=2e-6)
  assert found["classwise_ece"] == pytest.approx(np.mean(found["class_ece"]), rel=1e-12)
  index = np.where(VALID, np.arange(4), -1)
  rows = measures.on_host(task, 1.0)(sums | {INDEX: index}, batch | dict(index=index))
  for i, c in np.ndindex(4, 3):
    maps = [x[i, ..., c].astype(int) for x in (pred, truth)]
    want = metrics.surface_scores(*maps, num_classes=2, valid=scored[i], tolerance=1.0)
    for key, name in measures.SURFACES.items():
      np.testing.assert_equal(rows[name][i, c], want[key][1])


def test_training_counts_the_same_pixels():
  task = MultiLabel(CLASSES, dice=1.0)
  trained, evaluated = (
    task.summary(jax.device_get(counted(task, LOGITS, LABEL, VALID, e))) for e in (False, True)
  )
  assert {k: evaluated[k] for k in trained} == pytest.approx(trained, nan_ok=True)
  assert trained.keys() >= {"loss/dice", "loss/cross_entropy", "mean_iou", "f1/car"}
  assert task.row(trained).keys() >= {"loss", "mean_iou", "mean_f1", "loss/dice"}


def test_a_class_that_nobody_has_is_left_out():
  label, logits = np.full((2, 6, 8), 1), np.full((2, 6, 8, 3), -9.0, np.float32)
  logits[..., 0] = 9
  task = MultiLabel(CLASSES)
  found = task.summary(jax.device_get(counted(task, logits, label, np.ones(2, bool), True)))
  assert found["mean_iou"] == found["mean_average_precision"] == found["iou/road"] == 1.0
  assert np.isnan([found[f"{s}/car"] for s in ("iou", "f1", "recall", "max_f1")]).all()


def test_classes_without_a_pixel_are_named_and_nothing_scored_is_an_error():
  label = np.where(label_sets.split(LABEL, 3)[..., 2], LABEL - 4, LABEL)  # no car
  task = MultiLabel(CLASSES)
  sums = [jax.device_get(counted(task, LOGITS, x, VALID, True)) for x in (label, LABEL * 0 + 255)]
  (text,) = coverage.of_sums("val", CLASSES, sums[0])
  assert "nothing is labelled car; such a class is left out of the means" in text
  with pytest.raises(UserError, match="no label of the val split is scored"):
    coverage.of_sums("val", CLASSES, sums[1])


def test_average_precision_refuses_other_shapes():
  assert np.isnan(metrics.average_precision(np.zeros((2, 256), int)))
  with pytest.raises(ValueError, match=r"expected \(2, 256\)"):
    metrics.average_precision(np.zeros((2, 9), int))


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(thresholds=(0.5, 0.5)), "expected no number .* one for each of the 3 classes road"),
    (dict(thresholds=(1.0,)), "between 0 and 1"),
    (dict(cross_entropy=0.0), "the loss is empty"),
    (dict(class_weights=(1.0, 2.0)), "class_weights has 2 values, the data has 3 classes: road"),
  ],
)
def test_fields_that_do_not_fit(fields, words):
  with pytest.raises(UserError, match=words):
    MultiLabel(CLASSES, **fields)


def test_pictures_show_overlaps_and_errors():
  task = MultiLabel(("a", "b"), palette=np.array([(200, 0, 0), (0, 100, 0)], np.uint8))
  label = np.array([[3, 1, 0, 255]])
  logits = np.array([[[[9, 9], [9, 9], [-9, -9], [9, -9]]]], np.float32)
  image = np.full((1, 4, 3), 100, np.uint8)
  panels = dict(task.pictures(image, logits, label))
  truth = panels["truth (striped: not scored)"][0]
  assert truth[:3].tolist() == [[100, 50, 0], [200, 0, 0], [0, 0, 0]]
  assert panels["prediction"][0].tolist() == [[100, 50, 0], [100, 50, 0], [0, 0, 0], [200, 0, 0]]
  errors = panels["errors (orange: a class false, blue: one missed)"][0]
  assert errors[:3].tolist() == [[60, 60, 60], [230, 159, 0], [60, 60, 60]]
  assert task.classes_seen(logits, label) == {0, 1, 255}


# ------------------------------------------------------------------- a run, to its masks and back


def tiny(folder, **fields):
  c = config_lib.default()
  own = dict(folder=str(folder), kind="multi_label", train_fraction=0.5, classes=CLASSES)
  c.data.source = config_lib.data_source("folder", **own)
  config_lib.set_task(c, "multi_label", dice=1.0)
  c.data.update(size=SIZE, batch_size=2, threads=1)
  c.model = dict(name="unet", widths=(8, 8), norm="group", dtype="float32")
  c.optimizer.name, c.schedule.learning_rate = "adam", 0.02
  c.augment.update(flip=0.5, rotate=10.0, scale_min=0.9)
  c.batch_augment.cutmix = 0.3
  c.total_steps, c.total_epochs, c.eval_steps, c.eval_epochs = 40, 0.0, 20, 0.0
  c.log_steps, c.writers, c.pictures = 5, ("pictures",), 2
  c.update_from_flattened_dict(fields)
  return c


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(workdir, folder of the data, final state) of a training that was stopped and resumed."""
  folder = write(tmp_path_factory.mktemp("set"))
  workdir = tmp_path_factory.mktemp("runs") / "run"
  training.train(tiny(folder), workdir, until=20)
  return workdir, folder, training.train(tiny(folder), workdir)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_and_learns(run, tmp_path):
  workdir, folder, state = run
  again = training.train(tiny(folder), tmp_path / "again")
  jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
  rows = [r for r in read_metrics(workdir / "metrics.jsonl") if "val/loss" in r]
  assert [r["step"] for r in rows] == [20, 40]
  assert rows[1]["val/mean_average_precision"] > 0.8
  assert rows[1]["val/loss"] < 0.7 * rows[0]["val/loss"]
  assert list((workdir / "images").glob("*.png"))
  labels = experiment_lib.load_labels(workdir / "labels.json")
  assert labels.overlapping and labels.names == CLASSES


@pytest.mark.slow
def test_an_evaluation_has_classes_images_and_intervals(run, no_pdf, capsys):
  workdir, _, _ = run
  evaluations.run(workdir, surfaces=True)
  text = capsys.readouterr().out
  assert "expected calibration error" in text and "boundary F" in text
  assert "AP" in text and "interval over the 4 images" in text
  written = {f.name.partition("_step")[0]: f for f in workdir.glob("eval*")}
  assert written, sorted(workdir.iterdir())
  tables = {f.name.rpartition("_")[2]: f for f in workdir.glob("*.csv")}
  rows = list(csv.DictReader(tables["classes.csv"].read_text().splitlines()))
  assert [r["class"] for r in rows] == list(CLASSES)
  last = read_metrics(workdir / "metrics.jsonl")[-1]
  for row in rows:
    for name in ("precision", "recall", "iou", "f1"):
      assert float(row[name]) == pytest.approx(last[f"val/{name}/{row['class']}"])
    scores = [float(row[name]) for name in ("boundary_iou", "boundary_f", "surface_dice", "ece")]
    assert np.all(np.array(scores) >= 0) and np.all(np.array(scores) <= 1)
  images = list(csv.DictReader(tables["images.csv"].read_text().splitlines()))
  assert len(images) == 4 and not (workdir / "confusion.csv").exists()
  values = json.loads(next(workdir.glob("evaluation_val_*.json")).read_text())
  assert [values[f"ece/{c}"] for c in CLASSES] == [float(row["ece"]) for row in rows]
  assert values["classwise_ece"] == pytest.approx(np.mean([float(row["ece"]) for row in rows]))


def open_net(workdir, **how):
  return command.open_net(str(workdir), None, "latest", **how)


@pytest.mark.slow
def test_predicted_masks_are_read_again_as_labels(run, tmp_path):
  """Each class has its own threshold; the masks lie as those of a set do."""
  workdir, folder, _ = run
  net = open_net(workdir, threshold="0.3,0.5,0.6")
  assert "from probability 0.3 on road, 0.5 on shadow, 0.6 on car" in net.title
  found = inputs.find(folder / "images", tmp_path)
  net.run(found, Predictions(tmp_path, tuple(found.files.values())))
  assert {f.name for f in tmp_path.iterdir()} >= {
    "masks", "predictions.csv", "legend.png", "x0_color.png", "x0_overlay.png",
  }  # fmt: skip
  (tmp_path / "images").symlink_to(folder / "images")
  source = read(tmp_path, "train", classes=CLASSES, train_fraction=1.0)
  predictor = Predictor(run_model.load(workdir, "latest"), threshold=(0.3, 0.5, 0.6))
  rows = {r["file"]: r for r in csv.DictReader((tmp_path / "predictions.csv").open())}
  for i, name in enumerate(source.names):
    want = predictor(folder / "images" / f"{name}.png")
    assert want.label.shape == (*SIZE, 3) and want.label.dtype == bool
    np.testing.assert_array_equal(want.label, want.probabilities >= np.float32((0.3, 0.5, 0.6)))
    np.testing.assert_array_equal(label_sets.split(source[i]["label"], 3), want.label)
    for k, c in enumerate(CLASSES):
      share = float(rows[f"{name}.png"][c])
      assert share == pytest.approx(want.label[..., k].mean(), abs=1e-6) == want.shares[c]
  assert np.unique(Image.open(tmp_path / "masks" / "car" / "x0.png")).tolist() == [0, 255]


@pytest.mark.slow
def test_masks_of_a_georeferenced_image_lie_in_a_folder_of_their_own(run, tmp_path):
  """Beside the PNG files, which stay a set's."""
  workdir, folder, _ = run
  image = np.array(Image.open(folder / "images" / "x0.png"))
  geo = tmp_path / "images" / "x0.tif"
  geo.parent.mkdir()
  tifffile.imwrite(geo, image, extratags=((33550, "d", 3, (10.0, 10.0, 0.0), False),))
  found = inputs.find(geo.parent, tmp_path)
  open_net(workdir).run(found, Predictions(tmp_path, tuple(found.files.values())))
  for c in CLASSES:
    place = tmp_path / "maps" / c / "x0.tif"
    mask = np.array(Image.open(tmp_path / "masks" / c / "x0.png"))
    np.testing.assert_array_equal(tifffile.imread(place), mask)
    with place.open("rb") as stream:
      assert [tag[0] for tag in tiffs.georeference(stream)] == [33550]
  source = read(tmp_path, "train", classes=CLASSES, train_fraction=1.0)
  assert source.names == ("x0",) and len(source.pairs[0][1]) == 3


@pytest.mark.slow
def test_thresholds_of_a_prediction(run):
  workdir, _, _ = run
  last = read_metrics(workdir / "metrics.jsonl")[-1]
  best = tuple(last[f"val/max_f1_threshold/{c}"] for c in CLASSES)
  model = run_model.load(workdir, "latest")
  assert Predictor(model, threshold="max_f1").threshold == best
  assert Predictor(model).threshold == (0.5, 0.5, 0.5)
  assert Predictor(model, threshold=0.25).threshold == (0.25, 0.25, 0.25)
  for wrong in ((0.5, 0.5), (0.5, 0.0, 0.5), "best"):
    with pytest.raises(UserError, match="one for each of road, shadow, car, or 'max_f1'"):
      Predictor(model, threshold=wrong)
  with pytest.raises(UserError, match="expected a number or max_f1; of overlapping classes"):
    open_net(workdir, threshold="0.5;0.3")


@pytest.mark.slow
def test_tiles_give_what_whole_images_give(run):
  """Where a tile is the image: in prediction and in evaluation."""
  workdir, folder, _ = run
  experiment, state = restore.run(workdir, "latest")
  image = draw(3)[0]
  model = run_model.load(workdir, "latest")
  model.multiple = 8
  whole, tiled = Predictor(model, mode="resize"), Predictor(model, tile=SIZE, mode="tiles")
  np.testing.assert_allclose(tiled(image).probabilities, whole(image).probabilities, atol=1e-6)
  found = {}
  for fit in ("resize", "tiles"):
    config = tiny(folder, **{"data.eval_fit": fit, "data.eval_multiple": 8})
    of = experiment_lib.build(config, experiment.labels)
    source = input_pipeline.make_source(config, "val")
    batches = input_pipeline.eval_batches(config, source)
    found[fit] = of.task.summary(evaluate(of.eval_step(), state, batches, of.eval_mesh()))
  assert found["tiles"] == pytest.approx(found["resize"], rel=1e-3, nan_ok=True)


@pytest.mark.slow
def test_an_exported_file_has_the_masks_and_the_scores_of_its_run(run, tmp_path, capsys):
  workdir, folder, _ = run
  file, spec = tmp_path / "net.stablehlo", tmp_path / "spec.py"
  export.run(str(workdir), file, form="stablehlo", checkpoint="latest", images=2)
  assert "agree on 2 images" in capsys.readouterr().out
  found, wanted = (Predictor(path, checkpoint="latest") for path in (file, workdir))
  best = [Predictor(p, checkpoint="latest", threshold="max_f1") for p in (file, workdir)]
  assert best[0].threshold == best[1].threshold != found.threshold == (0.5, 0.5, 0.5)
  for i in range(3):
    one, other = (net(folder / "images" / f"x{i}.png") for net in (found, wanted))
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(one.label, other.label)
  spec.write_text(
    f"from test_multi_label import tiny\ndef get_config():\n  return tiny({str(folder)!r})\n"
  )
  sums = evaluation.run(file, str(spec))
  np.testing.assert_array_equal(sums["images/counts"], read_sums(workdir)["images/counts"])
  for name in ("cross_entropy", "histograms"):
    np.testing.assert_allclose(sums[name], read_sums(workdir)[name], rtol=1e-5)


@pytest.mark.slow
def test_what_does_not_go_with_overlapping_classes_is_refused(run, tmp_path):
  workdir, _, _ = run
  with pytest.raises(UserError, match="its data have a mask for each class"):
    features.sources_of(workdir)
  with pytest.raises(UserError, match="its task counts no classes that exclude each other"):
    commands.confusion(workdir, tmp_path)
  with pytest.raises(UserError, match=r"--fit_temperature is for segmentation, this run's task"):
    evaluations.run(workdir, fit_temperature=True)
  with pytest.raises(UserError, match="classmix mixes labels"):
    experiment_lib.build(
      tiny("", **{"batch_augment.classmix": 0.5}), label_sets.overlapping_table(CLASSES)
    )


def test_looks_at_the_data_and_at_a_batch(tmp_path, capsys):
  """The pictures are those of the sets; a legend has their classes alone."""
  config = tiny(write(tmp_path / "set"), **{"data.source.train_fraction": 1.0})
  commands.data(config, "train", tmp_path, 2)
  assert "8 (100%)" in (text := capsys.readouterr().out) and "weights of the loss" not in text
  commands.augment(config, tmp_path, 2)
  assert {f.name for f in tmp_path.glob("*.png")} == {"samples_train.png", "augment.png"}
  table = label_sets.overlapping_table(CLASSES)
  experiment = SimpleNamespace(labels=table, config=config, task=MultiLabel(CLASSES))
  label = np.full((1, *SIZE), 5, np.int32)
  image = np.zeros((1, *SIZE, 3), np.float32)
  picture = dry_run.sheet(experiment, image, label)
  red, blue = (np.array(table.classes[k][1]) for k in (0, 2))
  mixed = pictures.blend(image[0].astype(np.uint8), (red + blue) // 2, np.ones(SIZE, bool))
  assert shows(picture, mixed[:4, :4])


@pytest.mark.slow
def test_examples_are_ranked_by_their_own_loss(run):
  workdir, _, _ = run
  [runs] = examples.read_runs([workdir], "latest")
  experiment, state = runs
  source = restore.data_of_run(workdir, experiment.config, "val").source
  found = examples.score([runs], "val", source)
  step = experiment.predict_step()
  for one in found:
    example = source[one.index]
    logits = np.asarray(step(state, example["image"][None]))
    label, valid = example["label"][None].astype(np.int32), np.ones(1, bool)
    sums = counted(experiment.task, logits, label, valid, False)
    assert one.loss == pytest.approx(float(experiment.task.loss(sums)), rel=1e-4)
    assert one.grad_norm > 0 and np.isnan(one.disagreement)
  masks = [np.array([[[True, False], [True, True]]]), np.array([[[True, True], [False, False]]])]
  assert examples.disagreement(masks, np.array([[1, 3]])) == 0.75
  assert examples.disagreement(masks, np.array([[1, 255]])) == 0.5
