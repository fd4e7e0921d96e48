"""Losses: pure and unreduced; of segmentation from logits in nats, of images from features.

Logits may have any float dtype and labels any integer dtype; sums and results are float32, of
float64 logits float64. A label that counts and is none of the classes gives nan, the same on every
platform.
"""

from segjax.losses.balance import RULES, class_weights
from segjax.losses.boundary_loss import boundary, signed_distances
from segjax.losses.features import content, gram, style
from segjax.losses.lovasz_loss import lovasz
from segjax.losses.masks import mask_classification, match
from segjax.losses.overlap import dice, focal_tversky, jaccard, tversky
from segjax.losses.pixelwise import (
  class_probabilities,
  cross_entropy,
  focal,
  hardest,
  log_likelihood,
  ohem,
)

__all__ = [
  "RULES",
  "boundary",
  "class_probabilities",
  "class_weights",
  "content",
  "cross_entropy",
  "dice",
  "focal",
  "focal_tversky",
  "gram",
  "hardest",
  "jaccard",
  "log_likelihood",
  "lovasz",
  "mask_classification",
  "match",
  "ohem",
  "signed_distances",
  "style",
  "tversky",
]
