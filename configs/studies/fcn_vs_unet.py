"""FCN-32s against U-Net, both over ResNet-18, on driver's views.

CamVid, crops of 160x224, 6 epochs, seeds 0 and 1, two Xeon cores, 2026-11-25: mean IoU 0.296 ±
0.016 and 0.288 ± 0.020, not distinguishable; 12 minutes with the report. A course report: 0.415,
0.512.

python launch/study.py --study=configs/studies/fcn_vs_unet.py
python launch/study.py --study=configs/studies/fcn_vs_unet.py:data=camvid
python launch/study.py --study=configs/studies/fcn_vs_unet.py:smoke
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  more = config_lib.write_arg(data=a.data, smoke=a.smoke)
  return Study(
    title="FCN-32s against U-Net over ResNet-18",
    question="What does a decoder with skip connections add to the scores of the stride-32 "
    "features, up-sampled 32 times?",
    variants={
      "FCN-32s": f"configs/fcn32s_camvid.py:{more}",
      "U-Net": f"configs/unet_camvid.py:{more}",
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
