"""Prediction of files: each read, predicted, written and reported by a line."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segjax.data.labels import LabelTable
from segjax.data.tiles import ArrayRows
from segjax.errors import UserError, writing
from segjax.inference import rows as rows_lib
from segjax.inference import video
from segjax.inference.folder import PROBABILITIES, Predictions
from segjax.inference.inputs import Inputs
from segjax.inference.predictor import BLOCK, Predictor, colors_of, counts_of
from segjax.legends import legend
from segjax.pictures import displayed, overlay
from segjax.stopping import STOP

SHOWN = 5  # classes in the line of an image
LEGEND_WIDTH = 600  # pixels
SIXTEEN = 2**16 - 1


@dataclasses.dataclass
class Segmented:
  """The answer of a Predictor to one image: blocks of pictures, then the share of each class.

  Attributes:
    predictor: Predictor.
    keep: how probabilities are written: "npz", "png16", or "", not at all.
    counts: pixels of each class so far.
    pixels: all pixels so far.
  """

  predictor: Predictor
  keep: str = ""
  counts: np.ndarray | None = None
  pixels: int = 0

  @property
  def takes(self):
    """`rasters.Pixels` of the images."""
    return self.predictor.pixels

  def blocks(self, rows, bar):
    """Yields {kind with ending: rows of it}, from top to bottom."""
    p = self.predictor
    self.counts, self.pixels = np.zeros(len(p.classes), np.int64), 0
    step = max(BLOCK // rows.width, 1)
    for image, probabilities in p.blocks(rows):
      for top in range(0, len(image), step):
        shown = displayed(image[top : top + step], getattr(rows, "limits", None))
        out = self._block(shown, probabilities[top : top + step])
        yield out | (_maps(out) if getattr(rows, "georeference", ()) else {})
      bar.update(len(image))

  def _block(self, image, probabilities):
    label = self.predictor.label_of(probabilities)
    self.counts += counts_of(label, len(self.counts))
    self.pixels += image.shape[0] * image.shape[1]
    color = colors_of(label, self.predictor.palette)
    out = {"color.png": color, "overlay.png": overlay(image, color)}
    if label.ndim == 3:
      masks = zip(mask_kinds(self.predictor.classes), np.moveaxis(label, -1, 0), strict=True)
      out = {kind: np.uint8(255) * mask for kind, mask in masks} | out
    else:
      out = {"index.png": label} | out
    if self.keep == "npz":
      out[f"{PROBABILITIES}.npz"] = probabilities
    elif self.keep == "png16":
      for i, name in enumerate(self.predictor.classes):
        safe = re.sub(r"[^\w-]+", "_", name)[:40]
        out[f"probability_{i}_{safe}.png"] = np.round(
          SIXTEEN * probabilities[..., i].clip(0, 1)
        ).astype(np.uint16)
    return out

  def shares(self):
    """{class: share} of the pixels so far."""
    return dict(zip(self.predictor.classes, self.counts / self.pixels, strict=True))


def mask_kinds(names):
  """The kinds of the masks of the classes, `masks/CLASS/x.png`, which a set of a folder can hold.

  Raises:
    UserError: two classes whose folders would have one name.
  """
  folders = [re.sub(r"^\.|[/*\0]", "_", name) for name in names]
  for i, folder in enumerate(folders):
    if folder in folders[:i]:
      other = names[folders.index(folder)]
      raise UserError(
        f"the masks of the classes {other!r} and {names[i]!r} would lie in one folder, "
        f"masks/{folder}/; name one of them otherwise"
      )
  return [f"masks/{folder}/*.png" for folder in folders]


def _maps(block):
  """{kind of a TIFF: rows} of the pictures of one channel in a block; of masks in `maps/`."""
  flat = {kind: rows for kind, rows in block.items() if rows.ndim == 2}
  ends = {kind: f"{kind.removesuffix('.png')}.tif" for kind in flat}
  return {re.sub("^masks/", "maps/", ends[kind]): rows for kind, rows in flat.items()}


@dataclasses.dataclass
class Answered:
  """The answer of a run of another task to one image, see `run_model.Answers`."""

  answers: object
  found: dict | None = None

  @property
  def takes(self):
    """`rasters.Pixels` of the images."""
    return self.answers.pixels

  def blocks(self, rows, bar):
    """Yields {kind with ending: the whole picture}."""
    pictures, self.found = self.answers.answer(rows)
    bar.update(rows.height)
    yield {f"{kind}.png": picture for kind, picture in pictures.items()}

  def shares(self):
    """{class: probability}."""
    return self.found


def predict_files(
  inputs: Inputs,
  predictions: Predictions,
  make_answer: Callable,
  *,
  labels: LabelTable | None = None,
  warning: Callable | None = None,
) -> list[str]:
  """Predicts files one by one, and prints a line for each.

  Args:
    inputs: result of `inputs.find`.
    predictions: to write to; closed at the end, however that comes.
    make_answer: () -> `Segmented` or `Answered`, for each image anew.
    labels: classes of a legend, or None where the pictures show none.
    warning: (height, width) -> sentence about an image, or "", or None; the first is printed.

  Returns:
    Sentences about images that could not be read.
  """
  broken, begun = [], False
  files = tqdm(inputs.files.items(), unit="image", disable=None if len(inputs.files) > 1 else True)
  try:
    for name, file in files:
      STOP.check()
      answer = make_answer()
      try:
        with rows_lib.opened(file, answer.takes) as rows, _bar(rows.height) as bar:
          said = warning((rows.height, rows.width)) if warning else ""
          if said:
            _print(f"  warning: {said}")
            warning = None
          size, blocks = (rows.width, rows.height), answer.blocks(rows, bar)
          first = next(blocks)
          if not begun:
            _begin(predictions, inputs, first, answer, labels)
            begun = True
          blocks = itertools.chain([first], blocks)
          predictions.add(name, size, blocks, answer.shares, rows.georeference)
      except rows_lib.Unreadable as error:
        broken.append(str(error))
        continue
      _print(f"{name}: {_line(size, answer.shares())}")
  finally:
    predictions.close()
  return broken


def predict_video(
  file: Path, predictions: Predictions, predictor: Predictor, labels: LabelTable
) -> None:
  """Predicts a video frame by frame into NAME_overlay.mp4; its row has the mean shares.

  Raises:
    UserError: no imageio or FFmpeg, or not a video.
  """
  if not predictor.pixels.is_rgb:
    raise UserError(f"{file}: the net is for images of {predictor.pixels.text}, no videos")
  answer, part = Segmented(predictor), predictions.folder / f".{os.getpid()}_video.mp4"
  try:
    with video.reader(file) as (frames, rate), _bar(None, "frame") as bar:
      predictions.begin([file.name], ["overlay.mp4"], predictor.classes)
      predictions.add_legend(_legend(labels))
      counts, pixels, add, size = 0, 0, None, None
      with contextlib.ExitStack() as stack, writing(part):
        for frame in frames:
          STOP.check()
          size = frame.shape[1::-1]
          add = add or stack.enter_context(video.writer(part, rate))
          with _bar(None, disable=True) as rows_bar:
            blocks = list(answer.blocks(ArrayRows(frame), rows_bar))
          add(np.concatenate([b["overlay.png"] for b in blocks]))
          counts, pixels = counts + answer.counts, pixels + answer.pixels
          bar.update()
      if add is None:
        raise UserError(f"{file}: a video without frames; replace it")
      answer.counts, answer.pixels = counts, pixels
      predictions.add(file.name, size, [{"overlay.mp4": part}], answer.shares)
      _print(f"{file.name}: {_line(size, answer.shares())}")
  finally:
    part.unlink(missing_ok=True)
    predictions.close()


def _begin(predictions, inputs, block, answer, labels):
  predictions.begin(list(inputs.files), list(block), list(answer.shares()))
  if labels is not None:
    predictions.add_legend(_legend(labels))


def _legend(labels):
  return legend(labels, list(range(len(labels))), LEGEND_WIDTH, untinted=True)


def _bar(total, unit="row", disable=None):
  """A bar of one image's rows; it goes away, and appears on a terminal alone."""
  return tqdm(total=total, unit=unit, leave=False, disable=disable, delay=2)


def _line(size, shares):
  first = sorted(shares.items(), key=lambda item: -item[1])[:SHOWN]
  return ", ".join([f"{size[0]}x{size[1]}", *(f"{name} {share:.1%}" for name, share in first)])


def _print(text):
  """Prints a line above the bars."""
  with tqdm.external_write_mode():
    print(text, flush=True)
