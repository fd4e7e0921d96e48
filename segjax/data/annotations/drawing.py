"""Shapes drawn as a mask of class numbers."""

from __future__ import annotations

import numpy as np
from matplotlib.path import Path as Outline

RULE = "where shapes overlap, the smaller one is on top; of equal ones the later"


def covered(shape, size):
  """Pixels of a shape: those whose center lies in one of its polygons.

  Args:
    shape: Shape.
    size: (height, width) of the image.

  Returns:
    (bool[h, w], slices of rows and columns), the part of the image that the shape can touch.
  """
  height, width = size
  if shape.pixels is not None:
    (top, left), (h, w) = shape.corner, shape.pixels.shape
    rows = slice(min(max(top, 0), height), max(min(top + h, height), 0))
    columns = slice(min(max(left, 0), width), max(min(left + w, width), 0))
    part = shape.pixels[rows.start - top :, columns.start - left :]
    return part[: rows.stop - rows.start, : columns.stop - columns.start], (rows, columns)
  corners = np.concatenate(shape.polygons)
  (x0, y0), (x1, y1) = np.floor(corners.min(0)), np.ceil(corners.max(0))
  rows = slice(*np.clip([y0, y1], 0, height).astype(int))
  columns = slice(*np.clip([x0, x1], 0, width).astype(int))
  y, x = np.mgrid[rows, columns] + 0.5
  centers = np.stack([x.ravel(), y.ravel()], axis=1)
  inside = np.zeros(len(centers), bool)
  for corners in shape.polygons:
    inside |= Outline(np.vstack([corners, corners[:1]]), closed=True).contains_points(centers)
  return inside.reshape(x.shape), (rows, columns)


def draw(shapes, numbers, size, empty):
  """Draws the shapes of an image by `RULE`, a tool's layers first.

  Args:
    shapes: Shapes, in the tool's order.
    numbers: {class: number in the mask}.
    size: (height, width) of the image, pixels.
    empty: number of pixels without a shape.

  Returns:
    (u8[H, W] mask, number of pixels that shapes of different classes cover, number of shapes that
    cover none).
  """
  areas = [(*covered(shape, size), shape) for shape in shapes]
  areas.sort(key=lambda a: (a[2].layer, -int(a[0].sum())))  # stable: equal ones keep their order
  mask = np.full(size, empty, np.uint8)
  drawn, twice = np.zeros(size, bool), np.zeros(size, bool)
  for inside, where, shape in areas:
    number = numbers[shape.name]
    twice[where] |= inside & drawn[where] & (mask[where] != number)
    mask[where] = np.where(inside, np.uint8(number), mask[where])
    drawn[where] |= inside
  return mask, int(twice.sum()), sum(not inside.any() for inside, *_ in areas)
