"""Predictions of a trained run for images of any size.

  python launch/predict.py --workdir=runs/kitti --input=photo.jpg --output=out
  python launch/predict.py --workdir=runs/kitti --input=folder --output=out

For each image `x.jpg`, at its original size, a run of segmentation writes `x_index.png` (class
indices), `x_color.png` (class colours) and `x_overlay.png` (the colours over the image; a class
whose colour is black, as a background's, stays untinted), and legend.png for all of them; one of
colourisation `x_colorized.png`, one of image-to-image `x_output.png`. Of two images that differ in
their ending alone, the second's are called `x.png_index.png` and so on. predictions.csv has a row
for each image whose pictures lie in the folder, those of earlier calls too, with the share of each
class in it, or the class's probability. The net sees an image at the scale of the run's evaluation.

Nothing is replaced that predict.py did not write; --output may not be the folder of the images. An
image that cannot be read is reported at the end and does not stop the others. Exit code: 0 done, 1
an image could not be read (the rest is predicted) or another error that the message explains.
"""

from pathlib import Path

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
INPUT = flags.DEFINE_string("input", None, "An image, or a folder of images.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "latest, best, or a step.")
cli.define_own_code()


def main():
  from segjax import outputs
  from segjax.data import files as files_lib
  from segjax.errors import UserError
  from segjax.training import restore

  given, folder = Path(INPUT.value), Path(OUTPUT.value)
  files = files_lib.list_images(given)
  outputs.check_folders(given, folder)
  experiment, state = restore.run(WORKDIR.value, CHECKPOINT.value)
  print(f"{WORKDIR.value}: {restore.checkpoint_text(WORKDIR.value, int(state.step))}")
  cli.make_folder(folder)
  predictions = outputs.Predictions(folder)
  earlier = set(predictions.rows)
  broken = outputs.predict_files(files, predictions, experiment, state)
  print(f"{len(files) - len(broken)} of {len(files)} images predicted into {folder}")
  kept = earlier - {f.name for f in files}
  if kept:
    print(f"  {outputs.TABLE} also has the rows of earlier predictions, {len(kept)}")
  for note in files_lib.skipped(given):
    print(f"  note: {note}")
  if broken:
    raise UserError("; ".join(broken))


if __name__ == "__main__":
  cli.run(main)
