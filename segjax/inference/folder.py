"""The folder that prediction writes: pictures and their table, in place of no file of others."""

from __future__ import annotations

import codecs
import contextlib
import csv
import errno
import io
import itertools
import os
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from segjax import textfiles
from segjax.errors import UserError, writing
from segjax.inference import geotiff, png

TABLE = "predictions.csv"
LEGEND = "legend.png"  # of the classes' colours
COLUMNS = ["file", "width", "height"]  # before those of the classes
LONGEST = 255  # bytes in the name of a file
PROBABILITIES = "probabilities"  # in an .npz file
# Of older versions, which did not mark their pictures: ours where the image has a row.
UNMARKED = ("index.png", "color.png", "overlay.png", "colorized.png", "output.png")
ENDS = 2**16  # bytes at both ends of a video among which our mark is looked for


class Predictions:
  """A folder of pictures and their table, predictions.csv.

  The table has a row for each image whose pictures lie in the folder, those of earlier predictions
  too. A row is written before the pictures appear, so that the table is complete at any time. Names
  of images are paths with "/", in whose folders the pictures lie too.

  Attributes:
    folder: path.
    rows: {name of the image: row}, of earlier predictions and of this one.
  """

  def __init__(self, folder: Path, inputs: tuple[Path, ...] = ()):
    """Reads the table that is there.

    Args:
      folder: path.
      inputs: files that are predicted and never written to.

    Raises:
      UserError: there is one that prediction did not write.
    """
    self.folder, self._file = Path(folder), Path(folder) / TABLE
    self._columns, self.rows, self._messy = _read_table(self._file)
    self._earlier, self._owners = frozenset(self.rows), {}  # beginning of pictures: image
    self._inputs = {file.resolve() for file in inputs}
    for name in self.rows:  # in the order of the rows, as they were given out
      _base(name, self._owners)

  def begin(self, names, kinds, classes):
    """Checks that nothing of the user's would be replaced.

    Args:
      names: names of the images, in order.
      kinds: kinds of pictures with the ending of their files, such as "index.png", or with a folder
        of their own, "masks/road/*.png".
      classes: columns of the table.

    Raises:
      UserError: the table is of other classes, or there is a file that prediction did not write.
    """
    columns = [*COLUMNS, *classes]
    if self.rows and self._columns != columns:
      before, now = (", ".join(c[len(COLUMNS) :]) or "none" for c in (self._columns, columns))
      raise UserError(
        f"{self._file} is of predictions with other classes ({before}; now {now}); choose another "
        "--output, or remove the old results"
      )
    self._columns, owners = columns, dict(self._owners)
    for name in names:
      base = _base(name, owners)
      for kind in kinds:
        self._path(name, base, kind)

  def _path(self, name, base, kind):
    """The file of a kind, which may be written; "*" in a kind stands for the image."""
    file = self.folder / (kind.replace("*", base) if "*" in kind else f"{base}_{kind}")
    if len(os.fsencode(file.name)) > LONGEST:
      raise UserError(f"{name[:40]}...: too long a name, as {kind} is added to it; shorten it")
    if not os.path.lexists(file):
      return file
    if file.resolve() in self._inputs:
      raise UserError(f"{file} is one of the images; choose another --output")
    if name not in self._earlier or kind not in UNMARKED:
      _check_ours(file)
    return file

  def add_legend(self, picture):
    """Writes u8[H,W,3], the legend of the pictures' colours.

    Raises:
      UserError: a file of its name is there that prediction did not write.
    """
    file = self.folder / LEGEND
    _check_ours(file)

    def write(part):
      writer = png.PngWriter(part, picture.shape[1], picture.shape[0], picture)
      with contextlib.closing(writer):
        writer.write(picture)
        writer.finish()

    with writing(file):
      textfiles.replace(file, write)

  def add(self, name, size, blocks, shares, georeference=()):
    """Writes the row and the files of an image that `begin` was given.

    Args:
      name: name of the image.
      size: (width, height), pixels.
      blocks: iterator of {kind with ending: the next rows}; u8 and u16 become PNG, or TIFF by the
        ending, f32 .npz, and a path is a file that is written already.
      shares: function without arguments, called at the end: {class: share}.
      georeference: of the kinds that end on .tif, see `tiffs.georeference`.

    Raises:
      UserError: an image that cannot be read to its end; the disk is full, or the folder cannot be
        written to. The image then has neither row nor files.
    """
    base, parts, writers = _base(name, self._owners), {}, {}
    try:
      for block in blocks:
        for kind, rows in block.items():
          if kind not in parts:
            file = self._path(name, base, kind)
            with writing(file):
              file.parent.mkdir(parents=True, exist_ok=True)
              part = self._part(file, len(parts), rows)
              parts[kind] = part, file
              if part is not rows:
                writers[kind] = _writer(part, size, rows, file, georeference)
          if kind in writers:
            with writing(parts[kind][1]):
              writers[kind].write(rows)
      for kind, writer in writers.items():
        with writing(parts[kind][1]):
          writer.finish()
          writer.close()
      self._append([name, *size, *(f"{s:.6f}" for s in shares().values())])
      for part, file in parts.values():
        with writing(file):
          part.replace(file)
    finally:
      for writer in writers.values():
        with contextlib.suppress(OSError):
          writer.close()
      for part, _ in parts.values():
        part.unlink(missing_ok=True)

  def _part(self, file, number, rows):
    """A file's name until it is whole; short, as the name of a file may be as long as can be."""
    return rows if isinstance(rows, Path) else file.with_name(f".{os.getpid()}_{number}.part")

  def _append(self, row):
    """Appends a row to the table, or leaves it as it is where the disk is full."""
    with writing(self._file):
      if not self.rows:  # another process may have begun the table
        _, self.rows, self._messy = _read_table(self._file)
      if self._messy or not self.rows:
        self._replace()
      data = _table([row])
      with self._file.open("ab", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        if file.write(data) != len(data):
          file.truncate(length)
          raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    self.rows[row[0]] = row

  def _replace(self):
    data = _table([self._columns, *self.rows.values()])
    textfiles.replace(self._file, lambda part: part.write_bytes(data))
    self._messy = False

  def close(self):
    """Leaves one row of each image, the newest; rows that another process wrote meanwhile stay."""
    _, found, self._messy = _read_table(self._file)
    if self._messy:
      self.rows = found
      with writing(self._file):
        self._replace()


# ---------------------------------------------------------------------------- names, table


def _base(name, owners):
  """Where an image's files begin: its name without ending, else with it, or with a number.

  Args:
    name: name of the image.
    owners: {beginning: name of the image that has it}; this one's is added.
  """
  path = PurePosixPath(name)
  choices = itertools.chain(
    (str(path.with_name(path.stem)), name), (f"{name}_{k}" for k in itertools.count(2))
  )
  return next(c for c in choices if owners.setdefault(c, name) == name)


def _read_table(file):
  """Reads a table of predictions.

  Returns:
    (columns, {name: row}, whether a row is torn or an image has several); (None, {}, False) where
    there is none. Of several rows of an image the last counts.
  """
  if file.exists() and not file.is_file():
    raise UserError(f"{file} is there already and is no file; choose another --output")
  data = file.read_bytes() if file.exists() else b""
  if not data.removeprefix(codecs.BOM_UTF8).strip():
    return None, {}, False
  try:
    text = data.decode("utf-8-sig", "surrogateescape")
    columns, *rows = csv.reader(io.StringIO(text, newline=""))
  except csv.Error:
    columns, rows = [], []
  if columns[: len(COLUMNS)] != COLUMNS:
    raise UserError(
      f"{file} is there already and not a table of predict.py (it would begin with "
      f"{','.join(COLUMNS)}); choose another --output"
    )
  torn = not data.endswith(b"\n")
  whole = {}
  for name, *rest in rows[: len(rows) - torn]:
    if len(rest) == len(columns) - 1:
      whole[name.removeprefix("./")] = [name.removeprefix("./"), *rest]
  return columns, whole, len(whole) < len(rows) or torn


def holds_results(folder):
  """Whether a folder holds the table of a prediction."""
  try:
    with (folder / TABLE).open("rb") as file:
      return file.read(100).removeprefix(codecs.BOM_UTF8).startswith(",".join(COLUMNS).encode())
  except OSError:
    return False


def _table(rows):
  """Rows as CSV, in bytes; "./" stands before names that a spreadsheet would take for formulas.

  Names stay names of files that way: "./=a.png" is "=a.png".
  """
  text = io.StringIO(newline="")
  writer = csv.writer(text, lineterminator="\n")
  for name, *rest in rows:
    writer.writerow([f"./{name}" if name.startswith(textfiles.FORMULA) else name, *rest])
  return textfiles.to_bytes(text.getvalue())


# ---------------------------------------------------------------------------- files


def _writer(part, size, rows, file, georeference):
  """A writer of rows: of a TIFF by the ending, of an .npz file for f32[n,W,C], else of a PNG."""
  if file.suffix == ".tif":
    return geotiff.GeoTiffWriter(part, *size, rows, georeference)
  make = NpzWriter if rows.dtype == np.float32 else png.PngWriter
  return make(part, *size, rows)


class NpzWriter:
  """Writes f32[H,W,C] from top to bottom as the array "probabilities" of an .npz file."""

  def __init__(self, file, width, height, rows):
    self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
    self._zip.comment = png.MARK[1].encode()
    self._entry = self._zip.open(f"{PROBABILITIES}.npy", "w", force_zip64=True)
    shape = (height, width, rows.shape[-1])
    header = dict(descr=np.lib.format.dtype_to_descr(rows.dtype), fortran_order=False, shape=shape)
    np.lib.format.write_array_header_2_0(self._entry, header)

  def write(self, rows):
    """Writes the next rows, f32[n,W,C]."""
    self._entry.write(np.ascontiguousarray(rows).data)

  def finish(self):
    """Writes the end."""
    self._entry.close()
    self._zip.close()

  def close(self):
    """Closes the file."""
    if not self._entry.closed:
      self._entry.close()
    self._zip.close()


def _check_ours(file):
  """Raises a UserError where a file is there that prediction did not write."""
  if (file.exists() or file.is_symlink()) and not is_marked(file):
    raise UserError(
      f"{file} is there already and not a result of predict.py; choose another --output"
    )


def is_marked(file: Path) -> bool:
  """Whether a file says that prediction wrote it."""
  try:
    if file.suffix == ".npz":
      with zipfile.ZipFile(file) as archive:
        return archive.comment == png.MARK[1].encode()
    if file.suffix == ".tif":
      return geotiff.is_marked(file)
    if file.suffix == ".mp4":
      with file.open("rb") as video:
        head = video.read(ENDS)
        video.seek(max(video.seek(0, os.SEEK_END) - ENDS, 0))
        return png.MARK[1].encode() in head + video.read()
    return png.is_marked(file)
  except (OSError, zipfile.BadZipFile):
    return False
