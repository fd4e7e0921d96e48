"""A trained run's predictions on its validation examples, as the evaluation sees them.

`Predictor` and `stages` are for segmentation, `side_by_side` for every task.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np

from segjax.errors import UserError
from segjax.legends import colorize, with_legend
from segjax.pictures import displayed, panel, spread
from segjax.tasks import LABEL_MAPS
from segjax.training import restore
from segjax.training.evaluation import classes_seen, example_panels


@dataclasses.dataclass(frozen=True)
class Prediction:
  """One validation example.

  Attributes:
    name: name of the example.
    image: u8[H,W,3].
    label: u8[H,W], truth; 255 is ignored.
    pred: u8[H,W], class indices.
  """

  name: str
  image: np.ndarray
  label: np.ndarray
  pred: np.ndarray


class Predictor:
  """A run's checkpoint and validation split; index i gives a Prediction.

  Attributes:
    experiment: training.experiment.Experiment.
    state: TrainState.
    source: the validation split, made to fit as in evaluation.
  """

  def __init__(self, workdir, checkpoint="latest", moved=()):
    """Restores a checkpoint.

    Args:
      workdir: folder of a run.
      checkpoint: "latest", "best" or a step.
      moved: present folder of the data if they have moved, see `restore.data_of_run`.

    Raises:
      UserError: no such run or checkpoint, a run of another task than segmentation, or data with
        other classes.
    """
    self.experiment, self.state = restore.run(workdir, checkpoint)
    name = self.experiment.config.task.name
    if name not in LABEL_MAPS:
      raise UserError(f"{workdir}: a run of the task {name!r}; this picture is of segmentation")
    self.source = restore.data_of_run(workdir, self.experiment.config, "val", moved=moved).source
    self._step = self.experiment.shown_step()

  def at(self, state):
    """The same data, as another state of the run sees them."""
    other = copy.copy(self)
    other.state = state
    return other

  @property
  def labels(self):
    """Label table."""
    return self.experiment.labels

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    example = self.source[i]
    logits = self._step(self.state, example["image"][None])
    pred = np.asarray(self.experiment.task.predict(logits))[0].astype(np.uint8)
    image = displayed(example["image"])
    return Prediction(self.source.source.names[i], image, example["label"], pred)

  def __iter__(self):
    return (self[i] for i in range(len(self)))


def early_middle_last(steps):
  """The first, the last and the one nearest to the middle of increasing steps, each once."""
  return sorted({steps[0], min(steps, key=lambda s: abs(s - steps[-1] / 2)), steps[-1]})


def stages(workdir, *, wanted=3, moved=()):
  """Fixed validation examples as the first, the middle and the last kept checkpoint see them.

  Args:
    workdir: folder of a run.
    wanted: number of examples, spread over the split.
    moved: present folder of the data, see `Predictor`.

  Returns:
    (u8[height,width,3], steps): rows of image | predictions | truth, and the classes' colours.

  Raises:
    UserError: fewer than two checkpoints.
  """
  kept = restore.checkpoint_steps(workdir)
  if len(kept) < 2:
    raise UserError(
      f"{workdir}: only the checkpoint of step {kept[0] if kept else 'none'} was kept; "
      "train with --config.keep_epochs=1,5 or so for stages"
    )
  checkpoints, columns = early_middle_last(kept), []
  predictor = Predictor(workdir, str(checkpoints[0]), moved)
  for step in checkpoints:
    if columns:
      predictor = predictor.at(restore.run(workdir, str(step))[1])
    chosen = [predictor[i] for i in spread(len(predictor), wanted)]
    columns.append([(f"step {step}", colorize(predictor.labels, p.pred)) for p in chosen])
  rows = [
    [(p.name, p.image), *(column[i] for column in columns),
     ("truth", colorize(predictor.labels, p.label))]
    for i, p in enumerate(chosen)
  ]  # fmt: skip
  labels = predictor.labels
  shown = set(range(len(labels))).union(*(np.unique(p.label).tolist() for p in chosen))
  return with_legend(panel(rows, most=300), labels, shown), checkpoints


def side_by_side(workdirs, *, wanted=4, moved=()):
  """Fixed validation examples, with the predictions of several runs.

  Args:
    workdirs: label -> workdir, of runs of one task on the same data.
    wanted: number of examples, spread over the split.
    moved: present folder of the data, see `Predictor`.

  Returns:
    u8[height,width,3]: a row per example; panels that all runs share stand there once.
  """
  found, rows, seen = {}, [], set()
  for label, workdir in workdirs.items():
    found[label], labels, values = _panels(workdir, wanted, moved)
    seen |= values
  for of_runs in zip(*found.values(), strict=True):
    names, panels = zip(*of_runs, strict=True)
    first, row = panels[0], []
    for k, (title, picture) in enumerate(first):
      same = all(np.array_equal(p[k][1], picture) and p[k][0] == title for p in panels)
      row += (
        [(title, picture)]
        if same
        else [(f"{label}: {p[k][0]}", p[k][1]) for label, p in zip(found, panels, strict=True)]
      )
    rows.append([(names[0], row[0][1]), *row[1:]])
  return with_legend(panel(rows, most=300), labels, seen)


def _panels(workdir, wanted, moved):
  """([(name of an example, its panels)], LabelTable, label values in them)."""
  experiment, state = restore.run(workdir)
  source = restore.data_of_run(workdir, experiment.config, "val", moved=moved).source
  step = experiment.shown_step()
  panels, seen = [], set()
  for i in spread(len(source), wanted):
    example = source[i]
    outputs = step(state, example["image"][None])
    panels.append((source.source.names[i], example_panels(experiment.task, outputs, example)))
    seen |= classes_seen(experiment.task, outputs, example["label"])
  return panels, experiment.labels, seen
