"""What launch/predict.py does: a net by its flags, and files through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from segjax import cli
from segjax.data.labels import LabelTable
from segjax.errors import UserError
from segjax.inference import inputs as inputs_lib
from segjax.inference import loading, rows
from segjax.inference.folder import TABLE, Predictions
from segjax.inference.inputs import Inputs
from segjax.inference.predict_files import Answered, Segmented, predict_files, predict_video
from segjax.inference.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class Net:
  """A net and how its answers are written.

  Attributes:
    title: sentences about it.
    make_answer: () -> the answer to an image, see `predict_files`.
    labels: classes of the pictures' legend, or None.
    warning: see `predict_files`.
  """

  title: str
  make_answer: Callable
  labels: LabelTable | None
  warning: Callable | None = None

  def run(self, inputs: Inputs, predictions: Predictions) -> list[str]:
    """Predicts files; returns sentences about images that could not be read."""
    if rows.loses_georeference(inputs.files.values()):
      print("  note: without tifffile (segjax[tiff]) the place of GeoTIFF files is not kept")
    if not inputs.video:
      how = dict(labels=self.labels, warning=self.warning)
      return predict_files(inputs, predictions, self.make_answer, **how)
    answer = self.make_answer()
    if not isinstance(answer, Segmented) or answer.keep:
      raise UserError("of videos the overlay of a segmentation is written, without probabilities")
    predict_video(*inputs.files.values(), predictions, answer.predictor, self.labels)
    return []


def run(given: Path, output: Path, **which) -> None:
  """Predicts an image, a folder or a video, and prints what was done.

  Args:
    given: path of it.
    output: folder of the results.
    **which: the net, see `open_net`.

  Raises:
    UserError: no image there, a net that cannot be opened, or images that could not be read; then
      the others are predicted.
  """
  found = inputs_lib.find(given, output)
  net = open_net(**which)
  print(net.title)
  cli.make_folder(output)
  predictions = Predictions(output, tuple(found.files.values()))
  earlier = set(predictions.rows)
  broken = net.run(found, predictions)
  print(f"{len(found.files) - len(broken)} of {len(found.files)} images predicted into {output}")
  if kept := earlier - found.files.keys():
    print(f"  {TABLE} also has the rows of earlier predictions, {len(kept)}")
  for note in found.notes:
    print(f"  note: {note}")
  if broken:
    raise UserError("; ".join(broken))


def open_net(
  workdir: str | None,
  file: str | None,
  checkpoint: str,
  *,
  view: Mapping[str, object] | None = None,
  batch_size: int = 4,
  threshold: str | None = None,
  probabilities: str = "",
) -> Net:
  """The net of a run's folder or of an exported file.

  Args:
    workdir: folder of a run; or None.
    file: exported file; or None.
    checkpoint: of a run: "latest", "best" or a step.
    view: how an image is seen, see `view_of`; None as the run is evaluated.
    batch_size: see `Predictor`.
    threshold: a number as text, of classes that overlap also one for each, "max_f1", or None.
    probabilities: how they are written: "", "npz" or "png16".

  Raises:
    UserError: neither or both of a folder and a file, or see `Predictor`.
  """
  if bool(workdir) == bool(file):
    raise UserError("give either --workdir, the folder of a run, or --model, an exported file")
  how = dict(view or {}, threshold=_number(threshold))
  if file:
    predictor = Predictor(loading.load(file), batch_size=batch_size, **how)
    answer = partial(Segmented, predictor, probabilities)
    return Net(_title(file, predictor), answer, predictor.model.labels)
  from segjax.inference import run_model  # which needs jax
  from segjax.tasks import PIXELWISE
  from segjax.training import restore

  experiment, state = restore.run(workdir, checkpoint)
  title = f"{workdir}: {restore.checkpoint_text(workdir, int(state.step))}"
  if experiment.config.task.name not in PIXELWISE:
    if given := [k for k, v in (how | dict(probabilities=probabilities)).items() if v]:
      raise UserError(
        f"{', '.join(given)}: for {' and '.join(PIXELWISE)}, and this run's task is "
        f"{experiment.config.task.name!r}; leave them out"
      )
    answers = run_model.Answers(experiment, state)
    shown = experiment.labels if answers.task.class_colors else None
    return Net(title, partial(Answered, answers), shown)
  model = run_model.RunModel(experiment, state, run_model.last_sums(workdir))
  predictor = Predictor(model, batch_size=batch_size, **how)
  warning = partial(run_model.scale_warning, experiment.config.data, predictor.view)
  answer = partial(Segmented, predictor, probabilities)
  return Net(_title(title, predictor, threshold), answer, experiment.labels, warning)


def _title(what, predictor, threshold=None):
  """A line about the net, and one about its threshold where that is not 0.5."""
  text = str(what)
  if isinstance(predictor.threshold, tuple):
    each = zip(predictor.classes, predictor.threshold, strict=True)
    text += f"\n  from probability {', '.join(f'{t:.4g} on {c}' for c, t in each)}"
  elif predictor.threshold not in (None, 0.5):
    text += f"\n  {predictor.classes[1]} from probability {predictor.threshold:.4g} on"
  if threshold == "max_f1" and (step := getattr(predictor.model, "threshold_step", None)):
    text += f", the threshold of the largest F1 at the evaluation of step {step}"
  return text


def _tile(texts):
  """The size of tiles in the texts of a flag, or None."""
  if not all(t.strip().isdigit() for t in texts) or len(texts) > 2:
    raise UserError(f"--tiles={','.join(texts)}: expected pixels, such as 512 or 512,768")
  numbers = [int(t) for t in texts]
  return (numbers[0], numbers[-1]) if numbers else None


def _number(text):
  """A threshold: a float, a tuple of several, "max_f1" or None."""
  if text in (None, "max_f1"):
    return text
  try:
    numbers = tuple(map(float, text.split(",")))
  except ValueError:
    raise UserError(
      f"--threshold={text}: expected a number or max_f1; of overlapping classes also one for each, "
      "such as 0.5,0.3"
    ) from None
  return numbers if len(numbers) > 1 else numbers[0]


def view_of(mode: str, tiles: Sequence[str], overlap: float | None, tta: str) -> dict:
  """The arguments of `Predictor` on how it sees an image, of the flags that are given.

  Args: see `cli.define_view`.
    tiles: none, one or two numbers as texts, pixels.

  Raises:
    UserError: texts that are no sizes.
  """
  given = dict(mode=mode, tile=_tile(tiles), overlap=overlap, tta=tta)
  return {name: value for name, value in given.items() if value not in ("", None)}
