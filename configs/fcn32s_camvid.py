"""Driver's views, 11 classes: FCN-32s over ResNet-18, from scratch.

A 1x1 convolution on the stride-32 features, up-sampled 32 times; otherwise as `unet_camvid.py`.
CamVid, `configs/studies/fcn_vs_unet.py` with crops of 160x224, 6 epochs, seeds 0 and 1, two Xeon
cores, 2026-11-25: validation mean IoU 0.296 ± 0.016, 2.3 minutes. A course report: 0.415.

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
