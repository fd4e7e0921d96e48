"""What a net learns of classes without labels: rotation prediction, DINO, SimCLR.

  python launch/study.py --study=configs/studies/pretraining.py
  python launch/study.py --study=configs/studies/pretraining.py:data=camvid
  python launch/study.py --study=configs/studies/pretraining.py:data=dubai_aerial,methods=dino
  python launch/study.py --study=configs/studies/pretraining.py:smoke

The report scores the features of every run by k nearest neighbours, beside those of the random
weights that the run began with. `methods=rotation+dino` leaves others out. The runs in --runs can
be handed to `configs/studies/frozen_encoder.py`.
"""

from segjax import config as config_lib
from segjax.errors import choose
from segjax.study import Study

METHODS = {"rotation": "rotation prediction", "dino": "DINO", "simclr": "SimCLR"}


def get_study(arg=""):
  a = config_lib.parse_arg(
    arg, data="digits", methods="+".join(METHODS), backbone="resnet18", smoke=False
  )
  more = config_lib.write_arg(data=a.data, backbone=a.backbone, smoke=a.smoke)
  return Study(
    title="Pretraining without labels",
    question="How much does a net learn of classes that it is never told?",
    variants={
      choose(METHODS, m, "method"): f"configs/pretraining.py:{more},method={m}"
      for m in a.methods.split("+")
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
    metric="val/loss",
  )
