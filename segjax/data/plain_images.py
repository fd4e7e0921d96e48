"""Image files that are neither photographs nor TIFF: grey, RGBA, PNG of 16 bits."""

from __future__ import annotations

import contextlib
import functools

import numpy as np

from segjax.data import decoding, tiffs
from segjax.errors import UserError

MODES = ("L", "LA", "RGB", "RGBA")  # of Pillow, whose bands are the channels of a file


def read(file, channels, dtype):
  """An image file of a number of channels; alpha is a channel.

  Args:
    file: path.
    channels: expected number.
    dtype: expected name of the dtype.

  Returns:
    u8 or u16[H,W,C], as they are stored.

  Raises:
    UserError: see `decoding.read_image`; other channels or another dtype.
  """
  decoded = decoding.decode(file, file, mask=False)
  image, expected = decoded.image, tiffs.text(channels, dtype)
  if decoded.bits == 16:
    values = _of_16_bits(file, decoded)
  elif decoded.bits == 8 and image.mode in MODES:
    values = np.asarray(image)
  else:
    raise UserError(
      f"{file}: an image of mode {image.mode} with {decoded.bits} bits, expected {expected}; "
      "convert the file"
    )
  values = values.reshape(image.height, image.width, -1)
  if (found := tiffs.text(values.shape[-1], values.dtype)) != expected:
    raise UserError(
      f"{file}: {found}, expected {expected} (data.channels, data.dtype); {tiffs.remedy(found)}"
    )
  return values


@functools.cache
def _tensorflow():
  """TensorFlow, which decodes on the host and must not take the memory of a GPU."""
  import tensorflow as tf

  with contextlib.suppress(RuntimeError):  # which it says where it has begun already
    tf.config.set_visible_devices([], "GPU")
  return tf


def _of_16_bits(file, decoded):
  """The values of a PNG of 16 bits, of which Pillow keeps those of grey images alone."""
  if decoded.image.mode.startswith("I"):
    return np.asarray(decoded.image).astype(np.uint16)
  if decoded.turned:
    raise UserError(f"{file}: a turned image of 16 bits, expected an upright one; save it so")
  tf = _tensorflow()
  try:
    return tf.io.decode_png(file.read_bytes(), dtype=tf.uint16).numpy()
  except tf.errors.OpError as error:
    raise UserError(f"{file}: cannot be read ({error.message}); replace or remove it") from None
