"""How well self-supervised features separate classes: rotation prediction, DINO, SimCLR.

  python launch/study.py --study=configs/studies/pretraining.py
  python launch/study.py --study=configs/studies/pretraining.py:data=camvid
  python launch/study.py --study=configs/studies/pretraining.py:data=dubai_aerial,methods=dino
  python launch/study.py --study=configs/studies/pretraining.py:smoke

The report scores the features of every run by k nearest neighbours, beside those of the random
weights that the run began with. `methods=rotation+dino` leaves others out, `backbone=` names
another encoder. The runs in --runs can be handed to `configs/studies/frozen_encoder.py`. Zen 4
cores, 2026-11-28, minutes of a run (rotation's on one core, others on two) and kNN accuracy, random
/ trained: crops of Dubai, three seeds, rotation 3.7, 0.708 / 0.779 (+0.070, 0.048 to 0.093), DINO
4.4, 0.708 / 0.784 (+0.076, 0.047 to 0.105); crops of CamVid, three seeds, rotation 4.0, 0.533 /
0.549 (+0.016, -0.039 to 0.072; stage 3 0.548 / 0.628, +0.080, 0.010 to 0.150), seed 0, DINO 8.9,
0.518 / 0.602, SimCLR 4.7, 0.518 / 0.554; CIFAR-10's 5000 images, seed 0, rotation 18.0, 0.280 /
0.326, DINO 24.8, 0.280 / 0.342.
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
    question="How much does a net learn of classes without ever seeing their labels?",
    variants={
      choose(METHODS, m, "method"): f"configs/pretraining.py:{more},method={m}"
      for m in a.methods.split("+")
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
    metric="val/loss",
  )
