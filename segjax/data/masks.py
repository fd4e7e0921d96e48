"""From the stored values of a mask file to labels: by value or by colour."""

from __future__ import annotations

import numpy as np

from segjax.data import decoding
from segjax.data.labels import IGNORE
from segjax.errors import UserError


def read_values(file, labels, values):
  """A grey or palette image of numbers -> labels.

  Args:
    file: the mask; of a palette image the indices count, not the colours.
    labels: label table, for the message.
    values: {number in the file: label}.

  Returns:
    u8[H,W].

  Raises:
    UserError: damaged file, or a number that is not in `values`.
  """
  return by_values(decoding.read_stored(file), file, labels, values)


def read_colors(file, labels, ignored=(), *, threshold=False):
  """A colour image -> labels.

  Args:
    file: the mask, RGB or palette.
    labels: label table, for its colours.
    ignored: colours (red, green, blue) that become 255.
    threshold: first makes each channel 255 where it is at least 128 and 0 elsewhere.

  Returns:
    u8[H,W].

  Raises:
    UserError: damaged file, or a colour of no class.
  """
  stored = decoding.read_stored(file)
  return by_colors(stored, file, labels.classes, ignored, threshold=threshold)


def read_mask(file, labels, values, ignored=()):
  """`read_values` for grey and palette images, `read_colors` for the others."""
  stored = decoding.read_stored(file)
  if stored.values.ndim == 2:
    return by_values(stored, file, labels, values)
  return by_colors(stored, file, labels.classes, ignored)


def by_values(stored, file, labels, values, hint=lambda: ""):
  """`decoding.Stored` -> labels, see `read_values`.

  Args:
    stored: grey values or palette indices.
    file: path, for the message.
    labels: label table, for the message.
    values: {number in the file: label}.
    hint: () -> end of the message for a number outside the table.
  """
  found = stored.values
  if found.ndim != 2:
    raise UserError(f"{file}: found a mask of mode RGB, expected one of numbers (grey)")
  numbers, inverse = np.arange(256), found
  if found.dtype != np.uint8:
    numbers, inverse = np.unique(found, return_inverse=True)
  table = np.array([values.get(int(v), -1) for v in numbers], np.int16)
  label = table[inverse.reshape(found.shape)]
  unknown = label < 0
  if unknown.any():
    bad = np.unique(found[unknown])
    scored = [v for v, index in values.items() if index != IGNORE]
    scored = [v for v in scored if v >= 0] or scored  # all below 0: by a shift that is too large
    ignored = [str(v) for v, index in values.items() if index == IGNORE]
    more = f" (and {bad.size - 1} more)" if bad.size > 1 else ""
    raise UserError(
      f"{file}: label value {bad[0]}{more} is outside the table, expected {min(scored)} to "
      f"{max(scored)} ({_some(labels.names)})"
      f"{' or ' + ', '.join(ignored) + ', ignore' if ignored else ''}; "
      f"{np.count_nonzero(unknown)} pixels; mend the file or the table of classes{hint()}"
    )
  return label.astype(np.uint8)


def by_colors(stored, file, classes, ignored=(), *, threshold=False, hint=""):
  """`decoding.Stored` -> labels, see `read_colors`.

  Args:
    stored: stored values of any kind.
    file: path, for the message.
    classes: (name, colour) of each label; None for a label that no colour stands for.
    ignored: colours that become 255.
    threshold: see `read_colors`.
    hint: end of the message for a colour of no class.
  """
  rgb = colors_of(stored, file)
  if threshold and not stored.is_grey:  # numbers below 128 would all become black
    rgb = np.where(rgb >= 128, 255, 0)
  code = _code(rgb)
  colors = [(c[1], i) for i, c in enumerate(classes) if c] + [(c, IGNORE) for c in ignored]
  label = np.full(code.shape, -1, np.int16)
  for color, index in colors:
    label[code == _code(np.array(color))] = index
  unknown = label < 0
  if unknown.any():
    used = np.unique(code[unknown])
    first = tuple(int(v) for v in rgb[unknown][0])
    more = len(used) - 1
    raise UserError(
      f"{file}: colour {first}{f' (and {more} more)' if more else ''} belongs to no class; "
      f"{np.count_nonzero(unknown)} pixels; colour masks need one of "
      f"{_some([f'{c[0]} {tuple(c[1])}' for c in classes if c])}"
      f"{''.join(f', ignored {tuple(c)}' for c in ignored)}; mend the file or the table of "
      f"classes{hint}"
    )
  return label.astype(np.uint8)


def colors_of(stored, file):
  """u8[H,W,3], the colours in which a mask is shown."""
  if stored.values.ndim == 3:
    return stored.values
  if stored.palette is not None:
    return stored.palette[stored.values]
  if stored.values.dtype != np.uint8:
    raise UserError(f"{file}: a mask of {stored.bits} bits, expected 8 where colours count")
  return np.repeat(shown_grey(stored)[..., None], 3, -1)


def shown_grey(stored):
  """int[H,W], the grey values of a mask; those of less than 8 bits as they are shown."""
  return stored.values * np.uint8(255 // (2**stored.bits - 1)) if stored.bits < 8 else stored.values


def used_values(values):
  """Sorted distinct numbers of an integer array."""
  if values.dtype == np.uint8:
    return np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
  return np.unique(values).tolist()


def _code(rgb):
  rgb = rgb.astype(np.int32)
  return (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def _some(words, count=12):
  return ", ".join(words[:count]) + (", ..." if len(words) > count else "")
