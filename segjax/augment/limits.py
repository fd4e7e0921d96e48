"""The limits of the fields of augmentation, of one example and of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from segjax.errors import UserError

# Smallest and largest value of each field.
LIMITS = dict(
  flip=(0, 1),
  flip_vertical=(0, 1),
  scale_min=(0.01, 100),
  scale_max=(0.01, 100),
  aspect=(0, math.inf),
  crop_area_min=(0.01, 1),
  crop_area_max=(0.01, 1),
  crop_aspect=(0, math.inf),
  rotate=(0, 180),
  brightness=(0, math.inf),
  contrast=(0, math.inf),
  saturation=(0, math.inf),
  hue=(0, math.inf),
  rgb_shift=(0, 1),
  blur=(0, 32),
  noise=(0, 1),
  cutout=(0, 1),
  mixup=(0, 1),
  mixup_alpha=(0.01, 100),
  cutmix=(0, 1),
  cutmix_alpha=(0.01, 100),
  classmix=(0, 1),
)


def check_limits(what: str, fields: Mapping[str, Any]) -> None:
  """Checks the values of an augmentation's fields.

  Args:
    what: "augment" or "batch_augment", for the message.
    fields: {name: value}.

  Raises:
    UserError: a field outside `LIMITS`, or x_min above x_max.
  """
  for name, value in fields.items():
    low, high = LIMITS[name]
    if not (isinstance(value, Real) and low <= value <= high and math.isfinite(value)):
      expected = f"from {low} to {high}" if high < math.inf else f"of {low} or more"
      raise UserError(f"{what}.{name} is {value!r}; expected a number {expected}")
    top = name.removesuffix("_min") + "_max"
    if name.endswith("_min") and value > fields[top]:
      raise UserError(f"{what}.{name} is {value}, above {what}.{top}, {fields[top]}; swap them")
