"""Augmentation of aerial scenes, on and off: a U-Net on random crops.

Dubai's photographs, width 16, 160x160, 24 epochs, seeds 0 to 2, two Xeon cores, 2026-11-25:
mean IoU 0.435 ± 0.014 with augmentation, 0.492 ± 0.011 without: lower; 17 minutes with the report.

python launch/study.py --study=configs/studies/augmentation.py
python launch/study.py --study=configs/studies/augmentation.py:data=dubai_aerial,width=16
python launch/study.py --study=configs/studies/augmentation.py:smoke
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", width=32, smoke=False)
  more = config_lib.write_arg(data=a.data, width=a.width, smoke=a.smoke)
  return Study(
    title="Augmentation of aerial scenes",
    question="Do random resized crops, rotation, flips and colour shift help a U-Net beyond the "
    "random crop that it sees anyway?",
    variants={
      "crop alone": f"configs/unet_flood.py:augment=0,{more}",
      "augmentation": f"configs/unet_flood.py:augment=1,{more}",
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
