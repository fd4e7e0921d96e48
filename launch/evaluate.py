"""Evaluates a finished (or unfinished) run on one of its data splits.

  python launch/evaluate.py --workdir=runs/kitti
  python launch/evaluate.py --workdir=runs/kitti --checkpoint=best --split=train

The latest checkpoint on the val split gives exactly the numbers of training's last evaluation.
Prints a table and writes all scalars to evaluation_<split>_<step>.json in the workdir.
"""

import json
from pathlib import Path

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
SPLIT = flags.DEFINE_string("split", "val", "Split of the run's data: train or val.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
FOLDER = flags.DEFINE_string("folder", None, "Where the data lies now, if it has moved.")
BASELINE = flags.DEFINE_bool(
  "color_baseline",
  False,
  "Also fits and scores a per-pixel logistic regression on colour and position.",
)


def main():
  from segjax import inference
  from segjax.analysis import baseline
  from segjax.errors import UserError
  from segjax.training import feeding
  from segjax.training.evaluation import evaluate
  from segjax.training.writers import finite

  experiment, state = inference.restore(WORKDIR.value, CHECKPOINT.value)
  config = experiment.config
  if BASELINE.value and config.task.name != "segmentation":
    raise UserError(
      f"--color_baseline is for segmentation, this run's task is {config.task.name!r}"
    )
  if FOLDER.value:
    config.data.source.folder = FOLDER.value
  source = feeding.make_source(config, SPLIT.value)
  batches = feeding.eval_batches(experiment.config, source)
  sums = evaluate(experiment.eval_step(), state, batches, experiment.mesh)
  step = int(state.step)
  print(f"{WORKDIR.value}: checkpoint of step {step}, {len(source)} {SPLIT.value} examples")
  print(experiment.task.table(sums))
  summary = experiment.task.summary(sums)
  file = Path(WORKDIR.value) / f"evaluation_{SPLIT.value}_{step}.json"
  cli.write_text(file, json.dumps(dict(step=step) | finite(summary), indent=2) + "\n")
  print(f"  written to {file}")
  if BASELINE.value:
    sums = baseline.color_and_position(
      feeding.make_source(config, "train"), source, experiment.task
    )
    print("\ncolour and position alone (logistic regression a pixel):")
    print(experiment.task.table(sums))


if __name__ == "__main__":
  cli.run(main)
