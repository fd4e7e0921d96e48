"""A small CNN against a ResNeXt-101 64x4d on small images of one class each.

  python launch/study.py --study=configs/studies/small_cnn_vs_resnext101.py
  python launch/study.py \
    --study=configs/studies/small_cnn_vs_resnext101.py:data=folder,weights=resnext101_64x4d.pth
  python launch/study.py --study=configs/studies/small_cnn_vs_resnext101.py:smoke
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="digits", weights="", smoke=False)
  more = config_lib.write_arg(data=a.data, smoke=a.smoke)
  return Study(
    title="A small CNN against ResNeXt-101",
    question="How much does a large net, trained on ImageNet before where its weights are given, "
    "gain over two convolutions and three dense layers?",
    variants={
      "small CNN": f"configs/small_cnn_classification.py:{more}",
      "ResNeXt-101 64x4d": f"configs/resnext101_classification.py:{more},weights={a.weights}",
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
    metric="val/accuracy",
  )
