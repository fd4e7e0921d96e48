"""Losses of segmentation: a U-Net over ResNet-18 on driver's views, with one loss after another.

Cross-entropy alone, smoothed, weighted by class, of the hardest pixels, focal; and beside the
cross-entropy a loss of regions or of boundaries. All else as in `unet_camvid.py`.

python launch/study.py --study=configs/studies/losses.py
python launch/study.py --study=configs/studies/losses.py:data=camvid
python launch/study.py --study=configs/studies/losses.py:smoke
"""

from segjax import config as config_lib
from segjax.study import Study

# All with `cross_entropy` 1 and `dice` 0 where they do not say otherwise.
LOSSES = {
  "cross-entropy": {},
  "label smoothing": {"label_smoothing": 0.1},
  "median-frequency weights": {"class_weights": ("median_frequency",)},
  "inverse-log weights": {"class_weights": ("inverse_log",)},
  "inverse weights": {"class_weights": ("inverse",)},
  "focal": {"cross_entropy": 0.0, "focal": 1.0},
  "hardest quarter": {"cross_entropy": 0.0, "ohem": 1.0, "ohem_share": 0.25},
  "with Dice": {"dice": 1.0},
  "with Dice, both weighted": {
    "dice": 1.0,
    "dice_weighted": True,
    "class_weights": ("median_frequency",),
  },
  "with Jaccard": {"jaccard": 1.0},
  "with Tversky": {"tversky": 1.0, "tversky_alpha": 0.3, "tversky_beta": 0.7},
  "with focal Tversky": {"tversky": 1.0, "tversky_gamma": 0.75},
  "with Lovasz": {"lovasz": 1.0},
  "with boundary": {"boundary": 0.01},
}


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  spec = f"configs/unet_camvid.py:{config_lib.write_arg(data=a.data, smoke=a.smoke)}"
  return Study(
    title="Losses of segmentation",
    question="Which loss gives a U-Net the best mean IoU, and which the best rare classes?",
    variants=dict.fromkeys(LOSSES, spec),
    changes={
      label: {f"loss.{k}": v for k, v in ({"dice": 0.0} | fields).items()}
      for label, fields in LOSSES.items()
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
