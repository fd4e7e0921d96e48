"""Evaluates a finished (or unfinished) run on one of its data splits.

  python launch/evaluate.py --workdir=runs/kitti
  python launch/evaluate.py --workdir=runs/kitti --checkpoint=best --split=train

The latest checkpoint on the val split gives exactly the numbers of training's last evaluation.
Prints a table and writes all scalars to evaluation_<split>_<step>.json in the workdir. Where the
data are not those of the training (--folder, or files that have changed since), a line says so, and
the numbers go to a file of their own, evaluation_<split>_<step>_<folder>_<digest>.json. Data with
other classes than the run's are an error.
"""

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
SPLIT = flags.DEFINE_string("split", "val", "Split of the run's data: train or val.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
FOLDER = flags.DEFINE_string(
  "folder", None, "Where the data lie now, or other data to evaluate on."
)
BASELINE = flags.DEFINE_bool(
  "color_baseline",
  False,
  "Also fits and scores a per-pixel logistic regression on colour and position.",
)
cli.define_own_code()
cli.define_distributed()


def main():
  from segjax import outputs
  from segjax.analysis import baseline
  from segjax.errors import UserError
  from segjax.training import restore

  workdir, split = WORKDIR.value, SPLIT.value
  experiment, state = restore.run(workdir, CHECKPOINT.value)
  config = experiment.config
  if BASELINE.value and config.task.name != "segmentation":
    raise UserError(
      f"--color_baseline is for segmentation, this run's task is {config.task.name!r}"
    )
  moved = restore.moved_to(config, FOLDER.value)
  data = restore.data_of_run(workdir, config, split, moved=moved)
  sums, file = outputs.evaluate_run(workdir, experiment, state, data, split)
  which = restore.checkpoint_text(workdir, int(state.step))
  print(f"{workdir}: {which}; {len(data.source)} {split} examples")
  print(experiment.task.table(sums))
  print(f"  written to {file}")
  if BASELINE.value:
    train = restore.data_of_run(workdir, config, "train", moved=moved)
    sums = baseline.color_and_position(train.source, data.source, experiment.task)
    print("\ncolour and position alone (logistic regression per pixel):")
    print(experiment.task.table(sums))


if __name__ == "__main__":
  cli.run(main)
