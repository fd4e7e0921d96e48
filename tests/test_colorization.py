"""Colourisation: colours and image scores against scikit-image, the loss by hand, training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, shows
from PIL import Image
from skimage import color as sk_color
from skimage import metrics as sk

from segjax import config as config_lib
from segjax import metrics, training
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.tasks import Colorization
from segjax.tasks.lab import lab_to_rgb, rgb_to_lab
from segjax.training import coverage
from segjax.training.input_pipeline import make_source
from segjax.training.writers import read_metrics


def make_task(**fields):
  return Colorization((), default_table(()).palette, **fields)


def images(count=3, size=(20, 24), seed=0):
  return np.random.default_rng(seed).random((count, *size, 3), np.float32)


def test_lab_equals_scikit_images_and_comes_back():
  levels = np.linspace(0, 1, 18, dtype=np.float32)
  cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
  lab = rgb_to_lab(jnp.array(cube))
  np.testing.assert_allclose(lab, sk_color.rgb2lab(cube.astype(np.float64)), atol=2e-3)
  np.testing.assert_allclose(lab_to_rgb(lab), cube, atol=2e-5)
  np.testing.assert_allclose(
    lab_to_rgb(lab), sk_color.lab2rgb(np.asarray(lab, np.float64)), atol=2e-5
  )


def test_lab_of_colours_that_no_screen_shows_is_clipped():
  assert np.asarray(lab_to_rgb(jnp.array([50.0, 120.0, -120.0]))).min() >= 0
  assert np.asarray(lab_to_rgb(jnp.array([110.0, 0.0, 0.0]))).max() <= 1


def test_gradients_are_finite_everywhere():
  levels = jnp.linspace(0, 1, 9)
  cube = jnp.stack(jnp.meshgrid(levels, levels, levels), -1)
  for function, x in ((rgb_to_lab, cube), (lab_to_rgb, 120 * (cube - 0.5))):
    assert np.isfinite(jax.grad(lambda x, f=function: f(x).sum())(x)).all()


def test_psnr_and_ssim_equal_scikit_images():
  a = images()
  b = np.clip(a + 0.2 * images(seed=1) - 0.1, 0, 1)
  for x, y, found in zip(a, b, metrics.psnr(jnp.array(b), jnp.array(a)), strict=True):
    assert float(found) == pytest.approx(sk.peak_signal_noise_ratio(x, y, data_range=1), rel=1e-5)
  for x, y, found in zip(a, b, metrics.ssim(jnp.array(b), jnp.array(a)), strict=True):
    wanted = sk.structural_similarity(
      x.astype(np.float64), y.astype(np.float64), channel_axis=-1, data_range=1,
      gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert float(found) == pytest.approx(wanted, abs=2e-5)
  assert metrics.psnr(jnp.array(a), jnp.array(a)).tolist() == [100.0] * 3
  np.testing.assert_allclose(metrics.ssim(jnp.array(a), jnp.array(a)), 1, atol=1e-6)
  with pytest.raises(UserError, match="at least 11x11 pixels, found 10x30; use a larger"):
    metrics.ssim(jnp.zeros((1, 10, 30, 3)), jnp.zeros((1, 10, 30, 3)))


def test_colorfulness_by_the_formula():
  image = images()
  r, g, b = np.moveaxis(image.astype(np.float64) * 255, -1, 0)
  rg, yb = r - g, (r + g) / 2 - b
  for i, found in enumerate(metrics.colorfulness(jnp.array(image))):
    wanted = np.hypot(rg[i].std(), yb[i].std()) + 0.3 * np.hypot(rg[i].mean(), yb[i].mean())
    assert float(found) == pytest.approx(wanted, rel=1e-5)
  assert float(metrics.colorfulness(jnp.full((1, 4, 4, 3), 0.3))[0]) == 0


def test_the_truth_scores_perfectly_and_grey_does_not():
  task, image = make_task(), jnp.array(images())
  inputs, label = task.prepare(None, image, None, train=False)
  lab = rgb_to_lab(image)
  np.testing.assert_allclose(inputs, jnp.repeat(lab[..., :1] / 100, 3, -1), atol=1e-6)
  mask = jnp.ones(3, bool)
  s = task.summary(task.statistics(lab[..., 1:] / 50, label, mask, evaluating=True))
  assert s["loss"] < 1e-6 and s["psnr"] > 80 and s["ssim"] > 0.9999 and s["edge_error"] < 1e-3
  assert s["colorfulness"] == pytest.approx(s["true_colorfulness"], rel=1e-4)
  grey = task.summary(task.statistics(jnp.zeros((3, 20, 24, 2)), label, mask, evaluating=True))
  assert grey["psnr"] < 30 and grey["ssim"] < 0.99 and grey["edge_error"] > 5
  assert grey["colorfulness"] < 0.1
  assert grey["loss"] == pytest.approx(float(jnp.abs(lab[..., 1:] / 50).mean()), rel=1e-5)


def test_grey_images_are_warned_of():
  task, mask = make_task(), jnp.arange(3) < 2
  color = jnp.array(images())
  grey = jnp.repeat(color[..., :1], 3, -1)

  def warned(label):
    sums = task.statistics(jnp.zeros((3, 20, 24, 2)), label, mask, evaluating=True)
    return coverage.of_sums("val", (), jax.device_get(sums))

  (text,) = warned(grey)
  assert text.startswith("val: the images are grey, their colourfulness is 0")
  assert not warned(color)
  assert not warned(grey.at[0].set(color[0]))  # some are in colour


def test_a_net_that_says_lightness_too_can_lose_it():
  task, image = make_task(output="lab"), jnp.array(images())
  assert task.num_outputs == 3
  _, label = task.prepare(None, image, None, train=False)
  outputs = (rgb_to_lab(image) - jnp.array([50.0, 0, 0])) / 50
  mask = jnp.ones(3, bool)
  right = task.summary(task.statistics(outputs, label, mask, evaluating=True))
  assert right["loss"] < 1e-6 and right["psnr"] > 80 and right["edge_error"] < 1e-3
  np.testing.assert_allclose(task.predict(outputs, None), rgb_to_lab(image), atol=1e-4)
  flat = outputs.at[..., 0].set(outputs[..., 0].mean())
  lost = task.summary(task.statistics(flat, label, mask, evaluating=True))
  assert lost["ssim"] < 0.9 and lost["color_error"] < 1e-4
  steps = [jnp.abs(jnp.diff(rgb_to_lab(image)[..., 0], axis=i)).mean() for i in (1, 2)]
  assert lost["edge_error"] == pytest.approx(float(sum(steps)) / 2, rel=1e-4)
  wanted = jnp.abs(outputs - flat).mean()
  assert lost["loss"] == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("output", ["regression", "bins", "lab"])
@pytest.mark.slow
def test_examples_that_do_not_count_do_not(output):
  task, image = make_task(output=output), jnp.array(images(4))
  outputs = jnp.array(images(4, seed=2)[..., :1]) + jnp.arange(task.num_outputs) / 50
  whole = task.statistics(outputs[:3], image[:3], jnp.ones(3, bool), evaluating=True)
  padded = task.statistics(outputs, image, jnp.arange(4) < 3, evaluating=True)
  for key in whole:
    np.testing.assert_allclose(padded[key], whole[key], rtol=1e-5)


@pytest.mark.slow
def test_bins_cover_all_colours_and_the_loss_is_weighted():
  task = make_task(output="bins", grid=20.0)
  lab = np.asarray(rgb_to_lab(jnp.array(images(2, (50, 50)))))[..., 1:].reshape(-1, 2)
  nearest = np.linalg.norm(lab[:, None] - task.centers, axis=-1)
  assert np.abs(lab - task.centers[nearest.argmin(1)]).max() <= 14.2  # half a cell's diagonal
  sure = jnp.array(np.where(nearest == nearest.min(1, keepdims=True), 60.0, 0.0))
  found = task.predict(sure, jnp.full((len(sure), 1), 7.0))
  np.testing.assert_allclose(found[:, 1:], task.centers[nearest.argmin(1)], atol=1e-3)
  np.testing.assert_array_equal(found[:, 0], 7)
  density = np.exp(-np.hypot(*task.centers.T) / 12)
  density /= density.sum()
  assert (task.weights * density).sum() == pytest.approx(1, rel=1e-5)
  assert task.weights.max() / task.weights.min() > 5
  even = make_task(output="bins", rebalance=1.0).weights
  np.testing.assert_allclose(even, 1, rtol=1e-5)
  image = jnp.array(images(1))
  uniform = jnp.zeros((1, 20, 24, task.num_outputs))
  sums = task.statistics(uniform, image, jnp.ones(1, bool), evaluating=False)
  assert float(task.loss(sums)) == pytest.approx(np.log(task.num_outputs), rel=1e-5)


@pytest.mark.parametrize(
  ("fields", "part"),
  [(dict(output="bin"), "bins"), (dict(norm="l3"), "l2"), (dict(grid=1.0), "grid"),
   (dict(temperature=0.0), "temperature"), (dict(rebalance=0.0), "rebalance")],
)  # fmt: skip
def test_wrong_fields_are_reported(fields, part):
  with pytest.raises(UserError, match=part):
    make_task(**fields)


@pytest.mark.slow
def test_it_trains_and_draws(tmp_path):
  config = config_lib.read(f"{ROOT}/configs/unet_colorization.py:smoke")
  config.writers, config.model.widths = ("pictures",), (4, 8)
  config.data.size = (32, 32)
  config.total_steps, config.eval_steps = 4, 2
  training.train(config, tmp_path)
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert {"val/psnr", "val/ssim", "val/edge_error", "val/colorfulness"} <= rows[-1].keys()
  assert any("train/ssim" in r for r in rows)
  files = sorted((tmp_path / "images").glob("*.png"))
  assert len(files) == 2
  picture = np.asarray(Image.open(files[-1]))
  assert shows(picture, make_source(config, "val")[0]["image"])
