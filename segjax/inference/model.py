"""The interface of a segmentation net for prediction: a run's, or one in an exported file.

numpy in, numpy out. Neither this room nor a class that implements `Model` needs jax, unless its
net does.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Model(Protocol):
  """A net with its preprocessing and its softmax or sigmoid.

  Attributes:
    classes: class names in label order; two for a net with one logit.
    palette: u8[C,3], display colour of each class.
    size: (height, width) in pixels where the net takes one size alone, else None.
    multiple: pixels; height and width are multiples of it where `size` is None.
    one_logit: whether the class follows from a threshold on the probability of the second.
    batch: images where the net takes one batch size alone, else None.
  """

  classes: tuple[str, ...]
  palette: np.ndarray
  size: tuple[int, int] | None
  multiple: int
  one_logit: bool
  batch: int | None

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """Probability of each class for each pixel.

    Args:
      images: u8[B,H,W,3] of a size and batch that the net takes.

    Returns:
      f32[B,H,W,C], which sum to 1 over the classes.
    """
    ...
