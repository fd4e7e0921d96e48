"""What a trained run says of images of any size.

  python launch/predict.py --workdir=runs/kitti --input=photo.jpg --output=out
  python launch/predict.py --workdir=runs/kitti --input=folder --output=out

For each image `x.jpg`, at its original size, a run of segmentation writes `x_index.png` (class
indices), `x_color.png` (class colours) and `x_overlay.png` (the colours over the image), one of
colourisation `x_colorized.png`, one of image-to-image `x_output.png`. predictions.csv has a line an
image with the share of each class in it, or the class's probability. An image that cannot be read
is reported at the end and does not stop the others.
"""

import csv
import dataclasses
import io
from pathlib import Path

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
INPUT = flags.DEFINE_string("input", None, "An image, or a folder of images.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "latest, best, or a step.")

SHOWN = 5  # classes in an image's line


def main():
  from PIL import Image

  from segjax import inference
  from segjax.data import sources
  from segjax.errors import UserError

  files = sources.list_images(Path(INPUT.value))
  output = Path(OUTPUT.value)
  cli.make_folder(output)
  experiment, state = inference.restore(WORKDIR.value, CHECKPOINT.value)
  task, data = experiment.task.for_prediction(), experiment.config.data
  step = dataclasses.replace(experiment, task=task).predict_step()
  table, broken = io.StringIO(), []
  rows = csv.writer(table, lineterminator="\n")
  for file in files:
    try:
      image = sources.read_image(file)
    except UserError as error:
      broken.append(str(error))
      continue
    outputs = inference.predict_image(step, state, image, data)
    pictures, shares = task.answer(image, outputs)
    for kind, picture in pictures.items():
      cli.writing(Image.fromarray(picture).save, output / f"{file.stem}_{kind}.png")
    if not table.tell():
      rows.writerow(["file", "width", "height", *shares])
    height, width = image.shape[:2]
    rows.writerow([file.name, width, height, *(f"{s:.6f}" for s in shares.values())])
    first = sorted(shares.items(), key=lambda item: -item[1])[:SHOWN]
    texts = [f"{width}x{height}", *(f"{name} {share:.1%}" for name, share in first)]
    print(f"{file.name}: {', '.join(texts)}", flush=True)
  cli.write_text(output / "predictions.csv", table.getvalue())
  print(f"{len(files) - len(broken)} of {len(files)} images predicted into {output}")
  if broken:
    raise UserError("; ".join(broken))


if __name__ == "__main__":
  cli.run(main)
