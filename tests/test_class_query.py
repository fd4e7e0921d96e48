"""Asking for one class at a time: asked classes, merged masks, attention, training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from segjax import config as config_lib
from segjax import training
from segjax.data.labels import IGNORE, default_table
from segjax.errors import UserError
from segjax.tasks import ClassQuery
from segjax.training import restore
from segjax.training.writers import read_metrics

NAMES = ("background", "a", "b", "c")


def make_task(names=NAMES, **fields):
  return ClassQuery(names, default_table(names).palette, **fields)


def labels(count=200, size=(6, 8)):
  label = np.random.default_rng(0).integers(0, 2, (count, *size)) * 3  # background and c
  label[:, 0] = IGNORE
  return jnp.array(label)


def test_asked_classes_follow_the_images_or_not():
  task, label = make_task(present=1.0), labels()
  assert set(np.asarray(task.draw(jax.random.key(0), label))) == {2}
  counts = np.bincount(make_task(present=0.0).draw(jax.random.key(0), label))
  assert counts.min() > 40  # all three alike
  counts = np.bincount(make_task(present=0.7).draw(jax.random.key(0), label))
  assert 140 < counts[2] < 180  # 0.7 + 0.3 / 3
  empty = jnp.zeros((300, 4, 4), int)
  assert np.bincount(task.draw(jax.random.key(0), empty)).min() > 60  # nothing there: any class


def test_training_labels_are_masks_of_the_asked_class():
  task, label = make_task(), labels(50)
  (image, asked), mine = task.prepare(
    jax.random.key(3), jnp.zeros((50, 6, 8, 3)), label, train=True
  )
  assert image.shape == (50, 6, 8, 3) and (np.asarray(mine)[:, 0] == IGNORE).all()
  for a, m, whole in zip(asked, mine, label, strict=True):
    np.testing.assert_array_equal(np.asarray(m)[1:], np.asarray(whole == a + 1)[1:])
  inputs, kept = task.prepare(jax.random.key(3), image, label, train=False)
  assert inputs[1] is None and np.array_equal(kept, label)


def test_a_label_that_is_no_class_gives_nan():
  task, label = make_task(), np.zeros((1, 4, 4), np.int32)
  label[0, :2] = (IGNORE, 1, 2, 3)
  outputs = dict(logits=jnp.zeros((1, 4, 4, 3)), attention=jnp.full((1, 3, 2, 2), 0.25))
  valid, prepare = np.ones(1, bool), (jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  for wrong in (0, 7):
    label[0, 3, 3] = wrong
    sums = task.statistics(outputs, jnp.array(label), valid, evaluating=True)
    _, mine = task.prepare(*prepare, jnp.array(label), train=True)
    asked = outputs | dict(logits=outputs["logits"][..., :1])
    train = task.statistics(asked, mine, valid, evaluating=False)
    for found in (sums, train):
      loss = float(task.loss(found))
      assert np.isnan(loss) if wrong else loss == pytest.approx(np.log(2), rel=1e-6)


def test_merged_masks_cover_every_pixel_once():
  task, rng = make_task(), np.random.default_rng(0)
  logits = rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
  pred = np.asarray(task.predict(dict(logits=jnp.array(logits))))
  masks = np.stack([pred == c for c in range(4)])
  np.testing.assert_array_equal(masks.sum(0), 1)
  np.testing.assert_array_equal(masks[0], (logits < 0).all(-1))
  for c in range(3):
    largest = (logits.argmax(-1) == c) & (logits[..., c] >= 0)
    np.testing.assert_array_equal(masks[c + 1], largest)


def test_scores_and_attention_by_hand():
  task = make_task()
  label = np.zeros((1, 4, 4), int)
  label[:, :2, :2] = 1
  label[:, 3] = IGNORE
  attention = np.full((1, 3, 2, 2), 0.1, np.float32)
  attention[0, 0] = [[0.7, 0.1], [0.1, 0.1]]
  outputs = dict(logits=jnp.zeros((1, 4, 4, 3)), attention=jnp.array(attention))
  sums = task.statistics(outputs, jnp.array(label), jnp.ones(1, bool), evaluating=True)
  s = task.summary(jax.device_get(sums))
  assert s["loss"] == pytest.approx(np.log(2), rel=1e-6)
  # The places at the centres of 2x2 cells, rows 1 and 3: row 3 is ignored.
  assert s["attention_ratio/a"] == pytest.approx(7, rel=1e-5) == s["attention_ratio"]
  assert np.isnan(s["attention_ratio/b"])
  assert "attention on over off" in task.table(jax.device_get(sums))
  none = task.statistics(outputs, jnp.array(label), jnp.zeros(1, bool), evaluating=True)
  assert not np.any(none["inside"]) and not np.any(none["matrix"])


@pytest.mark.slow
def test_the_loss_of_the_attention_by_hand():
  plain, task = make_task(), make_task(attention=0.5)
  label = np.zeros((3, 4, 6), int)
  label[0, :2, :3] = 1  # the whole of one of four positions
  label[1, 2:, 3] = 1  # a third of another
  label[2] = IGNORE
  attention = np.array([[[0.7, 0.1], [0.1, 0.1]], [[0.4, 0.1], [0.2, 0.3]], [[0.25] * 2] * 2])
  outputs = dict(logits=jnp.zeros((3, 4, 6, 1)), attention=jnp.array(attention)[:, None])
  asked = jnp.array(label), jnp.ones(3, bool)
  sums = task.statistics(outputs, *asked, evaluating=False)
  assert float(sums["attention"]) == pytest.approx(-np.log(0.7) - np.log(0.3 / 3), rel=1e-6)
  assert sums["asked"] == 2
  own = 0.5 * float(sums["attention"]) / 2
  assert float(task.loss(sums)) == pytest.approx(np.log(2) + own, rel=1e-6)
  assert float(plain.loss(sums)) == pytest.approx(np.log(2), rel=1e-6)
  of_all = dict(logits=jnp.zeros((3, 4, 6, 3)), attention=jnp.array([attention] * 3).swapaxes(0, 1))
  every = task.statistics(of_all, *asked, evaluating=True)
  assert float(every["attention"]) == pytest.approx(float(sums["attention"]), rel=1e-6)

  @jax.grad
  def push(scores):  # hopeless at first, and still pushed
    w = jax.nn.softmax(scores).reshape(1, 1, 2, 2)
    outputs = dict(logits=jnp.zeros((1, 4, 6, 1)), attention=w)
    return task.statistics(outputs, asked[0][:1], asked[1][:1], evaluating=False)["attention"]

  np.testing.assert_allclose(push(jnp.array([-40.0, 0, 0, 20])), [-1, 0, 0, 1], atol=1e-4)


@pytest.mark.parametrize(
  ("fields", "part"),
  [
    (dict(attention=-1.0), "attention"),
    (dict(present=2.0), "present"),
    (dict(dice=1.0), "binary"),
    (dict(names=("a",)), "background"),
  ],
)
def test_wrong_fields_are_reported(fields, part):
  with pytest.raises(UserError, match=part):
    make_task(**fields)


@pytest.mark.weekly
def test_it_trains_and_leaves_the_encoder(tmp_path, shallow_backbones):
  spec = "backbone=shallow_resnet,attention=scaled_dot,smoke"
  config = config_lib.read(f"{ROOT}/configs/attention_objects.py:{spec}")
  config.writers, config.pictures, config.schedule.name = ("pictures",), 1, "constant"
  config.model.update(width=8, rates=(1, 2))
  config.total_steps, config.eval_steps = 3, 3
  trained = training.train(config, tmp_path)
  experiment, _ = restore.run(tmp_path)
  fresh, _ = experiment.init()
  for kind in ("params", "batch_stats"):
    before, after = (getattr(state, kind)["backbone"] for state in (fresh, trained))
    jax.tree.map(np.testing.assert_array_equal, before, after)
  before, after = (state.params["class_attention"]["query"]["kernel"] for state in (fresh, trained))
  assert not np.array_equal(before, after)
  row = read_metrics(tmp_path / "metrics.jsonl")[-1]
  assert {"val/mean_iou", "val/iou/Building", "val/attention_ratio"} <= row.keys()
