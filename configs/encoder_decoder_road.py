"""Road / no road with two strided convolutions and one up-sampling: the net to beat.

The settings of configs/unet_road.py, those for the drawn scenes too, with 53,761 parameters in
place of 578,417. KITTI road, two Zen 5 cores, 2026-11-23, seeds 0 to 4: F1 0.149 (0.000 to 0.378)
in half a minute.

  python launch/train.py --config=configs/encoder_decoder_road.py
  python launch/train.py --config=configs/encoder_decoder_road.py:data=kitti_road
  python launch/train.py --config=configs/encoder_decoder_road.py:smoke
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  c = config_lib.default()
  c.name = "encoder_decoder_road"
  init = "he" if a.data == "road_scenes" else "glorot"
  c.model = dict(name="encoder_decoder", widths=(32, 64), kernel_init=init, dtype="float32")
  recipes.course_road(c, a.data)
  return config_lib.smoke(c) if a.smoke else c
