"""Features: the right layer, a balanced choice of pixels, scores, alignment, the launcher."""

import json
from types import SimpleNamespace

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, launch, write_pairs
from light import random_variables
from PIL import Image

from segjax import config as config_lib
from segjax import models, ops, training
from segjax.analysis import commands, feature_pictures, features, probes, separation
from segjax.data.labels import IGNORE, LabelTable, default_table
from segjax.errors import UserError
from segjax.models.backbones import make_backbone
from segjax.training import restore
from segjax.training.input_pipeline import make_source


def applied(name, size=(16, 20), **fields):
  net = models.make(name, **fields)
  image = np.random.default_rng(0).random((2, *size, 3), np.float32)
  return net, random_variables(net), image


def test_the_features_are_what_the_last_layer_gets():
  net, variables, image = applied("unet", widths=(4, 6), num_classes=3)
  found = jax.jit(features.penultimate, static_argnums=0)(net, variables, image)
  head = variables["params"]["head"]
  logits = found @ head["kernel"][0, 0] + head["bias"]
  wanted = jax.jit(lambda v: net.apply(v, image, train=False))(variables)
  np.testing.assert_allclose(logits, wanted, atol=1e-5)
  net, variables, image = applied("classifier", backbone="small_cnn", num_classes=5)

  @jax.jit
  def run(variables):
    found = features.penultimate(net, variables, image)
    _, sown = net.apply(variables, image, train=False, mutable=["intermediates"])
    return found, sown["intermediates"]["head"]["penultimate"][0]

  np.testing.assert_array_equal(*run(variables))


@pytest.mark.parametrize("name, fields", [("projection", {}), ("fcn", dict(output_stride=16))])
@pytest.mark.weekly
def test_a_stage_is_the_backbones(name, fields, shallow_backbones):
  fields = fields | dict(backbone="shallow_resnet")
  net, variables, image = applied(name, num_classes=5, size=(32, 48), **fields)
  backbone = make_backbone(fields.pop("backbone"), **fields, dtype=jnp.float32)
  own = {k: v["backbone"] for k, v in variables.items()}
  stages = (0, 2, 5)

  @jax.jit
  def run(variables, own):
    every = backbone.apply(own, image, train=False)
    found = [features.stage_features(net, variables, image, stage) for stage in stages]
    return found, [every[stage] for stage in stages]

  for found, feature in zip(*run(variables, own), strict=True):
    wanted = feature.mean((1, 2)) if name == "projection" else feature
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
  assert features.middle_stages(net, image) == (2, 3, 4)
  with pytest.raises(UserError, match="stage 6: the backbone has the stages 0 to 5"):
    features.stage_features(net, variables, image, 6)


def test_a_net_without_a_backbone_has_no_stages():
  net, variables, image = applied("unet", widths=(4, 6), num_classes=3)
  with pytest.raises(UserError, match="UNet has no backbone"):
    features.stage_features(net, variables, image, 1)
  assert features.middle_stages(net, image) == ()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """A classifier of digits and a segmenter of rectangles, both trained for a moment."""
  root = tmp_path_factory.mktemp("features")
  config = config_lib.read(f"{ROOT}/configs/small_cnn_classification.py:smoke")
  config.writers, config.pictures, config.keep_steps = (), 0, (1, 3)
  config.data.size = (16, 16)
  training.train(config, root / "digits")
  data = write_pairs(root / "data", count=10)
  config = config_lib.default()
  config.data.source = config_lib.data_source("folder", folder=str(data), train_fraction=0.7)
  config.data.update(size=(24, 32), batch_size=2)
  config.model = dict(name="unet", widths=(4, 6), dtype="float32")
  config.total_steps, config.total_epochs, config.writers, config.pictures = 4, 0.0, (), 0
  training.train(config, root / "pixels")
  return root


@pytest.mark.weekly
def test_pixels_are_chosen_alike_from_all_classes(runs):
  restored = restore.run(runs / "pixels")
  source = make_source(restored[0].config, "train")
  (found,) = features.extract(*restored, source, limit=30, per_image=7)
  counts = np.bincount(found.labels)
  assert counts.tolist() == [30, 30]
  assert np.unique(found.examples).size == len(source)
  for label, i, (row, column) in zip(found.labels, found.examples, found.places, strict=True):
    assert source[int(i)]["label"][row, column] == label
  most = max(np.unique(found.examples[found.labels == 1], return_counts=True)[1])
  assert most <= 7
  (again,) = features.extract(*restored, source, limit=30, per_image=7)
  np.testing.assert_array_equal(again.vectors, found.vectors)


def test_a_net_for_pixels_has_one_vector_of_an_image_of_one_class():
  net, variables, image = applied("unet", widths=(4, 6), num_classes=2)
  pixels = np.uint8(255 * image)
  source = [dict(image=x, label=np.uint8(k)) for k, x in enumerate(pixels)]
  source = type("Source", (list,), dict(source=SimpleNamespace(labels=("a", "b"))))(source)
  config = config_lib.default()
  config.data.update(size=image.shape[1:3], batch_size=3)
  task = SimpleNamespace(prepare=lambda key, image, label, train: (image, label))
  experiment = SimpleNamespace(config=config, task=task, model=net)
  state = SimpleNamespace(eval_variables=lambda: variables)
  (found,) = features.extract(experiment, state, source)
  seen = features.penultimate(net, variables, np.float32(pixels) / 255)
  np.testing.assert_allclose(found.vectors, seen.mean((1, 2))[found.examples], atol=1e-5)
  assert found.labels.tolist() == found.examples.tolist() and found.places is None


def test_ignored_pixels_have_no_features():
  label = np.full((8, 8), IGNORE, np.uint8)
  label[:2] = 3
  rng = np.random.default_rng(0)
  found = features._pick(label, (4, 4, 9), 50, rng)
  assert {c for *_, c in found} == {3} and len(found) == 4
  assert all(pixel[0] < 2 for _, pixel, _ in found)


def clusters(spread, count=60, classes=3, seed=0):
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % classes
  vectors = 10 * np.eye(classes)[labels] + spread * rng.normal(size=(count, classes))
  return features.Features(vectors.astype(np.float32), labels, np.arange(count))


@pytest.mark.parametrize("metric", separation.METRICS)
def test_scores_of_separate_and_of_mixed_classes(metric):
  apart = separation.scores(clusters(0.1), clusters(0.1, seed=1), metric=metric)
  assert apart["knn_accuracy"] == apart["linear_accuracy"] == 1 and apart["silhouette"] > 0.9
  mixed = separation.scores(clusters(1e3), clusters(1e3, seed=1), metric=metric)
  assert mixed["knn_accuracy"] < 0.6 and mixed["silhouette"] < 0.1
  one = separation.scores(clusters(0.1), clusters(0.1, classes=1), metric=metric)
  assert np.isnan(one["knn_accuracy"])
  few = separation.scores(clusters(0.1), clusters(0.1, count=3), metric=metric)
  assert few["knn_accuracy"] == 1 and np.isnan(few["silhouette"])
  with pytest.raises(UserError, match="euclidean"):
    separation.scores(clusters(0.1), clusters(0.1), metric="manhattan")


def test_features_of_a_few_examples():
  assert np.isfinite(feature_pictures.embed([clusters(1.0, count=3).vectors])).all()
  with pytest.raises(UserError, match="features of 2 examples, expected 3"):
    feature_pictures.embed([clusters(1.0, count=2).vectors])


def test_stages_lie_as_the_one_before():
  """The same features turned and mirrored give the same pictures again."""
  vectors = clusters(1.0, count=45).vectors * np.array([3.0, 2.0, 1.0])
  turned = vectors[:, [1, 2, 0]] * np.array([-1, 1, -1])
  linear, neighbor = feature_pictures.embed([vectors, turned])
  np.testing.assert_allclose(linear[1], linear[0], atol=1e-3)
  closest = np.linalg.norm(neighbor[1][:, None] - neighbor[0], axis=-1)
  own = np.diag(closest)
  assert np.median(own) < 0.3 * np.median(closest)


@pytest.mark.weekly
def test_crops_of_masks_show_what_was_learned_without_labels(runs, tmp_path, monkeypatch):
  config = config_lib.read(f"{ROOT}/configs/pretraining.py:smoke,data=folder,backbone=small_cnn")
  data = write_pairs(tmp_path / "data", count=12, size=(120, 150))
  config.data.source = config_lib.data_source("folder", folder=str(data), train_fraction=0.5)
  config.data.update(fit="crop", eval_fit="crop", size=(32, 32), batch_size=4)
  config.writers, config.pictures = (), 0
  training.train(config, tmp_path / "run")
  done = launch("analyze", "features", f"--workdir={tmp_path / 'run'}", "--epochs=0")
  assert done.returncode == 0, done.stderr
  scores = json.loads((tmp_path / "run" / "figures" / "features.json").read_text())["epoch 0"]
  assert scores["linear_accuracy"] > 0.9  # bright or dark: even random weights see that
  restored = restore.run(tmp_path / "run")
  restored[0].config.data.update(eval_fit="full", eval_multiple=1)
  source = make_source(restored[0].config, "val", labelled=False)
  (many,) = features.extract(*restored, source, limit=100, per_image=None)
  assert np.bincount(many.examples).max() > 20  # two classes of 100, six images
  (found,) = features.extract(*restored, source, limit=30, per_image=9)
  same, stage = features.extract(*restored, source, limit=30, per_image=9, stages=(None, 1))
  np.testing.assert_array_equal(same.vectors, found.vectors)
  np.testing.assert_array_equal(stage.places, found.places)
  assert stage.vectors.shape[1] != found.vectors.shape[1]
  for label, i, (row, column) in zip(found.labels, found.examples, found.places, strict=True):
    part = source[i]["label"][row - 16 : row + 16, column - 16 : column + 16]
    assert part.shape == (32, 32)
    assert (part == label).mean() >= 0.5
  assert np.bincount(found.examples).max() <= 9
  assert len(found.vectors) == len(found.labels) <= 60
  # A probe says the same of each layer.
  monkeypatch.setattr(features, "middle_stages", lambda *_: (1,))
  accuracy = probes.probe(tmp_path / "run").accuracy
  sources = features.sources_of(tmp_path / "run")
  how = dict(limit=probes.CROPS, per_image=None, stages=(1, None))
  for k, step in enumerate((0, restore.checkpoint_steps(tmp_path / "run")[-1])):
    restored = features.restore(tmp_path / "run", step)
    by_split = [features.extract(*restored, s, **how) for s in sources]
    wanted = [separation.knn_accuracy(*pair) for pair in zip(*by_split, strict=True)]
    assert [accuracy[layer][k] for layer in ("stage 1", "last")] == wanted


def test_features_of_a_net_that_learned_on_crops_are_of_the_same_scale(tmp_path):
  data = write_pairs(tmp_path / "data", count=6, size=(48, 64))
  config = config_lib.default()
  config.data.source = config_lib.data_source("folder", folder=str(data), train_fraction=0.5)
  config.data.update(size=(32, 32), batch_size=1, fit="crop", eval_fit="full")
  config.model = dict(name="encoder_decoder", widths=(4,), dtype="float32")
  config.update(total_steps=1, total_epochs=0.0, eval_steps=1, eval_epochs=0.0, writers=())
  training.train(config, tmp_path / "run")
  _, val = features.sources_of(tmp_path / "run")
  np.testing.assert_array_equal(val[0]["image"], val.source[0]["image"][8:40, 16:48])


@pytest.mark.parametrize(
  "flags, said",
  [(dict(epochs=["abc"]), "--epochs=abc: expected numbers"),
   (dict(epochs=["nan"]), "--epochs=nan"), (dict(queries=["1", "a"]), "--queries=1,a: expected")],
)  # fmt: skip
def test_numbers_of_flags_are_read_before_anything_else(tmp_path, flags, said):
  given = dict(workdir=tmp_path, output=None, folder="", samples=0, epochs=[], metric="cosine",
               stage=None, queries=[])  # fmt: skip
  with pytest.raises(UserError, match=said):
    commands.run("features", given | flags)


def test_the_features_of_a_net_that_is_asked_are_those_for_every_class():
  net, variables, image = applied(
    "attention_segmenter", backbone="small_cnn", num_classes=3, width=8, rates=(1,), size=(16, 24)
  )
  run = jax.jit(lambda v: (features.penultimate(net, v, image), net.apply(v, image, train=False)))
  found, logits = run(variables)
  parts = np.split(np.asarray(found), 3, -1)
  (kernel,) = (
    v for k, v in flax.traverse_util.flatten_dict(variables["params"]["head"]).items()
    if k[-1] == "kernel" and v.shape[-1] == 1
  )  # fmt: skip
  for c, part in enumerate(parts):
    mask = part @ kernel[0, 0]
    mask = ops.resize_bilinear(mask, image.shape[1:3])[..., 0]
    assert np.ptp(np.asarray(logits[..., c] - mask)) < 1e-4  # but for the bias


def test_no_two_classes_look_alike():
  many = default_table(tuple(map(str, range(80))))
  looks = {(str(look["color"]), look["marker"]) for look in feature_pictures.class_looks(many)}
  assert len(looks) == 80
  camvid = LabelTable((("Sky", (128, 128, 128)), ("Road", (128, 64, 128))))
  colors = [look["color"].tolist() for look in feature_pictures.class_looks(camvid)]
  assert colors == [[128 / 255] * 3, [128 / 255, 64 / 255, 128 / 255]]


@pytest.mark.weekly
def test_the_launcher_writes_pictures_and_scores(runs):
  done = launch("analyze", "features", f"--workdir={runs / 'digits'}", "--samples=60")
  assert done.returncode == 0, done.stderr
  figures = runs / "digits" / "figures"
  rows = json.loads((figures / "features.json").read_text())
  assert len(rows) == 3
  assert all(0 <= r["knn_accuracy"] <= 1 for r in rows.values())
  for name in ("features.png", "neighbors.png"):
    assert np.asarray(Image.open(figures / name).convert("RGB")).std() > 10
  done = launch("analyze", "features", f"--workdir={runs / 'digits'}", "--epochs=0", "--stage=1")
  assert done.returncode == 0, done.stderr
  scores = json.loads((figures / "features_stage1.json").read_text())["epoch 0"]
  assert 0 <= scores["knn_accuracy"] <= 1 and (figures / "features_stage1.png").is_file()
  assert len(json.loads((figures / "features.json").read_text())) == 3  # the others stay
  done = launch("analyze", "features", f"--workdir={runs / 'digits'}", "--epochs=7")
  assert done.returncode == 1 and "epoch 7: its checkpoint was not kept" in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_pixels_have_pictures_too(runs):
  restored = restore.run(runs / "pixels")
  sources = [make_source(restored[0].config, s) for s in ("train", "val")]
  (train,), (val,) = (features.extract(*restored, s, limit=20) for s in sources)
  picture = feature_pictures.neighbor_picture(train, val, *sources, queries=2, wanted=3)
  assert picture.std() > 10
  with pytest.raises(UserError, match="query 99"):
    feature_pictures.neighbor_picture(train, val, *sources, queries=[99])


def test_a_run_without_a_checkpoint_has_no_features():
  with pytest.raises(UserError, match="no checkpoint yet"):
    commands._steps([], [], 3)
