"""Sheets of pictures."""

import numpy as np

from segjax import pictures


def grey(height, width, value):
  return np.full((height, width, 3), value, np.uint8)


def count(sheet, value):
  return (sheet == value).all(-1).sum()


def test_rows_of_a_panel_have_the_same_longest_side_each_to_one_scale():
  rows = [
    [("small", grey(40, 60, 77)), ("half of it", grey(20, 30, 78))],
    [("large", grey(600, 300, 99))],
  ]
  sheet = pictures.panel(rows, most=300)
  assert count(sheet, 77) == 200 * 300
  assert count(sheet, 78) == 100 * 150
  assert count(sheet, 99) == 300 * 150
  assert sheet.shape == (200 + 300 + 2 * (16 + 6) + 6, 2 * (300 + 6) + 6, 3)


def test_tiny_pictures_of_a_panel_are_enlarged_for_their_captions():
  sheet = pictures.panel([[("a digit", grey(8, 8, 77)), ("another", grey(8, 8, 78))]])
  assert count(sheet, 77) == count(sheet, 78) == 224 * 224
