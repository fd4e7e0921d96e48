"""Road / no road with a small U-Net, with or without skip connections.

The net and the settings of a course experiment on KITTI road: 256x256, batch 4, binary
cross-entropy, Adam, no augmentation, 12 epochs at a learning rate of 1e-4.

  python launch/train.py --config=configs/unet_road.py
  python launch/train.py --config=configs/unet_road.py:data=kitti_road
  python launch/train.py --config=configs/unet_road.py:skip=0
  python launch/train.py --config=configs/unet_road.py:smoke

`data=kitti_road` reads $SEGJAX_DATA/kitti_road, or --config.data.source.folder.
The drawn scenes, the default, are learned within minutes only with other settings: He in place of
Glorot initialisation, centred images, Dice beside the cross-entropy, one cycle up to 6e-3, 550
steps, which stand in `recipes.course_road`.
Drawn scenes, two Zen 4 cores, 2026-11-28, seed 0: road F1 0.953 in 1.9 minutes of training.
KITTI road, 2026-11-24, the same cores, seeds 0 to 4: F1 0.788 (0.747 to 0.808) with skips, 0.765
(0.733 to 0.798) without, 1.8 to 2.1 minutes; after 40 epochs (two Xeon cores, 2026-11-25) 0.881
(0.866 to 0.890) and 0.882 (0.861 to 0.910).
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", skip=True, smoke=False)
  c = config_lib.default()
  c.name = "unet_road" if a.skip else "unet_road_noskip"
  recipes.road_unet(c, a.skip, kernel_init="he" if a.data == "road_scenes" else "glorot")
  recipes.course_road(c, a.data)
  return config_lib.smoke(c) if a.smoke else c
