"""What the images of a set are made of: channels and dtype of the files, and the value that is 1.

Photographs, three channels of 8 bits, are u8 up to the device, which divides them by 255. The
values of other images are divided by one number as they are read, and are floats from there on. The
number is `data.full_scale`, or else 255 for uint8, 65535 for uint16 and 32767 for int16; values of
float32 stay as they are.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from segjax.data import tiffs
from segjax.errors import UserError, choose

# Of each dtype the value that becomes 1.
ONE = dict(zip(tiffs.DTYPES, (255.0, 65535.0, 32767.0, 1.0), strict=True))
LEAST, MOST = 1e-6, 1e12  # of `full_scale`


@dataclasses.dataclass(frozen=True)
class Pixels:
  """What images are made of.

  Attributes:
    channels: number of channels.
    dtype: of the values in the files, one of `ONE`.
    full_scale: value in the files that becomes 1; 0: that of `ONE`.
  """

  channels: int = 3
  dtype: str = "uint8"
  full_scale: float = 0.0

  @property
  def is_rgb(self):
    """Whether the images are photographs."""
    return (self.channels, self.dtype) == (3, "uint8")

  @property
  def kept(self):
    """The dtype of images from the file to the device."""
    return np.dtype(np.uint8 if self.is_rgb else np.float32)

  @property
  def one(self):
    """The value in the files that becomes 1."""
    return self.full_scale or ONE[self.dtype]

  @property
  def may_leave_range(self):
    """Whether values may lie outside [0,1]."""
    return bool(self.full_scale) or self.dtype in ("int16", "float32")

  @property
  def text(self):
    """Channels, dtype and scale in words."""
    scale = f"{self.one:g} becomes 1" if self.one != 1 else "values as they are"
    return f"{tiffs.text(self.channels, self.dtype)}, {scale}"

  def read(self, file):
    """An image file: u8[H,W,3] of a photograph, else f32[H,W,C].

    Args:
      file: path.

    Raises:
      UserError: see `decoding.read_image` and `read_stored`.
    """
    from segjax.data import decoding  # steps and nets do without Pillow

    return decoding.read_image(file) if self.is_rgb else self.scaled(self.read_stored(file).values)

  def read_stored(self, file):
    """An image file with its stored values, all of which count.

    Args:
      file: path.

    Returns:
      tiffs.Raster.

    Raises:
      UserError: see `tiffs.read`, `plain_images.read` and `check_values`.
    """
    from segjax.data import decoding, plain_images

    with decoding.opened(file, file) as stream:
      is_tiff = tiffs.is_tiff(stream)
      found = tiffs.read(stream, file, self.channels, self.dtype) if is_tiff else None
    if found is None:
      return tiffs.Raster(plain_images.read(file, self.channels, self.dtype))
    self.check_values(found.values, file, found.nodata)
    return found

  def check_kind(self, image, what):
    """Checks that an image, as it is kept, is of this dtype and has these channels.

    Args:
      image: array.
      what: begins the message, such as "the image is".

    Raises:
      UserError: it is not.
    """
    if image.dtype != self.kept or image.shape[2:] != (self.channels,) or not image.size:
      raise UserError(
        f"{what} {image.dtype}{list(image.shape)}, expected {self.kept}"
        f"[height,width,{self.channels}] by data.channels={self.channels} and "
        f"data.dtype={self.dtype!r}; files of such images are read by data.source.name='folder'"
      )

  def check_values(self, values, name, nodata=None):
    """Checks that the values of an image are finite and stand for something.

    Args:
      values: [H,W,C], as they are stored.
      name: of the image, for the message.
      nodata: the number that stands for no data, or None.

    Raises:
      UserError: some are not.
    """
    if values.dtype.kind == "f" and (count := _count(~np.isfinite(values))):
      raise UserError(
        f"{name}: {count} of {values[..., 0].size} pixels are nan or infinite, expected numbers; "
        "fill them, and give them the ignored value in the mask"
      )
    if nodata is not None and (count := _count(values == nodata)):
      raise UserError(
        f"{name}: {count} of {values[..., 0].size} pixels have the file's nodata value, "
        f"{nodata:g}; fill them, or where the value is a measurement remove the tag GDAL_NODATA "
        "(gdal_edit.py -unsetnodata FILE)"
      )

  def scaled(self, values):
    """Values as they are stored -> f32, divided by `one`; photographs stay u8."""
    if self.is_rgb:
      return values
    values = values.astype(np.float32)
    return values if self.one == 1 else values / np.float32(self.one)

  def unscaled(self, values):
    """The inverse of `scaled`: the values that a file has.

    Whole numbers are rounded, which changes images that were resized, and end where their dtype
    does.

    >>> Pixels(1, "uint16").unscaled(np.float32([0.1, 1, 1.5])).tolist()
    [6554, 65535, 65535]
    """
    if self.is_rgb:
      return values
    values = values if self.one == 1 else values * np.float32(self.one)
    if self.dtype == "float32":
      return values
    ends = np.iinfo(self.dtype)
    return np.rint(values).clip(ends.min, ends.max).astype(self.dtype)


RGB = Pixels()


def of(data):
  """The Pixels of `config.data`; a UserError for values that make no sense."""
  choose(ONE, data.dtype, "data.dtype")
  pixels = Pixels(data.channels, data.dtype, data.full_scale)
  if pixels.channels < 1:
    raise UserError(f"data.channels is {pixels.channels}, expected 1 or more")
  if pixels.full_scale and not LEAST <= pixels.full_scale <= MOST:
    raise UserError(
      f"data.full_scale is {pixels.full_scale}, expected the value in the files that becomes 1, "
      f"from {LEAST:g} to {MOST:g}, or 0 for that of data.dtype"
    )
  if pixels.is_rgb and pixels.full_scale:
    raise UserError(
      "data.full_scale is for other images than 3 channels of uint8, whose 255 becomes 1; set it "
      "to 0"
    )
  return pixels


def _count(wrong):
  """Number of pixels of bool[H,W,C] with a channel that is True."""
  return int(np.count_nonzero(wrong.any(-1)))
