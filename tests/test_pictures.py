"""Sheets of pictures."""

import numpy as np
from PIL import ImageFont

from segjax import pictures


def plain(height, width, value):
  """In a colour that captions have not."""
  return np.full((height, width, 3), (0, value, 255), np.uint8)


def count(sheet, value):
  return (sheet == (0, value, 255)).all(-1).sum()


def test_rows_of_a_panel_have_the_same_longest_side_each_to_one_scale():
  rows = [
    [("small", plain(40, 60, 77)), ("half of it", plain(20, 30, 78))],
    [("large", plain(600, 300, 99))],
  ]
  sheet = pictures.panel(rows, most=300)
  assert count(sheet, 77) == 200 * 300
  assert count(sheet, 78) == 100 * 150
  assert count(sheet, 99) == 300 * 150
  assert sheet.shape == (200 + 300 + 2 * (16 + 6) + 6, 2 * (300 + 6) + 6, 3)


def test_tiny_pictures_of_a_panel_are_enlarged_for_their_captions():
  sheet = pictures.panel([[("a digit", plain(8, 8, 77)), ("another", plain(8, 8, 78))]])
  assert count(sheet, 77) == count(sheet, 78) == 224 * 224


def test_captions_grow_with_the_sheet():
  row = [(f"picture {i}", plain(320, 320, 77)) for i in range(6)]
  height, width, _ = pictures.panel([row]).shape
  assert width == 6 * 326 + 6
  assert height == 320 + 2 * 6 + round(1.45 * round(width / 90))


def test_a_caption_that_is_too_wide_takes_two_lines():
  """In its row alone; text beyond two lines is cut, and words stay whole."""
  long = "scaled dot product: attention to SignSymbol"
  sheet = pictures.panel(
    [[(long, plain(220, 220, 77)), ("b", plain(220, 220, 77))], [("c", plain(220, 220, 78))]]
  )
  line = round(1.2 * 11)
  assert sheet.shape[0] == 2 * 220 + 3 * 6 + 2 * 16 + line
  second = sheet[6 + line + 3 : 6 + 2 * line + 3, :226]
  assert (second < 128).any()  # black letters
  font = ImageFont.load_default(11)
  assert pictures._lines(long, font, 220) == ["scaled dot product: attention to", "SignSymbol"]
  assert pictures._lines("b", font, 220) == ["b"]
  lines = pictures._lines("one " + 40 * "x" + " two", font, 100)
  assert lines[0] == "one" and lines[1].endswith("x...") and font.getlength(lines[1]) <= 100
