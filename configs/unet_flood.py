"""Aerial flood scenes, 8 classes: a U-Net, with or without augmentation.

The net (8,633,672 parameters at width 32) and the settings of a course report on FloodNet, see
`segjax.recipes.flood`. `width=16` is a quarter of it, for a machine without a GPU. Mean IoU of that
quarter on Dubai's photographs, two cores: 0.457 (seed 0, 20 minutes, 2026-11-21); at 160x160, 24
epochs, seeds 0 to 2, two Xeon cores, 2026-11-25: 0.435 (0.420 to 0.445) with augmentation, 2.4
minutes, 0.492 (0.482 to 0.504) without, 2.3. The report's best, of FloodNet, is 0.248.

  python launch/train.py --config=configs/unet_flood.py
  python launch/train.py --config=configs/unet_flood.py:data=floodnet,augment=0
  python launch/train.py --config=configs/unet_flood.py:data=dubai_aerial,width=16
  python launch/train.py --config=configs/unet_flood.py:smoke

Real sets are read from $SEGJAX_DATA/<name>, or --config.data.source.folder.
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", augment=True, width=32, smoke=False)
  c = config_lib.default()
  c.name = "unet_flood" if a.augment else "unet_flood_noaugment"
  recipes.flood(c, a.data, a.augment)
  c.model = dict(
    name="unet",
    widths=tuple(a.width * k for k in (1, 2, 4, 8, 16)),
    norm="batch",
    up="transposed3",
    up_keeps=False,
    up_relu=False,
    skip=True,
    dropout=0.5,
    fit="resize",
    kernel_init="he",
    dtype="float32",
  )
  return config_lib.smoke(c) if a.smoke else c
