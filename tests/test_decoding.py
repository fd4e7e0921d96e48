"""Stored values of image and mask files, from files written here byte by byte or by Pillow."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segjax.data import decoding, files, masks, tiffs
from segjax.data.labels import default_table
from segjax.errors import UserError

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4  # 0 to 3, and not symmetric


def png(array, bits, color, chunks=()):
  """Bytes of a PNG whose samples are `array`, of `bits` each, with colour type `color`."""

  def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

  rows = b"".join(b"\0" + _packed(row.ravel(), bits) for row in array)
  header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], bits, color, 0, 0, 0)
  body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in body)


def tiff(array, bits, photometric, **tags):
  """Bytes of an uncompressed TIFF whose samples are `array`, of `bits` each."""
  data = b"".join(_packed(row.ravel(), bits, "<") for row in array)
  samples = 1 if array.ndim == 2 else array.shape[2]
  fields = {256: array.shape[1], 257: array.shape[0], 258: bits, 259: 1, 262: photometric,
            273: 8, 277: samples, 278: array.shape[0], 279: len(data)}  # fmt: skip
  fields |= {int(k[1:]): v for k, v in tags.items()}
  offset, extra = 8 + len(data) + len(data) % 2, b""
  if samples > 1:
    fields[258] = offset
    extra = struct.pack(f"<{samples}H", *[bits] * samples).ljust(8, b"\0")
  entries = b"".join(
    struct.pack("<HHII", k, 3, samples, v)
    if k == 258 and extra
    else struct.pack("<HHII", k, 4, 1, v)
    for k, v in sorted(fields.items())
  )
  start = offset + len(extra)
  directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", 0)
  return struct.pack("<2sHI", b"II", 42, start) + data.ljust(offset - 8, b"\0") + extra + directory


def _packed(samples, bits, order=">"):
  if bits >= 8:
    kind = {8: "u1", 16: "u2", 32: "u4"}[bits]
    return samples.astype(f"{order}{kind}").tobytes()
  each = [int(v) >> (bits - 1 - i) & 1 for v in samples for i in range(bits)]
  return np.packbits(each).tobytes()


def short(value):
  """The name of a parameter of a test."""
  return f"{len(value)}_bytes" if isinstance(value, bytes) else None


def stored(data):
  return decoding.read_stored(data, "x")


def saved(array, kind="PNG", **how):
  file = io.BytesIO()
  image = array if isinstance(array, Image.Image) else Image.fromarray(array)
  image.save(file, kind, **how)
  return file.getvalue()


# ---------------------------------------------------------------------------- values of masks


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_grey_values_are_those_that_are_stored(bits, kind):
  values = np.arange(12).reshape(3, 4) % 2**bits if bits < 8 else np.arange(12).reshape(3, 4) * 21
  values = values * 257 + 1 if bits == 16 else values
  got = stored(png(values, bits, 0) if kind == "png" else tiff(values, bits, 1))
  np.testing.assert_array_equal(got.values, values)
  assert (got.bits, got.is_grey, got.signed) == (bits, True, False)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("hidden", [False, True])
def test_palette_indices_are_those_that_are_stored(bits, hidden):
  values = VALUES.astype(int) % 2**bits
  colors = [(0, 0, 0), (9, 8, 7), (1, 2, 3), (200, 100, 50)][: 2**bits]
  chunks = [(b"PLTE", bytes(v for c in colors for v in c))]
  got = stored(png(values, bits, 3, chunks + [(b"tRNS", b"\xff\x07")] * hidden))
  np.testing.assert_array_equal(got.values, values)
  np.testing.assert_array_equal(got.palette[: len(colors)], colors)
  assert np.flatnonzero(got.hidden).tolist() == [1] * hidden
  assert not got.is_grey


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_values_where_min_is_white(bits):
  np.testing.assert_array_equal(stored(tiff(VALUES % 3, bits, 0)).values, VALUES % 3)
  whitest = np.where(VALUES == 3, 2**bits - 1, VALUES)
  with pytest.raises(UserError, match=r"x: .*0 is shown white.*save it as PNG"):
    stored(tiff(whitest, bits, 0))


def test_values_of_other_kinds():
  with pytest.raises(UserError, match="0 is shown white and 1 black"):
    stored(tiff(VALUES % 2, 1, 0))
  np.testing.assert_array_equal(
    stored(tiff(VALUES.astype(int) * 999, 16, 0)).values, VALUES.astype(int) * 999
  )
  signed = np.array([[0, -1, 5]])
  for bits in (8, 16, 32):
    got = stored(tiff(signed % 2**bits, bits, 1, t339=2))
    np.testing.assert_array_equal(got.values, signed)
    assert got.signed
  large = np.array([[0, 70_000]], np.int32)
  np.testing.assert_array_equal(stored(saved(large, "TIFF")).values, large)
  whole = np.array([[0, -1, 7]], np.float32)
  got = stored(saved(whole, "TIFF"))
  np.testing.assert_array_equal(got.values, whole)
  assert got.values.dtype.kind == "i" and got.signed
  for bad in (0.5, np.nan, np.inf):
    with pytest.raises(UserError, match="a mask of fractions, such as"):
      stored(saved(np.array([[0, bad]], np.float32), "TIFF"))


def test_bmp_and_gif_store_indices():
  np.testing.assert_array_equal(stored(saved(VALUES, "BMP")).values, VALUES)
  np.testing.assert_array_equal(stored(saved(VALUES > 1, "BMP")).values, VALUES > 1)
  image = Image.fromarray(VALUES).convert("P")
  image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
  for kind in ("GIF", "BMP", "TIFF"):
    got = stored(saved(image, kind))
    colors = got.palette[got.values]
    np.testing.assert_array_equal(colors, np.asarray(image.convert("RGB")))


def bmp(array, bits, colors):
  """Bytes of a BMP of palette indices."""
  rows = [_packed(row, bits) for row in array[::-1]]
  data = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in rows)
  palette = b"".join(bytes((*color[::-1], 0)) for color in colors)
  size, start = array.shape[::-1], 54 + len(palette)
  header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, 0, len(data), 0, 0, len(colors), 0)
  return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("step", [1, 17, 255])
def test_bmp_of_few_bits(bits, step):
  values = VALUES.astype(int) % 2**bits
  data = bmp(values, bits, [(i * step % 256,) * 3 for i in range(2**bits)])
  if (bits, step) == (4, 1):
    for read in (decoding.read_image, decoding.read_stored):
      with pytest.raises(UserError, match="x: a BMP of 4 bits with a palette of greys"):
        read(data, "x")
    return
  np.testing.assert_array_equal(stored(data).values, values)
  shown = decoding.read_image(data, "x")
  np.testing.assert_array_equal(shown[..., 1], values.astype(int) * step % 256)


@pytest.mark.parametrize("bits", [4, 8])
def test_bmp_of_two_greys_in_many_bits_is_refused(bits):
  data = bmp(VALUES.astype(int) % 2, bits, [(0, 0, 0), (255, 255, 255)])
  for read in (decoding.read_image, decoding.read_stored):
    with pytest.raises(UserError, match=f"x: a BMP of {bits} bits with a palette of greys"):
      read(data, "x")
  colored = bmp(VALUES.astype(int) % 2, bits, [(0, 0, 0), (255, 0, 0)])
  np.testing.assert_array_equal(stored(colored).values, VALUES % 2)


@pytest.mark.parametrize("count", [2, 3])
def test_a_tiff_mask_of_several_bands_is_refused(count):
  tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
  file = io.BytesIO()
  bands = np.repeat(VALUES[..., None], count, -1)
  extra = [0] * (count - 1)  # of no given meaning, as GDAL writes them
  tifffile.imwrite(file, bands, photometric="minisblack", planarconfig="contig", extrasamples=extra)
  with pytest.raises(UserError, match=rf"x: a TIFF of {count} channels.*save the mask as PNG"):
    stored(file.getvalue())


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_pixels_are_refused_and_opaque_ones_are_read(channels):
  array = np.repeat(VALUES[..., None], channels, -1)
  array[..., -1] = 255
  color = {2: 4, 4: 6}[channels]
  np.testing.assert_array_equal(stored(png(array, 8, color)).values, array[..., :-1].squeeze())
  array[1, 2, -1] = 254
  with pytest.raises(UserError, match=r"x: 1 pixels of the mask are transparent.*without transp"):
    stored(png(array, 8, color))
  with pytest.raises(UserError, match="transparent"):
    stored(saved(array, "TIFF"))


def test_a_transparent_colour_of_an_rgb_mask_is_refused():
  array = np.repeat(VALUES[..., None], 3, -1)
  key = lambda v: [(b"tRNS", struct.pack(">HHH", v, v, v))]  # noqa: E731
  np.testing.assert_array_equal(stored(png(array, 8, 2, key(7))).values, array)
  with pytest.raises(UserError, match="3 pixels of the mask are transparent"):
    stored(png(array, 8, 2, key(2)))
  np.testing.assert_array_equal(stored(png(VALUES, 8, 0, [(b"tRNS", b"\0\2")])).values, VALUES)


@pytest.mark.parametrize(
  ("data", "says"),
  [
    (saved(VALUES, "JPEG"), "a mask in JPEG, which changes label values; save masks as PNG"),
    (saved(VALUES, "WEBP"), "a mask in lossy WebP"),
    (saved(Image.new("RGBA", (9, 9)), "WEBP"), "a mask in lossy WebP"),
    (saved(Image.new("RGB", (9, 9)), "TIFF", compression="jpeg"), "a mask in TIFF with .*jpeg"),
    (saved(Image.new("CMYK", (9, 9)), "TIFF"), "a mask of mode CMYK, expected grey values"),
    (png(np.zeros((2, 2, 3)), 16, 2), "a mask of mode RGB with 16 bits per channel, expected 8"),
    (png(np.zeros((2, 2, 2)), 16, 4), "with 16 bits per channel, expected 8"),
  ],
  ids=short,
)
def test_masks_that_change_values_are_refused(data, says):
  with pytest.raises(UserError, match=f"x: .*{says}"):
    stored(data)


def test_lossless_compressions_are_read():
  rgb = np.repeat(VALUES[..., None] * 50, 3, -1)
  np.testing.assert_array_equal(stored(saved(rgb, "WEBP", lossless=True)).values, rgb)
  rgba = np.dstack([rgb, np.full((3, 4), 255, np.uint8)])
  extended = saved(rgba, "WEBP", lossless=True, icc_profile=b"x" * 9)
  assert b"VP8X" in extended
  np.testing.assert_array_equal(stored(extended).values, rgb)
  for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"):
    np.testing.assert_array_equal(stored(saved(VALUES, "TIFF", compression=how)).values, VALUES)


# ---------------------------------------------------------------------------- images


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("min_is_white", [False, True])
def test_images_are_shown_as_viewers_show_them(bits, min_is_white):
  values = VALUES.astype(int) % 2**bits
  shown = values * (255 // (2**bits - 1))
  shown = 255 - shown if min_is_white else shown
  got = decoding.read_image(tiff(values, bits, int(not min_is_white)), "x")
  np.testing.assert_array_equal(got, np.repeat(shown[..., None], 3, -1))


@pytest.mark.parametrize(
  "data",
  [
    png(np.full((2, 2), 300), 16, 0),
    png(np.full((2, 2, 3), 300), 16, 2),
    png(np.full((2, 2, 2), 300), 16, 4),
    png(np.full((2, 2, 4), 300), 16, 6),
    tiff(np.full((2, 2), 300), 16, 1),
    tiff(np.full((2, 2, 3), 300), 16, 2),
    saved(np.zeros((2, 2), np.float32), "TIFF"),
  ],
  ids=short,
)
def test_images_of_16_bits_and_more_are_refused(data):
  with pytest.raises(UserError, match=r"x: an image of mode .*expected 8 bits per channel, found"):
    decoding.read_image(data, "x")


def test_other_colours_of_images_become_rgb():
  rgb = np.random.default_rng(0).integers(0, 255, (4, 5, 3)).astype(np.uint8)
  rgba = np.dstack([rgb, np.zeros((4, 5), np.uint8)])
  np.testing.assert_array_equal(decoding.read_image(saved(rgba), "x"), rgb)
  cmyk = decoding.read_image(saved(Image.fromarray(255 - rgba, "CMYK"), "TIFF"), "x")
  np.testing.assert_array_equal(cmyk.shape, rgb.shape)
  grey = Image.new("LAB", (3, 3), (128, 128, 128))
  np.testing.assert_allclose(decoding.read_image(saved(grey, "TIFF"), "x"), 119, atol=2)


# ---------------------------------------------------------------------------- orientation, pages


def upright(array, orientation):
  """The array as EXIF's orientation says that it is to be seen, from the tables of the standard."""
  flipped = array[:, ::-1] if orientation in (2, 4, 5, 7) else array
  turned = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
  return np.rot90(flipped, turned)


@pytest.mark.parametrize("how", [dict(planarconfig="contig"), dict(planarconfig="separate")])
def test_three_channels_that_are_called_grey_are_red_green_and_blue(how):
  tifffile = pytest.importorskip("tifffile")
  image = (np.arange(3 * 4 * 3).reshape(3, 4, 3) * 7).astype(np.uint8)
  file = io.BytesIO()
  stored_so = image if how["planarconfig"] == "contig" else np.moveaxis(image, -1, 0).copy()
  tifffile.imwrite(file, stored_so, photometric="minisblack", **how)
  np.testing.assert_array_equal(decoding.read_image(file.getvalue(), "x"), image)
  with pytest.raises(UserError, match="x: a TIFF of 3 channels of uint8, expected grey values"):
    stored(file.getvalue())


def test_pages_that_follow_each_other_in_a_ring_end():
  tifffile = pytest.importorskip("tifffile")
  file = io.BytesIO()
  with tifffile.TiffWriter(file) as writer:
    for value in (1, 2):
      writer.write(np.full((4, 4, 3), value, np.uint8), photometric="rgb")
  content = bytearray(file.getvalue())
  with tifffile.TiffFile(io.BytesIO(content)) as tiff:
    second = tiff.pages[1].offset
  (tags,) = struct.unpack_from("<H", content, second)
  struct.pack_into("<I", content, second + 2 + 12 * tags, second)  # the page after it is itself
  assert tiffs.describe(io.BytesIO(content)) == ""
  with pytest.raises(
    UserError, match=r"x: cannot be read .*pages that follow each other in a ring"
  ):
    tiffs.read(io.BytesIO(content), "x", 3, "uint8")
  with pytest.raises(UserError, match=r"x: 2 pages or frames"):
    decoding.read_image(bytes(content), "x")


@pytest.mark.parametrize("dtype", ["int64", "float64", "uint64"])
def test_a_mask_of_numpys_dtypes_is_named(dtype):
  tifffile = pytest.importorskip("tifffile")
  file = io.BytesIO()
  tifffile.imwrite(file, VALUES.astype(dtype))
  with pytest.raises(UserError, match=f"x: a TIFF of 1 channel of {dtype}, expected .* as PNG"):
    stored(file.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_masks_are_turned_upright(tmp_path, orientation):
  exif = Image.Exif()
  exif[274] = orientation
  rgb = np.random.default_rng(0).integers(0, 255, (40, 24, 3)).astype(np.uint8)
  rgb = np.asarray(Image.fromarray(rgb[:5, :3]).resize((24, 40), Image.Resampling.NEAREST))
  want = upright(rgb, orientation)
  got = decoding.read_image(saved(rgb, "JPEG", exif=exif, quality=100, subsampling=0), "x")
  assert got.shape == want.shape
  assert np.abs(got.astype(int) - want).mean() < 3
  for kind, how in (("PNG", {}), ("TIFF", {}), ("TIFF", dict(compression="tiff_lzw")),
                    ("WEBP", dict(lossless=True))):  # fmt: skip
    data = saved(rgb, kind, exif=exif, **how)
    np.testing.assert_array_equal(decoding.read_image(data, "x"), want)
    np.testing.assert_array_equal(stored(data).values, want)
    file = tmp_path / f"x.{kind}"
    file.write_bytes(data)
    assert decoding.read_size(file) == want.shape[1::-1]
  image = Image.fromarray(VALUES).convert("P")
  image.putpalette([1, 2, 3] * 4)
  np.testing.assert_array_equal(
    stored(saved(image, exif=exif)).values, upright(VALUES, orientation)
  )


@pytest.mark.parametrize(
  "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"x"], ids=short
)
def test_damaged_exif_does_not_hide_an_image(exif):
  data = saved(np.zeros((4, 6, 3), np.uint8), "JPEG", exif=exif)
  assert decoding.read_image(data, "x").shape == (4, 6, 3)
  data = saved(np.zeros((4, 6, 3), np.uint8), "PNG", exif=exif)
  assert decoding.read_image(data, "x").shape == (4, 6, 3)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_files_of_several_pages_are_refused(kind):
  pages = [Image.fromarray(np.full((8, 8), 90 * i, np.uint8)) for i in range(3)]
  how = dict(lossless=True) if kind == "WEBP" else {}
  data = saved(pages[0], kind, save_all=True, append_images=pages[1:], **how)
  for read in (decoding.read_image, decoding.read_stored):
    with pytest.raises(UserError, match=r"x: 3 pages or frames, expected 1"):
      read(data, "x")


def test_smaller_copies_in_a_tiff_and_in_a_phones_jpeg_do_not_count():
  whole = Image.fromarray(VALUES)
  small = Image.fromarray(VALUES[:2, :2].copy())
  small.encoderinfo = dict(tiffinfo={254: 1})
  file = io.BytesIO()
  whole.save(file, "TIFF", save_all=True, append_images=[small])
  np.testing.assert_array_equal(stored(file.getvalue()).values, VALUES)
  pictures = [Image.new("RGB", (9, 7), c) for c in ("red", "blue")]
  phone = saved(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
  got = decoding.read_image(phone, "x")
  assert got.shape == (7, 9, 3)
  assert got[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)
  with pytest.raises(UserError, match="a mask in JPEG"):
    stored(phone)


# ---------------------------------------------------------------------------- what is no image


@pytest.mark.parametrize(
  ("data", "says"),
  [
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image but PostScript"),
    (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "not an image but AVIF"),
    (b"\0\0\0\x1cftypheic\0\0\0\0", "not an image but HEIC"),
    (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
    (b"<html></html>", "XML or HTML"),
    (saved(VALUES, "PPM"), "not an image but PGM, expected PNG, JPEG"),
    (b"", "not an image, expected PNG"),
    (b"GIF89a", "cannot be read|not an image"),
  ],
  ids=short,
)
def test_files_of_other_formats_are_named(tmp_path, data, says):
  file = tmp_path / "x.png"
  file.write_bytes(data)
  for read in (decoding.read_image, decoding.read_stored):
    with pytest.raises(UserError, match=rf"x\.png: .*({says})"):
      read(file)


def test_only_regular_files_are_opened(tmp_path):
  os.mkfifo(tmp_path / "pipe.png")
  (tmp_path / "folder.png").mkdir()
  (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere.png")
  for name in ("pipe", "folder"):
    with pytest.raises(UserError, match=rf"{name}\.png: not a regular file"):
      decoding.read_image(tmp_path / f"{name}.png")
  with pytest.raises(UserError, match=r"lost\.png: no such file"):
    decoding.read_image(tmp_path / "lost.png")
  Image.fromarray(VALUES).save(tmp_path / "x.png")
  assert list(files.images_by_stem(tmp_path)) == ["lost", "x"]
  assert files.skipped(tmp_path) == (
    f"{tmp_path.name}/ holds 1 special file that is not read: pipe.png",
    f"{tmp_path.name}/ holds 1 folder that is not read: folder.png/",
  )


def test_bombs_are_one_clear_error(monkeypatch):
  zeros = png(np.zeros((400, 400), np.uint8), 1, 0)
  assert len(zeros) < 160
  for limit, says in ((90_000, "bytes that claim to be 400x400"), (70_000, "decompression bomb")):
    assert decoding.read_image(zeros, "x").shape == (400, 400, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=f"x: .*{says}"):
      decoding.read_image(zeros, "x")
    monkeypatch.undo()


def test_too_little_memory_is_one_clear_error(monkeypatch):
  def load(self):
    raise MemoryError

  monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
  with pytest.raises(UserError, match="x: does not fit into memory"):
    stored(png(VALUES, 8, 0))


def test_damaged_files_of_every_format_end_in_one_kind_of_error():
  rng = np.random.default_rng(0)
  rgb = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
  exif = Image.Exif()
  exif[274] = 6
  whole = [saved(rgb, k, exif=exif) for k in ("PNG", "JPEG", "WEBP", "TIFF")]
  whole += [saved(VALUES, k) for k in ("BMP", "GIF", "TIFF")] + [tiff(VALUES, 4, 0)]
  read = 0
  for data in whole:
    for _ in range(40):
      damaged = bytearray(data)
      for place in rng.integers(0, min(len(data), 300), 3):
        damaged[place] = rng.integers(256)
      for function in (decoding.read_image, decoding.read_stored):
        try:
          function(bytes(damaged), "x")
          read += 1
        except UserError as error:
          assert str(error).startswith("x: ")
  assert 0 < read < 2 * 40 * len(whole)


# ---------------------------------------------------------------------------- values to labels


def test_values_beyond_255_and_below_0_become_labels(tmp_path):
  table = default_table(("a", "b"))
  file = tmp_path / "x.tif"
  values = np.array([[0, 1, 65535]], np.uint16)
  file.write_bytes(tiff(values, 16, 1))
  got = masks.read_values(file, table, {0: 0, 1: 1, 65535: 255})
  np.testing.assert_array_equal(got, [[0, 1, 255]])
  assert got.dtype == np.uint8
  with pytest.raises(UserError, match=r"label value 65535 is outside .* 0 to 1 .* 1 pixels"):
    masks.read_values(file, table, {0: 0, 1: 1, 255: 255})
  file.write_bytes(tiff(np.array([[0, 65535]]), 16, 1, t339=2))
  np.testing.assert_array_equal(masks.read_values(file, table, {0: 1, -1: 255}), [[1, 255]])
