"""Evaluates a finished (or unfinished) run on one of its data splits.

  python launch/evaluate.py --workdir=runs/kitti
  python launch/evaluate.py --workdir=runs/kitti --checkpoint=best --split=test
  python launch/evaluate.py --workdir=runs/kitti --fit_temperature --surfaces
  python launch/evaluate.py --workdir=runs/kitti --tiles=256 --overlap=0.5 --tta=flip
  python launch/evaluate.py --model=road.onnx --config=configs/unet_road.py:data=kitti_road
  python launch/evaluate.py --model=road.onnx --folder=PATH

The latest checkpoint on the val split gives exactly the numbers of training's last evaluation.
Prints a table and writes all scalars to evaluation_<split>_<step>.json in the workdir, and tables
(CSV) and figures beside it. Where the data are not those of the training (--folder, or files that
have changed since), a line says so, and the numbers go to files of their own,
evaluation_<split>_<step>_<folder>_<digest>.json. Data with other classes than the run's are an
error, as is a split that the data lack. launch/README.md explains the scores, and --distributed,
with which several processes share the work.

--mode, --tiles, --overlap and --tta are those of predict.py: each image is predicted so and scored
at its own size, and the numbers go to files of their own, named after the view.

--model takes an exported file in place of a run, with the data, task and loss of --config, or with
a folder of images/, masks/ and classes.txt; it prints the table.
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
  from segjax.errors import UserError
  from segjax.inference import command

  view = command.view_of(**VIEW())
  if bool(WORKDIR.value) == bool(MODEL.value):
    raise UserError("either --workdir or --model is required; see --help")
  if MODEL.value:
    from segjax.export import evaluation

    if view or SURFACES.value or FIT.value or BASELINE.value:
      raise UserError(
        "--surfaces, --fit_temperature, --color_baseline and the view, "
        "--mode, --tiles, --overlap and --tta, are for --workdir"
      )
    evaluation.run(MODEL.value, flags.FLAGS.config, folder=FOLDER.value, split=SPLIT.value)
    return
  from segjax.analysis import evaluations

  evaluations.run(
    WORKDIR.value,
    split=SPLIT.value,
    checkpoint=CHECKPOINT.value,
    folder=FOLDER.value,
    surfaces=SURFACES.value,
    fit_temperature=FIT.value,
    color_baseline=BASELINE.value,
    view=view,
  )


if __name__ == "__main__":
  cli.run(main)
