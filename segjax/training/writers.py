"""Where scalars and pictures go: TensorBoard by CLU, `metrics.jsonl`, PNG files."""

from __future__ import annotations

import io
import json
import math
import struct

import numpy as np

from segjax.config import replace_text
from segjax.errors import choose
from segjax.training.background import Background

PNG_SIZE = 16  # where a PNG file tells its width and height


def finite(values):
  """dict of name -> float, None in place of nan and infinity, which JSON does not have."""
  return {k: (float(v) if math.isfinite(v) else None) for k, v in values.items()}


class JsonLines:
  """Appends a line a step to `metrics.jsonl`; nan and infinity are written as null.

  Rows after `first_step`, which a killed run wrote after the checkpoint it resumes from, and a
  torn last line are dropped.
  """

  def __init__(self, workdir, first_step):
    path = workdir / "metrics.jsonl"
    rows = read_metrics(path) if first_step else []
    kept = [row for row in rows if row["step"] <= first_step]
    replace_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    self._file = path.open("a")

  def scalars(self, step, values):
    """Writes dict of name -> float."""
    self._file.write(json.dumps(dict(step=step) | finite(values)) + "\n")
    self._file.flush()

  def hparams(self, values):
    """Hyper-parameters stand in config.json already."""

  def images(self, step, images):
    """JSON lines hold no pictures."""

  def close(self):
    """Closes the file."""
    self._file.close()


class Clu:
  """CLU's TensorBoard writer beside the steps; the only place that imports TensorFlow."""

  def __init__(self, workdir, first_step):
    del first_step
    from clu import metric_writers
    from tensorboard.plugins.image.metadata import create_summary_metadata

    self._writer = metric_writers.SummaryWriter(str(workdir))
    self._picture = create_summary_metadata(display_name=None, description=None)
    self._thread = Background("tensorboard")

  def scalars(self, step, values):
    """Writes dict of name -> float."""
    self._thread.submit(self._writer.write_scalars, step, values)

  def hparams(self, values):
    """Writes dict of name -> int, float, str or bool."""
    plain = (int, float, str, bool)
    told = {k: v if isinstance(v, plain) else str(v) for k, v in values.items()}
    self._thread.submit(self._writer.write_hparams, told)

  def images(self, step, images):
    """Writes dict of name -> PNG file, as it is: `write_images` would take arrays and encode."""
    values = {}
    for name, png in images.items():
      size = (b"%d" % side for side in struct.unpack_from(">II", png, PNG_SIZE))
      values[name] = np.array([*size, png], object)
    self._thread.submit(
      self._writer.write_summaries, step, values, dict.fromkeys(values, self._picture)
    )

  def close(self):
    """Flushes and closes the event file."""
    try:
      self._thread.wait()
    finally:
      self._thread.close()
      self._writer.close()


class Pictures:
  """Writes `images/<name>_<step>.png`."""

  def __init__(self, workdir, first_step):
    del first_step
    self._folder = workdir / "images"

  def scalars(self, step, values):
    """PNG files hold no scalars."""

  def hparams(self, values):
    """PNG files hold no hyper-parameters."""

  def images(self, step, images):
    """Writes dict of name -> PNG file."""
    self._folder.mkdir(exist_ok=True)
    for name, png in images.items():
      file = self._folder / f"{name.replace('/', '_')}_step{step:06d}.png"
      file.write_bytes(png)

  def close(self):
    """Every picture is written at once."""


WRITERS = {"clu": Clu, "pictures": Pictures}


class Writers:
  """Sends everything to `metrics.jsonl` and to each of the named writers."""

  def __init__(self, names, workdir, *, first_step=0):
    kinds = [choose(WRITERS, name, "writer") for name in names]
    self._writers = [kind(workdir, first_step) for kind in (JsonLines, *kinds)]

  def scalars(self, step, values):
    """Writes dict of name -> float."""
    for writer in self._writers:
      writer.scalars(step, values)

  def hparams(self, values):
    """Writes dict of name -> value."""
    for writer in self._writers:
      writer.hparams(values)

  def images(self, step, images):
    """Writes dict of name -> u8[H,W,3]; each is encoded once for all writers."""
    files = {name: _png(image) for name, image in images.items()}
    for writer in self._writers:
      writer.images(step, files)

  def close(self):
    """Closes all."""
    for writer in self._writers:
      writer.close()


def _png(image):
  from PIL import Image

  file = io.BytesIO()
  Image.fromarray(np.asarray(image)).save(file, "PNG", compress_level=2)  # half the default's time
  return file.getvalue()


def read_metrics(file):
  """Rows of a `metrics.jsonl`, as dicts; none without the file; a torn last line is left out."""
  rows = []
  for line in file.read_text().splitlines() if file.exists() else ():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
