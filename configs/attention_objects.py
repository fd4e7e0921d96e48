"""Five classes of objects on a frozen encoder, each asked for in turn: attention and a decoder.

The asked class makes a query, which attends over the stride-32 features; the features so weighted
go through DeepLabv3+'s decoder to a mask of that class. `attention=additive`, `dot`, `scaled_dot`;
`backbone=` names another encoder. The other half of the comparison is `pixelwise_objects.py`; as
there, the frozen encoder is random without `weights=`. A loss of the attention itself
(`--config.loss.attention=0.0` switches it off) makes it look at the asked class; without, it often
looks away, which says as much to the decoder. CamVid, ImageNet weights, 128x192, 6 epochs, seeds 0
and 1, two Zen 4 cores, 2026-11-27: mean IoU 0.509 additive, 0.515 dot product, 0.522 scaled, in 2.9
minutes; attention inside the asked class 7, 35, 36 times that outside. Course reports: mean IoU
0.221, 0.2295.

  python launch/train.py --config=configs/attention_objects.py
  python launch/train.py --config=configs/attention_objects.py:data=camvid,weights=imagenet
  python launch/train.py --config=configs/attention_objects.py:attention=additive
  python launch/train.py --config=configs/attention_objects.py:smoke
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg,
    data="road_scenes",
    backbone="efficientnet_lite0",
    attention="scaled_dot",
    weights="",
    smoke=False,
  )
  c = config_lib.default()
  c.name = f"attention_objects_{a.attention}"

  objects = dict(classes="objects") if a.data in ("road_scenes", "camvid") else {}
  c.data.source = config_lib.data_source(a.data, **objects)
  c.data.size = (192, 256)
  c.data.batch_size = 8

  c.data.mean, c.data.std = weights.normalization(a.backbone)
  c.model = dict(
    name="attention_segmenter",
    backbone=a.backbone,
    attention=a.attention,
    width=256,
    rates=(6, 12, 18),
    dtype="float32",
  )
  if a.weights:
    c.init_from = config_lib.initial_weights(a.backbone, a.weights)
    c.init_part = "backbone"
  c.freeze = "^backbone/"

  config_lib.set_task(c, "class_query", cross_entropy=1.0, attention=0.1)

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
