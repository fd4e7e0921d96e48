"""A ResNet-18, or a small ViT, trained without labels: rotation prediction, SimCLR or DINO.

  python launch/train.py --config=configs/pretraining.py
  python launch/train.py --config=configs/pretraining.py:data=cifar10_subset,method=simclr
  python launch/train.py --config=configs/pretraining.py:data=camvid,method=dino
  python launch/train.py --config=configs/pretraining.py:method=dino,backbone=vit_tiny
  python launch/train.py --config=configs/pretraining.py:smoke

A dense layer between the features and what a loss compares, or the class of a rotation, keeps the
features general. Any source of images will do, `data=folder` without labels too; of large ones
random crops of 64x64 are taken, and their middle to validate. The features beside those of random
weights: launch/analyze.py features --epochs=0,15 --workdir=D, after rotation with --stage=2 or 3
too, as the middle of the net knows most of classes then; with several seeds and all stages:
launch/study.py --study=configs/studies/pretraining.py, where figures stand. Start any net from them
by --config.init_from=D --config.init_part=backbone. Folders with labels tell classes of features
apart: --config.data.source.kind=segmentation or classification.
"""

from segjax import config as config_lib
from segjax import weights
from segjax.errors import choose

METHODS = {"dino": "prototypes", "rotation": "projection", "simclr": "projection"}
TOLD_BY_COLOR = ("aerial_scenes", "cifar10_subset", "dubai_aerial")
SMALL = {"digits": 32, "cifar10_subset": 48}  # images no larger than 32x32: what side they get


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="digits", method="rotation", backbone="resnet18", smoke=False)
  c = config_lib.default()
  model = choose(METHODS, a.method, "method")
  c.name = f"{a.backbone}_{a.method}"
  config_lib.set_task(c, a.method)
  c.data.source = config_lib.image_source(a.data)
  small = a.data in SMALL
  c.data.size = (SMALL.get(a.data, 64),) * 2
  c.data.fit = c.data.eval_fit = "resize" if small else "crop"
  c.data.batch_size = 64 if small else 32
  if a.data == "digits":
    c.data.source.size = 32
  c.data.mean, c.data.std = weights.normalization(a.backbone)  # as the nets that start from it
  c.model = dict(name=model, backbone=a.backbone, dtype="float32")
  c.optimizer.update(name="adamw", weight_decay=1e-4)
  c.schedule.update(name="one_cycle", learning_rate=1e-3)
  c.total_epochs, c.eval_epochs = (30.0, 5.0) if small else (60.0, 10.0)
  c.augment.update(crop_area_min=0.3, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.3)
  if a.method == "rotation":
    # All four ways of each image are in a batch, so a quarter of the images, and of the epochs.
    c.data.batch_size //= 4
    c.total_epochs, c.eval_epochs = (8.0, 2.0) if small else (15.0, 5.0)
    # What is up must stay to be seen.
    c.augment.update(crop_area_min=0.6, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    if a.data in TOLD_BY_COLOR:  # features come not to tell what changes
      c.augment.update(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
  if a.data == "dubai_aerial":  # one batch of 32 an epoch
    c.total_epochs, c.eval_epochs = (90.0, 30.0) if a.method == "rotation" else (400.0, 100.0)
  if a.data != "digits":
    c.augment.flip = 0.5
  c.best_metric = "val/accuracy"
  if a.method == "dino":
    c.ema_decay, c.ema_decay_end = 0.98, 1.0
    c.task.update(prototypes=512, centering="sinkhorn", teacher_start=0.03, teacher_end=0.03)
    c.task.crops = 0 if small else 2  # of small images they would show little
    c.best_metric, c.best_mode = "val/loss", "min"
  return config_lib.smoke(c) if a.smoke else c
