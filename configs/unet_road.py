"""Road / no road with a small U-Net, with or without skip connections.

The net and the settings of a course experiment on KITTI road: widths 8 to 128 (578,417
parameters), 256x256, batch 4, binary cross-entropy, Adam, no augmentation, 12 epochs at a learning
rate of 1e-4. Black pixels, which the benchmark ignores, count as not road.

  python launch/train.py --config=configs/unet_road.py
  python launch/train.py --config=configs/unet_road.py:data=kitti_road
  python launch/train.py --config=configs/unet_road.py:skip=0
  python launch/train.py --config=configs/unet_road.py:smoke

`data=kitti_road` reads $SEGJAX_DATA/kitti_road, or --config.data.source.folder.
The drawn scenes, the default, are learned within minutes only with other settings: He in place of
Glorot initialisation, centred images, Dice beside the cross-entropy, one cycle up to 6e-3, 550
steps.
Drawn scenes, two Zen 4 cores, 2026-11-29, seed 0: road F1 0.953 in 1.5 to 1.9 minutes.
KITTI road, 2026-11-24, the same cores, seeds 0 to 4: F1 0.788 (0.747 to 0.808) with skips, 0.765
(0.733 to 0.798) without, 1.8 to 2.1 minutes; after 40 epochs (two Xeon cores, 2026-11-25) 0.881
(0.866 to 0.890) and 0.882 (0.861 to 0.910).
"""

from segjax import config as config_lib


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", skip=True, smoke=False)
  c = config_lib.default()
  c.name = "unet_road" if a.skip else "unet_road_noskip"

  # Black pixels count as not road here; the benchmark, and the default, ignore them.
  black = dict(black="not_road") if a.data == "kitti_road" else {}
  c.data.source = config_lib.data_source(a.data, **black)
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
    kernel_init="glorot",
    dtype="float32",
  )

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
