"""Predictions of a trained run, or of an exported file, for images of any size.

  python launch/predict.py --workdir=runs/kitti --input=photo.jpg --output=out
  python launch/predict.py --workdir=runs/kitti --input=folder --output=out --mode=tiles --tta=flip
  python launch/predict.py --model=road.onnx --input=folder --output=out

launch/README.md has a section with all that is written, the modes and more commands. Nothing is
replaced that predict.py did not write, and results never lie among the images. Exit code: 0 done, 1
an image could not be read (the rest is predicted) or another error that the message explains.
"""

from pathlib import Path

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; or give --model.")
MODEL = flags.DEFINE_string("model", None, "Exported file, in place of --workdir.")
INPUT = flags.DEFINE_string("input", None, "An image, a folder, or a video.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "latest, best, or a step.")
VIEW = cli.define_view()
BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Tiles in a call of the net.")
THRESHOLD = flags.DEFINE_string(
  "threshold",
  None,
  "Of a net with one logit: a number, or max_f1, the run's; of overlapping classes also one each.",
)
PROBABILITIES = flags.DEFINE_enum(
  "probabilities", "", ["", "npz", "png16"], "Writes probabilities too."
)
cli.define_own_code()


def main():
  from segjax.inference import command

  command.run(
    Path(INPUT.value),
    Path(OUTPUT.value),
    workdir=WORKDIR.value,
    file=MODEL.value,
    checkpoint=CHECKPOINT.value,
    view=command.view_of(**VIEW()),
    batch_size=BATCH_SIZE.value,
    threshold=THRESHOLD.value,
    probabilities=PROBABILITIES.value,
  )


if __name__ == "__main__":
  cli.run(main)
