"""Atrous spatial pyramid pooling, on and off: DeepLab over ResNet-18 on aerial scenes.

Dubai's photographs, 160x160, 24 epochs, seeds 0 to 2, two Xeon cores, 2026-11-25: mean IoU
0.379 ± 0.020 with ASPP, 0.394 ± 0.023 without, not distinguishable; 16 minutes with the report.

python launch/study.py --study=configs/studies/aspp.py
python launch/study.py --study=configs/studies/aspp.py:data=dubai_aerial
python launch/study.py --study=configs/studies/aspp.py:smoke

`backbone=` names another backbone than ResNet-18.
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", backbone="resnet18", smoke=False)
  more = config_lib.write_arg(backbone=a.backbone, data=a.data, smoke=a.smoke)
  return Study(
    title=f"ASPP over {a.backbone}",
    question="Does pooling the deepest features over several dilations help where one of them "
    "already covers 32x32 pixels?",
    variants={
      "no ASPP": f"configs/deeplab_flood.py:aspp=0,{more}",
      "ASPP": f"configs/deeplab_flood.py:aspp=1,{more}",
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
