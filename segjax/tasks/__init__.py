"""The tasks, one file each: loss, statistics, summary and pictures of a batch."""

from segjax.tasks.class_query import ClassQuery
from segjax.tasks.classification import Classification
from segjax.tasks.colorization import Colorization
from segjax.tasks.dino import Dino
from segjax.tasks.image_to_image import ImageToImage
from segjax.tasks.mask_classification import MaskClassification
from segjax.tasks.multi_label import MultiLabel
from segjax.tasks.rotation import Rotation
from segjax.tasks.segmentation import Segmentation
from segjax.tasks.simclr import SimCLR

__all__ = [
  "LABEL_MAPS", "PIXELWISE", "SEGMENTING", "TASKS", "ClassQuery", "Classification",
  "Colorization", "Dino", "ImageToImage", "MaskClassification", "MultiLabel", "Rotation",
  "Segmentation", "SimCLR",
]  # fmt: skip

TASKS = {
  "class_query": ClassQuery,
  "classification": Classification,
  "colorization": Colorization,
  "dino": Dino,
  "image_to_image": ImageToImage,
  "mask_classification": MaskClassification,
  "multi_label": MultiLabel,
  "rotation": Rotation,
  "segmentation": Segmentation,
  "simclr": SimCLR,
}
LABEL_MAPS = ("segmentation", "class_query", "mask_classification")  # one class at each pixel
SEGMENTING = (*LABEL_MAPS, "multi_label")  # one class at each pixel, or several
PIXELWISE = ("segmentation", "multi_label")  # with `probabilities` of each pixel
