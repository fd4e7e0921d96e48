"""Weights of classes from how often they occur."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from segjax.errors import choose


def class_weights(counts: ArrayLike, how: str) -> np.ndarray:
  """A weight per class from the labels of a split.

  "median_frequency": median(f) / f, where f is the class's share of the scored pixels of the images
  that contain it; the median is over the classes that occur. Eigen, Fergus, "Predicting Depth,
  Surface Normals and Semantic Labels with a Common Multi-Scale Convolutional Architecture", ICCV
  2015; SegNet has it too.
  "root_median_frequency" and "fourth_root_median_frequency": the square or fourth roots of these,
  for a better balance of precision and recall.
  "inverse_log": 1 / ln(1.02 + p), where p is the class's share of all scored pixels. Paszke et al.,
  "ENet", arXiv 1606.02147.
  "inverse": 1 / (C p), where C is the number of classes that occur; scikit-learn calls it
  "balanced".

  Args:
    counts: int[N,C], scored pixels of each class in each image.
    how: one of the five.

  Returns:
    f64[C]; 1 for a class that does not occur, which changes nothing in the split that was counted.

  Raises:
    UserError: no such rule.
    ValueError: counts of another shape, negative ones, or none above 0.

  >>> class_weights([[60, 20, 0], [40, 0, 0]], "median_frequency").round(3).tolist()
  [0.65, 2.167, 1.0]
  """
  choose(RULES, how, "rule for class weights")
  counts = np.asarray(counts)
  if counts.ndim != 2 or counts.size == 0 or counts.min() < 0 or not counts.any():
    raise ValueError(
      f"counts has shape {counts.shape}; expected pixels of each class in each image, [N,C], 0 or "
      "more and some above 0"
    )
  counts = counts.astype(np.float64)
  pixels, of_images = counts.sum(0), ((counts > 0) * counts.sum(1, keepdims=True)).sum(0)
  return weigh(pixels, of_images, how)


def weigh(pixels, of_images, how):
  """`class_weights` from totals over a split, both [C].

  Args:
    pixels: scored pixels of each class.
    of_images: all scored pixels of the images that contain it.
    how: rule.
  """
  occurs, weights = pixels > 0, np.ones(len(pixels))
  if occurs.any():
    weights[occurs] = RULES[how](pixels[occurs], of_images[occurs])
  return weights


# Of `weigh`'s totals of the classes that occur.
def _median_frequency(pixels, of_images):
  frequency = pixels / of_images
  return np.median(frequency) / frequency


def _root_median_frequency(pixels, of_images):
  return np.sqrt(_median_frequency(pixels, of_images))


def _fourth_root_median_frequency(pixels, of_images):
  return _median_frequency(pixels, of_images) ** 0.25


def _inverse_log(pixels, of_images):
  del of_images
  return 1 / np.log(1.02 + pixels / pixels.sum())


def _inverse(pixels, of_images):
  del of_images
  return pixels.sum() / (len(pixels) * pixels)


RULES = dict(
  median_frequency=_median_frequency,
  root_median_frequency=_root_median_frequency,
  fourth_root_median_frequency=_fourth_root_median_frequency,
  inverse_log=_inverse_log,
  inverse=_inverse,
)
