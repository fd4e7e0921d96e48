"""Writes a run's net to one file that predicts without the run's folder, and checks the file.

  python launch/export.py --workdir=runs/kitti --format=stablehlo --output=road.stablehlo
  python launch/export.py --workdir=runs/kitti --format=onnx --size=256,256 --output=road.onnx
  python launch/export.py --workdir=runs/kitti --format=safetensors --output=road.safetensors

stablehlo: for JAX, on cpu, cuda and tpu; onnx: for onnxruntime and others, needs the extra `onnx`
and jax2onnx. Both take images u8[B,H,W,3] in RGB, or of the run's channels and dtype as files have
them, and give probabilities f32[B,H,W,C]: normalisation and softmax (of overlapping classes a
sigmoid each) are inside, classes, colours, thresholds, size and the run's identity in the metadata.
safetensors: the weights with the net's config, for segjax.models.load and --config.init_from.

A few validation images go through the file and the net; a file that disagrees is not kept.
`predict.py --model=FILE` and `evaluate.py --model=FILE` use it; launch/README.md has more.
Exit code: 0 done, 1 an error that the message explains.
"""

from pathlib import Path

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
FORMAT = flags.DEFINE_string("format", None, "stablehlo, onnx or safetensors.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "File to write.", required=True)
SIZE = flags.DEFINE_list("size", [], "Height and width of the images; data.size of the run if not "
                         "given.")  # fmt: skip
BATCH = flags.DEFINE_integer("batch", 0, "Images of a call; 0: any number.", lower_bound=0)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "latest, best, or a step.")
WEIGHTS = flags.DEFINE_string("weights", "float32", "How the file stores them: float32, float16.")
IMAGES = flags.DEFINE_integer("images", 8, "Validation images to compare.", lower_bound=1)
FOLDER = flags.DEFINE_string("folder", None, "Where the run's data lie now, if they have moved.")
cli.define_own_code()


def main():
  from segjax.export import command

  command.run(
    WORKDIR.value,
    Path(OUTPUT.value),
    form=FORMAT.value,
    size=command.size_of(SIZE.value),
    batch=BATCH.value or None,
    checkpoint=CHECKPOINT.value,
    stored=WEIGHTS.value,
    images=IMAGES.value,
    folder=FOLDER.value,
  )


if __name__ == "__main__":
  cli.run(main)
