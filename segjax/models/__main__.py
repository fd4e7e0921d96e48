"""Prints the zoo: `python -m segjax.models [--size=HEIGHTxWIDTH] [--outputs=K]`."""

from __future__ import annotations

import argparse
import re

from segjax import models
from segjax.models.cost import static_cost

NETS = (
  ("encoder_decoder", {}),
  ("unet", {}),
  ("backbone_unet", dict(backbone="resnet18")),
  ("backbone_unet", dict(backbone="efficientnet_lite0")),
  ("fcn32s", dict(backbone="vgg16")),
  ("fcn16s", dict(backbone="vgg16")),
  ("fcn8s", dict(backbone="vgg16")),
  ("fcn", dict(backbone="resnet50")),
  ("deeplabv3", dict(backbone="resnet50")),
  ("deeplabv3", dict(backbone="resnet101")),
  ("deeplabv3", dict(backbone="mobilenet_v3_large", output_stride=16)),
  ("deeplabv3_plus", dict(backbone="resnet50")),
  ("deeplabv3_plus", dict(backbone="efficientnet_lite0")),
  ("lraspp", dict(backbone="mobilenet_v3_large")),
  ("attention_segmenter", dict(backbone="resnet18")),
  *(("segformer", dict(backbone=f"mit_b{i}")) for i in range(6)),
  *(("classifier", dict(backbone=b)) for b in models.BACKBONES),
)


def main():
  """Prints a row a net."""
  parser = argparse.ArgumentParser(prog="python -m segjax.models", description=__doc__)
  parser.add_argument("--size", default="256x256", help="height x width of the image, in pixels")
  parser.add_argument("--outputs", type=int, default=0, help="classes; 0 for each net's default")
  args = parser.parse_args()
  if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", args.size):
    parser.error(f"--size is {args.size!r}, expected HEIGHTxWIDTH such as 256x256")
  size = tuple(map(int, args.size.split("x")))
  print(f"{'net':44}{'parameters':>13}{'MB':>9}{'GFLOPs':>9}{'stride':>8}   at {args.size}")
  for name, fields in NETS:
    more = dict(num_classes=args.outputs) if args.outputs else {}
    count, flops, output_stride = static_cost(models.make(name, **fields, **more), size)
    label = f"{name} {fields.get('backbone', '')}"
    print(f"{label:44}{count:13,}{count * 4 / 1e6:9.1f}{flops / 1e9:9.2f}{output_stride:8}")


if __name__ == "__main__":
  main()
