"""Other / road / sidewalk / vehicle: the small road U-Net of `unet_road.py` with a softmax.

  python launch/train.py --config=configs/unet_road_four.py
  python launch/train.py --config=configs/unet_road_four.py:data=camvid
  python launch/train.py --config=configs/unet_road_four.py:smoke

`data=camvid` merges CamVid's classes (Road, Pavement, Car; the rest is other; void is ignored).
"""

from segjax import config as config_lib


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", skip=True, smoke=False)
  c = config_lib.default()
  c.name = "unet_road_four"
  c.data.source = config_lib.data_source(a.data, classes="four")
  c.data.size = (256, 256)
  c.data.batch_size = 4
  c.task.sigmoid = False
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
  c.optimizer.name = "adam"
  c.schedule.name = "cosine"
  c.schedule.learning_rate = 3e-3
  c.total_epochs = 4.4 if a.data == "road_scenes" else 6.0
  c.eval_epochs = c.total_epochs / 4
  return config_lib.smoke(c) if a.smoke else c
