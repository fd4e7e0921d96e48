"""Classification of small images by a ResNeXt-101 64x4d (81.4 M parameters), for a GPU.

The settings of a course report: SGD with momentum 0.9, learning rate 0.01, weight decay 1e-4, from
ImageNet weights where the user has torchvision's file. The report has accuracy 0.898 on photographs
of 50 classes, which were not at hand.

  python launch/train.py --config=configs/resnext101_classification.py:data=folder,weights=FILE
  python launch/train.py --config=configs/resnext101_classification.py:smoke

`data=folder` reads $SEGJAX_DATA/folder, or --config.data.source.folder: one folder per class, or
files named <class>_<id>.png. Images are enlarged to `size` pixels.
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="digits", size=128, weights="", smoke=False)
  c = config_lib.default()
  c.name = "resnext101_classification"

  classes = dict(kind="classification") if a.data == "folder" else {}
  c.data.source = config_lib.data_source(a.data, **classes)
  if a.data == "digits":
    c.data.source.size = 32
  c.data.size = (a.size, a.size)
  c.data.batch_size = 64

  c.data.mean, c.data.std = weights.normalization("resnext101_64x4d")
  c.model = dict(name="classifier", backbone="resnext101_64x4d", dtype="float32")
  if a.weights:
    c.init_from = config_lib.initial_weights("resnext101_64x4d", a.weights)
    c.init_part = "backbone"

  config_lib.set_task(c, "classification")
  c.best_metric = "val/accuracy"
  c.pictures = 8

  c.optimizer.name = "sgd"
  c.optimizer.momentum = 0.9
  c.optimizer.weight_decay = 1e-4
  c.schedule.name = "constant"
  c.schedule.learning_rate = 0.01
  c.total_epochs = 10.0
  c.eval_epochs = 1.0

  if a.data != "digits":  # a mirrored digit is none
    c.augment.flip = 0.5
  return config_lib.smoke(c) if a.smoke else c
