"""Skip connections of the small road U-Net, on and off.

KITTI road, seeds 0 to 4: F1 0.788 ± 0.024 with skips, 0.765 ± 0.028 without after 12 epochs (two
Zen 4 cores, 2026-11-24), 0.881 ± 0.010 and 0.882 ± 0.018 after 40 (two Xeon cores, 2026-11-25);
neither is distinguishable. 26 minutes with the report, partly beside tests; from epoch 12 to 40 a
run takes 5.6 to 6.6 minutes.

python launch/study.py --study=configs/studies/skip_connections.py --seeds=5
python launch/study.py --study=configs/studies/skip_connections.py:data=kitti_road --seeds=5
python launch/study.py --study=configs/studies/skip_connections.py:smoke
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  more = config_lib.write_arg(data=a.data, smoke=a.smoke)
  return Study(
    title="Skip connections of a U-Net",
    question="Does a small U-Net find the road better when its decoder sees the encoder's features "
    "of the same resolution, and is the difference larger than the noise of the seed?",
    variants={
      "no skips": f"configs/unet_road.py:skip=0,{more}",
      "skips": f"configs/unet_road.py:skip=1,{more}",
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
    metric="val/f1/road",
  )
