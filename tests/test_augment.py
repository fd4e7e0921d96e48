"""Augmentation: image and label together, ranges, keys, shares."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax import augment
from segjax.errors import UserError

EVERY = {
  "flip": dict(flip=0.5),
  "scale up": dict(scale_min=1.3, scale_max=2.0),
  "scale down": dict(scale_min=0.5, scale_max=0.9, aspect=0.3),
  "color": dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
  "flip vertical": dict(flip_vertical=0.5),
  "crop": dict(crop_area_min=0.2, crop_area_max=0.9),
  "rotate": dict(rotate=180.0),
  "rotate and crop": dict(rotate=30.0, crop_area_min=0.3, scale_min=0.7, scale_max=1.2, aspect=0.1),
  "rgb shift": dict(rgb_shift=0.1),
  "blur": dict(blur=1.5),
  "noise": dict(noise=0.05),
  "cutout": dict(cutout=0.4),
}
EVERY["all"] = {k: v for fields in EVERY.values() for k, v in fields.items()} | dict(
  scale_min=0.5, scale_max=2.0
)
COLOR = ("brightness", "contrast", "saturation", "hue", "rgb_shift", "cutout")


def painted():
  """A label of large blobs and an image that shows it in brightness."""
  label = np.zeros((48, 64), np.int32)
  label[5:30, 8:25], label[20:44, 35:60] = 1, 2
  return jnp.asarray(np.repeat(label[..., None] * 0.5, 3, -1).astype("f4")), jnp.asarray(label)


@functools.cache
def jitted(items):
  """As in the train step; cached, since the tests mostly compile."""
  return jax.jit(jax.vmap(augment.make_augment(**dict(items)), (0, None, None)))


def batch(fields, count=100, seed=0):
  keys = jax.random.split(jax.random.key(seed), count)
  return jitted(tuple(fields.items()))(keys, *painted())


def away_from_edges(labels, reach=2):
  """Where all labels within `reach` pixels are the same and none is 255 or cut off."""
  padded = np.pad(labels, ((0, 0), (reach, reach), (reach, reach)), constant_values=255)
  windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 2, (1, 2))
  return (windows.min((-1, -2)) == windows.max((-1, -2))) & (labels != 255)


@pytest.mark.parametrize("name", EVERY)
def test_label_painted_into_the_image_survives(name):
  fields = {k: v for k, v in EVERY[name].items() if k not in COLOR}
  if not fields:
    pytest.skip("moves no pixel, see the next test")
  images, labels = map(np.asarray, batch(fields))
  shown = np.rint(images.mean(-1) * 2)
  checked = away_from_edges(labels)
  assert checked.mean() > 0.15
  assert {1, 2} <= set(np.unique(labels[checked]))
  np.testing.assert_array_equal(shown[checked], labels[checked])
  if not {"noise", "blur"} & set(fields):
    assert (images[labels == 255] == 0).all()


@pytest.mark.parametrize("name", ["color", "rgb shift", "blur", "noise", "cutout"])
def test_color_and_cutout_move_no_pixel(name):
  images, labels = map(np.asarray, batch(EVERY[name]))
  image, label = map(np.asarray, painted())
  assert (labels == label).all()
  assert (images != image).any()
  if name in ("color", "rgb shift"):
    for k in range(3):
      np.testing.assert_allclose(np.ptp(images[:, label == k], axis=1), 0, atol=1e-6)
  assert ((images != images[:1]).any((1, 2, 3))).mean() > 0.9  # another key, another result


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.slow
def test_ranges_dtypes_keys_and_one_compilation(name):
  fn = jitted(tuple(EVERY[name].items()))
  images, labels = batch(EVERY[name], seed=1)
  compiled = fn._cache_size()
  again, other = batch(EVERY[name], seed=1), batch(EVERY[name], seed=2)
  assert fn._cache_size() == compiled
  image, label = painted()
  assert (images.shape[1:], images.dtype) == (image.shape, image.dtype)
  assert (labels.shape[1:], labels.dtype) == (label.shape, label.dtype)
  assert float(images.min()) >= 0
  assert float(images.max()) <= 1
  assert set(np.unique(labels)) <= {0, 1, 2, 255}
  np.testing.assert_array_equal(images, again[0])
  np.testing.assert_array_equal(labels, again[1])
  assert not jnp.array_equal(images, other[0])


@pytest.mark.parametrize(("field", "axis"), [("flip", 1), ("flip_vertical", 0)])
def test_flip_happens_half_the_time_and_is_exact(field, axis):
  images, labels = map(np.asarray, batch({field: 0.5}, count=1000))
  image, label = map(np.asarray, painted())
  flipped = (labels == np.flip(label, axis)).all((1, 2))
  assert (flipped | (labels == label).all((1, 2))).all()
  assert 0.45 < flipped.mean() < 0.55
  assert (images[flipped] == np.flip(image, axis)).all()
  assert (images[~flipped] == image).all()


def test_flips_are_independent():
  _, labels = batch(dict(flip=0.5, flip_vertical=0.5), count=1000)
  _, label = painted()
  for turned in (label, label[::-1], label[:, ::-1], label[::-1, ::-1]):
    assert 0.2 < float((labels == turned).all((1, 2)).mean()) < 0.3


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation"])
def test_factors_of_colours_are_never_negative(field):
  """A grey ramp never falls, and a red is never turned into its complement."""
  change = augment.make_augment(**{field: 1.8})
  ramp = jnp.broadcast_to(jnp.linspace(0.1, 0.6, 8)[None, :, None], (4, 8, 3))
  image = ramp * jnp.array([1.0, 0.5, 0.4])
  label = jnp.zeros((4, 8), jnp.int32)
  keys = jax.random.split(jax.random.key(0), 200)
  out = np.asarray(jax.jit(jax.vmap(lambda key: change(key, image, label)[0]))(keys))
  assert (np.diff(out, axis=2) > -1e-5).all()
  assert (out[..., 0] - out[..., 1] > -1e-5).all()


def test_new_fields_leave_the_draws_of_others():
  fields = dict(flip=0.5, scale_min=0.5, scale_max=2.0)
  more = dict(rgb_shift=0.1, blur=1.0, noise=0.1, cutout=0.2)
  np.testing.assert_array_equal(batch(fields)[1], batch(fields | more)[1])


def maps(fields, count=1000):
  """Affine maps (matrix, size of the step) that `fields` draw, read off an image of coordinates."""
  fn = augment.make_augment(**fields)
  y, x = np.mgrid[:48, :64] / 64
  image = jnp.asarray(np.stack([y, x, x], -1), jnp.float32)
  keys = jax.random.split(jax.random.key(1), count)
  image, label = jax.jit(jax.vmap(fn, (0, None, None)))(keys, image, jnp.zeros((48, 64), int))
  image = np.asarray(image)[..., :2] * 64 + 0.5
  center = image[:, 24, 32]
  matrix = np.stack([image[:, 25, 32] - center, image[:, 24, 33] - center], -1)
  return image, matrix, np.asarray(label)


def spreads(values, low, high, slack=1e-3):
  """Values look uniform from low to high, beyond which they reach by no more than slack."""
  quantiles = np.quantile((values - low) / (high - low), [0, 0.25, 0.5, 0.75, 1])
  np.testing.assert_allclose(quantiles, [0, 0.25, 0.5, 0.75, 1], atol=0.06)
  assert values.min() >= low - slack
  assert values.max() <= high + slack


def test_rotation_angles_cover_their_range_and_are_rigid():
  _, matrix, _ = maps(dict(rotate=30.0))
  spreads(np.rad2deg(np.arctan2(matrix[:, 0, 1], matrix[:, 0, 0])), -30, 30)
  unit = matrix.transpose(0, 2, 1) @ matrix
  np.testing.assert_allclose(unit, np.broadcast_to(np.eye(2), unit.shape), atol=1e-3)


def test_scales_and_aspects_cover_their_range():
  _, matrix, _ = maps(dict(scale_min=1.5, scale_max=3.0, aspect=0.2))
  scale = -np.log(np.stack([matrix[:, 0, 0], matrix[:, 1, 1]]))
  spreads(scale.mean(0), np.log(1.5), np.log(3))
  spreads(scale[1] - scale[0], -0.2, 0.2)


@pytest.mark.parametrize("rotate", [0.0, 1e-3])
def test_crops_cover_their_range_and_stay_inside(rotate):
  image, matrix, label = maps(dict(crop_area_min=0.2, crop_area_max=0.6, rotate=rotate))
  height, width = matrix[:, 0, 0], matrix[:, 1, 1]
  spreads(height * width, 0.2, 0.6)
  spreads(np.log(width / height), -0.288, 0.288)
  assert (label[:, 1:-1, 1:-1] == 0).all()
  assert max(height.max(), width.max()) < 1 + 1e-3
  for d, n in enumerate((48, 64)):
    start = image[:, 24, 32, d] - (n / 2 + 0.5) * matrix[:, d, d]
    spreads(start / (n * (1 - matrix[:, d, d])), 0, 1)


def test_large_crops_have_the_drawn_area_and_stay_inside():
  keys = jax.random.split(jax.random.key(0), 1000)
  sides = np.asarray(jax.vmap(lambda k: augment.draw_crop(k, 0.8, 1.0, 0.288))(keys))
  spreads(sides.prod(1), 0.8, 1)
  assert sides.max() <= 1 + 1e-6


def reference(angle, scale, position, shape):
  """Input coordinates of output pixel centres in complex numbers, y + ix, as f64[2,H,W]."""
  y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
  y = (y - position[0] * shape[0] * (1 - scale[0])) / scale[0] - shape[0] / 2
  x = (x - position[1] * shape[1] * (1 - scale[1])) / scale[1] - shape[1] / 2
  turned = (y + 1j * x) * np.exp(-1j * angle)
  return np.stack([turned.real + shape[0] / 2, turned.imag + shape[1] / 2])


@pytest.mark.parametrize("angle", [0.0, 20.0, -75.0, 133.0])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.8, 1.3)])
def test_rotation_against_scipy_and_its_border(angle, scale):
  image = np.random.default_rng(0).random((37, 50, 3)).astype("f4")
  label = np.random.default_rng(1).integers(0, 9, (37, 50)).astype("i4")
  out, lab = jax.jit(augment.rotate_scale_and_crop)(
    image, label, np.deg2rad(angle), jnp.array(scale), jnp.array([0.2, 0.9])
  )
  at = reference(np.deg2rad(angle), scale, (0.2, 0.9), label.shape)
  sizes = np.array(label.shape)[:, None, None]
  known = ((at >= 0) & (at < sizes)).all(0)
  sure = (abs(at - np.rint(at)) > 1e-3).all(0)  # not where rounding decides
  assert sure.mean() > 0.9
  np.testing.assert_array_equal((lab != 255)[sure], known[sure])
  near = np.clip(np.floor(at).astype(int), 0, sizes - 1)
  np.testing.assert_array_equal(np.asarray(lab)[sure], np.where(known, label[*near], 255)[sure])
  channels = np.moveaxis(image, -1, 0)
  smooth = [ndimage.map_coordinates(c, at - 0.5, order=1, mode="nearest") for c in channels]
  smooth = np.stack(smooth, -1) * known[..., None]
  np.testing.assert_allclose(np.asarray(out)[sure], smooth[sure], atol=1e-4)


def test_rotation_by_90_degrees_is_anticlockwise():
  image, label = (a[:, :48] for a in painted())
  args = np.pi / 2, jnp.ones(2), jnp.zeros(2)
  out, lab = jax.jit(augment.rotate_scale_and_crop)(image, label, *args)
  np.testing.assert_allclose(out, np.rot90(image), atol=1e-4)
  assert (np.asarray(lab) == np.rot90(label)).mean() > 0.95  # but for rounding at the border


def test_a_tiny_rotation_is_a_scale_and_crop():
  fields = dict(scale_min=1.5, scale_max=2.0, aspect=0.1)
  (images, labels), (turned, lab) = batch(fields), batch(fields | dict(rotate=1e-4))
  np.testing.assert_allclose(images, turned, atol=2e-3)
  assert float((labels == lab).mean()) > 0.999


def test_scale_1_changes_nothing():
  image, label = painted()
  out, lab = jax.jit(augment.scale_and_crop)(image, label, jnp.ones(2), jnp.array([0.3, 0.7]))
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


def test_rgb_shift_is_one_amount_per_channel():
  fn = augment.make_augment(rgb_shift=0.2)
  grey, label = jnp.full((4, 4, 3), 0.5), jnp.zeros((4, 4), int)
  keys = jax.random.split(jax.random.key(0), 1000)
  shift = np.asarray(jax.vmap(lambda k: fn(k, grey, label)[0])(keys)) - 0.5
  assert (shift == shift[:, :1, :1]).all()
  for channel in shift[:, 0, 0].T:
    spreads(channel, -0.2, 0.2)
  assert abs(np.corrcoef(shift[:, 0, 0].T)[0, 1:]).max() < 0.1


def test_noise_has_the_drawn_deviation_and_no_mean():
  fn = augment.make_augment(noise=0.1)
  grey, label = jnp.full((32, 32, 3), 0.5), jnp.zeros((32, 32), int)
  keys = jax.random.split(jax.random.key(0), 1000)
  noise = np.asarray(jax.vmap(lambda k: fn(k, grey, label)[0])(keys)) - 0.5
  spreads(noise.std((1, 2, 3)), 0, 0.1, slack=0.005)
  assert abs(noise.mean()) < 1e-3
  assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 1e-4


@pytest.mark.parametrize("sigma", [0.4, 1.3])
def test_blur_against_scipy(sigma):
  image = np.random.default_rng(0).random((20, 33, 3)).astype("f4")
  expected = ndimage.gaussian_filter(image, sigma, mode="nearest", radius=5, axes=(0, 1))
  np.testing.assert_allclose(augment.blur_gaussian(image, sigma, 5), expected, atol=1e-5)
  np.testing.assert_array_equal(augment.blur_gaussian(image, 0.0, 5), image)


def test_blur_sigmas_cover_their_range():
  fn = augment.make_augment(blur=2.0)
  dot = jnp.zeros((25, 25, 3)).at[12, 12].set(1)
  keys = jax.random.split(jax.random.key(0), 500)
  out = jax.jit(jax.vmap(lambda k: fn(k, dot, jnp.zeros((25, 25), int))[0][..., 0]))(keys)
  np.testing.assert_allclose(out.sum((1, 2)), 1, atol=1e-5)
  sigma = np.sqrt(np.asarray(out).sum(2) @ (np.arange(25) - 12) ** 2)
  spreads(sigma[sigma > 0.5], 0.5, 2.0)  # pixels are too coarse to distinguish smaller ones
  assert 0.15 < (sigma <= 0.5).mean() < 0.35


def test_cutout_hides_a_square_of_the_right_size_under_the_mean():
  image = np.random.default_rng(0).random((48, 64, 3)).astype("f4")
  keys = jax.random.split(jax.random.key(0), 500)
  fn = augment.make_augment(cutout=0.5)
  images, labels = jax.jit(jax.vmap(fn, (0, None, None)))(keys, image, jnp.ones((48, 64), int))
  hidden = (np.asarray(images) != image).all(-1)
  assert (labels == 1).all()
  assert (np.asarray(images)[~hidden] == np.broadcast_to(image, images.shape)[~hidden]).all()
  mean = np.broadcast_to(image.mean((0, 1)), images.shape)
  np.testing.assert_allclose(np.asarray(images)[hidden], mean[hidden], atol=1e-5)
  rows, columns = hidden.any(2), hidden.any(1)
  assert (hidden == rows[:, :, None] & columns[:, None]).all()
  assert rows.sum(1).max() == columns.sum(1).max() == 24
  assert rows.sum(1).min() < 15  # of squares that lie half outside
  assert hidden.any(0).all()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(flip=-0.1), "augment.flip is -0.1; expected a number from 0 to 1"),
    (dict(flip_vertical=1.5), "augment.flip_vertical is 1.5"),
    (dict(scale_min=2.0, scale_max=1.0), "augment.scale_min is 2.0, above augment.scale_max, 1.0"),
    (dict(scale_min=0.0), "augment.scale_min is 0.0; expected a number from 0.01"),
    (dict(crop_area_min=0.5, crop_area_max=0.4), "augment.crop_area_min is 0.5, above"),
    (dict(crop_area_max=1.5), "augment.crop_area_max is 1.5"),
    (dict(rotate=-5.0), "augment.rotate is -5.0; expected a number from 0 to 180"),
    (dict(hue=-1.0), "augment.hue is -1.0; expected a number of 0 or more"),
    (dict(noise=float("nan")), "augment.noise is nan"),
    (dict(aspect=float("inf")), "augment.aspect is inf"),
    (dict(blur="1"), "augment.blur is '1'"),
  ],
)
def test_fields_out_of_their_limits(fields, message):
  with pytest.raises(UserError, match=re.escape(message)):
    augment.make_augment(**fields)


def test_every_field_has_limits():
  fields = augment.make_augment.__kwdefaults__ | augment.make_batch_augment.__kwdefaults__
  assert [name for name in fields if name not in ("own", "classmix_classes")] == list(
    augment.LIMITS
  )


def test_everything_off_is_no_augmentation():
  assert augment.make_augment() is None
