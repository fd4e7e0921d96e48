"""PNG files in strips of rows, which Pillow reads and writes as a whole alone.

A strip is read by Pillow all the same: its rows, still filtered, become a small PNG of their own
behind the row before them, which their filters refer to. PNG specification, third edition, W3C.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from segjax.errors import UserError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MARK = ("Software", "segjax")  # text in each picture that we write
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
UP = 2  # filter: the difference to the row before
AT_ONCE = 2**20  # bytes
WIDEST = 2**20  # pixels of a row that is read
PIXELS = 2**22  # that Pillow decodes together


def _chunk(kind, data):
  return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(width, height, bits, color):
  return SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))


# ---------------------------------------------------------------------------- reading


class PngRows:
  """`segjax.data.tiles.Rows` of a PNG file of 8 bits per channel; see `size_of`."""

  def __init__(self, file: Path):
    """Reads the header.

    Raises:
      UserError: a damaged header.
    """
    self._file, self._stream = file, file.open("rb")
    self._stream.seek(len(SIGNATURE))
    self._inflate, self._waiting, self._palette = zlib.decompressobj(), b"", b""
    kind, data = self._next_chunk()
    self.width, self.height, _, self._color = struct.unpack(">IIBB", data[:10])
    self._before = bytes(1 + self.width * CHANNELS[self._color])  # filter and pixels of a row
    while kind != b"IDAT":
      kind, data = self._next_chunk()
      self._palette = data if kind == b"PLTE" else self._palette
    self._waiting, self._left = data, self.height

  def read(self, count: int) -> np.ndarray:
    """See `segjax.data.tiles.Rows.read`.

    Raises:
      UserError: damaged data.
    """
    count, parts = min(count, self._left), [np.zeros((0, self.width, 3), np.uint8)]
    while count:
      parts.append(self._strip(min(count, max(PIXELS // self.width, 1))))
      count -= len(parts[-1])
    return np.concatenate(parts)

  def _strip(self, count):
    filtered = self._inflated(count * len(self._before))
    data = zlib.compress(self._before + filtered, 0)
    small = _header(self.width, count + 1, 8, self._color)
    small += _chunk(b"PLTE", self._palette) if self._palette else b""
    small += _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    try:
      image = Image.open(io.BytesIO(small), formats=("PNG",))
      last = image.crop((0, count, self.width, count + 1)).tobytes()
      pixels = np.asarray(image.convert("RGB"))[1:]
    except (OSError, SyntaxError, ValueError) as error:
      raise UserError(f"{self._file}: cannot be read ({error}); replace or remove it") from None
    self._before, self._left = b"\0" + last, self._left - count
    return pixels

  def _inflated(self, size):
    """The next `size` bytes behind zlib; no more are kept."""
    parts = []
    while size:
      try:
        part = self._inflate.decompress(self._waiting, size)
      except zlib.error as error:
        raise UserError(f"{self._file}: cannot be read ({error}); replace or remove it") from None
      self._waiting = self._inflate.unconsumed_tail
      parts.append(part)
      size -= len(part)
      if size and not self._waiting:
        kind, self._waiting = self._next_chunk()
        if kind != b"IDAT":
          raise UserError(f"{self._file}: cannot be read (it ends early); replace or remove it")
    return b"".join(parts)

  def _next_chunk(self):
    head = self._stream.read(8)
    size, kind = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
    data = self._stream.read(size)
    if self._stream.read(4) != struct.pack(">I", zlib.crc32(kind + data)):
      raise UserError(f"{self._file}: cannot be read (a chunk is damaged); replace or remove it")
    return kind, data

  def close(self):
    """Closes the file."""
    self._stream.close()


def size_of(file: Path) -> tuple[int, int] | None:
  """(height, width) of a file that `PngRows` reads, or None.

  It reads files of one upright picture with 8 bits per channel, not interlaced. What turns a
  picture may stand behind its pixels.
  """
  header = b""
  with file.open("rb") as stream:
    for kind, size in _chunks(stream):
      if kind == b"IHDR":
        header = stream.read(min(size, 64))
      elif kind == b"acTL" or _may_turn(kind, stream, size):
        return None
  if len(header) != 13:
    return None
  width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
  fits = bits == 8 and not interlaced and color in CHANNELS and 0 < width <= WIDEST
  return (height, width) if fits else None


def _may_turn(kind, stream, size):
  """Whether a chunk, at whose data the file is, may hold an orientation other than upright."""
  if kind not in TEXTS:
    return kind == b"eXIf"
  name, _, text = stream.read(min(size, AT_ONCE)).partition(b"\0")
  packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] != b"\0")
  if name == b"XML:com.adobe.xmp":
    return packed or is_turned_by_xmp(text)
  return name == b"Raw profile type exif"


def is_turned_by_xmp(text: bytes) -> bool:
  """Whether XMP has an orientation other than upright."""
  return re.search(rb'tiff:Orientation(="|>)[2-8]', text) is not None


def is_marked(file: Path) -> bool:
  """Whether a picture has the mark of `PngWriter`, however large it is."""
  mark, last = "\0".join(MARK).encode("latin-1"), b""
  with file.open("rb") as stream:
    for kind, size in _chunks(stream):
      if kind == b"IDAT":
        return last == mark
      if kind == b"tEXt":
        last = stream.read(min(size, len(mark) + 1))
  return False


def _chunks(stream):
  """Yields (kind, size) of the chunks of an open file, each when the file is at its data."""
  if stream.read(len(SIGNATURE)) != SIGNATURE:
    return
  while len(head := stream.read(8)) == 8:
    size, kind = struct.unpack(">I4s", head)
    after = stream.tell() + size + 4
    yield kind, size
    stream.seek(after)


# ---------------------------------------------------------------------------- writing


class PngWriter:
  """Writes a picture from top to bottom, with our mark."""

  def __init__(self, file: Path, width: int, height: int, rows: np.ndarray):
    """Begins a file.

    Args:
      file: path.
      width: pixels.
      height: pixels.
      rows: an array like those that will be written.
    """
    self._stream = file.open("wb")
    self._deflate, self._before = zlib.compressobj(6), None
    self._wide, self._photo = rows.dtype == np.uint16, rows.ndim == 3
    self._stream.write(_header(width, height, 16 if self._wide else 8, 2 if self._photo else 0))
    self._stream.write(_chunk(b"tEXt", "\0".join(MARK).encode("latin-1")))

  def write(self, rows: np.ndarray):
    """Writes the next rows, u8[n,W], u16[n,W] or u8[n,W,3]."""
    flat = rows.astype(">u2").view(np.uint8) if self._wide else np.ascontiguousarray(rows)
    flat = flat.reshape(len(rows), -1)
    step = max(AT_ONCE // flat.shape[1], 1)
    for top in range(0, len(flat), step):
      self._write(flat[top : top + step])

  def _write(self, flat):
    filtered = np.zeros((len(flat), 1 + flat.shape[1]), np.uint8)
    filtered[:, 1:] = flat
    if self._photo or self._wide:
      before = np.zeros_like(flat[:1]) if self._before is None else self._before
      filtered[:, 0] = UP
      filtered[:, 1:] -= np.concatenate([before, flat[:-1]])
      self._before = flat[-1:].copy()
    if data := self._deflate.compress(filtered.tobytes()):
      self._stream.write(_chunk(b"IDAT", data))

  def finish(self):
    """Writes the end."""
    self._stream.write(_chunk(b"IDAT", self._deflate.flush()) + _chunk(b"IEND", b""))

  def close(self):
    """Closes the file."""
    self._stream.close()
