"""Segments images of any size with a trained run.

  python launch/predict.py --workdir=runs/kitti --input=photo.jpg --output=out
  python launch/predict.py --workdir=runs/kitti --input=folder --output=out

For each image `x.jpg`, at its original size: `x_index.png` (class indices), `x_color.png` (class
colours) and `x_overlay.png` (the colours over the image). An image that cannot be read is
reported at the end and does not stop the others.
"""

from pathlib import Path

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
INPUT = flags.DEFINE_string("input", None, "An image, or a folder of images.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "latest, best, or a step.")


def main():
  import numpy as np
  from PIL import Image

  from segjax import inference
  from segjax.data import sources
  from segjax.errors import UserError
  from segjax.pictures import blend

  files = sources.list_images(Path(INPUT.value))
  output = Path(OUTPUT.value)
  cli.make_folder(output)
  experiment, state = inference.restore(WORKDIR.value, CHECKPOINT.value)
  task = experiment.config.task.name
  if task != "segmentation":
    raise UserError(f"{WORKDIR.value}: a run of the task {task!r}; predict is for segmentation")
  step, data, broken = experiment.predict_step(), experiment.config.data, []
  for file in files:
    try:
      image = sources.read_image(file)
    except UserError as error:
      broken.append(str(error))
      continue
    logits = inference.predict_image(step, state, image, data)
    pred = np.asarray(experiment.task.predict(logits)).astype(np.uint8)
    colors = experiment.labels.colorize(pred)
    painted = colors.any(-1)  # black stands for background: leave the image as it is there
    pictures = dict(index=pred, color=colors, overlay=blend(image, colors, painted))
    for kind, picture in pictures.items():
      cli.writing(Image.fromarray(picture).save, output / f"{file.stem}_{kind}.png")
    shares = np.bincount(pred.ravel(), minlength=len(experiment.labels)) / pred.size
    text = ", ".join(f"{n} {s:.1%}" for n, s in zip(experiment.labels.names, shares, strict=True))
    print(f"{file.name}: {image.shape[1]}x{image.shape[0]}, {text}", flush=True)
  print(f"{len(files) - len(broken)} of {len(files)} images segmented into {output}")
  if broken:
    raise UserError("; ".join(broken))


if __name__ == "__main__":
  cli.run(main)
