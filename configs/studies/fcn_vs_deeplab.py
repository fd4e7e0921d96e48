"""FCN-32s over VGG-16 against DeepLabv3 over ResNet-50 on satellite land cover.

A course report has validation mean IoU 0.670 and 0.730 from ImageNet weights; its photographs were
not at hand. On Dubai's from scratch, at 160x160, 14 epochs, seeds 0 and 1, two Zen 4 cores,
2026-11-27: 0.317 and 0.264, 5 and 4 minutes per run, partly beside tests.

  python launch/study.py --study=configs/studies/fcn_vs_deeplab.py
  python launch/study.py \
    --study=configs/studies/fcn_vs_deeplab.py:data=landcover,vgg16=vgg16.pth,resnet50=resnet50.pth
  python launch/study.py --study=configs/studies/fcn_vs_deeplab.py:smoke
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", vgg16="", resnet50="", smoke=False)
  more = config_lib.write_arg(data=a.data, smoke=a.smoke)
  return Study(
    title="FCN-32s against DeepLabv3 on land cover",
    question="Is a residual net with dilated pooling better than VGG with coarse scores?",
    variants={
      "VGG16-FCN32s": f"configs/fcn32s_landcover.py:{more},weights={a.vgg16}",
      "DeepLabv3-ResNet50": f"configs/deeplabv3_landcover.py:{more},weights={a.resnet50}",
    },
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
