"""Classification: statistics against scikit-learn and optax, data, training, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, shows
from PIL import Image
from sklearn import metrics as sk

from segjax import config as config_lib
from segjax import training
from segjax.augment import Mixed, make_augment
from segjax.data import pipeline, sources
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.tasks import Classification
from segjax.training.evaluation import merge
from segjax.training.input_pipeline import make_source
from segjax.training.writers import read_metrics

NAMES = tuple("abcdef")


def make_task(names=NAMES, **fields):
  return Classification(names, default_table(names).palette, **fields)


def draw(count=50, classes=6, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(count, classes)).astype(np.float32)
  return logits, rng.integers(0, classes, count)


def summed(task, logits, label, batch=8):
  """Statistics of batches, the last one filled up with examples that do not count."""
  parts = []
  for start in range(0, len(label), batch):
    part = np.arange(start, start + batch)
    mask = part < len(label)
    part = np.minimum(part, len(label) - 1)
    mine = np.where(mask, label[part], 255)
    parts.append(
      task.statistics(jnp.array(logits[part]), jnp.array(mine), jnp.array(mask), evaluating=True)
    )
  return merge(parts)


@pytest.mark.parametrize("top_k", [1, 2, 5, 9])
def test_scores_equal_scikit_learns(top_k):
  logits, label = draw()
  task = make_task(top_k=top_k)
  s = task.summary(summed(task, logits, label))
  p = np.asarray(jax.nn.softmax(logits.astype(np.float64)))
  assert s["accuracy"] == sk.accuracy_score(label, logits.argmax(1))
  assert s["mean_class_accuracy"] == pytest.approx(
    sk.balanced_accuracy_score(label, logits.argmax(1)), abs=1e-15
  )
  assert s["loss"] == pytest.approx(sk.log_loss(label, p, labels=range(6)), rel=1e-6)
  k = min(top_k, 5)
  if k > 1:
    assert s[f"top{k}_accuracy"] == sk.top_k_accuracy_score(label, p, k=k, labels=range(6))
  recalls = sk.recall_score(label, logits.argmax(1), average=None, labels=range(6))
  np.testing.assert_allclose([s[f"accuracy/{c}"] for c in NAMES], recalls, atol=1e-15)


def test_a_label_outside_the_classes_is_no_hit():
  """As losses give nan and confusion matrices no cell for it."""
  logits = jnp.zeros((3, 6)).at[:, 5].set(1.0)
  sums = make_task(top_k=2).statistics(
    logits, jnp.array([5, 6, -1]), jnp.ones(3, bool), evaluating=True
  )
  assert (sums["top_k"], sums["matrix"].sum()) == (1, 1)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_answer_that_prefers_no_class_hits_no_more_than_its_first_ones(value):
  task, valid = make_task(tuple("abcd"), top_k=2), jnp.ones(4, bool)
  logits = jnp.full((4, 4), value)
  sums = task.statistics(logits, jnp.arange(4), valid, evaluating=True)
  assert int(sums["top_k"]) == (0 if np.isnan(value) else 2)


def test_label_smoothing_and_weights_equal_optax():
  logits, label = draw()
  smooth = optax.smooth_labels(jax.nn.one_hot(label, 6), 0.2)
  weights = np.array([1, 2, 3, 4, 5, 6.0], np.float32)
  each = np.asarray(optax.softmax_cross_entropy(logits, smooth))
  task = make_task(label_smoothing=0.2, class_weights=tuple(weights))
  found = task.summary(summed(task, logits, label))["loss"]
  assert found == pytest.approx((each * weights[label]).sum() / weights[label].sum(), rel=1e-6)


@pytest.mark.parametrize(
  ("fields", "part"),
  [
    (dict(label_smoothing=1.0), "label_smoothing"),
    (dict(top_k=0), "top_k"),
    (dict(class_weights=(1.0,)), "6 classes"),
    (dict(names=("a",)), "at least 2"),
  ],
)
def test_wrong_fields_are_reported(fields, part):
  with pytest.raises(UserError, match=part):
    make_task(**fields)


def test_a_class_without_examples_is_nan_and_left_out():
  logits, label = draw()
  label[label == 3] = 2
  task = make_task()
  s = task.summary(summed(task, logits, label))
  assert np.isnan(s["accuracy/d"])
  recall = sk.recall_score(label, logits.argmax(1), average=None, labels=[0, 1, 2, 4, 5])
  assert s["mean_class_accuracy"] == pytest.approx(recall.mean(), abs=1e-15)


def test_classes_pass_the_pipeline_and_the_augmentation():
  source = sources.make("digits", "val", size=8)
  found = []
  resized = pipeline.Resized(source, (12, 12), 10)
  for batch in pipeline.eval_batches(resized, batch_size=64):
    assert batch["image"].shape == (64, 12, 12, 3) and batch["label"].shape == (64,)
    found += batch["label"][batch["valid"]].tolist()
  assert found == source.classes.tolist()
  augment = jax.jit(make_augment(flip=1.0, crop_area_min=0.5, noise=0.1))
  image, label = augment(jax.random.key(0), jnp.ones((12, 12, 3)), jnp.array(7))
  assert int(label) == 7 and image.shape == (12, 12, 3) and float(image.min()) < 1


def test_target_images_move_with_their_images():
  """The geometry is the image's, the colours stay."""
  rng = np.random.default_rng(0)
  image = jnp.array(rng.random((16, 20, 3), np.float32))
  augment = jax.jit(make_augment(flip=0.5, scale_min=0.7, scale_max=1.5, rotate=30.0))
  for seed in range(8):
    moved, target = augment(jax.random.key(seed), image, image[..., ::-1])
    np.testing.assert_allclose(moved, target[..., ::-1], atol=1e-6)
  augment = jax.jit(make_augment(brightness=0.5, noise=0.1))
  moved, target = augment(jax.random.key(1), image, image)
  assert np.array_equal(target, image) and not np.allclose(moved, image)


@pytest.mark.slow
def test_digits_train_and_are_drawn(tmp_path):
  config = config_lib.read(f"{ROOT}/configs/small_cnn_classification.py:smoke")
  config.writers, config.data.size, config.log_steps = ("pictures",), (16, 16), 1
  config.total_steps, config.eval_steps = 2, 2
  training.train(config, tmp_path)
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert {"val/accuracy", "val/top5_accuracy", "val/accuracy/7"} <= rows[-1].keys()
  assert any("train/accuracy" in r for r in rows)
  (file,) = (tmp_path / "images").glob("*.png")
  assert shows(np.asarray(Image.open(file)), make_source(config, "val")[0]["image"])


@pytest.mark.slow
def test_a_few_digits_are_learned_by_heart(tmp_path):
  config = config_lib.read(f"{ROOT}/configs/small_cnn_classification.py:smoke")
  config.writers, config.pictures, config.total_steps, config.eval_steps = (), 0, 30, 30
  config.data.source.train_fraction = 0.01
  config.data.update(batch_size=16, size=(16, 16))
  training.train(config, tmp_path)
  rows = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "train/accuracy" in r]
  assert rows[-1]["train/accuracy"] == 1.0 and rows[0]["train/accuracy"] < 0.7


def test_mixed_labels_are_soft_targets():
  logits, own = draw()
  other, share = np.roll(own, -1), np.linspace(0, 1, len(own)).astype(np.float32)
  mask, weights = np.arange(len(own)) < 40, np.arange(1.0, 7.0)
  task = make_task(class_weights=tuple(weights), label_smoothing=0.1)
  mixed = Mixed(jnp.array(own), jnp.array(other), jnp.array(share))
  sums = task.statistics(jnp.array(logits), mixed, jnp.array(mask), evaluating=True)
  target = share[:, None] * np.eye(6)[own] + (1 - share)[:, None] * np.eye(6)[other]
  # Each target's class weighs its part of the loss, smoothing included.
  per_class = [
    weights[c] * optax.softmax_cross_entropy(logits, optax.smooth_labels(np.eye(6)[[c]], 0.1))
    for c in range(6)
  ]
  loss = (target * np.stack(per_class, -1))[mask].sum() / (target @ weights)[mask].sum()
  assert float(task.loss(sums)) == pytest.approx(loss, rel=1e-5)
  np.testing.assert_array_equal(
    sums["matrix"], sk.confusion_matrix(own[mask], logits.argmax(1)[mask], labels=range(6))
  )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cutmix", pytest.param("mixup", marks=pytest.mark.weekly)])
def test_training_with_mixed_examples(name, tmp_path):
  config = config_lib.read(f"{ROOT}/configs/small_cnn_classification.py:smoke")
  config.writers, config.pictures, config.total_steps, config.eval_steps = (), 0, 2, 2
  losses_of = []
  for probability in (0.0, 1.0):
    config.batch_augment[name] = probability
    training.train(config, tmp_path / str(probability))
    rows = read_metrics(tmp_path / str(probability) / "metrics.jsonl")
    losses_of.append([r["train/loss"] for r in rows if "train/loss" in r])
  assert losses_of[0] != losses_of[1]
  assert np.isfinite(losses_of).all()


@pytest.mark.parametrize(
  ("changes", "part"),
  [
    ({"best_metric": "val/mean_iou"}, "val/accuracy"),
    ({"batch_augment.cutmix": 2.0}, "batch_augment.cutmix is 2"),
  ],
)
@pytest.mark.slow
def test_fields_that_do_not_fit_are_reported(changes, part, tmp_path):
  config = config_lib.read(f"{ROOT}/configs/small_cnn_classification.py:smoke")
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=part):
    training.train(config, tmp_path)


def test_a_task_that_needs_masks_is_refused(tmp_path):
  config = config_lib.read(f"{ROOT}/configs/small_cnn_classification.py:smoke").unlock()
  config_lib.set_task(config, "segmentation")
  with pytest.raises(UserError, match="one class per image"):
    training.train(config, tmp_path)
