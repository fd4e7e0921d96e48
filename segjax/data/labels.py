"""Label tables: a name and a display colour for each class; everything else derives from them."""

from __future__ import annotations

import dataclasses
import functools
import re

import numpy as np

from segjax.data import lists
from segjax.errors import UserError

IGNORE = 255  # in every label array of segjax: a pixel that is not scored


@dataclasses.dataclass(frozen=True)
class LabelTable:
  """The classes of a data set; the index in `classes` is the label value.

  Attributes:
    classes: (name, (red, green, blue)) of each class, colours in 0..255.
    own_colors: label values whose colours are the user's own, as classes.txt gives them.
    overlapping: whether a pixel may be of several classes or of none, see `label_sets`; the index
      in `classes` is then the number of a mask.
  """

  classes: tuple[tuple[str, tuple[int, int, int]], ...]
  own_colors: tuple[int, ...] = dataclasses.field(default=(), compare=False)
  overlapping: bool = False

  @property
  def names(self):
    """Class names in label order."""
    return tuple(name for name, _ in self.classes)

  @functools.cached_property
  def palette(self):
    """u8[256,3]: colour of every label value; values outside the table, ignore too, are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(self.classes)] = np.array([c for _, c in self.classes], np.uint8).reshape(-1, 3)
    return table

  def __len__(self):
    return len(self.classes)

  def colorize(self, label):
    """int[H,W] -> u8[H,W,3] in the classes' colours, ignored pixels black."""
    return self.palette[np.asarray(label).astype(np.uint8)]


def table_of(rows):
  """A table of rows (name, (red, green, blue)), whatever sequences of integers the colours are.

  >>> table_of([["road", np.array([255, 0, 1], np.uint8)]]).classes
  (('road', (255, 0, 1)),)
  """
  return LabelTable(tuple((name, tuple(map(int, color))) for name, color in rows))


def read_table(file):
  """Reads a text file with a class on each line, in the order of the label values.

  A line is `name`, `name red green blue` or `name #rrggbb`; the numbers may be parted by commas or
  tabs and stand in brackets, the name may hold blanks. Empty lines and comments after a `#` do not
  count, nor does a first line that heads the columns, `name,r,g,b`.

  Raises:
    UserError: no such file, not UTF-8, a malformed line, two classes of one name or one colour.
  """
  if not file.is_file():
    raise UserError(
      f"no {file.absolute()}; write one class per line, 'name' or 'name red green blue', in the "
      "order of the label values, or set --config.data.source.classes"
    )
  return parse_table(lists.read_lines(file), file)


def parse_table(lines, file):
  """The table of lines (number, text), see `read_table`; `file` is for the messages."""
  given = [(i, HEX.sub(_decimal, line)) for i, line in lines]
  given = [(i, line) for i, line in ((i, lists.without_comment(t)) for i, t in given) if line]
  if given and HEADER.fullmatch(given[0][1]):
    given = given[1:]
  rows = [(i, *_parse(line, file, i)) for i, line in given]
  _check_head(rows, file)
  for column, what in ((1, "name"), (2, "colour")):
    first = {}
    for row in rows:
      other = first.setdefault(row[column], row[0]) if row[column] else row[0]
      if other != row[0]:
        raise UserError(
          f"{file}, lines {other} and {row[0]}: two classes of the {what} {row[column]!r}; a "
          f"{what} stands for one class"
        )
  if len(rows) == 1 and "," in rows[0][1]:
    raise UserError(f"{file}: found {rows[0][1]!r}, expected one class per line, without commas")
  plain = default_table([row[1] for row in rows]).classes
  own = tuple(i for i, row in enumerate(rows) if row[2])
  classes = tuple((row[1], row[2] or plain[i][1]) for i, row in enumerate(rows))
  return LabelTable(classes, own)


# The first line of class_dict.csv and the like.
HEADER = re.compile(r"(?i)[\w ]+[\s,;]+(r|red)[\s,;]+(g|green)[\s,;]+(b|blue)")
COLUMNS = ("name", "names", "class", "classes", "class name", "class_name", "label", "labels")
HEX = re.compile(r"[\s,;:=]+#([0-9a-fA-F]{6})(?:[fF]{2})?\b")  # a colour, opaque
NO_NAME = re.compile(r"^[\"'].*[\"']$|[\t;]|^- |\brgba?\(?$")  # of other forms of a table
NUMBER = r"[\s,;(\[]+([^\s,;()\[\]]+)"
COLORED = re.compile(rf"(.*?)[\s,;:]*{NUMBER * 3}[\s,;)\]]*")


def _parse(line, file, number):
  """(name, (red, green, blue) or None) of a line."""
  name, color = line, None
  match = COLORED.fullmatch(line)
  if match and all(map(_is_number, match.groups()[1:])):
    name = match[1].rstrip(" \t,;:")
    color = tuple(int(v) if re.fullmatch("[0-9]{1,9}", v) else -1 for v in match.groups()[1:])
  words = re.split(r"[\s,;:]+", name.strip(" \t,;:"))
  lone = len(words) > 1 and (_is_number(words[0]) or _is_number(words[-1]))
  if NO_NAME.search(name):
    raise UserError(
      f"{file}, line {number}: found {line!r}, expected one name without quotes, tabs, semicolons "
      "and dashes before it, or 'name red green blue'"
    )
  if not name or lone or (color and not all(0 <= v <= 255 for v in color)):
    raise UserError(
      f"{file}, line {number}: found {line!r}, expected 'name' or 'name red green blue' with "
      "colours from 0 to 255; the order of the lines gives the label values, and a name neither "
      "begins nor ends with a number of its own (write _ for the blank)"
    )
  return name, color


def _decimal(match):
  """A colour in hexadecimal digits as three numbers."""
  return " ".join(["", *map(str, bytes.fromhex(match[1]))])


def _check_head(rows, file):
  """Raises a UserError for a first line that names a column, and would count as class 0."""
  if len(rows) > 1 and rows[0][1].strip("\"'").lower() in COLUMNS and not rows[0][2]:
    raise UserError(
      f"{file}, line {rows[0][0]}: found {rows[0][1]!r}, expected the name of class 0 and no head "
      "of a column; remove the line, or call the class otherwise"
    )


def _is_number(text):
  plain = text.lstrip("+-").replace(".", "").isnumeric()
  return plain or re.fullmatch("0[xX][0-9a-fA-F]+", text) is not None


def default_table(names):
  """A table for classes without colours of their own: black, then evenly spread hues.

  Args:
    names: class names in label order.
  """
  import colorsys

  n = max(len(names) - 1, 1)
  colors = [(0, 0, 0)] + [
    tuple(int(255 * v) for v in colorsys.hsv_to_rgb(i / n, (1, 0.75)[i % 2], 1 if i % 3 else 0.7))
    for i in range(n)
  ]
  return table_of(zip(names, colors, strict=False))
