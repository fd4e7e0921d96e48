"""Test-time augmentation: the mean of a net's probabilities over views of an image."""

from __future__ import annotations

import dataclasses

import numpy as np

from segjax.data.sizes import resize_image, resize_maps
from segjax.errors import UserError
from segjax.inference.model import Model

LARGEST = 4.0  # of a scale


@dataclasses.dataclass(frozen=True)
class Variants:
  """The views that probabilities are averaged over: each scale, as it is and perhaps mirrored.

  Attributes:
    flip: whether each is seen mirrored, left to right, too.
    scales: factors of height and width.
  """

  flip: bool = False
  scales: tuple[float, ...] = (1.0,)


def parse(text: str) -> Variants:
  """Reads variants, `flip,scales=0.75,1,1.25`; an empty text is the image alone.

  Raises:
    UserError: another text.

  >>> parse("flip,scales=0.75,1")
  Variants(flip=True, scales=(0.75, 1.0))
  """
  flip, scales, in_scales = False, [], False
  for part in filter(None, text.replace(" ", "").split(",")):
    in_scales = (in_scales and part != "flip") or part.startswith("scales=")
    if in_scales:
      scales.append(_scale(part.removeprefix("scales="), text))
    elif part == "flip":
      flip = True
    else:
      raise UserError(f"tta is {text!r}, expected 'flip', 'scales=0.75,1,1.25' or both: {part!r}")
  return Variants(flip, tuple(scales) or (1.0,))


def _scale(part, text):
  try:
    value = float(part)
  except ValueError:
    value = 0.0
  if not 1 / LARGEST <= value <= LARGEST:
    raise UserError(
      f"tta is {text!r}: {part!r} is no scale, expected numbers from {1 / LARGEST:g} to "
      f"{LARGEST:g}, such as scales=0.75,1,1.25"
    )
  return value


class Averaged:
  """A `Model` whose probabilities are means over `Variants`; the other attributes are its net's.

  Each scale is one more shape of the net's input.
  """

  def __init__(self, model: Model, variants: Variants):
    """Takes a net.

    Raises:
      UserError: scales for a net that takes one size alone.
    """
    if model.size and variants.scales != (1.0,):
      height, width = model.size
      raise UserError(
        f"tta has scales {', '.join(f'{s:g}' for s in variants.scales)}, and this file takes "
        f"images of {height}x{width} alone; leave the scales out"
      )
    self._model, self._variants = model, variants
    self.classes, self.palette, self.one_logit = model.classes, model.palette, model.one_logit
    self.size, self.multiple, self.batch = model.size, model.multiple, model.batch

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """See `Model.probabilities`."""
    size, total = images.shape[1:3], 0
    for scale in self._variants.scales:
      seen = images if scale == 1 else self._scaled(images, scale)
      maps = self._model.probabilities(seen)
      if self._variants.flip:
        mirrored = self._model.probabilities(np.ascontiguousarray(seen[:, :, ::-1]))
        maps = (maps + mirrored[:, :, ::-1]) / 2
      total = total + (maps if maps.shape[1:3] == size else resize_maps(maps, size))
    return (total / len(self._variants.scales)).astype(np.float32)

  def _scaled(self, images, scale):
    """Images at a scale, to the nearest multiples that the net takes."""
    step = self.multiple
    size = [max(round(n * scale / step), 1) * step for n in images.shape[1:3]]
    return np.stack([resize_image(image, size) for image in images])
