"""Satellite land cover, 6 classes: FCN-32s over VGG-16.

Half of a comparison in a course report (the other is `deeplabv3_landcover.py`), both from
ImageNet weights there. Settings: `segjax.recipes.landcover`. The report has validation mean
IoU 0.670; its photographs were not at hand. Ours on others: `studies/fcn_vs_deeplab.py`.

  python launch/train.py --config=configs/fcn32s_landcover.py
  python launch/train.py --config=configs/fcn32s_landcover.py:data=landcover,weights=vgg16.pth
  python launch/train.py --config=configs/fcn32s_landcover.py:smoke

`data=landcover` reads $SEGJAX_DATA/landcover, or --config.data.source.folder. Without `weights`, a
file of torchvision, the backbone starts from random ones.
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", weights="", smoke=False)
  c = config_lib.default()
  c.name = "fcn32s_landcover"
  recipes.landcover(c, a.data)
  recipes.backbone_weights(c, "vgg16", a.weights)
  c.model = dict(name="fcn32s", backbone="vgg16", hidden=0, dtype="float32")
  return config_lib.smoke(c) if a.smoke else c
