"""Driver's views, 11 classes: a U-Net over ResNet-18, from scratch.

The comparison of a course report, with the same backbone and recipe as `fcn32s_camvid.py`. Random
240x320 crops of CamVid's 360x480 images, batch 8, see `segjax.recipes.camvid`. CamVid, seed 0, two
cores, 2026-11-21: validation mean IoU 0.525 after 20 epochs, 36 minutes. Crops of 160x224, 6
epochs, seeds 0 and 1, two Xeon cores, 2026-11-25: 0.288 ± 0.020, 3.0 minutes. The report: 0.512.

  python launch/train.py --config=configs/unet_camvid.py:data=camvid
  python launch/train.py --config=configs/unet_camvid.py
  python launch/train.py --config=configs/unet_camvid.py:smoke

`data=camvid` reads $SEGJAX_DATA/camvid, or --config.data.source.folder.
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", augment=True, smoke=False)
  c = config_lib.default()
  c.name = "unet_camvid"
  recipes.camvid(c, a.data)
  recipes.backbone_weights(c, "resnet18", "")
  c.model = dict(
    name="backbone_unet",
    backbone="resnet18",
    widths=(128, 96, 64),  # up to stride 4; the logits are up-sampled from there
    skip=True,
    dtype="float32",
  )
  if not a.augment:
    c.augment = config_lib.default().augment
  return config_lib.smoke(c) if a.smoke else c
