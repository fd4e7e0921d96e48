"""The worth of self-supervised pretraining for segmentation: frozen encoders.

DeepLabv3+'s decoder over a frozen ResNet-18: random, or pretrained by the runs that are named; and,
as the mark to reach, the same net trained whole from random weights.

  python launch/train.py --config=configs/pretraining.py:data=camvid,method=dino --workdir=runs/dino
  python launch/study.py --study=configs/studies/frozen_encoder.py:data=camvid,dino=runs/dino
  python launch/study.py --study=configs/studies/frozen_encoder.py:smoke

`rotation=`, `dino=` and `simclr=` take the workdirs of `configs/pretraining.py`, `backbone=` the
encoder that they trained. CamVid, 6 epochs, two seeds, two Xeon cores, 2026-11-25: mean IoU 0.402 ±
0.013 random, 0.537 ± 0.004 DINO, 0.595 ± 0.005 trained whole; 4.4 minutes per run, trained whole
5.9, beside tests. Seed 0, one Zen 4 core, 2026-11-28: 0.402, 0.437 rotation, 0.526, 0.600; 11 to 14
minutes per run.
"""

from segjax import config as config_lib
from segjax.study import Study

METHODS = {"rotation": "rotation prediction", "dino": "DINO", "simclr": "SimCLR"}


def get_study(arg=""):
  a = config_lib.parse_arg(
    arg, data="road_scenes", **dict.fromkeys(METHODS, ""), backbone="resnet18", smoke=False
  )
  more = config_lib.write_arg(data=a.data, backbone=a.backbone, smoke=a.smoke)
  random = f"configs/pixelwise_objects.py:{more}"
  pretrained = {
    f"frozen, {text}": f"{random},weights={a[method]}"
    for method, text in METHODS.items()
    if a[method]
  }
  return Study(
    title="Frozen encoders, pretrained without labels and random",
    question="How useful are features that were learned without labels for segmentation?",
    variants={"frozen, random": random, **pretrained, "trained whole": random},
    changes={"trained whole": {"freeze": ""}},
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
