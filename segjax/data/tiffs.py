"""TIFF files that Pillow does not read: any number of channels, 16 bits, floats. By tifffile.

tifffile is the extra `tiff`, and is imported where it is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import struct
import zlib
from typing import Any

import numpy as np

from segjax.data import limits
from segjax.errors import UserError

DTYPES = ("uint8", "uint16", "int16", "float32")  # of files that a set may have
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of TIFF and BigTIFF
INSTALL = "install segjax[tiff] (pip install tifffile imagecodecs)"
# Exceptions of tifffile on damaged files, besides its own.
DAMAGE = (OSError, ValueError, RuntimeError, LookupError, TypeError, OverflowError, MemoryError,
          struct.error, zlib.error)  # fmt: skip
# Tags that place an image on the earth: scale, tie points, matrix, RPC; keys, their numbers, texts.
PLACES = (33550, 33922, 34264, 50844)
KEYS = (34735, 34736, 34737)
ORIENTATION, NODATA = 274, 42113
MOST_PAGES = 1000  # of a file, with smaller copies
PHOTOMETRIC = 262
MIN_IS_BLACK, RGB = 1, 2  # values of that tag
NO_BRIGHTNESS = {
  0: "0 stands for white", 3: "indices of a palette", 5: "inks, not light", 8: "CIELAB",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Raster:
  """The stored values of an image file.

  Attributes:
    values: [H,W,C], as they are stored.
    georeference: see `georeference`.
    nodata: the number that stands for no data, by GDAL's tag; None without one.
  """

  values: np.ndarray
  georeference: tuple[tuple[Any, ...], ...] = ()
  nodata: float | None = None


def is_tiff(stream):
  """Whether an open file begins as TIFF does."""
  stream.seek(0)
  return stream.read(4) in STARTS


def describe(stream):
  """Channels and dtype of an open file, "6 channels of uint16"; "" where tifffile says none."""
  try:
    with _tiff(stream) as tiff:
      return _description(whole_pages(tiff))
  except (ImportError, *DAMAGE):
    return ""


def read(stream, name, channels, dtype):
  """A TIFF file of a number of channels: bands of one page, or a page for each.

  Args:
    stream: the open file.
    name: of it, for messages.
    channels: expected number.
    dtype: expected name of the dtype.

  Returns:
    Raster.

  Raises:
    UserError: no tifffile, a damaged file, other channels or another dtype, too large, turned.
  """
  try:
    with _tiff(stream) as tiff:
      pages = whole_pages(tiff)
      fault = _fault(pages, text(channels, dtype))
      if not fault:
        parts = [_of_page(page) for page in pages]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
        return Raster(values, _georeference(pages[0]), _nodata(pages[0]))
  except ImportError as error:
    fault = f"TIFF files beyond 8-bit RGB need tifffile ({error}); {INSTALL}"
  except DAMAGE as error:
    mend = INSTALL if "imagecodecs" in str(error) else "replace or remove it"
    fault = f"cannot be read ({error}); {mend}"
  raise UserError(f"{name}: {fault}")


def georeference(stream):
  """The tags that place an open TIFF file on the earth.

  Returns:
    tuple of tags as `tifffile.imwrite` takes `extratags`; () without them, or without tifffile.
  """
  try:
    with _tiff(stream) as tiff:
      page = tiff.pages[0]
      upright = page.tags.valueof(ORIENTATION, 1) == 1
      return _georeference(page) if upright else ()
  except (ImportError, *DAMAGE):
    return ()


def tag(stream, code):
  """The value of a tag of an open file's first page; None without it, or without tifffile."""
  try:
    with _tiff(stream) as tiff:
      return tiff.pages[0].tags.valueof(code)
  except (ImportError, *DAMAGE):
    return None


def nodata(stream):
  """The number that stands for no data in an open TIFF file, by GDAL's tag; None without one."""
  try:
    with _tiff(stream) as tiff:
      return _nodata(tiff.pages[0])
  except (ImportError, *DAMAGE):
    return None


def text(channels, dtype):
  """Channels and dtype in words."""
  return f"{channels} channel{'s'[: channels != 1]} of {dtype}"


def unmarked_rgb(stream, name):
  """Three channels of 8 bits that the file does not call red, green and blue, but grey values.

  Args:
    stream: the open file.
    name: of it, for messages.

  Returns:
    u8[H,W,3]; None for another file, or without tifffile.

  Raises:
    UserError: see `read`.
  """
  try:
    with _tiff(stream) as tiff:
      pages = whole_pages(tiff)
      fits = len(pages) == 1 and pages[0].photometric in (MIN_IS_BLACK, RGB)
      fits = fits and _description(pages) == text(3, "uint8")
  except (ImportError, *DAMAGE):
    return None
  return read(stream, name, 3, "uint8").values if fits else None


def no_photograph(found):
  """The fault of a file that is read as a photograph, by a description of `describe`."""
  if found == text(3, "uint8"):
    return f"{found} that are not red, green and blue; convert the file to RGB"
  return f"{found}, expected {text(3, 'uint8')}; {remedy(found)}"


def no_mask(found):
  """The fault of a file that is read as a mask, by a description of `describe`."""
  return f"a TIFF of {found}, expected grey values of 8 or 16 bits; save the mask as PNG"


def remedy(found):
  """What is to be done about files of a description of `describe`: words."""
  channels, _, dtype = found.partition(" of ")
  channels = channels.partition(" ")[0]
  if dtype not in DTYPES:
    return f"convert the file to {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
  return (
    "convert the file, or for a set of such files set "
    f"--config.data.channels={channels} --config.data.dtype={dtype}"
  )


# ---------------------------------------------------------------------------- tifffile


@contextlib.contextmanager
def _tiff(stream):
  """The tifffile.TiffFile of an open file; its own errors become ValueErrors."""
  import tifffile

  stream.seek(0)
  try:
    with tifffile.TiffFile(stream) as tiff:
      yield tiff
  except tifffile.TiffFileError as error:
    raise ValueError(error) from None


def whole_pages(tiff):
  """The pages of a tifffile.TiffFile that are no smaller copies and no masks; ValueErrors."""
  pages = list(itertools.islice(tiff.pages, MOST_PAGES + 1))
  if len(pages) > MOST_PAGES:
    raise ValueError(
      f"more than {MOST_PAGES} pages in it, or pages that follow each other in a ring"
    )
  if not (whole := [page for page in pages if not page.subfiletype & 5]):
    raise ValueError("no page of the whole image in it")
  return whole


def _description(pages):
  dtypes = dict.fromkeys(str(page.dtype) for page in pages)
  return text(sum(page.samplesperpixel for page in pages), " and ".join(dtypes))


def _fault(pages, expected):
  """The fault of a file by its header, a sentence or nothing."""
  if (found := _description(pages)) != expected:
    return f"{found}, expected {expected} (data.channels, data.dtype); {remedy(found)}"
  kinds = [page.tags.valueof(PHOTOMETRIC) for page in pages]
  if what := next((NO_BRIGHTNESS[k] for k in kinds if k in NO_BRIGHTNESS), ""):
    return (
      f"values of another kind ({what}, by the tag PhotometricInterpretation), expected "
      "brightness, 0 for black; save the file so"
    )
  sizes = dict.fromkeys((page.imagelength, page.imagewidth) for page in pages)
  if len(sizes) > 1:
    return f"pages of {len(sizes)} sizes, expected channels of one size; save them in one page"
  if (turn := pages[0].tags.valueof(ORIENTATION, 1)) != 1:
    return f"a turned image (tag Orientation is {turn}), expected an upright one; save it so"
  (height, width), most = next(iter(sizes)), limits.most_pixels()
  over = f"{height * width} pixels, the limit is {most}"
  return limits.too_large(over) if height * width > most else ""


def _of_page(page):
  values = page.asarray()
  if page.samplesperpixel == 1 and values.ndim == 2:
    return values[..., None]
  if values.ndim != 3:
    raise ValueError(f"a page with the axes {page.axes}, expected height, width and channels")
  return np.moveaxis(values, 0, -1) if page.axes[0] == "S" else values


def _georeference(page):
  tags = [page.tags.get(code) for code in (*PLACES, *KEYS)]
  if not any(tag is not None and tag.code in PLACES for tag in tags):
    return ()
  return tuple(_extra(tag) for tag in tags if tag is not None)


def _extra(tag):
  """A tag as `tifffile.imwrite` takes it."""
  if isinstance(tag.value, str):
    return tag.code, "s", 0, tag.value, True
  values = tag.value if isinstance(tag.value, tuple) else (tag.value,)
  return tag.code, int(tag.dtype), len(values), values, True


def _nodata(page):
  """The number in GDAL's tag; None without one."""
  try:
    return float(page.tags.valueof(NODATA, ""))
  except (TypeError, ValueError):
    return None
