"""Driver's views, 11 classes: FCN-32s over ResNet-18, from scratch.

A 1x1 convolution on the stride-32 features, up-sampled 32 times; otherwise as `unet_camvid.py`.
CamVid, `configs/studies/fcn_vs_unet.py` with crops of 160x224, 6 epochs, seeds 0 and 1, two Xeon
cores, 2026-11-25: validation mean IoU 0.296 ± 0.016, 2.3 minutes. A course report: 0.415.

  python launch/train.py --config=configs/fcn32s_camvid.py:data=camvid
  python launch/train.py --config=configs/fcn32s_camvid.py
  python launch/train.py --config=configs/fcn32s_camvid.py:smoke
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  c = config_lib.default()
  c.name = "fcn32s_camvid"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (240, 320)
  c.data.batch_size = 8
  c.data.fit = "crop"
  c.data.eval_fit = "full"

  c.data.mean, c.data.std = weights.normalization("resnet18")
  c.model = dict(name="fcn32s", backbone="resnet18", hidden=0, dtype="float32")

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0
  c.loss.dice = 1.0

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-2
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = 2e-3
  c.total_epochs = 20.0
  c.eval_epochs = 5.0
  c.ema_decay = 0.99

  c.augment.flip = 0.5
  c.augment.scale_min = 0.8
  c.augment.scale_max = 1.6
  c.augment.aspect = 0.1
  c.augment.brightness = 0.3
  c.augment.contrast = 0.3
  c.augment.saturation = 0.3

  if a.data == "road_scenes":
    c.data.source.classes = "all"
    c.data.source.num_train = 400
    c.data.size = (192, 256)
    c.total_epochs = 6.0  # of 50 steps
    c.eval_epochs = 2.0
  return config_lib.smoke(c) if a.smoke else c
