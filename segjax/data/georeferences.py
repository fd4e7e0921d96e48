"""GeoTIFF masks: whether they lie where their images do, and what they declare as missing."""

from __future__ import annotations

import numpy as np

from segjax.data import decoding, tiffs
from segjax.data.labels import IGNORE
from segjax.data.lists import count, some
from segjax.errors import UserError

LOOKED = 20  # pairs of a split, evenly spread
SCALE, TIE_POINTS, MATRIX = tiffs.PLACES[:3]
WIDTH, HEIGHT = 256, 257  # tags, too


def displaced(pairs):
  """A sentence about masks that lie elsewhere than their images, by more than a pixel.

  Args:
    pairs: (image file, label file), or in its place ((class, mask file), ...) or something else.
  """
  looked = min(len(pairs), LOOKED)
  chosen = (pairs[i * len(pairs) // looked] for i in range(looked))
  firsts = ((image, of[0][1] if isinstance(of, tuple) and of else of) for image, of in chosen)
  both = [pair for pair in firsts if all(map(_is_tiff, pair))]
  found = [mask.name for image, mask in both if _differ(_corners(image), _corners(mask))]
  said = (
    f"by the georeferences {count(found, 'mask')} of {len(both)} looked at "
    f"{'lies' if len(found) == 1 else 'lie'} elsewhere than the image: {some(found)}; cut both to "
    "one extent, or take the tags out of the masks"
  )
  return (said,) * bool(found)


def missing(file):
  """The number that a mask file declares as missing by GDAL's tag; None without one."""
  if not _is_tiff(file):
    return None
  try:
    with decoding.opened(file, file) as stream:
      return tiffs.nodata(stream)
  except UserError:  # an error of its own when it is read
    return None


def missing_note(mask_files, labels, values):
  """A sentence about a number that the first mask declares as missing, and that is scored."""
  number = missing(next(iter(mask_files), None))
  label = values.get(number, IGNORE)
  if label == IGNORE:
    return ()
  return (
    f"masks declare {number:g} as missing (GDAL_NODATA), and it is read as "
    f"{labels.names[label]!r}; --config.data.source.ignore_value={number:g} leaves such pixels out",
  )


def _is_tiff(file):
  return getattr(file, "suffix", "").lower() in (".tif", ".tiff")


def _corners(file):
  """Coordinates of the upper left and of the lower right corner and the side of a pixel, or None.

  Of files that are placed by a scale and a tie point, or by a matrix.
  """
  try:
    with decoding.opened(file, file) as stream:
      tags = {tag[0]: np.array(tag[3], float) for tag in tiffs.georeference(stream)
              if tag[0] in (SCALE, TIE_POINTS, MATRIX)}  # fmt: skip
      size = [tiffs.tag(stream, of) for of in (WIDTH, HEIGHT)]
  except UserError:  # an error of its own when it is read
    return None
  if MATRIX in tags:
    matrix = tags[MATRIX].reshape(4, 4)[:2, [0, 1, 3]]
  elif SCALE in tags and len(tags.get(TIE_POINTS, ())) == 6:
    (x, y), (i, j, _, east, north, _) = tags[SCALE][:2], tags[TIE_POINTS]
    matrix = np.array([[x, 0, east - x * i], [0, -y, north + y * j]])
  else:
    return None
  places = [matrix @ (*corner, 1) for corner in ((0, 0), size)]
  return places, np.abs(matrix[:, :2]).max()


def _differ(one, two):
  if one is None or two is None:
    return False
  (places, side), (others, _) = one, two
  return any(np.abs(a - b).max() > side for a, b in zip(places, others, strict=True))
