"""The meaning of values and colours in a user's own masks, decided by the masks where it is open.

Grey 255 is ignored in one set, the class of a binary mask in another, and the colour of a class in
a third. What a set's masks hold, all of them, says which it is:

- Grey masks hold numbers of classes. Where classes.txt gives greys, and the grey masks of both
  splits hold these alone, they hold colours.
- Palette masks hold numbers. Where classes.txt gives colours, and all that a mask uses are among
  them, its colours count; if some are and stand for another class than the index, it is an error.
- RGB masks hold the colours of classes.txt. Where it gives none, a mask whose channels are equal
  holds numbers, saved as RGB.
- In a set of two classes whose masks, in both splits, hold 0 and 255 alone, 255 is class 1.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from segjax.data import decoding, georeferences, masks
from segjax.data.labels import IGNORE, LabelTable
from segjax.data.threads import map_threads
from segjax.errors import UserError

THREADS = 4  # that read masks
CHUNK = 64  # masks that are read before the next decision
WHITE = 255


@dataclasses.dataclass(frozen=True)
class Meaning:
  """How the masks of a set are read.

  Attributes:
    labels: label table; its `own_colors` alone stand for classes, if it has some.
    values: {number in a file: label}.
    ignored: colours of RGB masks that are not scored.
    by_grey: grey masks hold the classes' colours, not their numbers.
    binary: masks hold 0 and 255 alone, classes 0 and 1.
  """

  labels: LabelTable
  values: dict[int, int]
  ignored: tuple[tuple[int, int, int], ...] = ()
  by_grey: bool = False
  binary: bool = False

  @property
  def colors(self):
    """{(red, green, blue): label} of the user's own colours and of those that are ignored."""
    own = {self.labels.classes[i][1]: i for i in self.labels.own_colors}
    return own | dict.fromkeys(self.ignored, IGNORE)

  @property
  def greys(self):
    """{grey value: label} of those of `colors` that are grey."""
    return {c[0]: i for c, i in self.colors.items() if len(set(c)) == 1}


def decide(labels, values, ignored, mask_files, where):
  """Finds out how masks are read; looks at them where the table leaves it open.

  Args:
    labels: LabelTable.
    values: {number in a file: label}, if numbers count.
    ignored: colours of RGB masks that are not scored.
    mask_files: mask files of both splits.
    where: name of their folder, for the note.

  Returns:
    (Meaning, notes: sentences about a decision that may surprise).
  """
  meaning = Meaning(labels, values, ignored)
  greys, names = meaning.greys, labels.names
  own = any(i != IGNORE for i in greys.values())
  stamps = functools.cache(lambda: tuple(sorted(_stamp(f) for f in mask_files)))
  if own and any(values.get(g) != i for g, i in greys.items()):
    known = {g for g, i in greys.items()} | {v for v, i in values.items() if i == IGNORE}
    if _union(stamps(), _shown_greys, frozenset(known)):
      said = ", ".join(f"{g} is {names[i]}" for g, i in greys.items() if i != IGNORE)
      note = f"grey masks in {where}/ are read by the colours of classes.txt: {said}"
      return dataclasses.replace(meaning, by_grey=True), (note,)
  plain = len(labels) == 2 and (values.get(0), values.get(1)) == (0, 1) and WHITE not in greys
  look = _grey_numbers if labels.own_colors else _numbers
  both = frozenset({0, WHITE})
  if plain and _union(stamps(), look, both) == both:  # 255 alone does not show its meaning
    note = f"masks in {where}/ hold 0 and 255 alone: 255 is read as 1, {names[1]!r}, not ignored"
    return dataclasses.replace(meaning, binary=True), (note,)
  return meaning, ()


def read(file, meaning):
  """A mask file -> labels.

  Args:
    file: path.
    meaning: result of `decide` for the set.

  Returns:
    u8[H,W].

  Raises:
    UserError: damaged file; a number or colour that stands for nothing, or for two things.
  """
  stored, labels = decoding.read_stored(file), meaning.labels
  negative = [v for v, i in meaning.values.items() if i == IGNORE and v < 0]
  if negative and not stored.signed:
    raise UserError(
      f"{file}: ignore_value is {negative[0]}, but the file holds no negative values; set "
      "ignore_value to the value that it has in the files"
    )
  values = meaning.values
  if stored.values.ndim == 3:
    grey = _one_channel(stored.values)
    if labels.own_colors or grey is None:
      return _by_colors(stored, file, meaning, grey)
    stored = dataclasses.replace(stored, values=grey)  # numbers, saved as RGB
    values = values | {c[0]: IGNORE for c in meaning.ignored if len(set(c)) == 1}
  elif stored.palette is not None and labels.own_colors:
    return _by_palette(stored, file, meaning)
  if meaning.binary:
    values = {0: 0, 1: 1} if _has_two_tones(stored) else {0: 0, WHITE: 1, 2**stored.bits - 1: 1}
  elif stored.is_grey and meaning.by_grey:
    ignored = {v: i for v, i in values.items() if i == IGNORE}
    stored = dataclasses.replace(stored, values=masks.shown_grey(stored), bits=8)
    values = ignored | meaning.greys
  elif stored.is_grey:
    _require_one_meaning(stored, file, meaning)
  elif stored.palette is not None:
    _require_indices(stored, file, meaning)
  return masks.by_values(stored, file, labels, values, lambda: _hint(stored, meaning, file))


def _by_colors(stored, file, meaning, grey):
  own = meaning.labels.own_colors
  classes = [c if not own or i in own else None for i, c in enumerate(meaning.labels.classes)]
  hint = "; colours that are not scored go into data.source.ignore_colors"
  if grey is not None:
    hint = "; if it holds numbers of classes, save it as a grey image"
  return masks.by_colors(stored, file, classes, meaning.ignored, hint=hint)


def _by_palette(stored, file, meaning):
  """By the colours of the palette where all that are used are the table's, else by index."""
  colors, by_color, by_index = meaning.colors, {}, meaning.values
  for v in masks.used_values(stored.values):
    color = tuple(stored.palette[v].tolist())
    by_color[v] = colors.get(color, IGNORE if by_index.get(v) == IGNORE else None)
  differ = [v for v, i in by_color.items() if i is not None and i != by_index.get(v)]
  unknown = [v for v, i in by_color.items() if i is None]
  if differ and (unknown or stored.hidden[differ].any()):
    v = differ[0]
    color = tuple(stored.palette[v].tolist())
    why = "is transparent"
    if unknown:
      why = f"is another class, and colour {tuple(stored.palette[unknown[0]].tolist())} is none"
    raise UserError(
      f"{file}: the palette's colour {color} stands for "
      f"{_name(meaning.labels, by_color[v])}, its index {v} {why}; give the palette the colours of "
      "classes.txt (or set ignore_colors), or leave the colours out of classes.txt if indices count"
    )
  values = by_color
  if unknown:
    _require_indices(stored, file, meaning)
    values = by_index
  return masks.by_values(stored, file, meaning.labels, values, lambda: _hint(stored, meaning, file))


def _require_one_meaning(stored, file, meaning):
  """Raises a UserError for a grey value that is ignored and the colour of a class."""
  for v, label in meaning.greys.items():
    if label != IGNORE and meaning.values.get(v) == IGNORE and (stored.values == v).any():
      raise UserError(
        f"{file}: the value {v} is ignore_value and the grey of the class "
        f"{meaning.labels.names[label]!r} in classes.txt, and not all masks hold the classes' "
        "greys; set ignore_value to another value, or leave the colours out of classes.txt"
      )


def _require_indices(stored, file, meaning):
  """Raises a UserError for a palette of greys that are other class numbers than their indices.

  Tools that save a grey image as GIF, or make a PNG smaller, number the greys that occur anew.
  """
  used = masks.used_values(stored.values)
  greys = {v: int(stored.palette[v][0]) for v in used}
  if any(len(set(stored.palette[v].tolist())) > 1 for v in used):
    return
  meant = {v: meaning.values.get(g) for v, g in greys.items()}
  differ = [v for v, i in meant.items() if i not in (None, IGNORE, meaning.values.get(v))]
  if None not in meant.values() and any(greys[v] for v in differ):
    v = next(v for v in differ if greys[v])
    raise UserError(
      f"{file}: index {v} of the palette has the grey {greys[v]}, and both are numbers of classes: "
      "it is not clear which one counts; save the mask as a grey PNG"
    )


def _hint(stored, meaning, file):
  """The likely cause of numbers outside the table, a sentence."""
  missing = georeferences.missing(file)
  if missing is not None and missing not in meaning.values and (stored.values == missing).any():
    number = f"{missing:.0f}" if float(missing).is_integer() else f"{missing:g}"
    return (
      f"; the file declares {number} as missing (GDAL_NODATA): "
      f"--config.data.source.ignore_value={number} leaves it out"
    )
  used = masks.used_values(stored.values)
  count = len(meaning.labels)
  if meaning.binary:
    return "; the set's masks held 0 and 255 alone, which were read as classes 0 and 1"
  if used[0] == 1 and used[-1] == count and meaning.values.get(0) == 0:
    return "; for values that count from 1 set --config.data.source.shift=-1"
  if len(used) <= count + 1 and used[-1] > count and WHITE not in meaning.greys:
    return "; if grey levels stand for classes, give classes.txt their colours: name grey grey grey"
  return ""


def _has_two_tones(stored):
  """Whether a file stores black and white as 0 and 1: of 1 bit, or with such a palette."""
  if stored.palette is None:
    return stored.bits == 1
  return stored.palette[:2].tolist() == [[0] * 3, [255] * 3] and stored.values.max() <= 1


def _name(labels, label):
  return "ignored pixels" if label == IGNORE else repr(labels.names[label])


def _one_channel(rgb):
  """u8[H,W] where the three channels are equal everywhere, else None."""
  red = rgb[..., 0]
  same = np.array_equal(red, rgb[..., 1]) and np.array_equal(red, rgb[..., 2])
  return np.ascontiguousarray(red) if same else None


# ---------------------------------------------------------------------------- a look at all masks


def _stamp(file):
  """A key for the values seen in a file: its path, size and time."""
  try:
    status = file.stat()
  except OSError:
    return str(file), 0, 0
  return str(file), status.st_size, status.st_mtime_ns


def _numbers(file, *, grey=False):
  """Numbers that a mask holds, its whitest as 255; none of colours, nor of two tones.

  Args:
    file: path.
    grey: palette and RGB masks say nothing either.
  """
  stored = decoding.read_stored(file)
  if grey and not stored.is_grey:
    return ()
  values = stored.values if stored.values.ndim == 2 else _one_channel(stored.values)
  if values is None or _has_two_tones(stored):
    return ()
  used = masks.used_values(values)
  return [WHITE if v == 2**stored.bits - 1 else v for v in used]


_grey_numbers = functools.partial(_numbers, grey=True)


def _shown_greys(file):
  """Grey values of a grey mask as they are shown, else none."""
  stored = decoding.read_stored(file)
  return masks.used_values(masks.shown_grey(stored)) if stored.is_grey else ()


@functools.lru_cache(maxsize=16)
def _union(stamps, look, known):
  """All numbers of all masks; none where a mask holds another one than `known`.

  Args:
    stamps: stamps of the masks.
    look: file -> numbers; a file that is broken counts when it is read.
    known: set of numbers.
  """

  def safe(i):
    try:
      return look(stamps[i][0])
    except UserError:
      return ()

  union = set()
  for start in range(0, len(stamps), CHUNK):
    part = range(start, min(start + CHUNK, len(stamps)))
    union.update(*map_threads(lambda i: safe(part[i]), len(part), THREADS))  # noqa: B023
    if not union <= known:
      return frozenset()
  return frozenset(union)
