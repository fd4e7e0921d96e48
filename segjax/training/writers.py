"""Where scalars and pictures go: `metrics.jsonl`, PNG files, TensorBoard, Weights & Biases.

A writer is made with the workdir and the step that the run resumes from. Its `pictures` say which
it takes: "sheets" of several examples, one file per evaluation; "single" ones, for programs that
show a picture by itself; or None.
"""

from __future__ import annotations

import io
import json
import math
import sys
import zlib

import numpy as np

from segjax import hosts, textfiles
from segjax.errors import choose, writing
from segjax.training import wandb_writer
from segjax.training.tensorboard import Clu

CRC = "crc"  # of a row of metrics.jsonl; rows of older versions have none


def finite(values):
  """dict of name -> float, None in place of nan and infinity, which JSON does not have."""
  return {k: (float(v) if math.isfinite(v) else None) for k, v in values.items()}


def _line(row):
  """A row as a line of JSON that ends with a checksum of what stands before it."""
  return json.dumps(row | {CRC: _checksum(row)}) + "\n"


def _checksum(row):
  """CRC-32 of a row as JSON, in hexadecimal digits."""
  return f"{zlib.crc32(json.dumps(row).encode()):08x}"


class JsonLines:
  """Appends a line for each step to `metrics.jsonl`; nan and infinity are written as null.

  The last field of a line, "crc", is a CRC-32 of the row without it, in hexadecimal digits.

  Rows after `first_step`, which a killed run wrote after the checkpoint it resumes from, and
  damaged lines are dropped.
  """

  pictures = None

  def __init__(self, workdir, first_step):
    path = workdir / "metrics.jsonl"
    rows = _parse_rows(path)[0] if first_step else []
    kept = [row for row in rows if row["step"] <= first_step]
    textfiles.replace_text(path, "".join(map(_line, kept)))
    self._file = path.open("a", encoding="utf-8")

  def scalars(self, step, values):
    """Writes dict of name -> float."""
    self._file.write(_line(dict(step=step) | finite(values)))
    self._file.flush()

  def hparams(self, values, metrics):
    """Hyper-parameters stand in config.json already."""

  def close(self):
    """Closes the file."""
    self._file.close()


class Pictures:
  """Writes `images/<name>_step<step>.png`."""

  pictures = "sheets"

  def __init__(self, workdir, first_step):
    del first_step
    self._folder = workdir / "images"

  def scalars(self, step, values):
    """PNG files hold no scalars."""

  def hparams(self, values, metrics):
    """PNG files hold no hyper-parameters."""

  def images(self, step, images):
    """Writes dict of name -> PNG file."""
    self._folder.mkdir(exist_ok=True)
    for name, png in images.items():
      file = self._folder / f"{name.replace('/', '_')}_step{step:06d}.png"
      file.write_bytes(png)

  def close(self):
    """Every picture is written at once."""


WRITERS = {"clu": Clu, "pictures": Pictures, "wandb": wandb_writer.Wandb}


def check(names):
  """Raises a UserError for an unknown writer, or one whose package is not installed."""
  for name in names:
    choose(WRITERS, name, "writer")
  if "wandb" in names:
    wandb_writer.load()


class Writers:
  """Sends everything to `metrics.jsonl` and to each of the named writers, in the first process.

  Each method raises a UserError where the folder cannot be written to.
  """

  def __init__(self, names, workdir, *, first_step=0):
    kinds = [choose(WRITERS, name, "writer") for name in names]
    self._workdir, self._writers, self._kinds = workdir, [], kinds
    with self._writing():
      for kind in (JsonLines, *kinds) if hosts.is_first() else ():
        self._writers.append(kind(workdir, first_step))

  def _writing(self):
    return writing(f"to {self._workdir.absolute()}")

  def takes(self, kind):
    """Whether a writer, in whatever process, takes pictures of a kind, "sheets" or "single"."""
    return any(w.pictures == kind for w in self._kinds)

  def scalars(self, step, values):
    """Writes dict of name -> float."""
    with self._writing():
      for writer in self._writers:
        writer.scalars(step, values)

  def hparams(self, values, metrics):
    """Writes what a run is made of.

    Args:
      values: dict of name -> value: the fields of the config, and figures of the run.
      metrics: names of the scalars that runs are judged by.
    """
    values = {k: textfiles.shown(v) if isinstance(v, str) else v for k, v in values.items()}
    with self._writing():
      for writer in self._writers:
        writer.hparams(values, metrics)

  def images(self, step, *, sheets, single):
    """Writes pictures, each to the writers that take its kind; it is encoded once for all.

    Args:
      step: that they are of.
      sheets: dict of name -> u8[H,W,3], many examples each.
      single: dict of name -> u8[H,W,3], one example, or another picture of the run.
    """
    for kind, images in (("sheets", sheets), ("single", single)):
      takers = [w for w in self._writers if w.pictures == kind]
      files = {name: _png(image) for name, image in images.items()} if takers else {}
      with self._writing():
        for writer in takers:
          writer.images(step, files)

  def close(self):
    """Closes all."""
    with self._writing():
      for writer in self._writers:
        writer.close()


def _png(image):
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(np.asarray(image)).save(file, "PNG", compress_level=2)  # half the default's time
  return file.getvalue()


def read_metrics(file):
  """Rows of a `metrics.jsonl`, as dicts without their checksums; none without the file.

  A last line that a kill has torn is left out; other damaged lines are reported and skipped.
  """
  rows, damaged = _parse_rows(file)
  if damaged:
    lines = ", ".join(map(str, damaged))
    print(f"warning: {file}: damaged, skipped: line {lines}", file=sys.stderr)
  return rows


def _parse_rows(file):
  """(rows, numbers of damaged lines) of a `metrics.jsonl`."""
  rows, damaged = [], []
  lines = (file.read_bytes() if file.exists() else b"").split(b"\n")
  for number, line in enumerate(lines, 1):
    row = _parse_row(line)
    torn = number == len(lines) and b"}" not in line  # by a kill while it was written
    if row is not None:
      rows.append(row)
    elif line.strip() and not torn:
      damaged.append(number)
  return rows, damaged


def _parse_row(line):
  """The row of a line; None where it is not one, or not the one that was written."""
  try:
    row = json.loads(line.decode("utf-8"))
  except (ValueError, RecursionError):
    return None
  if not isinstance(row, dict) or type(row.get("step")) is not int:
    return None
  crc = row.pop(CRC, None)
  plain = all(v is None or type(v) in (int, float) for v in row.values())
  return row if plain and crc in (None, _checksum(row)) else None
