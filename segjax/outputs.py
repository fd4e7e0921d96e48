"""The files of evaluation and prediction, which never replace files of others."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import itertools
import os
import re
from pathlib import Path

from PIL import Image, PngImagePlugin

from segjax import hosts, inference, legends, textfiles
from segjax.data import sources
from segjax.errors import UserError, writing
from segjax.stopping import STOP
from segjax.training import coverage, input_pipeline
from segjax.training.evaluation import evaluate
from segjax.training.writers import finite

TABLE = "predictions.csv"
LEGEND, LEGEND_WIDTH = "legend.png", 600  # of the classes' colours; pixels
COLUMNS = ["file", "width", "height"]  # before those of the classes
MARK = ("Software", "segjax")  # text in each picture
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # that a cell of a spreadsheet begins with
SHOWN = 5  # classes in the line of an image


# ---------------------------------------------------------------------------- evaluation


def evaluate_run(workdir, experiment, state, data, split):
  """Evaluates a run on a split, and writes the scalars to a file of its folder.

  The file is evaluation_<split>_<step>.json, for other data than those of the training
  evaluation_<split>_<step>_<folder>_<digest>.json, so that neither replaces the other.

  Args:
    workdir: folder of the run.
    experiment: Experiment, from `restore`.
    state: TrainState, from `restore`.
    data: RunData.
    split: its name.

  Returns:
    (sums, path): the task's statistics, and the file.

  Raises:
    UserError: no label of the split is scored, or the file cannot be written.
  """
  batches = input_pipeline.eval_batches(experiment.config, data.source)
  sums = evaluate(experiment.eval_step(), state, batches, experiment.eval_mesh())
  for warning in coverage.of_sums(split, experiment.labels.names, sums):
    print(f"  warning: {warning}")
  step = int(state.step)
  file = Path(workdir) / f"evaluation_{split}_{step}{_suffix(data)}.json"
  about = dict(
    step=step,
    checkpoint=f"checkpoints/{step}",
    split=split,
    examples=len(data.source),
    data=experiment.config.data.source.name,
    folder=data.folder,
    digest=data.digest,
    as_at_training=not data.changed,
  )
  if not hosts.is_first():
    return sums, file
  with writing(file):
    textfiles.write_state(file, about | finite(experiment.task.summary(sums)), indent=2)
  return sums, file


def _suffix(data):
  """Suffix of the file that evaluates other data than the run's own; empty for its own."""
  if not data.changed:
    return ""
  name = re.sub(r"[^\w-]+", "_", Path(data.folder).name)[:40]
  return f"_{name}_{data.digest[:8]}" if name else f"_{data.digest[:8]}"


# ---------------------------------------------------------------------------- prediction


def check_folders(given, output):
  """Raises a UserError where the results would lie among the images that are predicted.

  Args:
    given: an image, or a folder of images.
    output: folder of the results, which may not exist yet.
  """
  folder = given.parent if given.is_file() else given
  if folder.is_dir() and output.is_dir() and folder.samefile(output):
    raise UserError(
      f"--output={output} is the folder of the images: the next prediction would take the results "
      "for images; choose another folder"
    )


class Predictions:
  """A folder of pictures and their table, predictions.csv.

  The table has a row for each image whose pictures lie in the folder, those of earlier predictions
  too. A row is written before the pictures appear, so that the table is complete at any time.

  Attributes:
    folder: path.
    rows: {name of the image: row}, of earlier predictions and of this one.
  """

  def __init__(self, folder):
    """Reads the table that is there.

    Raises:
      UserError: there is one that prediction did not write.
    """
    self.folder, self._file = Path(folder), Path(folder) / TABLE
    self._columns, self.rows, self._messy = _read_table(self._file)
    self._earlier, self._owners = frozenset(self.rows), {}  # beginning of pictures: image
    for name in self.rows:  # in the order of the rows, as they were given out
      _base(name, self._owners)

  def begin(self, names, kinds, classes):
    """Checks that nothing of the user's would be replaced.

    Args:
      names: names of the image files, in order.
      kinds: kinds of pictures, such as "index".
      classes: columns of the table.

    Raises:
      UserError: the table is of other classes, or there is a picture that prediction did not write.
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
      self._check_free(name, _base(name, owners), kinds)

  def _check_free(self, name, base, kinds):
    for kind in kinds:
      if name not in self._earlier:
        _check_ours(self._picture(base, kind))

  def _picture(self, base, kind):
    return self.folder / f"{base}_{kind}.png"

  def add_legend(self, picture):
    """Writes u8[H,W,3], the legend of the pictures' colours.

    Raises:
      UserError: a file of its name is there that prediction did not write.
    """
    file = self.folder / LEGEND
    _check_ours(file)
    with writing(file):
      textfiles.replace(file, lambda part: _save(picture, part))

  def add(self, name, size, pictures, shares):
    """Writes the row and the pictures of an image that `begin` was given.

    Args:
      name: name of the image file.
      size: (width, height), pixels.
      pictures: {kind: u8[H,W] or u8[H,W,3]}.
      shares: {class: share}.

    Raises:
      UserError: the disk is full, or the folder cannot be written to; the image then has neither
        row nor pictures.
    """
    base = _base(name, self._owners)
    self._check_free(name, base, pictures)
    row = [name, *size, *(f"{s:.6f}" for s in shares.values())]
    parts = {}
    try:
      for kind, picture in pictures.items():
        part, file = self.folder / f".{os.getpid()}_{kind}.part", self._picture(base, kind)
        parts[part] = file
        with writing(file):
          _save(picture, part)
      self._append(row)
      for part, file in parts.items():
        with writing(file):
          part.replace(file)
    finally:
      for part in parts:
        part.unlink(missing_ok=True)

  def _append(self, row):
    """Appends a row to the table, or leaves it as it is where the disk is full."""
    with writing(self._file):
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


def _base(name, owners):
  """The beginning of the names of an image's pictures: its stem, else its name, or with a number.

  Args:
    name: name of the image file.
    owners: {beginning: name of the image that has it}; this one's is added.
  """
  choices = itertools.chain((Path(name).stem, name), (f"{name}_{k}" for k in itertools.count(2)))
  return next(c for c in choices if owners.setdefault(c, name) == name)


def _read_table(file):
  """Reads a table of predictions.

  Returns:
    (columns, {name: row}, whether a row is torn or an image has several); (None, {}, False) where
    there is none. Of several rows of an image the last counts.
  """
  data = file.read_bytes() if file.exists() else b""
  if not data:
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


def _table(rows):
  """Rows as CSV, in bytes; "./" stands before names that a spreadsheet would take for formulas.

  Names stay names of files that way: "./=a.png" is "=a.png".
  """
  text = io.StringIO(newline="")
  writer = csv.writer(text, lineterminator="\n")
  for name, *rest in rows:
    writer.writerow([f"./{name}" if name.startswith(FORMULA) else name, *rest])
  return text.getvalue().encode("utf-8", "surrogateescape")


def _save(picture, file):
  """Writes a picture as PNG with our mark."""
  text = PngImagePlugin.PngInfo()
  text.add_text(*MARK)
  Image.fromarray(picture).save(file, format="PNG", pnginfo=text)


def _check_ours(file):
  """Raises a UserError where a file is there that prediction did not write."""
  if file.exists() and not _is_marked(file):
    raise UserError(
      f"{file} is there already and not a result of predict.py; choose another --output"
    )


def _is_marked(file):
  """Whether a picture says that prediction wrote it."""
  try:
    with Image.open(file, formats=("PNG",)) as image:
      return image.info.get(MARK[0]) == MARK[1]
  except (OSError, ValueError, SyntaxError):
    return False


def predict_files(files, predictions, experiment, state):
  """Predicts image files one by one, and prints a line for each.

  Args:
    files: paths.
    predictions: Predictions, to write to; closed at the end, however that comes.
    experiment: Experiment, from `restore.run`.
    state: TrainState, from `restore.run`.

  Returns:
    Sentences about images that could not be read.
  """
  task, data = experiment.task.for_prediction(), experiment.config.data
  step = dataclasses.replace(experiment, task=task).predict_step()
  broken, begun, warned = [], False, False
  try:
    for file in files:
      STOP.check()
      try:
        image = sources.read_image(file)
      except UserError as error:
        broken.append(str(error))
        continue
      warning = inference.scale_warning(data, image.shape[:2])
      if warning and not warned:
        print(f"  warning: {warning}", flush=True)
      warned = warned or bool(warning)
      how = dict(whole=task.label_kind != "class")
      outputs = inference.predict_image(step, state, image, data, **how)
      pictures, shares = task.answer(image, outputs)
      if not begun:
        predictions.begin([f.name for f in files], pictures, shares)
        begun = True
        if task.class_colors:
          strip = legends.legend(
            experiment.labels, list(range(len(task.classes))), LEGEND_WIDTH, untinted=True
          )
          predictions.add_legend(strip)
      size = image.shape[1::-1]
      predictions.add(file.name, size, pictures, shares)
      first = sorted(shares.items(), key=lambda item: -item[1])[:SHOWN]
      texts = [f"{size[0]}x{size[1]}", *(f"{name} {share:.1%}" for name, share in first)]
      print(f"{file.name}: {', '.join(texts)}", flush=True)
  finally:
    predictions.close()
  return broken
