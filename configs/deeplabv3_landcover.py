"""Satellite land cover, 6 classes: DeepLabv3 over ResNet-50.

Half of a comparison in a course report (the other is `fcn32s_landcover.py`), both from ImageNet
weights there. Settings: `segjax.recipes.landcover`. The report has validation mean
IoU 0.730; its photographs were not at hand. Ours on others: `studies/fcn_vs_deeplab.py`.

  python launch/train.py --config=configs/deeplabv3_landcover.py
  python launch/train.py --config=configs/deeplabv3_landcover.py:data=landcover,weights=resnet50.pth
  python launch/train.py --config=configs/deeplabv3_landcover.py:smoke

`data=landcover` reads $SEGJAX_DATA/landcover, or --config.data.source.folder. Without `weights`, a
file of torchvision, the backbone starts from random ones.
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", weights="", smoke=False)
  c = config_lib.default()
  c.name = "deeplabv3_landcover"
  recipes.landcover(c, a.data)
  recipes.backbone_weights(c, "resnet50", a.weights)
  c.model = dict(
    name="deeplabv3",
    backbone="resnet50",
    output_stride=16,
    aspp=True,
    rates=(6, 12, 18),
    head_features=256,
    aux=False,
    dtype="float32",
  )
  return config_lib.smoke(c) if a.smoke else c
