"""Image and mask files as they are stored: the one place that decodes them.

Pillow's mode hides the stored values: it scales grey values of 1, 2 and 4 bits, inverts
where 0 is white, cuts colours of 16 bits to 8, reads the first of several pages, and runs
Ghostscript for a file that is PostScript inside. So the header is read here too.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from segjax.data import limits, tiffs
from segjax.errors import UserError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
EXPECTED = "PNG, JPEG, BMP, TIFF, WebP or GIF"
# Exceptions of Pillow on damaged files, by format and by place of the damage.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError,
          zlib.error, struct.error, Image.DecompressionBombError)  # fmt: skip
FEWEST_BYTES = 0.001  # of a pixel, in images beyond Pillow's limit; photographs have about 0.1
# First bytes of files that are something else, for the message.
FOREIGN = (
  (0, b"%!PS", "PostScript"), (0, b"\xc5\xd0\xd3\xc6", "PostScript"), (0, b"%PDF", "PDF"),
  (4, b"ftypavi", "AVIF"), (4, b"ftyp", "HEIC or another file of that family"),
  (0, b"\0\0\0\x0cjP  ", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
  (0, b"\0\0\0\x0cJXL ", "JPEG XL"), (0, b"\xff\x0a", "JPEG XL"), (0, b"8BPS", "Photoshop"),
  (0, b"\x93NUMPY", "a NumPy array"), (0, b"<svg", "SVG"), (0, b"<", "XML or HTML"),
  (0, b"\0\0\1\0", "ICO"), (0, b"P5", "PGM"), (0, b"P6", "PPM"),
  (0, b"version https://git-lfs", "a pointer of Git LFS (run: git lfs pull)"),
)  # fmt: skip
LOSSLESS_TIFF = {1, 2, 3, 4, 5, 8, 32771, 32773, 32946, 34925, 50000}  # values of Compression
# How an image is made upright, by its EXIF orientation.
TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Decoded:
  """An upright Pillow image and the facts that its mode hides.

  Attributes:
    image: decoded.
    bits: number of bits of a channel, or of a palette index.
    signed: whether its integers are.
    min_is_white: whether Pillow has inverted the stored values.
    turned: whether the file has it otherwise than upright.
  """

  image: Image.Image
  bits: int = 8
  signed: bool = False
  min_is_white: bool = False
  turned: bool = False


@dataclasses.dataclass(frozen=True)
class Stored:
  """The stored values of a mask file.

  Attributes:
    values: grey values or palette indices, int[H,W], or colours, u8[H,W,3].
    bits: number of bits of a value.
    signed: whether the file can hold negative values.
    palette: u8[256,3], colours of the indices; None without a palette.
    hidden: bool[256], indices whose colour is not opaque; None without a palette.
  """

  values: np.ndarray
  bits: int = 8
  signed: bool = False
  palette: np.ndarray | None = None
  hidden: np.ndarray | None = None

  @property
  def is_grey(self):
    """Whether the file stores neither colours nor indices of colours."""
    return self.values.ndim == 2 and self.palette is None


def read_image(file, name=""):
  """An image file, upright by its EXIF orientation, in RGB; transparency does not count.

  Args:
    file: path, or bytes of a file.
    name: name of the bytes, for messages.

  Returns:
    u8[H,W,3].

  Raises:
    UserError: no such file, damaged, another format, several pages, more than 8 bits per channel.
  """
  name = name or file
  decoded = decode(file, name, mask=False)
  mode = decoded.image.mode
  if decoded.bits > 8 or mode.startswith(("I", "F")):
    with opened(file, name) as stream:
      found, is_tiff = tiffs.describe(stream), tiffs.is_tiff(stream)
    remedy = tiffs.remedy(found or tiffs.text(len(decoded.image.getbands()), "uint16"))
    raise UserError(
      f"{name}: an image of mode {mode}, expected 8 bits per channel, found {decoded.bits}; "
      f"{tiffs.INSTALL if is_tiff and not found else remedy}"
    )
  try:
    return np.asarray(decoded.image.convert("RGB"))
  except DAMAGE as error:
    raise UserError(f"{name}: cannot be read as RGB ({error}); replace or remove it") from None


def read_stored(file, name=""):
  """The values that a mask file stores, upright by its own EXIF orientation.

  Args:
    file: path, or bytes of a file.
    name: name of the bytes, for messages.

  Returns:
    Stored.

  Raises:
    UserError: see `read_image`; or a format that changes values, transparent pixels, fractions.
  """
  name = name or file
  decoded = decode(file, name, mask=True)
  image, mode = decoded.image, decoded.image.mode
  array, key = np.asarray(image), image.info.get("transparency")
  if mode in ("1", "L", "F") or mode.startswith("I"):
    return Stored(_grey(array, decoded, name), decoded.bits, decoded.signed or mode == "F")
  if decoded.bits > 8:
    raise UserError(
      f"{name}: a mask of mode {mode} with {decoded.bits} bits per channel, expected 8; convert it"
    )
  if mode in ("LA", "PA", "RGBA"):
    _require_opaque(array[..., -1] == 255, name)
    array = array[..., 0] if mode != "RGBA" else array[..., :3]
    mode = mode[:-1]
  if mode == "L":
    return Stored(array, decoded.bits)
  if mode == "P":
    palette, hidden = np.zeros((256, 3), np.uint8), np.zeros(256, bool)
    colors = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    palette[: len(colors)] = colors
    if isinstance(key, int):
      hidden[key] = True
    else:
      alpha = np.frombuffer(bytes(key or b"")[:256], np.uint8)
      hidden[: len(alpha)] = alpha < 255
    return Stored(array, decoded.bits, palette=palette, hidden=hidden)
  if mode != "RGB":
    raise UserError(
      f"{name}: a mask of mode {mode}, expected grey values, palette indices or RGB; convert it"
    )
  if isinstance(key, tuple):
    _require_opaque((array != key).any(-1), name)
  return Stored(array)


def read_size(file):
  """(width, height) of an image file when it is upright, from its header; None if damaged."""
  try:
    with opened(file, file) as stream, Image.open(stream, formats=FORMATS) as image:
      turned = image.format != "TIFF" and _orientation(image) >= 5  # Pillow turns TIFF itself
      return image.size[::-1] if turned else image.size
  except (UserError, MemoryError, *DAMAGE):
    return None


# ---------------------------------------------------------------------------- Pillow


def decode(file, name, mask):
  """The `Decoded` of a file, see `read_image`; of a mask, where its format keeps the values."""
  limits.apply()
  is_bytes = isinstance(file, bytes)
  verb, mend = ("decoded", "prepare it anew") if is_bytes else ("read", "replace or remove it")
  with opened(file, name) as stream:
    head = stream.read(64)
    size = stream.seek(0, 2)
    stream.seek(0)
    try:
      with Image.open(stream, formats=FORMATS) as image:
        facts, pages = _facts(image, head), _pages(image)
        fault = _fault(image, head, stream, size, pages, mask)
        if not fault:
          image.load()
          turn = TURNS.get(_orientation(image))
          turned = image if turn is None else image.transpose(turn)
          return Decoded(turned, turned=turn is not None, **facts)
    except UnidentifiedImageError:
      if not mask and (values := tiffs.unmarked_rgb(stream, name)) is not None:
        return Decoded(Image.fromarray(values))
      kind = next((k for at, start, k in FOREIGN if head[at:].startswith(start)), "")
      fault = f"not an image{f' but {kind}' if kind else ''}, expected {EXPECTED}; {mend}"
      if found := tiffs.describe(stream):
        fault = tiffs.no_mask(found) if mask else tiffs.no_photograph(found)
    except Image.DecompressionBombError as error:
      fault = limits.too_large(error)
    except MemoryError:
      fault = f"does not fit into memory; {mend}"
    except DAMAGE as error:
      fault = f"cannot be {verb} ({error}); {mend}"
  raise UserError(f"{name}: {fault}")


def opened(file, name):
  """The open file of a path, or of bytes; only regular files, as a named pipe would hang."""
  if isinstance(file, bytes):
    return io.BytesIO(file)
  if not Path(file).is_file():
    exists = Path(file).exists()
    fault = "not a regular file; remove it" if exists else "no such file; restore it"
    raise UserError(f"{name}: {fault}")
  try:
    return Path(file).open("rb")
  except OSError as error:
    raise UserError(f"{name}: cannot be read ({error.strerror}); mend its permissions") from None


def _facts(image, head) -> dict[str, Any]:
  """Fields of `Decoded` from the header."""
  if image.format == "PNG":
    return dict(bits=head[24])
  if image.format == "TIFF":
    tags = image.tag_v2
    return dict(
      bits=max(tags.get(258, (1,))),
      signed=max(tags.get(339, (1,))) == 2,
      # Pillow inverts these modes, and leaves 16 bits and more as they are.
      min_is_white=tags.get(262) == 0 and image.mode in ("1", "L"),
    )
  return dict(bits=1 if image.mode == "1" else 8)


def _pages(image):
  """Number of pages or frames; those of a TIFF that are smaller copies or masks do not count."""
  count = getattr(image, "n_frames", 1) if image.format not in ("JPEG", "MPO") else 1
  if image.format != "TIFF" or count == 1:
    return count
  whole = 0
  for page in range(count):
    image.seek(page)
    whole += not image.tag_v2.get(254, 0) & 5
  image.seek(0)
  return max(whole, 1)


def _fault(image, head, stream, size, pages, mask):
  """The fault of a file by its header, a sentence or nothing."""
  width, height = image.size
  if pages > 1:
    return f"{pages} pages or frames, expected 1; save the one that counts by itself"
  if image.format == "BMP":
    depth = head[24 if head[14] == 12 else 28]
    if (image.mode, depth) == ("L", 4) or (image.mode == "1" and depth > 1):
      return f"a BMP of {depth} bits with a palette of greys, which Pillow misreads; save it as PNG"
  bands = len(image.getbands())
  if (
    image.format == "TIFF"
    and (samples := image.tag_v2.get(277, 1)) > bands
    and (bands == 1 or not mask)
  ):
    found = tiffs.describe(stream) or f"{samples} channels"
    return (tiffs.no_mask if mask else tiffs.no_photograph)(found)
  if mask:
    lossy = _lossy(image, stream)
    return f"a mask in {lossy}, which changes label values; save masks as PNG" if lossy else ""
  pixels, limit = width * height, Image.MAX_IMAGE_PIXELS or np.inf
  if pixels > limit and size < FEWEST_BYTES * pixels:
    return f"{size} bytes that claim to be {width}x{height} pixels; replace or remove it"
  return ""


def _lossy(image, stream):
  """The name of a compression that changes values, or nothing."""
  if image.format in ("JPEG", "MPO"):
    return "JPEG"
  if image.format == "TIFF" and image.tag_v2.get(259, 1) not in LOSSLESS_TIFF:
    return f"TIFF with {image.info.get('compression', 'another')} compression"
  return "lossy WebP" if image.format == "WEBP" and not _is_lossless_webp(stream) else ""


def _is_lossless_webp(stream):
  """Whether the first picture of a WebP file is in a chunk "VP8L"; "VP8 " is lossy."""
  place = stream.tell()
  try:
    stream.seek(12)
    while len(chunk := stream.read(8)) == 8:
      kind, size = struct.unpack("<4sI", chunk)
      if kind in (b"VP8 ", b"VP8L"):
        return kind == b"VP8L"
      stream.seek(size + size % 2, 1)
    return False
  finally:
    stream.seek(place)


def _orientation(image):
  """EXIF orientation, 1 to 8; 1 where there is none or it is damaged."""
  try:
    value = image.getexif().get(274, 1)
  except DAMAGE:
    return 1
  return value if value in TURNS else 1


def _grey(array, decoded, name):
  """Grey values as they are stored."""
  mode, bits = decoded.image.mode, decoded.bits
  if mode == "F":
    whole = np.nan_to_num(array, nan=0.5, posinf=0.5, neginf=0.5)
    bad = whole != np.round(whole)
    if bad.any():
      raise UserError(
        f"{name}: a mask of fractions, such as {array[bad][0]}, expected whole numbers; convert it"
      )
    return array.astype(np.int64)
  if mode not in ("1", "L"):
    return array
  array = array.astype(np.uint8)
  top = 2**bits - 1
  if mode == "L" and bits < 8:
    array = array // (255 // top)
  if decoded.min_is_white:
    array = top - array
    if bits == 1 or (array == top).any():
      raise UserError(
        f"{name}: a mask in which 0 is shown white and {top} black (PhotometricInterpretation 0): "
        "it is not clear whether the stored or the shown values count; save it as PNG"
      )
  return array.astype(np.int8) if decoded.signed else array


def _require_opaque(opaque, name):
  if not opaque.all():
    raise UserError(
      f"{name}: {np.count_nonzero(~opaque)} pixels of the mask are transparent, expected none; "
      "give them the colour or the number of a class, or of ignored pixels, and save the mask "
      "without transparency"
    )
