"""Sheets of pictures."""

import numpy as np

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
