"""Driver's views, 11 classes: a U-Net over ResNet-18, from scratch.

The comparison of a course report, with the same backbone and settings as `fcn32s_camvid.py`: random
240x320 crops of CamVid's 360x480 images, whole images at evaluation, batch 8, cross-entropy and
Dice, one cycle of AdamW up to 2e-3, the moving average evaluated; flip, scale and colour, which
`augment=0` leaves out. CamVid, seed 0, two cores, 2026-11-21: validation mean IoU 0.525 after 20
epochs, 36 minutes. Crops of 160x224, 6 epochs, seeds 0 and 1, two Xeon cores, 2026-11-25: 0.288 ±
0.020, 3.0 minutes. The report: 0.512.

  python launch/train.py --config=configs/unet_camvid.py:data=camvid
  python launch/train.py --config=configs/unet_camvid.py
  python launch/train.py --config=configs/unet_camvid.py:smoke

`data=camvid` reads $SEGJAX_DATA/camvid, or --config.data.source.folder.
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", augment=True, smoke=False)
  c = config_lib.default()
  c.name = "unet_camvid"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (240, 320)
  c.data.batch_size = 8
  c.data.fit = "crop"
  c.data.eval_fit = "full"

  c.data.mean, c.data.std = weights.normalization("resnet18")
  c.model = dict(
    name="backbone_unet",
    backbone="resnet18",
    widths=(128, 96, 64),  # up to stride 4; the logits are up-sampled from there
    skip=True,
    dtype="float32",
  )

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

  if a.augment:
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
