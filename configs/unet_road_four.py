"""Other / road / sidewalk / vehicle: the small road U-Net of `unet_road.py` with a softmax.

  python launch/train.py --config=configs/unet_road_four.py
  python launch/train.py --config=configs/unet_road_four.py:data=camvid
  python launch/train.py --config=configs/unet_road_four.py:smoke

`data=camvid` merges CamVid's classes (Road, Pavement, Car; the rest is other; void is ignored).
There, two Zen 5 cores, 2026-11-23, seed 0: mean IoU 0.407 after 2.1 minutes, other 0.918, road
0.709, sidewalk and vehicle not found yet.
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", skip=True, smoke=False)
  c = config_lib.default()
  c.name = "unet_road_four"
  four = dict(classes="four") if a.data in ("road_scenes", "camvid") else {}
  c.data.source = config_lib.data_source(a.data, **four)
  c.task.sigmoid = False
  recipes.road_unet(c, a.skip, kernel_init="he")
  c.schedule.name = "cosine"
  c.schedule.learning_rate = 3e-3
  c.total_epochs, c.eval_epochs = (4.4, 1.1) if a.data == "road_scenes" else (6.0, 2.0)
  return config_lib.smoke(c) if a.smoke else c
