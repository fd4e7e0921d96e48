"""The worst images of a run's validation split."""

from __future__ import annotations

import dataclasses

import numpy as np

from segjax.analysis import image_scores
from segjax.errors import UserError
from segjax.legends import with_legend
from segjax.pictures import panel
from segjax.tasks.segmentation import COUNTS
from segjax.training import input_pipeline, restore
from segjax.training.evaluation import classes_seen, evaluate, example_panels


@dataclasses.dataclass(frozen=True)
class Worst:
  """Some images with low scores.

  Attributes:
    scores: (name, mean IoU over the classes of the image), the worst first.
    picture: u8[height,width,3], a row of panels for each.
  """

  scores: list[tuple[str, float]]
  picture: np.ndarray


def find(workdir, checkpoint, moved, wanted, rows=None):
  """Draws the images whose own mean IoU is the least.

  Args:
    workdir: folder of a run.
    checkpoint: "latest", "best" or a step.
    moved: present folder of the data if they have moved, see `restore.data_of_run`.
    wanted: images.
    rows: rows of images of an evaluation of this checkpoint, see `image_scores.rows_of`; None: the
      checkpoint is evaluated.

  Returns:
    Worst.

  Raises:
    UserError: no such run or checkpoint, or its task counts nothing in images.
  """
  experiment, state = restore.run(workdir, checkpoint)
  task, config = experiment.task, experiment.config
  source = restore.data_of_run(workdir, config, "val", moved=moved).source
  if rows is None:
    batches = input_pipeline.eval_batches(config, source)
    sums = evaluate(experiment.eval_step(), state, batches, experiment.eval_mesh())
    rows = image_scores.rows_of(sums)
  if COUNTS not in rows:
    raise UserError(
      f"{workdir}: a run of the task {config.task.name!r}, whose images have no IoU; "
      "this picture is of segmentation"
    )
  order, own = image_scores.worst_first(rows)
  step, panels, shown, scores = experiment.shown_step(), [], set(), []
  for i in order[:wanted]:
    example, name = source[int(i)], source.source.names[int(i)]
    outputs = step(state, example["image"][None])
    (_, image), *rest = example_panels(task, outputs, example)
    panels.append([(f"{own[i]:.3f} {name}", image), *rest])
    shown |= classes_seen(task, outputs, example["label"])
    scores.append((name, float(own[i])))
  return Worst(scores, with_legend(panel(panels, most=300), experiment.labels, shown))
