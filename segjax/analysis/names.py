"""Readable names of the scalars of an evaluation."""

from __future__ import annotations

TEXTS = {  # of scalars, with units
  "val/pixel_accuracy": "pixel accuracy",
  "val/mean_iou": "mean IoU",
  "val/mean_iou_images": "mean IoU of images",
  "val/mean_iou_classes": "mean IoU of classes over images",
  "val/mean_iou_worst_images": "mean IoU of the worst 5 % of images",
  "val/mean_f1": "mean F1",
  "val/mean_max_f1": "mean F1 at the best thresholds",
  "val/mean_class_recall": "mean class recall",
  "val/max_f1": "MaxF",
  "val/psnr": "PSNR (dB)",
  "val/ssim": "SSIM",
  "val/color_error": "colour error (units of a, b)",
  "val/edge_error": "edge error (units of L, a, b)",
}
CLASS_METRICS = {"f1": "F1", "iou": "IoU"}


def text_of(name):
  """Readable name of a scalar, with its unit where it has one.

  >>> text_of("val/f1/road")
  'F1 of road'
  """
  metric, *of = name.removeprefix("val/").split("/")
  text = " of ".join((CLASS_METRICS.get(metric, metric), *of)).replace("_", " ")
  return TEXTS.get(name, text)
