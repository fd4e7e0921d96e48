"""Augmentation on the device: pure functions of a key, image and label together.

`make_augment` gives a function of one example; the train step maps it over the batch with
`jax.vmap`, inside `jit`. `make_batch_augment` gives one that mixes the examples of a batch. An
augmentation whose range is empty costs nothing.
"""

from segjax.augment.color import blur_gaussian, cut_out, jitter_color
from segjax.augment.example import make_augment
from segjax.augment.geometry import (
  box,
  draw_crop,
  flip_horizontal,
  flip_up_down,
  rotate_scale_and_crop,
  scale_and_crop,
)
from segjax.augment.limits import LIMITS, check_limits
from segjax.augment.mixing import Mixed, draw_boxes, make_batch_augment, paste_next

__all__ = [
  "LIMITS", "Mixed", "blur_gaussian", "box", "check_limits", "cut_out", "draw_boxes", "draw_crop",
  "flip_horizontal", "flip_up_down", "jitter_color", "make_augment", "make_batch_augment",
  "paste_next", "rotate_scale_and_crop", "scale_and_crop",
]  # fmt: skip
