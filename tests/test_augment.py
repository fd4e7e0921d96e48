"""Augmentation: image and label together, ranges, keys, shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import augment

EVERY = {
  "flip": dict(flip=0.5),
  "scale up": dict(scale_min=1.3, scale_max=2.0),
  "scale down": dict(scale_min=0.5, scale_max=0.9, aspect=0.3),
  "color": dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
}
EVERY["all"] = {k: v for fields in EVERY.values() for k, v in fields.items()} | dict(
  scale_min=0.5, scale_max=2.0
)


def painted():
  """A label of large blobs and an image that shows it in brightness."""
  label = np.zeros((48, 64), np.int32)
  label[5:30, 8:25], label[20:44, 35:60] = 1, 2
  return jnp.asarray(np.repeat(label[..., None] * 0.5, 3, -1).astype("f4")), jnp.asarray(label)


def batch(fields, count=200):
  fn = augment.make_augment(**fields)
  image, label = painted()
  keys = jax.random.split(jax.random.key(0), count)
  return jax.jit(jax.vmap(fn, (0, None, None)))(keys, image, label)


@pytest.mark.parametrize("name", EVERY)
def test_label_painted_into_the_image_survives(name):
  fields = EVERY[name] | dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
  if augment.make_augment(**fields) is None:
    pytest.skip("colour alone moves no pixel")
  images, labels = map(np.asarray, batch(fields))
  shown = np.rint(images.mean(-1) * 2)
  scored = labels != 255
  assert ((shown == labels) | ~scored).mean() > 0.97
  assert (images[~scored] == 0).all()


@pytest.mark.parametrize("name", EVERY)
def test_ranges_dtypes_keys_and_one_compilation(name):
  fn = jax.jit(augment.make_augment(**EVERY[name]))
  image, label = painted()
  outs = [fn(jax.random.key(k), image, label) for k in (1, 1, 2, 3, 4)]
  assert fn._cache_size() == 1
  for out, lab in outs:
    assert (out.shape, out.dtype) == (image.shape, image.dtype)
    assert (lab.shape, lab.dtype) == (label.shape, label.dtype)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1 + 1e-6
    assert set(np.unique(lab)) <= {0, 1, 2, 255}
  np.testing.assert_array_equal(outs[0][0], outs[1][0])
  assert any(not jnp.array_equal(outs[0][0], o) for o, _ in outs[2:])


def test_flip_happens_half_the_time():
  images, labels = batch(dict(flip=0.5), count=1000)
  image, label = painted()
  flipped = (labels == label[:, ::-1]).all((1, 2))
  assert (flipped | (labels == label).all((1, 2))).all()
  assert 0.45 < float(flipped.mean()) < 0.55
  np.testing.assert_array_equal(images[flipped][0], image[:, ::-1])


def test_scale_1_changes_nothing():
  image, label = painted()
  out, lab = augment.scale_and_crop(image, label, jnp.ones(2), jnp.array([0.3, 0.7]))
  np.testing.assert_allclose(out, image, atol=1e-6)
  np.testing.assert_array_equal(lab, label)


def test_shrinking_leaves_an_ignored_border_of_the_right_size():
  image, label = painted()
  _, lab = augment.scale_and_crop(image, label, jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]))
  assert (lab[:24, 32:] != 255).all()
  assert (lab[24:] == 255).all()
  assert (lab[:, :32] == 255).all()


def test_color_factors_by_hand():
  image = jnp.array([[[0.2, 0.4, 0.6]]])
  same = augment.jitter_color(image, 1.0, 1.0, 1.0, 0.0)
  np.testing.assert_allclose(same, image, atol=1e-5)
  np.testing.assert_allclose(
    augment.jitter_color(image, 1.5, 1.0, 1.0, 0.0), image * 1.5, atol=1e-5
  )
  grey = augment.jitter_color(image, 1.0, 1.0, 0.0, 0.0)
  np.testing.assert_allclose(grey, 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6, atol=1e-4)


def test_everything_off_is_no_augmentation():
  assert augment.make_augment() is None
