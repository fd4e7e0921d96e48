"""A plain encoder-decoder against the small U-Net without and with skip connections.

KITTI road, 12 epochs, seeds 0 to 4: F1 0.149 (0.000 to 0.378), two Zen 5 cores, 2026-11-23; 0.765
and 0.788 (`skip_connections`), two Zen 4 cores, 2026-11-24. In PyTorch 0.00, 0.62 and 0.77.

python launch/study.py --study=configs/studies/simple_vs_unet.py
python launch/study.py --study=configs/studies/simple_vs_unet.py:data=kitti_road
python launch/study.py --study=configs/studies/simple_vs_unet.py:smoke
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  more = config_lib.write_arg(data=a.data, smoke=a.smoke)
  return Study(
    title="A plain encoder-decoder against U-Net",
    question="How much of the road does a net of three layers find, and what do depth and skip "
    "connections add?",
    variants={
      "encoder-decoder": f"configs/encoder_decoder_road.py:{more}",
      "U-Net, no skips": f"configs/unet_road.py:skip=0,{more}",
      "U-Net": f"configs/unet_road.py:skip=1,{more}",
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
    metric="val/f1/road",
  )
