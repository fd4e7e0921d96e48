"""The largest image that is read: Pillow's limit against files that would fill the memory.

Pillow is imported where the limit is set: steps and nets, which know what images are made of, do
without it.
"""

from __future__ import annotations

import functools
import os

import numpy as np

from segjax.errors import UserError

TOO_LARGE = "too large"  # begins the fault of an image beyond the limit
MOST = "SEGJAX_MAX_PIXELS"  # environment variable; without it Pillow's limit of 179 million holds


def set_limit(pixels):
  """Sets the pixels of the largest image that this process, and those it starts, read.

  Args:
    pixels: 0 leaves the limit as it is.

  Raises:
    UserError: below 0.
  """
  if pixels < 0:
    raise UserError(f"data.max_pixels is {pixels}, expected 0 (Pillow's limit) or more")
  if pixels:
    os.environ[MOST] = str(pixels)


@functools.cache
def _set(text):
  """Sets Pillow's limit of the pixels of an image; twice the number that it warns from."""
  if text and not (text.isascii() and text.isdigit() and int(text)):
    raise UserError(f"{MOST} is {text!r}, expected a number of pixels, such as 400000000")
  if text:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = -(-int(text) // 2)


def apply():
  """Gives Pillow the limit of the environment."""
  _set(os.environ.get(MOST, ""))


def most_pixels():
  """Pixels of the largest image that is read; infinite without a limit."""
  from PIL import Image

  apply()
  return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else np.inf


def too_large(why):
  """The fault of an image beyond the limit."""
  return (
    f"{TOO_LARGE} ({why}), but perhaps not broken; raise the limit, data.max_pixels or the "
    f"environment variable {MOST}=400000000, or scale it down"
  )
