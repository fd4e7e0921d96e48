"""A ResNet-18, or a small ViT, trained without labels: rotation prediction, SimCLR or DINO.

  python launch/train.py --config=configs/pretraining.py
  python launch/train.py --config=configs/pretraining.py:data=cifar10_subset,method=simclr
  python launch/train.py --config=configs/pretraining.py:data=camvid,method=dino
  python launch/train.py --config=configs/pretraining.py:method=dino,backbone=vit_tiny
  python launch/train.py --config=configs/pretraining.py:smoke

A dense layer between the features and the compared vectors, or the class of a rotation, keeps the
features general. Any source of images will do, `data=folder` without labels too; of large ones
random crops of 64x64 are taken, and their middle to validate. AdamW, one cycle up to 1e-3; random
resized crops, colour changes and mirroring, weaker ones for rotation.

The features beside those of random weights: launch/analyze.py features --epochs=0,8 --workdir=D (8:
the length of the first command's training), after rotation with --stage=2 or 3 too, as the middle
of the net knows most of classes then; with several seeds and all stages: launch/study.py
--study=configs/studies/pretraining.py, where figures stand. Start any net from them by
--config.init_from=D --config.init_part=backbone. The classes of a folder with labels are known by
--config.data.source.kind=segmentation or classification.
"""

from segjax import config as config_lib
from segjax import weights
from segjax.errors import choose

METHODS = {"dino": "prototypes", "rotation": "projection", "simclr": "projection"}
# Sets whose classes differ by colour: an augmentation of colour would make features blind to it.
KNOWN_BY_COLOR = ("aerial_scenes", "cifar10_subset", "dubai_aerial")
SMALL = {"digits": 32, "cifar10_subset": 48}  # images no larger than 32x32 -> side in training


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="digits", method="rotation", backbone="resnet18", smoke=False)
  c = config_lib.default()
  net = choose(METHODS, a.method, "method")
  c.name = f"{a.backbone}_{a.method}"
  small = a.data in SMALL

  c.data.source = config_lib.image_source(a.data)
  if a.data == "digits":
    c.data.source.size = 32
  c.data.size = (SMALL.get(a.data, 64),) * 2
  c.data.batch_size = 64 if small else 32
  c.data.fit = "resize" if small else "crop"
  c.data.eval_fit = "resize" if small else "crop"

  c.data.mean, c.data.std = weights.normalization(a.backbone)  # as the nets that start from it
  c.model = dict(name=net, backbone=a.backbone, dtype="float32")

  config_lib.set_task(c, a.method)
  c.best_metric = "val/accuracy"

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-4
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = 1e-3
  c.total_epochs, c.eval_epochs = (30.0, 5.0) if small else (60.0, 10.0)
  if a.data == "dubai_aerial":  # one batch of 32 an epoch
    c.total_epochs, c.eval_epochs = 400.0, 100.0

  c.augment.flip = 0.0 if a.data == "digits" else 0.5
  c.augment.crop_area_min = 0.3
  c.augment.brightness = 0.4
  c.augment.contrast = 0.4
  c.augment.saturation = 0.4
  c.augment.hue = 0.3

  if a.method == "rotation":
    # All four ways of each image are in a batch, so a quarter of the images, and of the epochs.
    c.data.batch_size = 16 if small else 8
    c.total_epochs, c.eval_epochs = (8.0, 2.0) if small else (15.0, 5.0)
    if a.data == "dubai_aerial":
      c.total_epochs, c.eval_epochs = 90.0, 30.0
    c.augment.crop_area_min = 0.6  # the upper side must stay visible
    color = a.data not in KNOWN_BY_COLOR
    c.augment.brightness = 0.2 if color else 0.0
    c.augment.contrast = 0.2 if color else 0.0
    c.augment.saturation = 0.2 if color else 0.0
    c.augment.hue = 0.05 if color else 0.0

  if a.method == "dino":
    c.task.prototypes = 512
    c.task.crops = 0 if small else 2  # of small images they would show little
    c.task.centering = "sinkhorn"
    c.task.teacher_start, c.task.teacher_end = 0.03, 0.03
    c.ema_decay, c.ema_decay_end = 0.98, 1.0
    c.best_metric, c.best_mode = "val/loss", "min"
  return config_lib.smoke(c) if a.smoke else c
