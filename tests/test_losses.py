"""Losses against hand numbers, scikit-learn and PyTorch, under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from segjax import losses

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(2, 5, 7, 4)).astype("f4")) * 3
LABEL = jnp.asarray(RNG.integers(0, 4, (2, 5, 7)))
VALID = jnp.asarray(RNG.random((2, 5, 7)) < 0.7)
PIXELWISE = (losses.cross_entropy, losses.focal)


def binary():
  return LOGITS[..., :1], (LABEL > 1).astype(int)


def test_cross_entropy_by_hand():
  logits = jnp.log(jnp.array([0.2, 0.3, 0.5])).reshape(1, 1, 1, 3)
  loss = losses.cross_entropy(logits, jnp.array([[[2]]]), valid=jnp.array([[[True]]]))
  assert float(loss[0, 0, 0]) == pytest.approx(np.log(2), abs=1e-6)


def test_cross_entropy_is_scikit_learns_log_loss():
  loss = losses.cross_entropy(LOGITS, LABEL, valid=VALID)
  want = log_loss(
    np.asarray(LABEL[VALID]), np.asarray(jax.nn.softmax(LOGITS)[VALID], "f8"), labels=range(4)
  )
  assert float(loss.sum() / VALID.sum()) == pytest.approx(want, rel=1e-5)
  logit, label = binary()
  loss = losses.cross_entropy(logit, label, valid=VALID)
  p = np.asarray(jax.nn.sigmoid(logit[..., 0])[VALID], "f8")
  assert float(loss.sum() / VALID.sum()) == pytest.approx(log_loss(label[VALID], p), rel=1e-5)


@pytest.mark.torch
def test_class_weights_are_pytorchs():
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  weights = (0.5, 1.0, 2.0, 4.0)
  label = jnp.where(VALID, LABEL, 255)
  want = torch.nn.functional.cross_entropy(
    torch.tensor(np.asarray(LOGITS)).permute(0, 3, 1, 2),
    torch.tensor(np.asarray(label)).long(),
    torch.tensor(weights),
    ignore_index=255,
  )
  loss = losses.cross_entropy(LOGITS, label, valid=VALID, class_weights=weights)
  total = jnp.where(VALID, jnp.array(weights)[LABEL], 0).sum()
  assert float(loss.sum() / total) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("loss", PIXELWISE)
@pytest.mark.parametrize("bad", [255, -1, 1000])
def test_ignored_pixels_cost_nothing_and_never_make_nan(loss, bad):
  label = jnp.where(VALID, LABEL, bad)
  a, grad = jax.value_and_grad(lambda z: loss(z, label, valid=VALID).sum())(LOGITS)
  assert float(a) == pytest.approx(float(loss(LOGITS, LABEL, valid=VALID).sum()), rel=1e-6)
  assert jnp.isfinite(grad).all()
  assert (grad[~VALID] == 0).all()
  assert (loss(LOGITS, label, valid=VALID)[~VALID] == 0).all()


@pytest.mark.parametrize("classes", [1, 4])
def test_focal_with_gamma_0_is_cross_entropy_and_by_hand(classes):
  logits, label = (LOGITS, LABEL) if classes == 4 else binary()
  a = losses.focal(logits, label, valid=VALID, gamma=0.0)
  np.testing.assert_allclose(a, losses.cross_entropy(logits, label, valid=VALID), rtol=1e-6)
  zero, one = jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1), int)
  half = losses.focal(zero, one, valid=one == 1, gamma=2.0)
  assert float(half[0, 0, 0]) == pytest.approx(0.25 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("scale", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_stay_finite_at_extreme_logits(scale, gamma):
  for logits, label in ((LOGITS * scale, LABEL), (binary()[0] * scale, binary()[1])):
    functions = (
      lambda z, y: losses.focal(z, y, valid=VALID, gamma=gamma).sum(),
      lambda z, y: losses.cross_entropy(z, y, valid=VALID).sum(),
      lambda z, y: losses.dice(z, y, valid=VALID).sum(),
    )
    for f in functions:
      assert jnp.isfinite(jax.jit(jax.grad(f))(logits, label)).all()


def test_dice_by_hand_under_jit():
  # Probabilities 0.5 on two pixels, one of them positive: 2*0.5 / (1 + 1), with smooth 1: 2 / 3.
  logits, label = jnp.zeros((1, 1, 2, 1)), jnp.array([[[0, 1]]])
  dice = jax.jit(losses.dice)
  loss = dice(logits, label, valid=jnp.ones((1, 1, 2), bool))
  assert float(loss[0]) == pytest.approx(1 - 2 / 3)
  # The second pixel is not scored: no positive pixel left, 0.5 predicted.
  loss = dice(logits, label, valid=jnp.array([[[True, False]]]))
  assert float(loss[0]) == pytest.approx(1 - 1 / 1.5)


def test_dice_of_a_perfect_and_of_an_empty_example():
  perfect = jnp.where(LABEL[..., None] == jnp.arange(4), 50.0, -50.0)
  np.testing.assert_allclose(losses.dice(perfect, LABEL, valid=VALID), 0, atol=1e-5)
  np.testing.assert_allclose(losses.dice(LOGITS, LABEL, valid=VALID & False), 0, atol=1e-6)
