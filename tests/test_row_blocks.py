"""Loss and metrics of coarse logits, up-sampled a few rows at a time, against up-sampling first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from segjax import config as config_lib
from segjax import losses, models
from segjax.data.labels import IGNORE, default_table
from segjax.errors import UserError
from segjax.models.layers import coarse_logits, resize_bilinear
from segjax.row_blocks import sum_over_rows
from segjax.tasks import Segmentation
from segjax.training import experiment as experiment_lib
from segjax.training import optim, steps
from segjax.training.state import init_state


def draw(count, small, large, classes):
  rng = np.random.default_rng(0)
  logits = jnp.array(3 * rng.normal(size=(count, *small, classes)), jnp.float32)
  values = [*range(max(classes, 2)), IGNORE]
  return logits, jnp.array(rng.choice(values, (count, *large)), jnp.int32)


@pytest.mark.parametrize("rows", [1, 7, 32])
@pytest.mark.parametrize("sizes", [((3, 5), (75, 41)), ((8, 8), (64, 64)), ((1, 2), (20, 33))])
def test_sums_and_gradients_are_those_of_logits_up_sampled_first(sizes, rows):
  logits, label = draw(2, *sizes, 5)

  def nats(logits, label):
    return losses.cross_entropy(logits, label, valid=label != IGNORE).sum()

  def plain(logits):
    return nats(resize_bilinear(logits, sizes[1]), label)

  def fused(logits):
    return sum_over_rows(nats, logits, label, rows=rows)

  (a, da), (b, db) = (jax.jit(jax.value_and_grad(f))(logits) for f in (plain, fused))
  np.testing.assert_allclose(a, b, rtol=1e-5)
  np.testing.assert_allclose(da, db, rtol=1e-4, atol=1e-4)


def test_every_pixel_is_seen_once_with_its_own_logits():
  logits, label = draw(2, (4, 6), (50, 30), 3)

  def both(logits, label):
    seen = label != IGNORE
    return seen.sum(), jnp.where(seen, logits[..., 0] * label, 0.0).sum()

  count, total = sum_over_rows(both, logits, label, rows=16)
  large = resize_bilinear(logits, (50, 30))[..., 0]
  assert count == (np.asarray(label) != IGNORE).sum()
  np.testing.assert_allclose(total, (large * label)[label != IGNORE].sum(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("sigmoid", [False, True])
def test_statistics_of_coarse_logits(sigmoid):
  names = ("a", "b") if sigmoid else ("a", "b", "c", "d")
  weights = () if sigmoid else (1.0, 2.0, 0.5, 1.0)
  task = Segmentation(
    names, default_table(names).palette, sigmoid=sigmoid, dice=0.5, focal=0.3, class_weights=weights
  )
  logits, label = draw(3, (6, 5), (70, 44), task.num_outputs)
  mask = jnp.array([True, False, True])

  def loss(logits, large):
    logits = resize_bilinear(logits, label.shape[1:]) if large else logits
    sums = task.statistics(logits, label, mask, histogram=True)
    return task.loss(sums), sums

  (a, x), da = jax.value_and_grad(loss, has_aux=True)(logits, True)
  (b, y), db = jax.value_and_grad(loss, has_aux=True)(logits, False)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  np.testing.assert_allclose(da, db, rtol=1e-4, atol=1e-7)
  assert x.keys() == y.keys()
  for key in x:
    np.testing.assert_allclose(x[key], y[key], rtol=1e-5, atol=0)


def test_full_size_logits_are_never_stored():
  logits, label = draw(2, (64, 8), (1024, 64), 21)
  task = Segmentation(tuple("abcdefghijklmnopqrstu"), np.zeros((256, 3), np.uint8), dice=1.0)

  def loss(logits, large):
    logits = resize_bilinear(logits, label.shape[1:]) if large else logits
    return task.loss(task.statistics(logits, label, jnp.ones(2, bool), histogram=False))

  kept = [
    jax.jit(jax.grad(loss), static_argnums=1)
    .lower(logits, large)
    .compile()
    .memory_analysis()
    .temp_size_in_bytes
    for large in (True, False)
  ]
  assert kept[0] > 1024 * 64 * 2 * 21 * 4 > 2 * kept[1]


@pytest.mark.slow
@pytest.mark.parametrize("aux", [False, True])
def test_a_train_step_and_an_evaluation_are_the_same(aux):
  net = models.make("deeplabv3", backbone="resnet18", output_stride=32, aux=aux, num_outputs=4)
  task = Segmentation(tuple("abcd"), default_table(tuple("abcd")).palette, dice=0.5)
  schedule = optim.make_schedule("constant", learning_rate=1e-2, total_steps=10)
  optimizer = optim.make_optimizer("sgd", schedule)
  mesh = steps.make_mesh(jax.devices()[:1])
  rng = np.random.default_rng(0)
  batch = dict(
    image=rng.integers(0, 256, (2, 64, 96, 3)).astype(np.uint8),
    label=rng.choice([0, 1, 2, 3, IGNORE], (2, 64, 96)).astype(np.uint8),
    mask=np.ones(2, bool),
  )
  found = []
  for fused in (False, True):
    state = init_state(net, optimizer, jax.random.key(0), size=(64, 96))
    seen = steps.make_eval_step(net, task, mesh=mesh, fused=fused)(state, batch)
    train_step = steps.make_train_step(net, task, optimizer, mesh=mesh, fused=fused)
    state, sums = train_step(state, batch)
    found.append((seen, sums, state.params))
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_nets_give_coarse_logits_where_asked_to():
  net = models.make("deeplabv3", backbone="resnet18", output_stride=32, num_outputs=4)
  image = jnp.zeros((1, 64, 96, 3))
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image, train=False))

  def shape():
    return jax.eval_shape(lambda v: net.apply(v, image, train=False), shapes).shape

  assert shape() == (1, 64, 96, 4)
  with coarse_logits():
    assert shape() == (1, 2, 3, 4)


def test_other_tasks_refuse():
  config = config_lib.read(f"{ROOT}/configs/small_cnn_classification.py:smoke")
  config.fused_loss = True
  with pytest.raises(UserError, match="fused_loss is for segmentation, not for the task 'classifi"):
    experiment_lib.build(config, default_table(tuple("abc")))
