"""Five classes of objects on a frozen encoder, by a softmax at each pixel: DeepLabv3+'s decoder.

The other half of the comparison is `attention_objects.py`. ASPP rates 1 (the 1x1 branch), 6, 12, 18
and stride-4 features, as a course report had it. CamVid, ImageNet weights, 128x192, 6 epochs, seeds
0 and 1, two Zen 4 cores, 2026-11-27: mean IoU 0.650 ± 0.002, 2.6 minutes.

  python launch/train.py --config=configs/pixelwise_objects.py
  python launch/train.py --config=configs/pixelwise_objects.py:data=camvid,weights=imagenet
  python launch/train.py \
    --config=configs/pixelwise_objects.py:data=camvid,backbone=resnet18,weights=runs/pretraining
  python launch/train.py --config=configs/pixelwise_objects.py:smoke

`weights=imagenet` takes EfficientNet-Lite0's (the extra `pretrained`); without weights the frozen
encoder is random, which is what pretraining has to beat.
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="road_scenes", backbone="efficientnet_lite0", weights="", smoke=False
  )
  c = config_lib.default()
  c.name = "pixelwise_objects"
  recipes.objects(c, a.data, a.backbone, a.weights)
  c.task.sigmoid = False
  c.model = dict(
    name="deeplabv3_plus",
    backbone=a.backbone,
    output_stride=32,
    rates=(6, 12, 18),
    dtype="float32",
  )
  return config_lib.smoke(c) if a.smoke else c
