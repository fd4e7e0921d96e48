"""Classification of small images by a ResNeXt-101 64x4d (81.4 M parameters), for a GPU.

The settings of a course report: SGD with momentum 0.9, learning rate 0.01, weight decay 1e-4, from
ImageNet weights where the user has torchvision's file. The report has accuracy 0.898 on photographs
of 50 classes, which were not at hand: there is no figure of ours.

  python launch/train.py --config=configs/resnext101_classification.py:data=folder,weights=FILE
  python launch/train.py --config=configs/resnext101_classification.py:smoke

`data=folder` reads $SEGJAX_DATA/folder, or --config.data.source.folder: one folder a class, or
files named <class>_<id>.png. Images are enlarged to `size` pixels.
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="digits", size=128, weights="", smoke=False)
  c = config_lib.default()
  c.name = "resnext101_classification"
  recipes.classification(c, a.data)
  c.data.size = (a.size, a.size)
  c.model = dict(name="classifier", backbone="resnext101_64x4d", dtype="float32")
  recipes.backbone_weights(c, "resnext101_64x4d", a.weights)
  c.optimizer.update(name="sgd", momentum=0.9, weight_decay=1e-4)
  c.schedule.learning_rate = 0.01
  c.total_epochs = 10.0
  c.augment.flip = 0.5 if a.data != "digits" else 0.0
  return config_lib.smoke(c) if a.smoke else c
