"""Five classes of objects on a frozen encoder, by a softmax at each pixel: DeepLabv3+'s decoder.

The other half of the comparison is `attention_objects.py`. ASPP rates 1 (the 1x1 branch), 6, 12, 18
and stride-4 features, as a course report had it. Cross-entropy, one cycle of AdamW up to 1e-3,
mirrored images, 192x256, batch 8. CamVid, ImageNet weights, 128x192, 6 epochs, seeds 0 and 1, two
Zen 4 cores, 2026-11-27: mean IoU 0.650 ± 0.002, 2.6 minutes.

  python launch/train.py --config=configs/pixelwise_objects.py
  python launch/train.py --config=configs/pixelwise_objects.py:data=camvid,weights=imagenet
  python launch/train.py \
    --config=configs/pixelwise_objects.py:data=camvid,backbone=resnet18,weights=runs/pretraining
  python launch/train.py --config=configs/pixelwise_objects.py:smoke

`weights=imagenet` takes EfficientNet-Lite0's (the extra `pretrained`); without weights the frozen
encoder is random, the baseline of pretraining.
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="road_scenes", backbone="efficientnet_lite0", weights="", smoke=False
  )
  c = config_lib.default()
  c.name = "pixelwise_objects"

  objects = dict(classes="objects") if a.data in ("road_scenes", "camvid") else {}
  c.data.source = config_lib.data_source(a.data, **objects)
  c.data.size = (192, 256)
  c.data.batch_size = 8

  c.data.mean, c.data.std = weights.normalization(a.backbone)
  c.model = dict(
    name="deeplabv3_plus",
    backbone=a.backbone,
    output_stride=32,
    rates=(6, 12, 18),
    dtype="float32",
  )
  if a.weights:
    c.init_from = config_lib.initial_weights(a.backbone, a.weights)
    c.init_part = "backbone"
  c.freeze = "^backbone/"

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-4
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = 1e-3
  c.total_epochs = 12.0
  c.eval_epochs = 3.0

  c.augment.flip = 0.5

  if a.data == "road_scenes":
    c.data.source.num_train = 320
    c.total_epochs = 6.0
    c.eval_epochs = 2.0
  return config_lib.smoke(c) if a.smoke else c
