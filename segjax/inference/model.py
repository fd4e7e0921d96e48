"""The interface of a segmentation net for prediction: a run's, or one in an exported file.

numpy in, numpy out. Neither this package nor a class that implements `Model` needs jax, unless its
net does.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

MODES = ("resize", "native", "tiles")


@dataclasses.dataclass(frozen=True)
class View:
  """How an image is put before a net.

  Attributes:
    mode: "resize": the whole image, resized to `size`; "native": the whole image at its own size;
      "tiles": tiles of `size` at its own scale.
    size: (height, width) in pixels; for "native" the least size that an image is extended to, or
      None.
    overlap: least share of a tile that its neighbour has too, in [0,1).
  """

  mode: str
  size: tuple[int, int] | None = None
  overlap: float = 0.25


class Model(Protocol):
  """A net with its preprocessing and its softmax or sigmoid.

  It may also have `view`, the View of its run's evaluation, which is then the default,
  `max_f1_threshold`, the threshold of the largest F1 at its run's last evaluation, and `pixels`,
  the rasters.Pixels of its images where they are no photographs. Of classes that overlap it has
  `thresholds`, the probability from which on a pixel is of each; the probabilities then stand each
  by itself, and `max_f1_threshold` has one number per class.

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
      images: u8[B,H,W,3] of a size and batch that the net takes, or f32[B,H,W,C], scaled.

    Returns:
      f32[B,H,W,C], which sum to 1 over the classes, unless these overlap.
    """
    ...
