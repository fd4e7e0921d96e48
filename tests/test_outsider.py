"""Somebody's own arrays in somebody's own loop, and in the library's train step without a trainer.

Each half of the file is short enough to be copied; the README shows the same lines.
"""

import jax
import numpy as np
import optax
import pytest

from segjax import losses, metrics, models
from segjax.tasks import Segmentation
from segjax.training import state as states
from segjax.training import steps

UPDATES = 20


@pytest.fixture(scope="module")
def data():
  """Squares of two brightnesses on dark noise, u8[16,16,16,3], and their labels."""
  rng = np.random.default_rng(0)
  labels = np.zeros((16, 16, 16), np.uint8)
  for label, (top, left) in zip(labels, rng.integers(0, 8, (16, 2)), strict=True):
    label[top : top + 8, left : left + 8] = 1 + top % 2
  labels[:, 0] = 255
  pictures = rng.integers(0, 60, (16, 16, 16, 3)) + 90 * (labels % 255)[..., None]
  return pictures.astype(np.uint8), labels


def check(history):
  (first_loss, first_iou), (last_loss, last_iou) = history[0], history[-1]
  assert last_loss < 0.5 * first_loss, history
  assert last_iou > first_iou + 0.3, history


def test_a_loop_over_models_losses_and_metrics(data):
  pictures, labels = data
  images = (pictures / 255).astype(np.float32)
  net = models.make("unet", widths=(8, 16), num_classes=3, norm="group", activation="silu")
  params = jax.jit(lambda key: net.init(key, images[:1], train=True)["params"])(jax.random.key(0))
  optimizer = optax.adam(1e-2)

  @jax.jit
  def step(params, state, image, label):
    def loss_fn(params):
      logits = net.apply({"params": params}, image, train=True)
      valid = label != 255
      return losses.cross_entropy(logits, label, valid=valid).sum() / valid.sum(), logits

    (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    matrix = metrics.confusion_matrix(logits.argmax(-1), label, num_classes=3, valid=label != 255)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss, matrix

  state, history = optimizer.init(params), []
  for i in range(UPDATES):
    batch = np.arange(8) + 8 * (i % 2)
    params, state, loss, matrix = step(params, state, images[batch], labels[batch])
    history.append((float(loss), metrics.summarize(matrix)["mean_iou"]))
  check(history)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_loop_over_the_train_step_and_a_task(data, channels):
  pictures, labels = data
  pictures = np.concatenate([pictures, 255 - pictures[..., :1]], -1)[..., :channels]
  net = models.make("unet", widths=(8, 16), num_classes=3, norm="batch")
  task, optimizer, mesh = (
    Segmentation(("ground", "odd", "even")),
    optax.adam(1e-2),
    steps.make_mesh(),
  )
  make = jax.jit(
    lambda key: states.init_state(net, optimizer, key, size=(16, 16), channels=channels)
  )
  state = make(jax.random.key(0))
  how = dict(mean=(0.0,) * channels, std=(1.0,) * channels)
  step = steps.make_train_step(net, task, optimizer, mesh=mesh, **how)

  history = []
  for i in range(UPDATES):
    batch = np.arange(8) + 8 * (i % 2)
    data = dict(image=pictures[batch], label=labels[batch], valid=np.ones(8, bool))
    state, sums = step(state, steps.put_batch(data, mesh))
    history.append((float(task.loss(sums)), task.summary(jax.device_get(sums))["mean_iou"]))
  check(history)
