"""Image files from top to bottom: large PNG and TIFF files in strips, all others as a whole."""

from __future__ import annotations

import contextlib
import importlib.util
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from segjax.data import decoding, rasters, tiffs
from segjax.data.tiles import ArrayRows, Rows
from segjax.errors import UserError
from segjax.inference import png
from segjax.pictures import limits_of

LARGE = 2**24  # pixels of an image from which it is read in strips
TIFF = (".tif", ".tiff")
XMP = 700  # tag of a TIFF
PLAIN_ALPHA = 2  # value of the tag ExtraSamples: colours are stored as they are
FAULTS = (OSError, ValueError, RuntimeError, KeyError, struct.error, zlib.error)  # of tifffile


class Unreadable(UserError):
  """An image that cannot be read; the others can."""


@contextlib.contextmanager
def opened(file: Path, pixels: rasters.Pixels = rasters.RGB) -> Iterator[Rows]:
  """An image file as `Rows`.

  Args:
    file: path.
    pixels: of the image.

  Yields:
    Rows, which also have `georeference`, see `tiffs.georeference`, and `limits`, see
    `pictures.limits_of`, or None of a photograph.

  Raises:
    Unreadable: the file is damaged, of another format, or too large to be read as a whole.
  """
  try:
    if pixels.is_rgb:
      rows = _in_strips(file) or ArrayRows(decoding.read_image(file))
      georeference = _georeference(file)
    else:
      found = pixels.read_stored(file)
      rows, georeference = RasterRows(found.values, pixels), found.georeference
  except UserError as error:
    raise Unreadable(str(error)) from None
  try:
    yield _Checked(rows, georeference)
  finally:
    if hasattr(rows, "close"):
      rows.close()


class _Checked:
  """`Rows` whose faults are those of the image."""

  def __init__(self, rows, georeference):
    self._rows, self.height, self.width = rows, rows.height, rows.width
    self.georeference, self.limits = georeference, getattr(rows, "limits", None)

  def read(self, count):
    try:
      return self._rows.read(count)
    except UserError as error:
      raise Unreadable(str(error)) from None


def loses_georeference(files: Iterable[Path]) -> bool:
  """Whether some files may have a georeference that cannot be read, as tifffile is missing."""
  missing = importlib.util.find_spec("tifffile") is None
  return missing and any(file.suffix.lower() in TIFF for file in files)


def _georeference(file):
  if file.suffix.lower() not in TIFF:
    return ()
  with decoding.opened(file, file) as stream:
    return tiffs.georeference(stream)


class RasterRows(ArrayRows):
  """`Rows` of an image that is no photograph; its stored values are scaled as they are read."""

  def __init__(self, values, pixels):
    super().__init__(values)
    self._pixels = pixels
    self.limits = limits_of(values) / pixels.one

  def read(self, count):
    """See `segjax.data.tiles.Rows.read`."""
    return self._pixels.scaled(super().read(count))


def _in_strips(file):
  """`Rows` of a large file that can be read in strips, or None; Pillow's limit is not theirs."""
  with contextlib.suppress(OSError):
    size = png.size_of(file) if file.is_file() else None
    if size and size[0] * size[1] >= LARGE:
      return png.PngRows(file)
  return _tiff(file) if file.is_file() and file.suffix.lower() in TIFF else None


def _tiff(file):
  """`Rows` of a large TIFF file; None without tifffile, or where that cannot read it so."""
  try:
    import tifffile
  except ImportError:
    return None
  with contextlib.ExitStack() as stack, contextlib.suppress(*FAULTS, tifffile.TiffFileError):
    rows = TiffRows(stack.enter_context(tifffile.TiffFile(file)), file)
    if rows.height * rows.width >= LARGE and rows.can_stream():
      stack.pop_all()
      return rows
  return None


class TiffRows:
  """`Rows` of a TIFF file, by tifffile: each strip, or row of tiles, is decoded once."""

  def __init__(self, tiff, file):
    self._tiff, self._file, self._page = tiff, file, tiff.pages[0]
    self.height, self.width = self._page.imagelength, self._page.imagewidth
    self._segments, self._ready = None, np.zeros((0, self.width, 3), np.uint8)

  def can_stream(self):
    """Whether this is one upright picture of grey values or RGB, 8 bits, that tifffile decodes."""
    page = self._page
    xmp = page.tags.valueof(XMP, b"")
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    upright = page.tags.valueof(tiffs.ORIENTATION, 1) == 1 and not png.is_turned_by_xmp(xmp)
    plain = page.dtype == np.uint8 and page.planarconfig == 1
    samples = {tiffs.MIN_IS_BLACK: (1, 3), tiffs.RGB: (3, 4)}.get(page.photometric, ())
    one = len(tiffs.whole_pages(self._tiff)) == 1
    if not (one and upright and plain) or page.samplesperpixel not in samples:
      return False
    if page.samplesperpixel == 4 and page.extrasamples[:1] != (PLAIN_ALPHA,):
      return False  # colours times alpha, or a fourth channel: one reader decides
    next(page.segments())  # raises where a codec is missing
    self._segments = iter(page.segments())
    return True

  def read(self, count):
    """See `segjax.data.tiles.Rows.read`."""
    parts = [self._ready]
    while sum(map(len, parts)) < count and (band := self._band()) is not None:
      parts.append(band)
    rows = np.concatenate(parts)
    self._ready = rows[count:].copy()
    return rows[:count]

  def _band(self):
    """The next strip or row of tiles, u8[n,W,3], or None at the end."""
    band = None
    try:
      for data, (_, _, top, left, _), (_, length, width, samples) in self._segments:
        if band is None:
          band = np.zeros((min(length, self.height - top), self.width, 3), np.uint8)
        part = np.zeros((length, width, samples), np.uint8) if data is None else data[0]
        rows, columns = len(band), min(width, self.width - left)
        band[:, left : left + columns] = part[:rows, :columns, :3]
        if left + width >= self.width:
          return band
    except FAULTS as error:
      raise UserError(f"{self._file}: cannot be read ({error}); replace or remove it") from None
    return band

  def close(self):
    """Closes the file."""
    self._tiff.close()
