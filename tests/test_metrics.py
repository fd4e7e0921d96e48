"""Metrics against scikit-learn and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from segjax import metrics

RNG = np.random.default_rng(0)
CLASSES = 5
LABEL = RNG.integers(0, CLASSES, (3, 20, 30))
PRED = np.where(RNG.random(LABEL.shape) < 0.6, LABEL, RNG.integers(0, CLASSES, LABEL.shape))
VALID = RNG.random(LABEL.shape) < 0.8


def matrix(pred=PRED, label=LABEL, valid=VALID, classes=CLASSES):
  arrays = (jnp.asarray(x) for x in (pred, label))
  return metrics.confusion_matrix(*arrays, num_classes=classes, valid=jnp.asarray(valid))


def test_everything_equals_scikit_learn():
  m = matrix()
  y, p = LABEL[VALID], PRED[VALID]
  np.testing.assert_array_equal(m, sk.confusion_matrix(y, p))
  s = metrics.summarize(m)
  precision, recall, f1, _ = sk.precision_recall_fscore_support(y, p)
  assert s["pixel_accuracy"] == sk.accuracy_score(y, p)
  np.testing.assert_allclose(s["iou"], sk.jaccard_score(y, p, average=None), rtol=1e-15)
  np.testing.assert_allclose(s["precision"], precision, rtol=1e-15)
  np.testing.assert_allclose(s["recall"], recall, rtol=1e-15)
  np.testing.assert_allclose(s["f1"], f1, rtol=1e-15)
  assert s["mean_iou"] == pytest.approx(sk.jaccard_score(y, p, average="macro"), rel=1e-15)
  assert s["mean_class_recall"] == pytest.approx(sk.balanced_accuracy_score(y, p), rel=1e-15)
  assert s["constant_accuracy"] == np.bincount(y).max() / y.size


def test_absent_class_is_nan_and_left_out_of_the_mean():
  label, valid = np.array([[[0, 0, 1]]]), np.ones((1, 1, 3), bool)
  perfect = metrics.summarize(matrix(label, label, valid, classes=3))
  assert np.isnan(perfect["iou"][2])
  assert perfect["mean_iou"] == 1.0
  assert perfect["mean_class_recall"] == 1.0
  wrong = metrics.summarize(matrix(np.array([[[0, 0, 2]]]), label, valid, classes=3))
  np.testing.assert_array_equal(wrong["iou"], [1, 0, 0])
  assert np.isnan(wrong["recall"][2])
  assert np.isnan(wrong["precision"][1])


def test_ignored_values_land_nowhere():
  label = np.where(VALID, LABEL, 255)
  np.testing.assert_array_equal(matrix(label=label), matrix())
  np.testing.assert_array_equal(matrix(label=np.where(VALID, LABEL, -1)), matrix())


def test_nothing_scored_is_nan_everywhere():
  s = metrics.summarize(np.zeros((2, 2), int))
  assert np.isnan(s["mean_iou"])
  assert np.isnan(s["pixel_accuracy"])


def test_counts_beyond_int32_add_up():
  s = metrics.summarize(np.array([[2**40, 2**38], [0, 2**40]], np.int64))
  assert s["recall"][0] == 0.8


def test_max_f1_is_the_best_over_scikit_learns_thresholds():
  truth = RNG.integers(0, 2, (2, 40, 40))
  score = np.clip(0.3 * truth + RNG.random(truth.shape) * 0.7, 0, 1).astype("f4")
  valid = RNG.random(truth.shape) < 0.9
  histogram = metrics.score_histogram(
    jnp.asarray(score), jnp.asarray(np.where(valid, truth, 255)), valid=jnp.asarray(valid)
  )
  assert int(histogram.sum()) == valid.sum()
  f1, threshold = metrics.max_f1(histogram)
  y, s = truth[valid], score[valid]
  by_threshold = [sk.f1_score(y, s >= k / 256) for k in range(256)]
  assert f1 == pytest.approx(max(by_threshold), rel=1e-15)
  assert sk.f1_score(y, s >= threshold) == pytest.approx(f1, rel=1e-15)
  # The quantised threshold costs next to nothing against every threshold there is.
  precision, recall, _ = sk.precision_recall_curve(y, s)
  best = np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
  assert best - 0.005 < f1 <= best


def test_max_f1_without_a_positive_is_nan():
  assert np.isnan(metrics.max_f1(np.stack([np.ones(256, int), np.zeros(256, int)]))[0])


def test_probability_one_falls_into_the_last_bin():
  one = jnp.ones((1, 1, 1))
  histogram = metrics.score_histogram(one, one.astype(int), valid=one == 1)
  assert int(histogram[1, 255]) == 1
