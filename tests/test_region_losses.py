"""Losses of regions, of the hardest pixels and of boundaries, and class weights.

Against their formulas in NumPy's float64, written from the papers, on random and extreme logits.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, special

from segjax import losses
from segjax.errors import UserError

SCALES = (1.0, 30.0, 1e4)  # of the logits


def example(classes, scale=1.0, seed=0):
  """(logits f32[3,9,11,K], label, valid); the last class is nowhere, the last image not scored."""
  rng = np.random.default_rng(seed)
  logits = (rng.normal(size=(3, 9, 11, classes)) * scale).astype(np.float32)
  label = rng.integers(0, max(classes - 1, 2), (3, 9, 11))
  valid = rng.random(label.shape) < 0.8
  valid[2] = False
  return logits, np.where(valid, label, 255), valid


def softmax(logits):
  logits = logits.astype(np.float64)
  if logits.shape[-1] == 1:
    return special.expit(logits)
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def rows(logits, label, valid):
  """Of each image: p f64[n,C] and y f64[n,C] of its scored pixels; of one logit C = 1."""
  for z, y, v in zip(logits, label, valid, strict=True):
    p = softmax(z)[v]
    own = y[v][:, None] == (np.arange(p.shape[1]) if p.shape[1] > 1 else 1)
    yield p, own.astype(np.float64)


def tversky(p, y, alpha, beta, smooth):
  hit, false, missed = (p * y).sum(0), (p * (1 - y)).sum(0), ((1 - p) * y).sum(0)
  return (hit + smooth) / (hit + alpha * false + beta * missed + smooth)


OVERLAP = {
  "jaccard": (losses.jaccard, lambda p, y: 1 - tversky(p, y, 1, 1, 1).mean()),
  "dice": (losses.dice, lambda p, y: 1 - tversky(p, y, 0.5, 0.5, 0.5).mean()),
  "tversky": (losses.tversky, lambda p, y: 1 - tversky(p, y, 0.3, 0.7, 1).mean()),
  "focal": (losses.focal_tversky, lambda p, y: ((1 - tversky(p, y, 0.3, 0.7, 1)) ** 0.75).mean()),
  "steep": (
    lambda *a, **k: losses.focal_tversky(*a, alpha=0.6, beta=0.4, gamma=2.0, smooth=0.1, **k),
    lambda p, y: ((1 - tversky(p, y, 0.6, 0.4, 0.1)) ** 2).mean(),
  ),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("name", OVERLAP)
def test_overlap_losses_are_their_formulas(name, classes, scale):
  loss, formula = OVERLAP[name]
  logits, label, valid = example(classes, scale)
  want = [formula(p, y) for p, y in rows(logits, label, valid)]
  got = jax.jit(loss)(logits, label, valid=valid)
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
  assert want[2] == 0 and min(want[:2]) > 0.1


def test_class_weights_of_dice():
  logits, label, valid = example(4)
  weights = np.array([0.5, 1.0, 3.0, 2.0])
  want = [
    (weights * (1 - tversky(p, y, 0.5, 0.5, 0.5))).sum() / 6.5
    for p, y in rows(logits, label, valid)
  ]
  got = losses.dice(logits, label, valid=valid, class_weights=weights)
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
  equal = losses.dice(logits, label, valid=valid, class_weights=np.full(4, 7.0))
  np.testing.assert_allclose(equal, losses.dice(logits, label, valid=valid), rtol=1e-6, atol=1e-6)
  with pytest.raises(ValueError, match=r"\(3,\), expected \(4,\)"):
    losses.dice(logits, label, valid=valid, class_weights=weights[:3])
  with pytest.raises(ValueError, match="one logit per class"):
    losses.dice(logits[..., :1], label % 2, class_weights=weights[:2])


def extension(errors, truth):
  """The Lovasz extension of |M| / |truth or M| over sets M of wrong pixels, by its definition."""
  total, before, wrong = 0.0, 0.0, np.zeros(len(errors), bool)
  for i in np.argsort(-errors, kind="stable"):
    wrong[i] = True
    now = wrong.sum() / (wrong | truth).sum()
    total, before = total + errors[i] * (now - before), now
  return total


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("classes", [2, 5])
def test_lovasz_softmax_is_its_definition(classes, scale):
  logits, label, valid = example(classes, scale)
  got = jax.jit(losses.lovasz)(logits, label, valid=valid)
  want = []
  for p, y in rows(logits, label, valid):
    present = [c for c in range(classes) if y[:, c].any()]
    each = [extension(np.abs(y[:, c] - p[:, c]), y[:, c] == 1) for c in present]
    want.append(np.mean(each) if each else 0.0)
  np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7)
  assert want[0] > 0.5


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("positive", [True, False])
def test_lovasz_hinge_is_its_definition(positive, scale):
  logits, label, valid = example(1, scale)
  label = label if positive else np.where(valid, 0, 255)
  got = jax.jit(losses.lovasz)(logits, label, valid=valid)
  want = []
  for image, y, v in zip(logits[..., 0].astype(np.float64), label, valid, strict=True):
    z, truth = image[v], y[v] == 1
    errors = 1 - np.where(truth, 1, -1) * z
    # A negative hinge counts 0, wherever it comes in the order.
    want.append(extension(np.maximum(errors, 0), truth) if len(z) else 0.0)
  np.testing.assert_allclose(got, want, rtol=2e-6)
  assert got[0] > 0.5


@pytest.mark.parametrize("loss", [losses.dice, losses.jaccard, losses.tversky])
def test_nothing_is_lost_where_nothing_counts_without_smoothing(loss):
  logits, label = np.zeros((2, 2, 2, 3), np.float32), np.zeros((2, 2, 2), np.int32)
  valid = np.zeros(label.shape, bool)
  valid[1] = True
  how = partial(loss, label=label, valid=valid, smooth=0.0)
  assert how(logits)[0] == 0 and 0 < how(logits)[1] < 1
  assert np.isfinite(jax.grad(lambda z: how(z).sum())(logits)).all()


def test_lovasz_of_hard_predictions_is_the_jaccard_loss():
  _, label, valid = example(4)
  pred = np.random.default_rng(3).integers(0, 3, label.shape)
  logits = np.where(pred[..., None] == np.arange(4), 1e4, -1e4).astype(np.float32)
  got = losses.lovasz(logits, label, valid=valid)
  for image in range(2):
    y, p = label[image][valid[image]], pred[image][valid[image]]
    iou = [((y == c) & (p == c)).sum() / ((y == c) | (p == c)).sum() for c in range(3)]
    assert float(got[image]) == pytest.approx(1 - np.mean(iou), rel=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("classes", [1, 4])
def test_ohem_keeps_the_hardest_pixels_of_each_image(classes, share):
  logits, label, valid = example(classes)
  logits = np.round(logits)  # many equal losses
  loss = np.asarray(losses.cross_entropy(logits, label, valid=valid))
  keep = np.asarray(losses.hardest(loss, valid=valid, share=share))
  for image in range(3):
    each, chosen = loss[image][valid[image]], keep[image][valid[image]]
    count = max(1, round(share * len(each))) if len(each) else 0
    assert keep[image].sum() == chosen.sum() == count
    first = np.argsort(-each, kind="stable")[:count]
    np.testing.assert_array_equal(np.flatnonzero(chosen), np.sort(first))
  got = losses.ohem(logits, label, valid=valid, share=share)
  np.testing.assert_array_equal(got, np.where(keep, loss, 0))


def signed(label, classes, valid):
  """Signed distances by SciPy, of each class to the scored pixels on the other side."""
  out = np.zeros((*label.shape, classes))
  for i, (y, v) in enumerate(zip(label, valid, strict=True)):
    for c in range(classes):
      inside, outside = (y == c) & v, (y != c) & v
      if inside.any() and outside.any():
        to_in, to_out = (ndimage.distance_transform_edt(~x) for x in (inside, outside))
        out[i, ..., c] = np.where(v, np.where(inside, 1 - to_out, to_in), 0)
  return out


@pytest.mark.parametrize("size", [(9, 11), (1, 7), (24, 3), (40, 33)])
def test_signed_distances_are_scipys(size):
  rng = np.random.default_rng(1)
  label = rng.integers(0, 3, (4, *size))
  label[0] = 1  # everywhere: neither it nor the others have a boundary
  label[1] = (np.arange(size[1]) > size[1] // 2) * 2  # one straight boundary, class 1 is nowhere
  for share in (1.0, 0.7):
    valid = rng.random(label.shape) < share
    got = losses.signed_distances(np.where(valid, label, 255), num_classes=3, valid=valid)
    np.testing.assert_allclose(got, signed(label, 3, valid), rtol=1e-6)
  assert not np.asarray(got[0]).any() and not np.asarray(got[1, ..., 1]).any()
  assert size[1] < 7 or float(got[1, ..., 2].min()) < -1


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("classes", [1, 4])
def test_boundary_loss_is_its_formula(classes, scale):
  logits, label, valid = example(classes, scale)
  distance = signed(label, max(classes, 2), valid)
  distance = distance[..., 1:] if classes == 1 else distance
  want = np.where(valid, (softmax(logits) * distance).mean(-1), 0)
  got = jax.jit(losses.boundary)(logits, label, valid=valid)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_boundary_loss_is_least_for_the_truth():
  label = np.zeros((1, 8, 8), int)
  label[:, 2:6, 3:7] = 1
  right = np.where(label[..., None] == np.arange(2), 50.0, -50.0)
  total = [float(losses.boundary(x, label).sum()) for x in (right, 0 * right, -right)]
  assert total[0] < 0 < total[1] < total[2]


def test_label_smoothing_of_one_logit_is_that_of_two_classes():
  logits, label, valid = example(1)
  two = np.concatenate([np.zeros_like(logits), logits], -1)
  for weights in (None, (0.5, 3.0)):
    how = dict(valid=valid, class_weights=weights, label_smoothing=0.2)
    one = losses.cross_entropy(logits, label, **how)
    np.testing.assert_allclose(one, losses.cross_entropy(two, label, **how), rtol=1e-5, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("scale", SCALES)
def test_label_smoothing_is_pytorchs(smoothing, scale):
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  logits, label, valid = example(5, scale)
  want = torch.nn.functional.cross_entropy(
    torch.tensor(logits).permute(0, 3, 1, 2),
    torch.tensor(label).long(),
    ignore_index=255,
    label_smoothing=smoothing,
    reduction="none",
  )
  got = losses.cross_entropy(logits, label, valid=valid, label_smoothing=smoothing)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


LOSSES = (losses.jaccard, losses.tversky, losses.focal_tversky, losses.lovasz, losses.ohem,
          losses.boundary, losses.dice)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_and_those_of_the_scored_pixels(loss, classes, dtype):
  """With an image that is not scored, a class that is nowhere, right and wrong logits of 1e4."""
  total = lambda z, label, valid: loss(z, label, valid=valid).sum()  # noqa: E731
  both = jax.jit(jax.value_and_grad(total))
  for scale in (0.0, 1.0, 1e4):
    logits, label, valid = example(classes, scale)
    right = np.where(np.where(valid, label, 0)[..., None] == np.arange(classes), 1e4, -1e4)
    for z in (logits, right):
      value, grad = both(jnp.asarray(z, dtype), label, valid)
      assert value.dtype == jnp.float32 and np.isfinite(value) and grad.dtype == dtype
      grad = np.asarray(grad, np.float32)
      assert np.isfinite(grad).all() and not grad[~valid].any()
      assert scale != 1.0 or z is right or grad[valid].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_differences(loss):
  """Along a random direction, where the order of the pixels does not change."""
  for classes in (1, 3):
    logits, label, valid = example(classes)
    direction = np.random.default_rng(9).normal(size=logits.shape).astype(np.float32)
    total = jax.jit(lambda z: loss(z, label, valid=valid).sum())  # noqa: B023
    grad = jax.jit(jax.grad(total))(jnp.asarray(logits))
    step = 1e-3
    up, down = (float(total(logits + sign * step * direction)) for sign in (1, -1))
    got = (up - down) / (2 * step)
    assert got == pytest.approx(float((grad * direction).sum()), rel=0.01, abs=2e-3)


# ---------------------------------------------------------------------------- class weights

COUNTS = np.array([[60, 20, 0, 0], [40, 0, 0, 4], [0, 10, 0, 0], [0, 0, 0, 0]])


def test_class_weights_by_hand():
  frequency = np.array([100 / (80 + 44), 30 / (80 + 10), 4 / 44])
  median = np.median(frequency) / frequency
  got = losses.class_weights(COUNTS, "median_frequency")
  np.testing.assert_allclose(got[[0, 1, 3]], median, rtol=1e-12)
  got = losses.class_weights(COUNTS, "root_median_frequency")
  np.testing.assert_allclose(got[[0, 1, 3]] ** 2, median, rtol=1e-12)
  got = losses.class_weights(COUNTS, "fourth_root_median_frequency")
  np.testing.assert_allclose(got[[0, 1, 3]] ** 4, median, rtol=1e-12)
  share = np.array([100, 30, 4]) / 134
  got = losses.class_weights(COUNTS, "inverse_log")
  np.testing.assert_allclose(got[[0, 1, 3]], 1 / np.log(1.02 + share), rtol=1e-12)
  got = losses.class_weights(COUNTS, "inverse")
  np.testing.assert_allclose(got[[0, 1, 3]], 1 / (3 * share), rtol=1e-12)
  assert {losses.class_weights(COUNTS, how)[2] for how in losses.RULES} == {1}


def test_inverse_class_weights_are_scikit_learns():
  from sklearn.utils.class_weight import compute_class_weight

  label = np.random.default_rng(0).choice(4, 500, p=(0.5, 0.3, 0.15, 0.05))
  want = compute_class_weight("balanced", classes=np.arange(4), y=label)
  counts = np.bincount(label, minlength=4)[None]
  np.testing.assert_allclose(losses.class_weights(counts, "inverse"), want, rtol=1e-12)


def test_class_weights_of_wrong_arguments():
  with pytest.raises(UserError, match="'median_frequenzy'; did you mean 'median_frequency'"):
    losses.class_weights(COUNTS, "median_frequenzy")
  for counts in (COUNTS[0], -COUNTS, COUNTS * 0, np.zeros((0, 3))):
    with pytest.raises(ValueError, match=r"expected pixels of each class in each image"):
      losses.class_weights(counts, "inverse")
