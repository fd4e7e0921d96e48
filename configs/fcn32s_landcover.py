"""Satellite land cover, 6 classes: FCN-32s over VGG-16.

Half of a comparison in a course report (the other is `deeplabv3_landcover.py`), both from
ImageNet weights there: 512x512, batch 8, cross-entropy, AdamW, 1e-4 falling to 0 polynomially,
flips, brightness and contrast. The report has validation mean IoU 0.670; its photographs were not
at hand. Ours on others: `studies/fcn_vs_deeplab.py`.

  python launch/train.py --config=configs/fcn32s_landcover.py
  python launch/train.py --config=configs/fcn32s_landcover.py:data=landcover,weights=vgg16.pth
  python launch/train.py --config=configs/fcn32s_landcover.py:smoke

`data=landcover` reads $SEGJAX_DATA/landcover, or --config.data.source.folder. Without `weights`, a
file of torchvision, the backbone starts from random ones.
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", weights="", smoke=False)
  c = config_lib.default()
  c.name = "fcn32s_landcover"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (512, 512)
  c.data.batch_size = 8

  c.data.mean, c.data.std = weights.normalization("vgg16")
  c.model = dict(name="fcn32s", backbone="vgg16", hidden=0, dtype="float32")
  if a.weights:
    c.init_from = config_lib.initial_weights("vgg16", a.weights)
    c.init_part = "backbone"

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-4
  c.schedule.name = "polynomial"
  c.schedule.learning_rate = 1e-4
  c.total_epochs = 36.0
  c.eval_epochs = 1.0

  c.augment.flip = 0.5
  c.augment.flip_vertical = 0.5
  c.augment.brightness = 0.2
  c.augment.contrast = 0.2

  if a.data == "aerial_scenes":
    c.data.source.num_train = 400
    c.data.source.num_val = 64
    c.data.size = (256, 256)
    c.total_epochs = 4.0  # of 50 steps
    c.eval_epochs = 2.0
  return config_lib.smoke(c) if a.smoke else c
