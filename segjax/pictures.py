"""Pictures from arrays: tints and captioned panels. numpy; Pillow only for the captions."""

from __future__ import annotations

import numpy as np

BLUE, ORANGE = (0, 114, 178), (230, 159, 0)  # of Okabe and Ito's palette
STRIPES = (130, 225)  # greys of pixels that are not scored
PERCENTILES, SAMPLED = (2, 98), 2**18  # of pixels, for `limits_of`
DARKEST = (8, 48, 107)  # of a share of 1 in a confusion matrix


def blend(image, color, where, alpha=0.45):
  """Tints u8[H,W,3] with a colour (or a picture of colours) where the bool[H,W] mask is True.

  >>> blend(np.zeros((1, 1, 3), np.uint8), (200, 0, 0), [[True]], alpha=0.5)[0, 0].tolist()
  [100, 0, 0]
  """
  mixed = (1 - alpha) * image + alpha * np.asarray(color)
  return np.where(np.asarray(where)[..., None], mixed, image).astype(np.uint8)


def overlay(image, colors):
  """Tints u8[H,W,3] with the colours u8[H,W,3] of classes; black, a background's, leaves it."""
  return blend(image, colors, colors.any(-1))


def mix(planes, colors):
  """The mean colour of the classes that a pixel is of; black where it is of none.

  Args:
    planes: bool[H,W,C], the masks of the classes.
    colors: u8[C,3].

  Returns:
    u8[H,W,3].

  >>> mix(np.array([[[True, True], [False, False]]]), [(200, 0, 0), (0, 100, 0)]).tolist()
  [[[100, 50, 0], [0, 0, 0]]]
  """
  total = np.asarray(planes, np.float32) @ np.asarray(colors, np.float32)
  count = np.asarray(planes).sum(-1, keepdims=True)
  return (total / np.maximum(count, 1)).astype(np.uint8)


def stripes(height, width):
  """u8[H,W,3], diagonal stripes: no class has a pattern, while some are black, white or grey."""
  rows, columns = np.mgrid[0:height, 0:width]
  period = max(8, width // 40)
  light = (rows + columns) % period >= period // 2
  return np.repeat(np.where(light, STRIPES[1], STRIPES[0])[..., None], 3, -1).astype(np.uint8)


def spread(count, wanted):
  """At most `wanted` indices, evenly spread over range(count), its ends among them."""
  return sorted({int(i) for i in np.linspace(0, count - 1, min(wanted, count)).round()})


def to_u8(image):
  """f32[H,W,3], clipped to [0,1] -> u8[H,W,3], rounded."""
  return np.round(255 * np.clip(np.asarray(image), 0, 1)).astype(np.uint8)


def limits_of(image):
  """The values that are shown black and white, percentiles 2 and 98 of each of three channels.

  Args:
    image: f32[H,W,C].

  Returns:
    f64[2,3].

  >>> limits_of(np.arange(101.0)[:, None, None])[:, 0].tolist()
  [2.0, 98.0]
  """
  step = max(int((image.shape[0] * image.shape[1] / SAMPLED) ** 0.5), 1)
  return np.percentile(_three(image[::step, ::step]), PERCENTILES, axis=(0, 1))


def displayed(image, limits=None):
  """An image for people: its first three channels stretched, or a single one as grey.

  Args:
    image: u8[H,W,3], which stays as it is, or f32[H,W,C].
    limits: result of `limits_of`; None: of this image.

  Returns:
    u8[H,W,3].
  """
  if image.dtype == np.uint8:
    return image
  low, high = limits_of(image) if limits is None else limits
  return to_u8((_three(image) - low) / np.where(high > low, high - low, 1))


def _three(image):
  return image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, -1)


def enlarge(image, least=96):
  """A tiny u8[H,W,3] enlarged by a whole number of times to about `least` pixels, for people.

  >>> enlarge(np.zeros((32, 24, 3), np.uint8)).shape
  (96, 72, 3)
  """
  times = max(least // max(image.shape[:2]), 1)
  return image.repeat(times, 0).repeat(times, 1)


def letter_size(width, least):
  """Of text on a sheet that many pixels wide: it can be read where a page shrinks the sheet."""
  return max(round(width / 90), least)


def panel(rows, *, most=400):
  """Lays out captioned pictures in rows on white, those of each row to one scale.

  Captions stand above the pictures, in two lines where one would be too wide, and grow with the
  sheet, see `letter_size`.

  Args:
    rows: a list per row of (title, u8[H,W,3]).
    most: pixels of a picture's longer side; larger pictures are shrunk, and in each row the longest
      side becomes that of the largest picture of all.

  Returns:
    u8[height,width,3].
  """
  from PIL import Image, ImageDraw, ImageFont

  gap = 6
  shapes = [np.max([np.shape(image)[:2] for _, image in row], 0) for row in rows]
  widest, side = max(w for _, w in shapes), max(max(s) for s in shapes)
  # Captions need some width: tiny pictures are enlarged.
  side *= -(-220 // widest) if widest < 220 else min(most / side, 1)
  scales = [side / max(s) for s in shapes]
  heights = [round(h * k) for (h, _), k in zip(shapes, scales, strict=True)]
  width = max(round(w * k) for (_, w), k in zip(shapes, scales, strict=True))
  columns = max(len(row) for row in rows)
  across = columns * (width + gap) + gap
  letters = letter_size(across, 11)
  font = ImageFont.load_default(letters)
  captions = [[_lines(title, font, width) for title, _ in row] for row in rows]
  line = round(1.2 * letters)
  spaces = [round(1.45 * letters) + line * (max(map(len, row)) - 1) for row in captions]
  total = sum(h + space + gap for h, space in zip(heights, spaces, strict=True)) + gap
  canvas = Image.new("RGB", (across, total), "white")
  draw, y = ImageDraw.Draw(canvas), gap
  for row, texts, caption, height, scale in zip(
    rows, captions, spaces, heights, scales, strict=True
  ):
    for c, (_, image) in enumerate(row):
      x = gap + c * (width + gap)
      for k, text in enumerate(texts[c]):
        draw.text((x, y + k * line), text, fill="black", font=font)
      picture = Image.fromarray(np.asarray(image))
      shape = [max(round(n * scale), 1) for n in picture.size]
      how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
      canvas.paste(picture.resize(shape, how), (x, y + caption))
    y += height + caption + gap
  return np.asarray(canvas)


def _lines(text, font, width):
  """A caption as one or two lines of a width in pixels, broken at a space where there is one."""
  if font.getlength(text) <= width or " " not in text:
    return [_fit(text, font, width)]
  words = text.split(" ")
  fitting = [k for k in range(1, len(words)) if font.getlength(" ".join(words[:k])) <= width]
  first = max(fitting, default=1)
  return [_fit(" ".join(part), font, width) for part in (words[:first], words[first:])]


def _fit(text, font, width):
  """Shortens a line to a width in pixels."""
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + "...") > width:
    text = text[:-1]
  return text + "..."


def bars(rows):
  """Horizontal bars of shares, in the caller's order.

  Args:
    rows: list of (name, share in [0,1], whether it is the right one); right ones are blue, the
      others orange.

  Returns:
    u8[len(rows)*18,220,3].
  """
  from PIL import Image, ImageDraw, ImageFont

  width, height = 220, 18  # of a row
  canvas = Image.new("RGB", (width, height * len(rows)), "white")
  draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
  for i, (name, share, right) in enumerate(rows):
    y, start = i * height, width * 2 // 5
    draw.text((2, y + 2), _fit(name, font, start - 4), fill="black", font=font)
    end = start + round((width - start - 34) * share)
    draw.rectangle((start, y + 3, end, y + height - 4), fill=BLUE if right else ORANGE)
    draw.text((end + 4, y + 2), f"{share:.2f}", fill="black", font=font)
  return np.asarray(canvas)


def confusion(matrix, names):
  """A confusion matrix as a picture: each row (truth) sums to 1, dark blue stands for 1.

  Args:
    matrix: int[C,C], counts; row = truth, column = prediction.
    names: of the classes; they stand beside the cells where these are large enough.

  Returns:
    u8[height,width,3].
  """
  from PIL import Image, ImageDraw, ImageFont

  share = np.asarray(matrix, float)
  share = share / np.maximum(share.sum(1, keepdims=True), 1)
  cell = int(np.clip(480 // len(share), 4, 64))
  font, named = ImageFont.load_default(13), cell >= 14
  texts = [_fit(str(name), font, 150) if named else "" for name in names]
  margin = 12 + int(max(map(font.getlength, texts)))
  side, top = cell * len(share), 26
  width = max(margin + side + 12, 280)
  canvas = Image.new("RGB", (width, top + side + margin), "white")
  draw = ImageDraw.Draw(canvas)
  draw.text((6, 4), "rows: truth, columns: prediction", fill="black", font=font)
  shades = 255 + share[..., None] * (np.array(DARKEST) - 255)
  cells = Image.fromarray(shades.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
  canvas.paste(cells, (margin, top))
  draw.rectangle((margin, top, margin + side - 1, top + side - 1), outline="#999999")
  down = Image.new("RGB", (margin, side), "white")  # the columns' names, then turned
  for image, x, anchor in ((draw, margin - 6, top), (ImageDraw.Draw(down), margin - 6, 0)):
    for i, text in enumerate(texts):
      image.text((x, anchor + i * cell + cell / 2), text, fill="black", font=font, anchor="rm")
  canvas.paste(down.transpose(Image.Transpose.ROTATE_90), (margin, top + side))
  if cell >= 32:
    for (r, c), value in np.ndenumerate(share):
      if value >= 0.005:
        place = margin + (c + 0.5) * cell, top + (r + 0.5) * cell
        fill = "white" if value > 0.5 else "black"
        draw.text(place, f"{value:.2f}", fill=fill, font=font, anchor="mm")
  return np.asarray(canvas)
