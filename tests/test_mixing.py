"""Augmentation that mixes the examples of a batch: MixUp and CutMix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.augment import mixing
from segjax.errors import UserError

COUNT, HEIGHT, WIDTH = 2000, 24, 32
mixup = jax.jit(mixing.make_batch_augment(mixup=1.0, mixup_alpha=0.4))
cutmix = jax.jit(mixing.make_batch_augment(cutmix=1.0))


def numbered(count=COUNT):
  """Example i has label i at every pixel and shows i / count in its image."""
  label = np.broadcast_to(np.arange(count, dtype="i4")[:, None, None], (count, HEIGHT, WIDTH))
  image = np.repeat(label[..., None] / count, 3, -1).astype("f4")
  return jnp.asarray(image), jnp.asarray(label)


def pasted(labels):
  """Where pixels are the next example's; fails where they are of a third one."""
  own = np.arange(len(labels))[:, None, None]
  following = (own + 1) % len(labels)
  labels = np.asarray(labels)
  assert ((labels == own) | (labels == following)).all()
  return labels == following


def test_mixup_by_hand_and_its_weights():
  image, label = numbered()
  out, mixed = mixup(jax.random.key(0), image, label[:, 0, 0])
  np.testing.assert_array_equal(mixed.own, np.arange(COUNT))
  np.testing.assert_array_equal(mixed.other, (np.arange(COUNT) + 1) % COUNT)
  own = np.asarray(mixed.share)
  w = own[:, None, None, None]
  np.testing.assert_allclose(out, w * image + (1 - w) * np.roll(image, -1, 0), atol=1e-6)
  # Beta(a, a): mean 1/2, variance 1 / (8 a + 4)
  assert abs(own.mean() - 0.5) < 0.06
  assert abs(own.var() - 1 / 7.2) < 0.02
  assert float(out.min()) >= 0
  assert float(out.max()) <= 1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_mixup_keeps_the_dtype(dtype):
  image, label = numbered()
  assert mixup(jax.random.key(0), image.astype(dtype), label[:, 0, 0])[0].dtype == dtype


def test_cutmix_pastes_a_rectangle_of_image_and_label():
  image, label = numbered()
  out, mixed = cutmix(jax.random.key(0), image, label)
  assert (out.dtype, mixed.dtype) == (image.dtype, label.dtype)
  inside = pasted(mixed)
  np.testing.assert_array_equal(out, np.asarray(image)[np.asarray(mixed), 0, 0][..., :])
  rows, columns = inside.any(2), inside.any(1)
  assert (inside == rows[:, :, None] & columns[:, None]).all()
  assert (np.abs(np.diff(np.pad(rows, ((0, 0), (1, 1))).astype(int))).sum(1) <= 2).all()
  assert inside.any(0).all()


def test_cutmix_takes_pixels_from_the_same_place():
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.random((COUNT, HEIGHT, WIDTH, 3)), jnp.float32)
  label = jnp.asarray(rng.integers(0, 255, (COUNT, HEIGHT, WIDTH)), jnp.int32)
  out, mixed = cutmix(jax.random.key(1), image, label)
  inside = pasted(cutmix(jax.random.key(1), *numbered())[1])
  assert 0.1 < inside.mean() < 0.9
  np.testing.assert_array_equal(out, np.where(inside[..., None], np.roll(image, -1, 0), image))
  np.testing.assert_array_equal(mixed, np.where(inside, np.roll(label, -1, 0), label))


def test_rectangles_cover_the_drawn_share_where_the_border_does_not_cut():
  inside = pasted(cutmix(jax.random.key(2), *numbered())[1])
  whole = ~(inside[:, 0].any(1) | inside[:, -1].any(1) | inside[:, :, 0].any(1))
  whole &= ~inside[:, :, -1].any(1)
  # Shares are uniform. A side s covers no border pixel's centre with probability 1 - s - 1 / n.
  share = np.linspace(0, 1, 1000)
  weight = np.prod([np.maximum(1 - np.sqrt(share) - 1 / n, 0) for n in (HEIGHT, WIDTH)], axis=0)
  assert abs(inside[whole].mean() - (share * weight).sum() / weight.sum()) < 0.02
  assert abs(whole.mean() - weight.mean()) < 0.02


def test_cutmix_mixes_class_labels_by_the_share():
  image, label = numbered()
  out, mixed = cutmix(jax.random.key(0), image, label[:, 0, 0])
  np.testing.assert_array_equal(mixed.own, np.arange(COUNT))
  np.testing.assert_array_equal(mixed.other, (np.arange(COUNT) + 1) % COUNT)
  own = (np.asarray(out)[..., 0] == np.asarray(image)[..., 0]).mean((1, 2))
  np.testing.assert_allclose(mixed.share, own, atol=1e-6)


@pytest.mark.parametrize("cut", [0.4, 0.0])
def test_both_share_out_the_examples_and_every_share_is_right(cut):
  image, label = numbered()
  fn = jax.jit(mixing.make_batch_augment(mixup=0.5, mixup_alpha=1.0, cutmix=cut))
  out, mixed = fn(jax.random.key(3), image, label[:, 0, 0])
  out, image = np.asarray(out)[..., 0], np.asarray(image)[..., 0]
  # Pixels are own or next (pasted or left), or all of one value between the two (blended).
  following = np.roll(image, -1, 0)
  blended = ((out != image) & (out != following)).any((1, 2))
  share = np.where(
    blended,
    ((out - following) / (image - following))[:, 0, 0],
    (out == image).mean((1, 2)),
  )
  np.testing.assert_allclose(mixed.share, share, atol=2e-3)
  assert abs(blended.mean() - (1 - cut) * 0.5) < 0.04
  assert abs((~blended & (share < 1)).mean() - cut) < 0.05


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_batch_augment_by_probability_key_and_one_compilation(probability):
  fn = jax.jit(mixing.make_batch_augment(cutmix=probability))
  image, label = numbered()
  outs = [fn(jax.random.key(k), image, label) for k in (1, 1, 2)]
  assert fn._cache_size() == 1
  assert all((a == b).all() for a, b in zip(outs[0], outs[1], strict=True))
  assert not jnp.array_equal(outs[0][1], outs[2][1])
  inside = pasted(outs[0][1])
  np.testing.assert_array_equal(outs[0][0], np.asarray(image)[np.asarray(outs[0][1]), 0, 0])
  assert probability - 0.05 < inside.any((1, 2)).mean() <= probability + 0.03  # some are empty


def test_batch_augment_off_and_its_limits():
  assert mixing.make_batch_augment() is None
  with pytest.raises(UserError, match=r"batch_augment\.cutmix is 2; expected a number from 0 to 1"):
    mixing.make_batch_augment(cutmix=2)
  with pytest.raises(UserError, match=r"batch_augment\.cutmix_alpha is 0\.0"):
    mixing.make_batch_augment(cutmix=0.5, cutmix_alpha=0.0)


# ---------------------------------------------------------------------------- ClassMix


def masks(count=64, classes=5):
  """Random images, and masks of few classes each, some pixels of which are not scored."""
  rng = np.random.default_rng(3)
  few = [rng.choice(classes, rng.integers(1, classes + 1), replace=False) for _ in range(count)]
  label = np.stack([rng.choice([*c, 255], (HEIGHT, WIDTH)) for c in few])
  image = rng.random((count, HEIGHT, WIDTH, 3))
  return jnp.asarray(image, jnp.float32), jnp.asarray(label, jnp.int32)


def test_classmix_pastes_half_of_the_classes_of_the_next_example():
  """Against NumPy: which pixels changed, by class, and that image and label change alike."""
  image, label = masks()
  change = jax.jit(mixing.make_batch_augment(classmix=1.0))
  out, mixed = (np.asarray(x) for x in change(jax.random.key(0), image, label))
  assert (out.dtype, mixed.dtype) == (np.float32, np.int32)
  image, label = np.asarray(image), np.asarray(label)
  subsets = set()
  for i in range(len(label)):
    other, following = label[(i + 1) % len(label)], image[(i + 1) % len(label)]
    inside = (out[i] == following).all(-1)
    drawn = np.unique(other[inside])
    there = np.setdiff1d(other, [255])
    assert len(drawn) == -(-len(there) // 2)
    np.testing.assert_array_equal(inside, np.isin(other, drawn))
    np.testing.assert_array_equal(out[i], np.where(inside[..., None], following, image[i]))
    np.testing.assert_array_equal(mixed[i], np.where(inside, other, label[i]))
    subsets.add(tuple(drawn))
  assert len(subsets) > 10
  again = change(jax.random.key(1), image, label)[1]
  assert (np.asarray(again) != mixed).any()


def test_classmix_of_chosen_classes_copies_what_the_next_example_has_of_them():
  image, label = masks()
  change = mixing.make_batch_augment(classmix=1.0, classmix_classes=(1, 4))
  out, mixed = change(jax.random.key(0), image, label)
  inside = np.isin(np.roll(label, -1, 0), (1, 4))
  np.testing.assert_array_equal(mixed, np.where(inside, np.roll(label, -1, 0), label))
  np.testing.assert_array_equal(out, np.where(inside[..., None], np.roll(image, -1, 0), image))


def test_classmix_beside_cutmix_by_its_probability_and_its_limits():
  image, label = numbered(250)
  change = lambda **how: jax.jit(mixing.make_batch_augment(cutmix=0.5, **how))  # noqa: E731
  rectangles = change()(jax.random.key(4), image, label)[1]
  both = change(classmix=0.5)(jax.random.key(4), image, label)[1]
  before, after = pasted(rectangles).any((1, 2)), pasted(both)
  np.testing.assert_array_equal(after[before], pasted(rectangles)[before])
  whole = after[~before].all((1, 2))  # masks of one class
  assert abs(whole.mean() - 0.5) < 0.13  # three deviations
  assert not after[~before][~whole].any()
  with pytest.raises(UserError, match="classmix for masks"):
    mixing.make_batch_augment(classmix=0.5)(jax.random.key(0), image, label[:, 0, 0])
  with pytest.raises(UserError, match=r"classmix is 1.5; expected a number from 0 to 1"):
    mixing.make_batch_augment(classmix=1.5)
  for classes in ((255,), (1.0,), ("Pole",)):
    with pytest.raises(UserError, match="expected numbers of classes from 0 to 254"):
      mixing.make_batch_augment(classmix=0.5, classmix_classes=classes)
