"""Classification of small images by a ResNet-18, with Adam or SGD and three schedules.

The settings of a course report, of which Adam at a constant 1e-4, batch 64, did best. Schedules:
`constant`, `step` (a tenth after half of the training) and `multi_step` (after a half and three
quarters). SGD has momentum 0.9 and starts at 0.01. 5000 images of CIFAR-10 with size=64, seed 0,
two Xeon cores, 2026-11-25: accuracy 0.542 after 20 epochs and 9.4 minutes, beside tests; two Zen 4
cores, 2026-11-27: 0.533, 9.4 minutes.

  python launch/train.py --config=configs/resnet18_classification.py
  python launch/train.py --config=configs/resnet18_classification.py:data=cifar10_subset,size=64
  python launch/train.py --config=configs/resnet18_classification.py:optimizer=sgd,schedule=step
  python launch/train.py --config=configs/resnet18_classification.py:smoke

The net divides the size by 32; `size=64` enlarges photographs of 32x32 so that four positions are
left of them, not one. `weights=FILE` starts from torchvision's.
"""

from segjax import config as config_lib
from segjax import weights

LEARNING_RATES = {"adam": 1e-4, "sgd": 1e-2}


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="digits", optimizer="adam", schedule="constant", size=32, weights="", smoke=False
  )
  c = config_lib.default()
  c.name = "resnet18_classification"

  classes = dict(kind="classification") if a.data == "folder" else {}
  c.data.source = config_lib.data_source(a.data, **classes)
  if a.data == "digits":
    c.data.source.size = 32
  c.data.size = (a.size, a.size)
  c.data.batch_size = 64

  c.data.mean, c.data.std = weights.normalization("resnet18")
  c.model = dict(name="classifier", backbone="resnet18", dtype="float32")
  if a.weights:
    c.init_from = config_lib.initial_weights("resnet18", a.weights)
    c.init_part = "backbone"

  config_lib.set_task(c, "classification")
  c.best_metric = "val/accuracy"
  c.pictures = 8

  c.optimizer.name = a.optimizer
  c.optimizer.momentum = 0.9  # of SGD
  c.schedule.name = a.schedule
  c.schedule.learning_rate = LEARNING_RATES.get(a.optimizer, 1e-4)
  c.total_epochs = 10.0
  c.eval_epochs = 1.0

  if a.data != "digits":
    c.total_epochs = 20.0
    c.eval_epochs = 2.0
    c.augment.flip = 0.5
    c.augment.crop_area_min = 0.5
  if a.schedule == "step":
    c.schedule.every_epochs = c.total_epochs / 2
  if a.schedule == "multi_step":
    c.schedule.milestone_epochs = (c.total_epochs / 2, c.total_epochs * 3 / 4)
  return config_lib.smoke(c) if a.smoke else c
