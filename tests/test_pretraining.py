"""Training without labels: pretext tasks, losses by hand, collapse, starting from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from light import random_variables

from segjax import config as config_lib
from segjax import models, training
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.tasks import Rotation, SimCLR
from segjax.training import experiment, initial, nan_debug
from segjax.training.eval_step import prepare_each
from segjax.training.writers import read_metrics

PALETTE = default_table(("x",)).palette
KEEP = lambda key, image, label: (image, label)  # noqa: E731


def images(count=6, size=(12, 12)):
  return jnp.array(np.random.default_rng(0).random((count, *size, 3), np.float32))


def test_images_are_turned_as_their_labels_say():
  task, image = Rotation(("x",), PALETTE), images(3)
  for train in (True, False):  # all four of each, none drawn
    turned, label = task.prepare(jax.random.key(0), image, None, train=train, augment=KEEP)
    assert turned.shape == (12, 12, 12, 3)
    np.testing.assert_array_equal(label, [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3)
    for i, (b, k) in enumerate(zip(turned, label, strict=True)):
      np.testing.assert_array_equal(np.rot90(image[i % 3], k), b)
  with pytest.raises(UserError, match="square"):
    task.prepare(jax.random.key(0), images(size=(8, 9)), None, train=True, augment=KEEP)


def test_rotations_of_an_example_that_does_not_count_do_not():
  task = Rotation(("x",), PALETTE)
  assert task.classes[1] == "90 degrees" and task.num_outputs == 4
  logits = jnp.array(np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32))
  label, mask = jnp.repeat(jnp.arange(4), 3), jnp.array([True, True, False])
  sums = task.statistics(logits, label, mask, evaluating=True)
  whole = np.arange(12) % 3 < 2
  assert int(sums["examples"]) == 8
  matrix = np.zeros((4, 4), int)
  np.add.at(matrix, (np.asarray(label)[whole], np.asarray(logits).argmax(1)[whole]), 1)
  np.testing.assert_array_equal(sums["matrix"], matrix)
  hits = np.diag(matrix).sum() / 8
  assert task.summary(jax.device_get(sums))["accuracy"] == pytest.approx(hits)


def test_projections_that_are_all_alike_find_no_other_view():
  sums = SimCLR(()).statistics(jnp.ones((8, 4)), None, jnp.ones(4, bool), evaluating=True)
  assert int(sums["hits"]) == 1  # of equal ones the first is taken


def nt_xent(z, temperature):
  """The loss of Chen et al., view by view, in float64."""
  z = z.astype(np.float64) / np.linalg.norm(z, axis=1, keepdims=True)
  n, out = len(z) // 2, []
  for i in range(2 * n):
    s = np.exp(z @ z[i] / temperature)
    out.append(-np.log(s[(i + n) % (2 * n)] / (s.sum() - s[i])))
  return np.array(out)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_contrastive_loss_by_hand(temperature):
  z = np.random.default_rng(0).normal(size=(10, 7)).astype(np.float32)
  task = SimCLR(("x",), PALETTE, temperature=temperature)
  found = task.statistics(jnp.array(z), None, jnp.ones(5, bool), evaluating=True)
  assert float(task.loss(found)) == pytest.approx(nt_xent(z, temperature).mean(), rel=1e-5)
  mask = jnp.array([True, True, True, True, False])
  masked = task.statistics(jnp.array(z), None, mask, evaluating=True)
  some = task.statistics(
    jnp.array(z[[0, 1, 2, 3, 5, 6, 7, 8]]), None, jnp.ones(4, bool), evaluating=True
  )
  for key in some:
    np.testing.assert_allclose(masked[key], some[key], rtol=1e-5)


def test_equal_views_are_found_and_collapse_is_reported():
  task = SimCLR(("x",), PALETTE)
  z = np.random.default_rng(0).normal(size=(50, 128)).astype(np.float32)
  sums = task.statistics(jnp.array(np.concatenate([z, z])), None, jnp.ones(50, bool),
                         evaluating=True)  # fmt: skip
  good = task.summary(jax.device_get(sums))
  assert good["accuracy"] == 1 and good["feature_deviation"] > 0.9 and not task.warning(good)
  flat = 1 + 1e-3 * np.concatenate([z, z])
  sums = task.statistics(jnp.array(flat), None, jnp.ones(50, bool), evaluating=True)
  bad = task.summary(jax.device_get(sums))
  assert bad["feature_deviation"] < 0.01 and "collapse" in task.warning(bad)


def test_both_views_are_augmented_apart():
  def noisy(key, image, label):
    return image + jax.random.normal(key, image.shape), label

  task, image = SimCLR(("x",), PALETTE), images(3)
  for train in (True, False):
    views, _ = task.prepare(jax.random.key(0), image, None, train=train, augment=noisy)
    assert views.shape == (6, 12, 12, 3)
    assert float(jnp.abs(views[:3] - views[3:]).mean()) > 0.5
    again, _ = task.prepare(jax.random.key(0), image, None, train=train, augment=noisy)
    np.testing.assert_array_equal(views, again)


def test_the_views_of_an_evaluated_example_follow_from_its_index_alone():
  def marked(key, image, label):
    return image + jax.random.key_data(key)[1] % 1000, label

  task, image, label = SimCLR(("x",), PALETTE), images(3), jnp.zeros(3, int)
  views, _ = prepare_each(task, image, label, jnp.array([4, 0, 2]), marked)
  assert views.shape == (6, 12, 12, 3)
  for i, index in enumerate((4, 0, 2)):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
    want = [marked(k, image[i], None)[0] for k in keys]
    np.testing.assert_array_equal(views[np.array([i, i + 3])], want)


def smoke_config(method):
  config = config_lib.read(f"{ROOT}/configs/pretraining.py:method={method},smoke")
  config.writers, config.pictures = ("pictures",), 1
  config.model.backbone, config.data.size = "small_cnn", (16, 16)
  config.data.batch_size, config.schedule.name = 8, "constant"
  return config


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param("rotation", marks=pytest.mark.weekly), "simclr"])
def test_pretraining_starts_other_nets(method, tmp_path):
  config = smoke_config(method)
  config.total_steps, config.eval_steps = 2, 2
  whole = training.train(config, tmp_path / "whole")
  rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
  assert "val/accuracy" in rows[-1] and any("train/accuracy" in r for r in rows)
  net = models.make("classifier", backbone="small_cnn", num_classes=7)
  fresh = random_variables(net)
  loaded, report = initial.load_initial(str(tmp_path / "whole"), "backbone", fresh)
  for kind in ("params", "batch_stats"):
    kept = getattr(whole, kind)["backbone"]
    jax.tree.map(np.testing.assert_array_equal, loaded[kind]["backbone"], kept)
  np.testing.assert_array_equal(
    loaded["params"]["head"]["fc1"]["kernel"], fresh["params"]["head"]["fc1"]["kernel"]
  )
  assert all(name.startswith("backbone/") for _, name in report.loaded)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_layers_that_are_not_finite_are_found_with_augmented_views(method):
  config = smoke_config(method)
  exp = experiment.build(config, default_table(("x",)))
  state, _ = exp.init()
  image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
  batch = dict(image=image, label=np.zeros(2, np.uint8), valid=np.ones(2, bool))
  assert nan_debug.layers(exp, state, batch) == []
  broken = state.replace(params=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.params))
  assert "net (" in nan_debug.layers(exp, broken, batch)[-1]


@pytest.mark.parametrize("temperature", [0.0, 11.0])
def test_a_wrong_temperature_is_reported(temperature):
  with pytest.raises(UserError, match="temperature"):
    SimCLR(("x",), PALETTE, temperature=temperature)
