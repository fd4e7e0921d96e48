"""Metrics of images, boundaries, surfaces and calibration against NumPy and SciPy by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, optimize, special

from segjax import metrics

CLASSES = 4  # of which the last is nowhere


def maps(seed=0, count=6, size=(30, 40)):
  """(prediction, label, valid) of blobs; the last image is not scored."""
  rng = np.random.default_rng(seed)
  smooth = ndimage.gaussian_filter(rng.normal(size=(CLASSES - 1, count, *size)), (0, 0, 4, 4))
  label = smooth.argmax(0)
  noisy = smooth + 0.5 * ndimage.gaussian_filter(rng.normal(size=smooth.shape), (0, 0, 3, 3))
  valid = ndimage.gaussian_filter(rng.random((count, *size)), (0, 2, 2)) > 0.46
  valid[0], valid[-1] = True, False
  pred = noisy.argmax(0)
  pred[1], label[1] = np.minimum(pred[1], 1), np.minimum(label[1], 1)  # without class 2
  return pred, np.where(valid, label, 255), valid


PRED, LABEL, VALID = maps()


def masks(c, i):
  return ((x[i] == c) & VALID[i] for x in (PRED, LABEL))


# ---------------------------------------------------------------------------- of each image


def test_image_counts_and_mean_ious_are_their_definitions():
  counts = jax.jit(metrics.image_counts, static_argnames="num_classes")(
    PRED, LABEL, num_classes=CLASSES, valid=VALID
  )
  want = np.array([
    [[(p & y).sum(), y.sum(), p.sum()] for p, y in (masks(c, i) for c in range(CLASSES))]
    for i in range(len(PRED))
  ])  # fmt: skip
  np.testing.assert_array_equal(counts, want)
  parts = [
    metrics.image_counts(PRED[s], LABEL[s], num_classes=CLASSES, valid=VALID[s])
    for s in (slice(0, 4), slice(4, 6))
  ]
  np.testing.assert_array_equal(np.concatenate(parts), want)
  iou = np.full((len(PRED), CLASSES), np.nan)
  for i, c in np.ndindex(iou.shape):
    p, y = masks(c, i)
    iou[i, c] = (p & y).sum() / (p | y).sum() if (p | y).any() else np.nan
  own = np.sort(np.nanmean(iou[:-1], 1))
  scores = metrics.mean_ious(counts)
  matrix = metrics.confusion_matrix(PRED, LABEL, num_classes=CLASSES, valid=VALID)
  assert scores["mean_iou"] == metrics.summarize(matrix)["mean_iou"]
  assert scores["mean_iou_images"] == pytest.approx(own.mean(), rel=1e-12)
  classes = np.nanmean(iou[:, : CLASSES - 1], 0).mean()
  assert scores["mean_iou_classes"] == pytest.approx(classes, rel=1e-12)
  assert scores["mean_iou_worst_images"] == own[0]
  assert len({round(v, 6) for v in scores.values()}) == 4
  many = np.concatenate([np.asarray(counts)[:5]] * 9)  # 45 images, of which 2 are the worst
  assert metrics.mean_ious(many)["mean_iou_worst_images"] == pytest.approx(own[0], rel=1e-12)
  twenty = np.arange(1, 61)[:, None, None] * [[[1, 0, 0]]] + [[[0, 60, 60]]]
  worst = metrics.mean_ious(twenty)["mean_iou_worst_images"]
  assert worst == pytest.approx(np.mean([i / (120 - i) for i in (1, 2, 3)]), rel=1e-12)


def test_nothing_scored_is_nan():
  scores = metrics.mean_ious(np.zeros((2, 3, 3), int))
  assert len(scores) == 4 and all(np.isnan(v) for v in scores.values())
  with pytest.raises(ValueError, match=r"expected counts of pixels, .* of shape \[N,C,3\]"):
    metrics.mean_ious(np.zeros((2, 3), int))


def test_bootstrap_of_a_mean_is_students():
  values = np.random.default_rng(0).normal(3.0, 2.0, 400)
  low, high = metrics.bootstrap(values, np.mean, samples=4000)
  error = values.std() / np.sqrt(len(values))
  assert (low, high) == metrics.bootstrap(values, np.mean, samples=4000)
  np.testing.assert_allclose(
    [low, high], values.mean() + 1.96 * error * np.array([-1, 1]), atol=0.1 * error
  )
  narrow = metrics.bootstrap(values, np.mean, samples=4000, level=0.5)
  np.testing.assert_allclose(
    narrow, values.mean() + 0.6745 * error * np.array([-1, 1]), atol=0.1 * error
  )
  assert metrics.bootstrap(np.ones(5), np.mean) == (1.0, 1.0)
  counts = metrics.image_counts(PRED, LABEL, num_classes=CLASSES, valid=VALID)
  score = lambda rows: metrics.mean_ious(rows)["mean_iou"]  # noqa: E731
  low, high = metrics.bootstrap(counts, score, samples=100)
  assert low < score(counts) < high


# ---------------------------------------------------------------------------- boundaries


def outline(mask, width):
  return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=width)


@pytest.mark.parametrize("width", [1, 3, None])
def test_boundary_counts_are_erosions(width):
  count = jax.jit(metrics.boundary_counts, static_argnames="num_classes")
  how = {} if width is None else dict(width=width)
  got = np.asarray(count(PRED, LABEL, num_classes=CLASSES, valid=VALID, **how))
  for i, c in np.ndindex(len(PRED), CLASSES):
    p, y = (outline(mask, width or 1) for mask in masks(c, i))
    assert got[i, c].tolist() == [(p & y).sum(), y.sum(), p.sum()]
  assert metrics.boundary_width(30, 40) == 1 and metrics.boundary_width(360, 480) == 12
  assert 0 < metrics.mean_ious(got)["mean_iou"] < 1


def dilated(mask, radius):
  y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
  return ndimage.binary_dilation(mask, x * x + y * y <= radius * radius)


def contour(mask):
  h, w = mask.shape
  out = np.zeros_like(mask)
  for y, x in np.ndindex(h, w):
    others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
    out[y, x] = any(mask[a, b] != mask[y, x] for a, b in others if a < h and b < w)
  return out


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_contour_counts_are_dilations_by_a_disk(radius):
  count = jax.jit(metrics.contour_counts, static_argnames="num_classes")
  got = np.asarray(count(PRED, LABEL, num_classes=CLASSES, valid=VALID, tolerance=radius))
  f = np.full(got.shape[:2], np.nan)
  for i, c in np.ndindex(f.shape):
    p, y = map(contour, masks(c, i))
    near_p, near_y = (dilated(x, radius) for x in (p, y))
    assert got[i, c].tolist() == [(p & near_y).sum(), p.sum(), (y & near_p).sum(), y.sum()]
    if (p | y).any():
      precision, recall = ((a & b).sum() / max(a.sum(), 1) for a, b in ((p, near_y), (y, near_p)))
      f[i, c] = 2 * precision * recall / max(precision + recall, 1e-9)
  scores = metrics.boundary_f(got)
  want = [np.nanmean(f[:, c]) for c in range(CLASSES - 1)]
  np.testing.assert_allclose(scores["boundary_f"], [*want, np.nan], rtol=1e-9)
  assert scores["mean_boundary_f"] == pytest.approx(np.mean(want), rel=1e-9)
  assert metrics.contour_tolerance(360, 480) == 5


@pytest.mark.parametrize("count", [metrics.boundary_counts, metrics.contour_counts])
def test_an_extended_image_counts_as_alone(count):
  """With its own width; images of two sizes in one batch."""
  name = "width" if count is metrics.boundary_counts else "tolerance"
  small = (slice(0, 2), slice(0, 20), slice(0, 25))
  pred, label, valid = PRED[:2].copy(), LABEL[:2], VALID[:2].copy()
  valid[1, 20:], valid[1, :, 25:] = False, False
  both = count(pred, label, num_classes=CLASSES, valid=valid, **{name: np.array([3, 2])})
  alone = count(PRED[small], LABEL[small], num_classes=CLASSES, valid=VALID[small], **{name: 2})
  if name == "width":
    np.testing.assert_array_equal(both[1], alone[1])
  first = count(PRED[:1], LABEL[:1], num_classes=CLASSES, valid=VALID[:1], **{name: 3})
  np.testing.assert_array_equal(both[0], first[0])


def test_contours_of_a_wide_image():
  label = np.zeros((1, 3, 40000), np.int32)
  label[..., 17000:17010] = 1
  counts = metrics.contour_counts(label, label, num_classes=2, tolerance=1)
  assert counts[0].tolist() == [[6] * 4] * 2  # two columns of three pixels
  counts = metrics.contour_counts(np.roll(label, 5, 2), label, num_classes=2, tolerance=1)
  assert counts[0, 1].tolist() == [0, 6] * 2


# ---------------------------------------------------------------------------- surfaces


def test_surface_scores_are_distances_between_all_pixels():
  found = 0
  for i in range(len(PRED)):
    scores = metrics.surface_scores(
      PRED[i], LABEL[i], num_classes=CLASSES, valid=VALID[i], tolerance=1.5
    )
    for c in range(CLASSES):
      cross = ndimage.generate_binary_structure(2, 1)
      p, y = (np.argwhere(m & ~ndimage.binary_erosion(m, cross)) for m in masks(c, i))
      if not len(p) or not len(y):
        absent = (np.nan, np.nan) if not len(p) and not len(y) else (0, np.inf)
        np.testing.assert_equal((scores["surface_dice"][c], scores["hd95"][c]), absent)
        continue
      apart = np.sqrt(((p[:, None] - y[None]) ** 2).sum(-1))
      one, other = apart.min(1), apart.min(0)
      dice = ((one <= 1.5).sum() + (other <= 1.5).sum()) / (len(p) + len(y))
      hd95 = max(np.percentile(one, 95), np.percentile(other, 95))
      np.testing.assert_allclose(
        (scores["surface_dice"][c], scores["hd95"][c]), (dice, hd95), rtol=1e-12
      )
      found += 1
  assert found >= 10
  with pytest.raises(ValueError, match=r"expected \[H,W\]"):
    metrics.surface_scores(PRED, LABEL, num_classes=CLASSES)
  with pytest.raises(TypeError, match="pred has dtype float32; expected class indices"):
    metrics.surface_scores(PRED[0].astype(np.float32), LABEL[0], num_classes=CLASSES)


# ---------------------------------------------------------------------------- calibration


def scored(classes, scale=2.0):
  rng = np.random.default_rng(1)
  logits = (rng.normal(size=(4, 20, 25, classes)) * scale).astype(np.float32)
  two = np.concatenate([np.zeros_like(logits), logits], -1) if classes == 1 else logits
  p = special.softmax(two.astype(np.float64) / 1.7, -1)
  label = (p.cumsum(-1) > rng.random((4, 20, 25, 1))).argmax(-1)  # right as often as T = 1.7 says
  valid = rng.random(label.shape) < 0.8
  return logits, two, np.where(valid, label, 255), valid


def error(p, right):
  """Expected calibration error of probabilities f64[n] by 15 bins of equal width."""
  total = 0.0
  for k in range(15):
    own = (p >= k / 15) & ((p < (k + 1) / 15) | (k == 14))
    total += abs(right[own].sum() - p[own].sum())
  return total / len(p)


@pytest.mark.parametrize("scale", [2.0, 1e4])
@pytest.mark.parametrize("classes", [1, 3])
def test_calibration_errors_are_their_definitions(classes, scale):
  logits, two, label, valid = scored(classes, scale)
  step = jax.jit(metrics.calibration_sums)
  parts = [step(logits[s], label[s], valid=valid[s]) for s in (slice(0, 1), slice(1, 4))]
  sums = jax.tree.map(lambda a, b: np.asarray(a, np.float64) + b, *parts)
  got = metrics.calibration(sums)
  p, y = special.softmax(two.astype(np.float64), -1)[valid], label[valid]
  best, right = p.max(-1), p.argmax(-1) == y
  assert got["ece"] == pytest.approx(error(best, right), abs=2e-6)
  each = [error(p[:, c], y == c) for c in range(p.shape[1])]
  assert got["class_ece"] == pytest.approx(each, abs=2e-6)
  assert got["classwise_ece"] == pytest.approx(np.mean(each), abs=2e-6)
  assert got["pixels"].sum() == valid.sum()
  k = int(got["pixels"].argmax())
  own = np.minimum((best * 15).astype(int), 14) == k
  assert got["accuracy"][k] == pytest.approx(right[own].mean(), rel=1e-6)
  assert got["confidence"][k] == pytest.approx(best[own].mean(), rel=1e-6)


def test_calibration_of_no_pixel_is_nan():
  logits, _, label, valid = scored(3)
  got = metrics.calibration(metrics.calibration_sums(logits, label, valid=valid & False))
  assert np.isnan(got["ece"]) and np.isnan(got["classwise_ece"]) and np.isnan(got["accuracy"]).all()


@pytest.mark.parametrize("scale", [0.3, 2.0, 5.0])
@pytest.mark.parametrize("classes", [1, 3])
def test_temperature_is_that_of_a_search(classes, scale):
  logits, two, label, valid = scored(classes)
  logits, two = logits * scale, two.astype(np.float64) * scale
  step = jax.jit(metrics.temperature_sums)
  sums = sum(
    np.asarray(step(logits[s], label[s], valid=valid[s]), np.float64)
    for s in (slice(0, 1), slice(1, 4))
  )
  z, y = two[valid], label[valid]

  def loss(factor):
    return -special.log_softmax(factor * z, -1)[np.arange(len(y)), y].mean()

  want = optimize.minimize_scalar(loss, bounds=(1 / 32, 8), options=dict(xatol=1e-9)).x
  want = optimize.minimize_scalar(
    loss, bounds=(want * 0.9, want * 1.1), method="bounded", options=dict(xatol=1e-10)
  ).x
  assert metrics.fit_temperature(sums) == pytest.approx(1 / want, rel=2e-4)


def test_infinite_logits():
  logits, _, label, valid = scored(3)
  more = np.concatenate([logits, np.full_like(logits[..., :1], -np.inf)], -1)  # left out
  found = metrics.temperature_sums(more, label, valid=valid)
  np.testing.assert_allclose(
    found, metrics.temperature_sums(logits, label, valid=valid), rtol=1e-5, atol=1e-5
  )
  one = np.array([[[[np.inf], [1.0]]]], np.float32)
  sums = metrics.calibration_sums(one, np.array([[[0, 1]]]))
  assert np.asarray(sums["confidence_bins"]).sum(1).tolist() == [2, 1]


def test_counts_of_images_are_whole_numbers():
  for bad in (0.5, np.nan, -1):
    with pytest.raises(ValueError, match="whole numbers of 0 or more"):
      metrics.mean_ious(np.array([[[bad, 1, 1]]]))
  assert metrics.mean_ious(np.array([[[1.0, 1.0, 1.0]]])) == metrics.mean_ious(
    np.array([[[1, 1, 1]]])
  )


def test_temperatures_without_a_minimum():
  _, two, label, valid = scored(3)
  best = two.argmax(-1)
  right = metrics.temperature_sums(two, best, valid=valid)
  assert metrics.fit_temperature(right) == 1 / 16
  wrong = metrics.temperature_sums(two, two.argmin(-1), valid=valid)
  assert metrics.fit_temperature(wrong) == 16
  nothing = metrics.temperature_sums(jnp.asarray(two), label, valid=valid & False)
  assert np.isnan(metrics.fit_temperature(nothing))
