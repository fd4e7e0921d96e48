"""Road / no road with two strided convolutions and one up-sampling: the net to beat.

The settings of configs/unet_road.py, those for the drawn scenes too: 256x256, batch 4, binary
cross-entropy, Adam 1e-4, no augmentation, 12 epochs. 53,761 parameters in place of 578,417. KITTI
road, two Zen 5 cores, 2026-11-23, seeds 0 to 4: F1 0.149 (0.000 to 0.378) in half a minute.

  python launch/train.py --config=configs/encoder_decoder_road.py
  python launch/train.py --config=configs/encoder_decoder_road.py:data=kitti_road
  python launch/train.py --config=configs/encoder_decoder_road.py:smoke
"""

from segjax import config as config_lib


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  c = config_lib.default()
  c.name = "encoder_decoder_road"

  # Black pixels count as not road here; the benchmark, and the default, ignore them.
  black = dict(black="not_road") if a.data == "kitti_road" else {}
  c.data.source = config_lib.data_source(a.data, **black)
  c.data.size = (256, 256)
  c.data.batch_size = 4

  c.model = dict(name="encoder_decoder", widths=(32, 64), kernel_init="glorot", dtype="float32")

  c.loss.cross_entropy = 1.0
  c.optimizer.name = "adam"
  c.schedule.name = "constant"
  c.schedule.learning_rate = 1e-4
  c.total_epochs = 12.0
  c.eval_epochs = 1.0

  if a.data == "road_scenes":  # with these a few hundred steps do
    c.data.mean, c.data.std = (0.45,) * 3, (0.25,) * 3
    c.model.kernel_init = "he"
    c.loss.dice = 1.0
    c.schedule.name = "one_cycle"
    c.schedule.learning_rate = 6e-3
    c.total_epochs = 4.4  # of 125 steps
    c.eval_epochs = 1.1
  return config_lib.smoke(c) if a.smoke else c
