"""Skip connections of a U-Net that colours grey images, on and off.

The net says the whole picture, so that it can lose its detail; with `output=regression` or `bins`
the lightness comes from the image and colours alone can go wrong. CamVid at 96x128, 12 epochs,
seeds 0 to 2, two Xeon cores, 2026-11-25: SSIM 0.519 ± 0.024 without skips, 0.923 ± 0.021 with, edge
error 4.7 and 3.1; 1.3 and 1.5 minutes per run. With `output=regression` 0.9809 and 0.9813, not
distinguishable.

python launch/study.py --study=configs/studies/colorization_skips.py
python launch/study.py --study=configs/studies/colorization_skips.py:data=camvid
python launch/study.py --study=configs/studies/colorization_skips.py:data=camvid,output=regression
python launch/study.py --study=configs/studies/colorization_skips.py:smoke
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", output="lab", smoke=False)
  more = config_lib.write_arg(data=a.data, output=a.output, smoke=a.smoke)
  return Study(
    title="Skip connections in colourisation",
    question="Does a U-Net need its skip connections to put colours in the right place, and how "
    "much of the fine detail goes without them?",
    variants={
      "no skips": f"configs/unet_colorization.py:skip=0,{more}",
      "skips": f"configs/unet_colorization.py:skip=1,{more}",
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
    metric="val/ssim",
  )
