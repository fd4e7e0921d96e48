"""Driver's views, 11 classes: FCN-32s over ResNet-18, from scratch.

A 1x1 convolution on the stride-32 features, up-sampled 32 times; otherwise as `unet_camvid.py`.
CamVid, `configs/studies/fcn_vs_unet.py` with crops of 160x224, 6 epochs, seeds 0 and 1, two Zen 5
cores, 2026-11-24: validation mean IoU 0.311 ± 0.019, 1.7 minutes.

  python launch/train.py --config=configs/fcn32s_camvid.py:data=camvid
  python launch/train.py --config=configs/fcn32s_camvid.py
  python launch/train.py --config=configs/fcn32s_camvid.py:smoke
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  c = config_lib.default()
  c.name = "fcn32s_camvid"
  recipes.camvid(c, a.data)
  recipes.backbone_weights(c, "resnet18", "")
  c.model = dict(name="fcn32s", backbone="resnet18", hidden=0, dtype="float32")
  return config_lib.smoke(c) if a.smoke else c
