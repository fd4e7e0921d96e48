"""Losses, metrics and augmentation of any dtype, any number of channels, and bad labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from segjax import losses, metrics
from segjax.augment import make_augment, make_batch_augment
from segjax.errors import UserError

NARROW = ("uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64")
LOSSES = {
  "cross_entropy": losses.cross_entropy,
  "smooth": lambda *a, **k: losses.cross_entropy(*a, label_smoothing=0.1, **k),
  "weighted": lambda z, *a, **k: losses.cross_entropy(
    z, *a, class_weights=np.arange(1, max(z.shape[-1], 2) + 1), **k
  ),
  "focal": losses.focal,
  "dice": losses.dice,
  "weighted_dice": lambda z, *a, **k: losses.dice(
    z, *a, class_weights=np.arange(1, z.shape[-1] + 1) if z.shape[-1] > 1 else None, **k
  ),
  "jaccard": losses.jaccard,
  "tversky": losses.tversky,
  "focal_tversky": losses.focal_tversky,
  "lovasz": losses.lovasz,
  "ohem": losses.ohem,
  "boundary": losses.boundary,
}
OF_IMAGES = ("dice", "weighted_dice", "jaccard", "tversky", "focal_tversky", "lovasz")


@pytest.fixture(params=["cpu", "accelerator"])
def platform(request, monkeypatch):
  """Both forms of an operation that has another one on a CPU."""
  if request.param == "accelerator":
    plain = lambda *args, default, **_: default(*args)  # noqa: E731
    monkeypatch.setattr(jax.lax, "platform_dependent", plain)
  return request.param


def pixels(classes, seed=0):
  """(truth, prediction, valid) of 2 x 40 x 50 pixels, two thirds of them right."""
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes, (2, 40, 50))
  pred = np.where(rng.random(label.shape) < 0.67, label, rng.integers(0, classes, label.shape))
  return label, pred, rng.random(label.shape) < 0.9


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("classes", [2, 17, 21, 150])
@pytest.mark.slow
def test_confusion_matrix_of_any_dtype_is_scikit_learns(classes, jitted, platform):
  label, pred, valid = pixels(classes)
  want = sk.confusion_matrix(label[valid], pred[valid], labels=range(classes))
  count = lambda p, y: metrics.confusion_matrix(p, y, num_classes=classes, valid=valid)  # noqa: E731
  count = jax.jit(count) if jitted else count
  fitting = [d for d in NARROW if classes - 1 <= np.iinfo(d).max]
  fitting += ["bool"] if classes == 2 else []
  for dtype, other in zip(fitting, fitting[1:] + fitting[:1], strict=True):
    np.testing.assert_array_equal(
      count(pred.astype(dtype), label.astype(other)), want, err_msg=f"{dtype} {other}"
    )
  m = metrics.summarize(count(pred.astype("uint8"), label.astype("uint8")))
  truth = label[valid], pred[valid]
  assert m["mean_iou"] == pytest.approx(sk.jaccard_score(*truth, average="macro"), rel=1e-12)


@pytest.mark.parametrize("order", ["fortran", "reversed", "swapped", "strided", "read-only"])
def test_confusion_matrix_of_any_memory_order(order):
  label, pred, _ = pixels(21)
  want = sk.confusion_matrix(label.ravel(), pred.ravel(), labels=range(21))
  change = {
    "fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "swapped": lambda x: x.astype(">i2"),
    "strided": lambda x: np.stack([x, x], -1)[..., 0],
    "read-only": lambda x: np.frombuffer(x.astype(np.uint8).tobytes(), np.uint8).reshape(x.shape),
  }[order]
  got = metrics.confusion_matrix(change(pred), change(label), num_classes=21)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint32", "int64", "bool"])
def test_score_histogram_counts_every_positive(dtype, platform):
  label, _, valid = pixels(2)
  score = np.random.default_rng(1).random(label.shape).astype(np.float32)
  got = metrics.score_histogram(score, label.astype(dtype), valid=valid)
  bins = np.floor(score * 256).astype(int)
  for c in (0, 1):
    np.testing.assert_array_equal(got[c], np.bincount(bins[valid & (label == c)], minlength=256))
  everything = metrics.score_histogram(score, label.astype(dtype))
  assert int(everything.sum()) == label.size


def test_values_outside_the_classes_are_counted_in_no_cell(platform):
  label, pred, valid = pixels(20)
  want = sk.confusion_matrix(label[valid], pred[valid], labels=range(20))
  for bad, dtype in (
    (20, np.uint8), (255, np.uint8), (-1, np.int8), (-1, np.int32), (2**32 - 1, np.uint32),
    (2**32 + 3, np.int64), (2**31, np.int64), (-(2**31), np.int32),
  ):  # fmt: skip
    spoiled = np.where(valid, label, bad).astype(dtype), pred.astype(dtype)
    np.testing.assert_array_equal(
      metrics.confusion_matrix(*spoiled[::-1], num_classes=20), want, err_msg=f"label {bad}"
    )
    spoiled = np.where(valid, pred, bad).astype(dtype), label.astype(dtype)
    np.testing.assert_array_equal(
      metrics.confusion_matrix(*spoiled, num_classes=20), want, err_msg=f"prediction {bad}"
    )
  score = np.array([[[0.5, 0.5, np.nan, -0.1, 1.5, 1.0]]], np.float32)
  histogram = metrics.score_histogram(score, np.array([[[0, 2, 1, 1, 1, 1]]]))
  assert int(histogram.sum()) == 4 and int(histogram[0, 128]) == 1
  assert histogram[1, 0] == 1 and histogram[1, 255] == 2


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [1, 17])
def test_losses_take_labels_of_any_dtype(name, classes):
  rng = np.random.default_rng(0)
  logits = jnp.array(rng.normal(size=(2, 6, 7, classes)), jnp.float32)
  label = rng.integers(0, max(classes, 2), (2, 6, 7))
  want = LOSSES[name](logits, jnp.array(label, jnp.int32), valid=jnp.ones(label.shape, bool))
  dtypes = ("uint8", "int8", "uint32", "int64", *(["bool"] if classes == 1 else []))
  together = jax.jit(lambda z, labels: [LOSSES[name](z, y) for y in labels])
  for dtype, got in zip(dtypes, together(logits, [label.astype(d) for d in dtypes]), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=dtype)
  np.testing.assert_array_equal(LOSSES[name](np.asarray(logits), np.asfortranarray(label)), want)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [1, 4])
def test_a_label_that_is_no_class_gives_nan_on_every_platform(name, classes, platform):
  logits = jax.random.normal(jax.random.key(0), (2, 3, 5, classes))
  good = np.ones((2, 3, 5), np.int32)

  @jax.jit
  def run(label, valid):
    def total(z):
      loss = LOSSES[name](z, label, valid=valid)
      return loss.sum(), loss

    return jax.value_and_grad(total, has_aux=True)(logits)

  everywhere = np.ones(good.shape, bool)
  for bad, dtype in ((-1, "int32"), (max(classes, 2), "int32"), (255, "uint8")):
    label = good.astype(dtype)
    label[1, 2, 3] = bad
    (value, loss), grad = run(label, everywhere)
    assert np.isnan(value) and np.isnan(grad[1, 2, 3]).all(), (bad, dtype)
    found = np.argwhere(np.isnan(np.asarray(loss)))
    np.testing.assert_array_equal(found, [[1]] if name in OF_IMAGES else [[1, 2, 3]])
    # Where it does not count it changes nothing.
    (value, _), grad = run(label, label == 1)
    (same, _), want = run(good, label == 1)
    assert value == same and np.isfinite(value)
    # Labels of another dtype are another program, which may round in another way.
    np.testing.assert_allclose(grad, want, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.slow
def test_losses_of_narrow_logits_are_computed_in_float32(name, dtype):
  logits = jax.random.normal(jax.random.key(0), (1, 512, 512, 2)).astype(dtype)
  label = np.arange(512 * 512).reshape(1, 512, 512) % 2
  got = LOSSES[name](logits, label)
  assert got.dtype == jnp.float32
  want = LOSSES[name](logits.astype(jnp.float32), label)
  np.testing.assert_array_equal(got, want)
  assert np.isfinite(want).all()
  assert losses.class_probabilities(logits).dtype == jnp.float32


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_extreme_logits_stay_finite(name, classes, dtype):
  sign = jnp.where(jnp.arange(24 * classes) % 2, 1e4, -1e4).reshape(1, 4, 6, classes)
  label = np.arange(24).reshape(1, 4, 6) % max(classes, 2)
  run = jax.jit(jax.value_and_grad(lambda z: LOSSES[name](z, label).sum()))
  value, grad = run(sign.astype(dtype))
  assert np.isfinite(value) and np.isfinite(np.asarray(grad, np.float32)).all()


def test_features_of_float16_do_not_overflow():
  x = jnp.full((1, 64, 64, 2), 300, jnp.float16)
  assert float(losses.gram(x)[0, 0, 0]) == pytest.approx(45000, rel=1e-3)
  assert losses.content(x, -x).dtype == losses.style(x, x).dtype == jnp.float32
  assert float(losses.content(x, -x)[0]) == pytest.approx(360000, rel=1e-3)


def test_bad_arguments_are_one_clear_error():
  logits, label = jnp.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4), int)
  for loss in LOSSES.values():
    with pytest.raises(TypeError, match=r"float32.*integers"):
      loss(logits, label.astype(np.float32))
    with pytest.raises(ValueError, match="shape"):
      loss(logits, label[..., None])
    with pytest.raises(ValueError, match="valid has shape"):
      loss(logits, label, valid=np.ones((2, 4, 4, 1), bool))
  with pytest.raises(ValueError, match=r"\(2,\), expected \(3,\)"):
    losses.cross_entropy(logits, label, class_weights=(1.0, 2.0))
  with pytest.raises(ValueError, match="expected the same"):
    metrics.confusion_matrix(label[..., None], label, num_classes=3)
  with pytest.raises(TypeError, match="pred has dtype"):
    metrics.confusion_matrix(logits[..., 0], label, num_classes=3)
  with pytest.raises(TypeError, match="uint8"):
    metrics.psnr(np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
  "matrix",
  [
    np.ones((2, 3), int), np.array([[1, -1], [0, 2]]), np.ones(4, int), np.ones((2, 2, 2), int),
    np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[1, np.nan], [0, 1]]), np.zeros((0, 0), int),
  ],
)  # fmt: skip
def test_summarize_rejects_what_is_no_matrix_of_counts(matrix):
  with pytest.raises(ValueError, match="expected"):
    metrics.summarize(matrix)


def test_summarize_takes_counts_of_any_dtype():
  counts = [[200, 100], [50, 250]]
  want = metrics.summarize(np.array(counts))["mean_iou"]
  for dtype in ("uint8", "uint64", "float32", "int16"):
    assert metrics.summarize(np.array(counts, dtype))["mean_iou"] == want
  assert metrics.summarize(counts)["mean_iou"] == want
  with pytest.raises(ValueError, match="expected"):
    metrics.max_f1(np.ones((3, 256), int))


AUGMENT = dict(
  flip=0.5, flip_vertical=0.5, scale_min=0.7, scale_max=1.4, rotate=20.0, blur=1.0, cutout=0.3
)
COLORS = dict(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.2, rgb_shift=0.1, noise=0.1)
LABELS = [np.int32(3), np.arange(24 * 30).reshape(24, 30) % 5]


def picture(channels):
  return jax.random.uniform(jax.random.key(5), (24, 30, channels))


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.slow
def test_augmentation_keeps_every_channel(channels):
  """Each channel moves as the same channel of an image of three does."""
  augment = jax.jit(make_augment(**AUGMENT))
  image, label = picture(channels), LABELS[1]
  got, mask = augment(jax.random.key(3), image, label)
  assert got.shape == image.shape
  for c in range(channels):
    want, other = augment(jax.random.key(3), jnp.repeat(image[..., c : c + 1], 3, -1), label)
    np.testing.assert_allclose(got[..., c], want[..., 0], atol=1e-5)
  np.testing.assert_array_equal(mask, other)
  assert jnp.abs(got - image).mean() > 0.1


def test_colors_change_the_first_three_channels_alone():
  augment = jax.jit(make_augment(**COLORS))
  image = picture(5) * jnp.array([1, 1, 1, 1, 300])
  for i in range(2):
    got, _ = augment(jax.random.key(i), image, np.int32(0))
    np.testing.assert_array_equal(got[..., 3:], image[..., 3:])
    want, _ = augment(jax.random.key(i), image[..., :3], np.int32(0))
    np.testing.assert_allclose(got[..., :3], want, atol=1e-5)
    assert (np.abs(got - image)[..., :3] > 0.01).mean() > 0.5


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation", "hue", "rgb_shift"])
def test_colors_of_one_or_two_channels_are_an_error(channels, field):
  with pytest.raises(UserError, match=f"{field} change red, green and blue.*{channels} channels"):
    make_augment(**{field: 0.2})(jax.random.key(0), picture(channels), np.int32(0))


def test_noise_needs_no_colors():
  got, _ = make_augment(noise=0.2)(jax.random.key(0), picture(1), np.int32(0))
  assert got.shape == (24, 30, 1) and (got != picture(1)).any()


@pytest.mark.parametrize("scale", [255.0, -3.0])
def test_geometry_does_not_clip(scale):
  augment = jax.jit(make_augment(**AUGMENT))
  for i in range(2):
    key, image = jax.random.key(i), picture(3)
    (got, mask), (want, same) = (
      augment(key, scale * image, LABELS[1]),
      augment(key, image, LABELS[1]),
    )
    np.testing.assert_allclose(got, scale * want, atol=1e-4 * abs(scale))
    np.testing.assert_array_equal(mask, same)
    assert np.abs(got).max() > 2


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool"])
def test_masks_of_any_dtype_hold_the_ignore_value(dtype):
  augment = jax.jit(make_augment(scale_min=0.5, scale_max=0.5))
  mask = (LABELS[1] % 2).astype(dtype)
  _, got = augment(jax.random.key(0), picture(3), mask)
  _, want = augment(jax.random.key(0), picture(3), mask.astype(np.int32))
  np.testing.assert_array_equal(np.asarray(got, int), want)
  assert (np.asarray(got) == 255).sum() > 100


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_augmentation_keeps_the_dtype_of_the_image(dtype):
  image = picture(3).astype(dtype)
  augment = jax.jit(make_augment(**AUGMENT, **COLORS))
  got, target = augment(jax.random.key(0), image, picture(2))
  assert got.dtype == dtype and target.dtype == jnp.float32 and target.shape == (24, 30, 2)


@pytest.mark.parametrize(
  ("image", "label", "words"),
  [
    (np.zeros((2, 24, 30, 3), np.float32), LABELS[1], "jax.vmap"),
    (np.zeros((24, 30, 3), np.uint8), LABELS[1], "uint8.*image / 255"),
    (np.zeros((24, 30, 3), np.float32), LABELS[1][..., None], r"mask of classes.*\[H,W\]"),
  ],
)
def test_examples_that_would_be_augmented_wrongly(image, label, words):
  with pytest.raises(UserError, match=words):
    make_augment(flip=1.0)(jax.random.key(0), image, label)


def test_batch_augmentation_of_more_channels_and_of_wrong_labels():
  image = jax.random.uniform(jax.random.key(0), (3, 8, 8, 5))
  label = jnp.arange(3 * 64, dtype=jnp.uint8).reshape(3, 8, 8)
  mixed, moved = jax.jit(make_batch_augment(cutmix=1.0))(jax.random.key(1), image, label)
  pasted = np.asarray(moved != label)
  assert pasted.any() and mixed.shape == image.shape
  np.testing.assert_array_equal(mixed[pasted], jnp.roll(image, -1, 0)[pasted])
  np.testing.assert_array_equal(mixed[~pasted], image[~pasted])
  for fields, wrong in ((dict(cutmix=1.0), image), (dict(mixup=1.0), label)):
    with pytest.raises(UserError, match="expected classes"):
      make_batch_augment(**fields)(jax.random.key(1), image, wrong)
