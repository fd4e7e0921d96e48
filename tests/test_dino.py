"""DINO: loss and centre against numpy, the teacher out of the gradient's reach, training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT

from segjax import config as config_lib
from segjax import models, training
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.tasks import Dino
from segjax.tasks.dino import _crop, balance
from segjax.training import experiment, initial, steps
from segjax.training.state import init_state
from segjax.training.writers import read_metrics

PALETTE = default_table(("x",)).palette
KEEP = lambda key, image, label: (image, label)  # noqa: E731
K = 12


def make_task(**fields):
  return Dino(("x",), PALETTE, prototypes=K, **fields)


def parts():
  task = make_task(crops=2)
  net = models.make("prototypes", num_classes=K, backbone="small_cnn", width=16, bottleneck=8)
  state = jax.jit(
    lambda: init_state(net, optax.sgd(0.5), jax.random.key(0), size=(16, 16), ema=True)
  )()
  return task, net, state


def batch(count=4):
  image = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
  return dict(image=image, label=np.zeros(count, np.uint8), valid=np.ones(count, bool))


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.slow
def test_views_have_their_sizes_and_are_different():
  task = make_task(crops=3)
  image = jnp.array(np.random.default_rng(0).random((5, 16, 16, 3), np.float32))
  views, _ = task.prepare(jax.random.key(0), image, None, train=True, augment=KEEP)
  assert views["large"].shape == (10, 16, 16, 3) and views["small"].shape == (15, 8, 8, 3)
  small = np.asarray(views["small"]).reshape(3, 5, -1)
  assert np.abs(small[0] - small[1]).mean() > 0.01 < np.abs(small[1] - small[2]).mean()
  again, _ = task.prepare(jax.random.key(0), image, None, train=True, augment=KEEP)
  jax.tree.map(np.testing.assert_array_equal, views, again)


def test_loss_entropies_and_mask_against_numpy():
  task, rng = make_task(), np.random.default_rng(0)
  student, teacher = softmax(rng.normal(size=(4, 3, K))), softmax(3 * rng.normal(size=(2, 3, K)))
  want = np.zeros(3)
  for t in range(2):
    for s in range(4):
      if s != t:
        want -= (teacher[t] * np.log(student[s])).sum(-1) / 6
  features = rng.normal(size=(2, 3, 5)) + 1
  outputs = dict(
    student=jnp.log(jnp.array(student)),
    teacher=jnp.log(jnp.array(teacher)),
    features=jnp.array(features),
  )
  sums = task.statistics(outputs, None, jnp.array([True, False, True]), evaluating=True)
  s = task.summary(jax.device_get(sums))
  assert s["loss"] == pytest.approx(want[[0, 2]].mean(), rel=1e-5)
  entropy = -(teacher * np.log(teacher)).sum(-1)[:, [0, 2]].mean() / np.log(K)
  assert s["teacher_entropy"] == pytest.approx(entropy, rel=1e-5)
  seen = features[:, [0, 2]].reshape(-1, 5)
  seen /= np.linalg.norm(seen, axis=-1, keepdims=True)
  assert s["feature_deviation"] == pytest.approx(np.sqrt(seen.var(0).sum()), rel=1e-5)
  mean = teacher[:, [0, 2]].mean((0, 1))
  assert s["mean_entropy"] == pytest.approx(-(mean * np.log(mean)).sum() / np.log(K), rel=1e-5)


def test_collapse_is_reported():
  task = make_task()
  good = dict(teacher_entropy=0.3, mean_entropy=0.9, feature_deviation=0.5)
  assert not task.warning(good)
  assert "all prototypes" in task.warning(good | dict(teacher_entropy=0.99))
  assert "same prototype" in task.warning(good | dict(mean_entropy=0.05))
  assert "features of all images are alike" in task.warning(good | dict(feature_deviation=0.01))


def test_the_teachers_temperature_is_a_line():
  task = make_task(teacher_start=0.04, teacher_end=0.08, teacher_steps=10)
  found = [float(task.teacher_temperature(jnp.array(s))) for s in (0, 5, 10, 99)]
  np.testing.assert_allclose(found, [0.04, 0.06, 0.08, 0.08], rtol=1e-6)
  assert make_task(teacher_end=0.07).teacher_temperature(3) == pytest.approx(0.07)
  config = config_lib.read(f"{ROOT}/configs/pretraining.py:method=dino")
  config.task.update(teacher_start=0.04, teacher_end=0.07, teacher_epochs=10.0)
  task = experiment.build(config, default_table(("x",)), steps_per_epoch=7).task
  assert (task.teacher_start, task.teacher_end, task.teacher_steps) == (0.04, 0.07, 70)
  config.task.teacher_steps = 5
  with pytest.raises(UserError, match="teacher_steps=5 and teacher_epochs=10 are both set"):
    experiment.build(config, default_table(("x",)), steps_per_epoch=7)


def test_balance_against_numpy_uses_all_prototypes_alike():
  logits = 3 * np.random.default_rng(0).normal(size=(40, K)).astype(np.float32)
  logits[:, 0] += 20  # which a softmax would say of every image
  want = np.exp(logits.astype(np.float64))
  for _ in range(3):
    want /= want.sum(0)
    want /= want.sum(1, keepdims=True)
  found = balance(jnp.array(logits))
  np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-6)
  np.testing.assert_allclose(balance(jnp.array(logits), 50).mean(0), np.full(K, 1 / K), atol=1e-4)


def test_the_balanced_teacher_is_what_the_student_learns_from():
  _, net, state = parts()
  how = dict(mean=(0.0,) * 3, std=(1.0,) * 3, train=True, step=0)
  views = dict(large=jnp.array(np.random.default_rng(0).random((8, 16, 16, 3), np.float32)))

  def outputs(centering):
    task = make_task(crops=0, centering=centering)
    student, teacher = (steps.Net(net, state.eval_variables(), **how) for _ in range(2))
    student.teacher = teacher
    logits = task.outputs(student, views | dict(small=None))["teacher"]
    return task._targets(logits, jnp.ones(4, bool))

  @jax.jit
  def run():
    logits = steps.Net(net, state.eval_variables(), **how)(views["large"])
    return balance(logits / 0.04).reshape(2, 4, K), outputs("sinkhorn"), outputs("mean")

  wanted, found, other = run()
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  assert np.abs(found - other).max() > 1e-3
  with pytest.raises(UserError, match="'median', expected mean or sinkhorn"):
    make_task(centering="median")


def test_copies_that_fill_a_batch_change_nothing():
  task, rng = make_task(centering="sinkhorn"), np.random.default_rng(0)
  shapes = dict(student=(4, 5, K), teacher=(2, 5, K), features=(2, 5, 7))
  outputs = {k: np.float32(5 * rng.normal(size=shape)) for k, shape in shapes.items()}
  for each in outputs.values():
    each[:, 3:] = each[:, 2:3]

  @jax.jit
  def both(outputs):
    alone = {k: v[:, :3] for k, v in outputs.items()}
    pairs = (outputs, jnp.arange(5) < 3), (alone, jnp.ones(3, bool))
    return [task.statistics(found, None, valid, evaluating=True) for found, valid in pairs]

  filled, alone = both(outputs)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), filled, alone)


@pytest.mark.slow
def test_center_teacher_and_average_after_a_step():
  """The centre is numpy's, the teacher the exact average, and no gradient goes to it."""
  task, net, state = parts()
  # A teacher that is not the student, as after some steps.
  state = state.replace(ema_params=jax.tree.map(lambda x: 1.1 * x + 0.01, state.ema_params))
  center = np.random.default_rng(1).normal(size=K).astype(np.float32)
  state = state.replace(batch_stats=state.batch_stats | dict(center=jnp.array(center)))
  mesh = steps.make_mesh(jax.devices()[:1])
  step = steps.make_train_step(
    net, task, optax.sgd(0.5), mesh=mesh, ema_decay=lambda step: 0.75 + 0.0 * step
  )
  old = jax.tree.map(np.array, state)
  new, _ = step(jax.device_put(state, steps.replicated(mesh)), steps.put_batch(batch(), mesh))
  # What the step saw: no augmentation, so both large views are the images.
  large = np.concatenate([batch()["image"].astype(np.float32) / 255] * 2)
  how = dict(train=True, mutable=["batch_stats", "intermediates"])
  variables = dict(params=old.ema_params, batch_stats=old.ema_batch_stats)
  teacher, _ = jax.jit(lambda v: net.apply(v, large, **how))(variables)
  want = 0.9 * center + 0.1 * np.asarray(teacher).mean(0)
  np.testing.assert_allclose(new.batch_stats["center"], want, atol=1e-6)
  average = jax.tree.map(lambda e, p: e + 0.25 * (p - e), old.ema_params, new.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.ema_params, average)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), old.params, new.params)
  assert max(jax.tree.leaves(moved)) > 1e-6

  def loss_of_teacher(params):
    how = dict(mean=(0.0,) * 3, std=(1.0,) * 3, train=True, step=0)
    student = steps.Net(net, dict(params=old.params, batch_stats=old.batch_stats), **how)
    student.teacher = steps.Net(net, dict(params=params, batch_stats=old.ema_batch_stats), **how)
    views = dict(large=jnp.array(large), small=None)
    outputs = task.outputs(student, views)
    return task.loss(task.statistics(outputs, None, jnp.ones(4, bool), evaluating=False))

  gradient = jax.jit(jax.grad(loss_of_teacher))(old.ema_params)
  assert all(not np.any(g) for g in jax.tree.leaves(gradient))


def smoke_config():
  config = config_lib.read(f"{ROOT}/configs/pretraining.py:method=dino,smoke")
  config.writers, config.pictures = ("pictures",), 1
  config.model.update(backbone="small_cnn")
  config.data.update(size=(16, 16), batch_size=8)
  config.task.update(prototypes=32, crops=1)
  config.schedule.name, config.ema_decay_end = "constant", 0.0
  return config


@pytest.mark.weekly
def test_it_trains_and_resumes_bit_for_bit(tmp_path):
  """Of all tasks this one keeps most outside the parameters: teacher, centre, their averages.

  Loop, checkpoints and data iterator know no task; the state of the others is a part of this one.
  `test_loop` has the same of segmentation.
  """
  config = smoke_config()
  whole = training.train(config, tmp_path / "whole")
  config.total_steps = 4
  training.train(config, tmp_path / "part")
  config.total_steps = 6
  resumed = training.train(config, tmp_path / "part")
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  assert np.any(np.asarray(whole.batch_stats["center"]))
  rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
  assert {"val/loss", "val/teacher_entropy", "val/mean_entropy"} <= rows[-1].keys()
  # What starts from it gets the teacher of the last step, whatever its loss is.
  for mode in ("min", "max"):
    config.best_mode = mode
    config_lib.save(config, tmp_path / "whole" / "config.json")
    found = initial._read_run(tmp_path / "whole")["params"]
    jax.tree.map(np.testing.assert_array_equal, found, whole.ema_params)


def test_crops_keep_values_that_photographs_have_not():
  image = np.random.default_rng(0).normal(size=(16, 16, 6)).astype(np.float32)
  crop = np.asarray(_crop(jax.random.key(0), image))
  assert crop.shape == image.shape and crop.min() < -0.5 and crop.max() > 1.2
  assert np.asarray(_crop(jax.random.key(0), np.clip(image, 0, 1))).max() <= 1


@pytest.mark.parametrize(
  ("fields", "part"),
  [(dict(temperature=0.0), "temperature"), (dict(teacher_end=2.0), "teacher_end"),
   (dict(center_momentum=1.5), "center_momentum"), (dict(crops=-1), "crops")],
)  # fmt: skip
def test_wrong_fields_are_reported(fields, part):
  with pytest.raises(UserError, match=part):
    make_task(**fields)


@pytest.mark.parametrize(
  ("changes", "part"),
  [({"ema_decay": 0.0}, "needs a teacher"), ({"ema_decay": 1.5}, "from 0 and below 1")],
)
def test_a_missing_teacher_is_reported(changes, part, tmp_path):
  config = smoke_config()
  config.update_from_flattened_dict(changes)
  with pytest.raises(UserError, match=part):
    training.train(config, tmp_path)
