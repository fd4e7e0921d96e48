"""Evaluates a finished (or unfinished) run on one of its data splits.

  python launch/evaluate.py --workdir=runs/kitti
  python launch/evaluate.py --workdir=runs/kitti --checkpoint=best --split=test
  python launch/evaluate.py --workdir=runs/kitti --fit_temperature --surfaces
  python launch/evaluate.py --workdir=runs/kitti --tiles=256 --overlap=0.5 --tta=flip
  python launch/evaluate.py --model=road.onnx --config=configs/unet_road.py:data=kitti_road
  python launch/evaluate.py --model=road.onnx --folder=PATH

The latest checkpoint on the val split gives exactly the numbers of training's last evaluation.
Prints a table and writes all scalars to evaluation_<split>_<step>.json in the workdir, and tables
(CSV) and figures beside it. --mode, --tiles, --overlap and --tta are those of predict.py. --model
takes an exported file in place of a run, and prints the table. launch/README.md has a section with
the scores, the files, other data than the training's, and several processes.
"""

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
MODEL = flags.DEFINE_string("model", None, "An exported file in place of a run.")
SPLIT = flags.DEFINE_string("split", "val", "Split of the run's data: train, val or test.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
FOLDER = flags.DEFINE_string(
  "folder", None, "Where the data lie now, or other data to evaluate on."
)
SURFACES = flags.DEFINE_bool("surfaces", False, "Also scores surfaces: surface Dice and HD95.")
FIT = flags.DEFINE_bool(
  "fit_temperature", False, "Fits the temperature of the probabilities and keeps it with the run."
)
BASELINE = flags.DEFINE_bool(
  "color_baseline",
  False,
  "Also fits and scores a per-pixel logistic regression on colour and position.",
)
VIEW = cli.define_view()
cli.define_own_code()
cli.define_distributed()


def main():
  from segjax.analysis import evaluations

  evaluations.run_or_file(
    WORKDIR.value,
    MODEL.value,
    flags.FLAGS.config,
    view=VIEW(),
    split=SPLIT.value,
    folder=FOLDER.value,
    checkpoint=CHECKPOINT.value,
    surfaces=SURFACES.value,
    fit_temperature=FIT.value,
    color_baseline=BASELINE.value,
  )


if __name__ == "__main__":
  cli.run(main)
