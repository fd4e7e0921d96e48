"""Metrics from summed counts: count on the device, sum on the host, divide once.

Labels and predictions may have any integer dtype or bool, on any platform. A value outside the
classes is counted in no cell. A class that neither the truth nor the prediction has is left out of
a mean: of an image, or of the split where the score is of the whole split.

Four means of the IoU have a name each, here and in every table: `mean_iou` is over the pixels of
all images, then over classes; `mean_iou_images` over the classes of each image, then over images;
`mean_iou_classes` over the images of each class, then over classes; `mean_iou_worst_images` over
the worst 5 % of the images.
"""

from segjax.metrics.boundaries import (
  boundary_counts,
  boundary_f,
  boundary_f_of_images,
  boundary_width,
  contour_counts,
  contour_tolerance,
)
from segjax.metrics.calibration import (
  calibration,
  calibration_sums,
  fit_temperature,
  temperature_sums,
)
from segjax.metrics.confusion import (
  average_precision,
  class_counts,
  confusion_matrix,
  image_matrices,
  max_f1,
  score_histogram,
  summarize,
)
from segjax.metrics.features import unit_deviation, unit_moments
from segjax.metrics.images import colorfulness, psnr, ssim
from segjax.metrics.per_image import bootstrap, image_counts, image_ious, mean_ious
from segjax.metrics.surfaces import surface_scores

__all__ = [
  "average_precision",
  "bootstrap",
  "boundary_counts",
  "boundary_f",
  "boundary_f_of_images",
  "boundary_width",
  "calibration",
  "calibration_sums",
  "class_counts",
  "colorfulness",
  "confusion_matrix",
  "contour_counts",
  "contour_tolerance",
  "fit_temperature",
  "image_counts",
  "image_ious",
  "image_matrices",
  "max_f1",
  "mean_ious",
  "psnr",
  "score_histogram",
  "ssim",
  "summarize",
  "surface_scores",
  "temperature_sums",
  "unit_deviation",
  "unit_moments",
]
