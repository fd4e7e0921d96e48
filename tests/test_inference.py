"""Predictions of each task for an image of another size than the training's."""

import numpy as np
import pytest
from conftest import ROOT

from segjax import config as config_lib
from segjax.data.labels import default_table
from segjax.data.tiles import ArrayRows
from segjax.errors import UserError
from segjax.inference import run_model
from segjax.tasks.image_to_image import ImageToImage
from segjax.training import experiment as experiment_lib

IMAGE = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
NAMES = ("background", "a", "b", "c")


def answer(config, **fields):
  """(experiment, pictures, shares) of a net that was not trained, for IMAGE."""
  config = config_lib.read(f"{ROOT}/configs/{config}")
  config.update_from_flattened_dict(fields | {"init_from": ""})
  experiment = experiment_lib.build(config, default_table(NAMES))
  state, _ = experiment.init()
  return experiment, *run_model.Answers(experiment, state).answer(ArrayRows(IMAGE))


@pytest.mark.slow
def test_class_queries_are_answered_as_a_segmentation(stand_in_nets):
  experiment, pictures, shares = answer("attention_objects.py:smoke")
  assert {k: v.shape for k, v in pictures.items()} == dict(
    index=(50, 70), color=(50, 70, 3), overlay=(50, 70, 3)
  )
  counts = np.bincount(pictures["index"].ravel(), minlength=4) / (50 * 70)
  np.testing.assert_allclose(list(shares.values()), counts)
  assert list(shares) == list(experiment.task.classes)


def test_a_classifier_gives_probabilities_alone(stand_in_nets):
  _, pictures, shares = answer("small_cnn_classification.py:smoke")
  assert not pictures
  assert list(shares) == list(NAMES)
  assert sum(shares.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_colours_are_put_on_the_images_own_lightness(stand_in_nets):
  from skimage.color import rgb2lab

  _, pictures, shares = answer("unet_colorization.py:smoke")
  assert not shares
  found = pictures["colorized"]
  assert found.shape == IMAGE.shape
  assert not np.array_equal(found, IMAGE)
  # Colours that sRGB has not are cut, which moves the lightness of some pixels.
  error = np.abs(rgb2lab(found)[..., 0] - rgb2lab(IMAGE)[..., 0])
  assert np.median(error) < 0.5


def test_a_picture_comes_back_at_the_images_size(stand_in_nets):
  _, pictures, _ = answer("unet_image_to_image.py:smoke")
  assert {k: (v.shape, v.dtype) for k, v in pictures.items()} == {
    "output": (IMAGE.shape, np.dtype(np.uint8))
  }


@pytest.mark.parametrize("degrade", ["noise", "low_resolution"])
def test_a_picture_to_restore_is_not_spoiled_again(degrade):
  task = ImageToImage((), np.zeros((256, 3), np.uint8), degrade=degrade)
  image = IMAGE[None] / 255
  spoiled, target = task.prepare(None, image, None, train=False)
  assert np.abs(spoiled - image).mean() > 0.01 and target is image
  given, target = task.for_prediction().prepare(None, image, None, train=False)
  assert given is image and target is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "dino"])
def test_features_alone_are_no_answer(method, stand_in_nets):
  with pytest.raises(UserError, match=r"predicts nothing; see launch/analyze\.py features"):
    answer(f"pretraining.py:method={method},smoke")
