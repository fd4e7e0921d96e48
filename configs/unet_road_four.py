"""Other / road / sidewalk / vehicle: the small road U-Net of `unet_road.py` with a softmax.

256x256, batch 4, cross-entropy, Adam, a cosine from 3e-3 to 0, no augmentation. `skip=0` leaves the
skip connections out.

  python launch/train.py --config=configs/unet_road_four.py
  python launch/train.py --config=configs/unet_road_four.py:data=camvid
  python launch/train.py --config=configs/unet_road_four.py:smoke

`data=camvid` merges CamVid's classes (Road, Pavement, Car; the rest is other; void is ignored).
There, two Zen 5 cores, 2026-11-23, seed 0: mean IoU 0.407 after 2.1 minutes, other 0.918, road
0.709, sidewalk and vehicle not found yet.
"""

from segjax import config as config_lib


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", skip=True, smoke=False)
  c = config_lib.default()
  c.name = "unet_road_four"

  four = dict(classes="four") if a.data in ("road_scenes", "camvid") else {}
  c.data.source = config_lib.data_source(a.data, **four)
  c.data.size = (256, 256)
  c.data.batch_size = 4

  c.model = dict(
    name="unet",
    widths=(8, 16, 32, 64, 128),
    norm="none",
    up="transposed2",
    up_keeps=True,
    up_relu=True,
    skip=a.skip,
    dropout=0.0,
    kernel_init="he",
    dtype="float32",
  )

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0

  c.optimizer.name = "adam"
  c.schedule.name = "cosine"
  c.schedule.learning_rate = 3e-3
  c.total_epochs = 6.0
  c.eval_epochs = 2.0

  if a.data == "road_scenes":
    c.total_epochs = 4.4  # of 125 steps
    c.eval_epochs = 1.1
  return config_lib.smoke(c) if a.smoke else c
