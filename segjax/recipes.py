"""Settings that several configs share; each function changes a config in place."""

from __future__ import annotations

from segjax import config as config_lib
from segjax import weights as weights_lib
from segjax.errors import UserError


def flood(c, data, augment):
  """Small aerial scenes of 8 classes: random 256x256 crops, whole images at evaluation.

  Batch 16, Adam 1e-3, weight decay 1e-4, cross-entropy; for "dubai_aerial" batch 8, Dice too, one
  cycle up to 2e-3 and the moving average. Augmentation: random resized crop, rotation, both flips,
  colour shift; without it the random crop alone.

  Args:
    c: ConfigDict to change.
    data: "aerial_scenes" (drawn), "floodnet", "dubai_aerial" or another source with masks.
    augment: whether the augmentation is on.
  """
  c.data.source = config_lib.data_source(data)
  c.data.size = (256, 256)
  c.data.batch_size = 16
  c.data.fit = "crop"
  c.data.eval_fit = "native"
  c.task.sigmoid = False
  c.optimizer.weight_decay = 1e-4
  c.schedule.learning_rate = 1e-3
  c.total_epochs = 30.0
  if augment:
    c.augment.update(
      flip=0.5, flip_vertical=0.5, rotate=30.0, crop_area_min=0.4, rgb_shift=0.1, brightness=0.2
    )
  if data == "aerial_scenes":
    c.data.source.update(num_train=800, num_val=64)
    c.total_epochs = 8.0  # of 50 steps
    c.eval_epochs = 2.0
  if data == "dubai_aerial":  # 56 large images, of which an epoch sees one crop each
    c.data.batch_size = 8
    c.total_epochs = 60.0
    c.eval_epochs = 20.0
    # With a constant rate mean IoU fell from 0.455 after 20 epochs to 0.414 after 60.
    c.loss.dice = 1.0
    c.schedule.name = "one_cycle"
    c.schedule.learning_rate = 2e-3
    c.ema_decay = 0.98


def _one_cycle(c, learning_rate):
  """Dice beside the cross-entropy, one cycle of AdamW, the moving average evaluated."""
  c.loss.dice = 1.0
  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-2
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = learning_rate
  c.ema_decay = 0.99


def camvid(c, data):
  """Driver's views of many classes: random crops, scale, flip, colour; whole images at evaluation.

  Cross-entropy and Dice, one cycle of AdamW, the moving average evaluated.

  Args:
    c: ConfigDict to change.
    data: "road_scenes" (drawn), "camvid" or another source with masks.
  """
  c.data.source = config_lib.data_source(data)
  c.data.size = (240, 320)
  c.data.batch_size = 8
  c.data.fit = "crop"
  c.data.eval_fit = "native"
  c.task.sigmoid = False
  _one_cycle(c, 2e-3)
  c.total_epochs = 20.0
  c.eval_epochs = 5.0
  c.augment.update(
    flip=0.5,
    scale_min=0.8,
    scale_max=1.6,
    aspect=0.1,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
  )
  if data == "road_scenes":
    c.data.source.update(classes="all", num_train=400)
    c.data.size = (192, 256)
    c.total_epochs, c.eval_epochs = 6.0, 2.0  # of 50 steps


def landcover(c, data):
  """Satellite land cover at 512x512: flips, brightness and contrast; cross-entropy, AdamW.

  Args:
    c: ConfigDict to change.
    data: "aerial_scenes" (drawn), "landcover" or another source with masks.
  """
  c.data.source = config_lib.data_source(data)
  c.data.size = (512, 512)
  c.data.batch_size = 8
  c.task.sigmoid = False
  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-4
  c.schedule.name = "polynomial"
  c.schedule.learning_rate = 1e-4
  c.total_epochs = 36.0
  c.augment.update(flip=0.5, flip_vertical=0.5, brightness=0.2, contrast=0.2)
  if data == "aerial_scenes":
    c.data.source.update(num_train=400, num_val=64)
    c.data.size = (256, 256)
    c.total_epochs, c.eval_epochs = 4.0, 2.0  # of 50 steps


def course_road(c, data):
  """The settings of a course experiment on KITTI road: 256x256, batch 4, Adam 1e-4, 12 epochs.

  Drawn scenes get centred images, Dice beside the cross-entropy and one cycle up to 6e-3, with
  which a few hundred steps do.

  Args:
    c: ConfigDict to change.
    data: name of the source.
  """
  # Black pixels count as not road here; the benchmark, and the default, ignore them.
  black = dict(black="not_road") if data == "kitti_road" else {}
  c.data.source = config_lib.data_source(data, **black)
  c.data.size = (256, 256)
  c.data.batch_size = 4
  c.optimizer.name = "adam"
  c.schedule.learning_rate = 1e-4
  c.total_epochs = 12.0
  if data == "road_scenes":
    c.data.mean, c.data.std = (0.45,) * 3, (0.25,) * 3
    c.loss.dice = 1.0
    c.schedule.name = "one_cycle"
    c.schedule.learning_rate = 6e-3
    c.total_epochs = 4.4  # of 125 steps
    c.eval_epochs = 1.1


def strong_road(c, data, learning_rate):
  """Road for real use: augmentation, Dice beside cross-entropy, one cycle of AdamW, 256x256.

  Args:
    c: ConfigDict to change.
    data: name of the source.
    learning_rate: the highest of the cycle.
  """
  c.data.source = config_lib.data_source(data)
  c.data.size = (256, 256)
  c.data.batch_size = 4
  _one_cycle(c, learning_rate)
  c.augment.update(
    flip=0.5,
    scale_min=0.75,
    scale_max=2.0,
    aspect=0.2,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
  )
  if data in ("road_scenes", "kitti_road"):  # others may call their classes otherwise
    c.best_metric = "val/f1/road"


def road_unet(c, skip, kernel_init):
  """The small U-Net of a course experiment on KITTI road, 578,417 parameters, at 256x256, batch 4.

  Args:
    c: ConfigDict to change.
    skip: skip connections.
    kernel_init: "glorot" or "he".
  """
  c.data.size = (256, 256)
  c.data.batch_size = 4
  c.model = dict(
    name="unet",
    widths=(8, 16, 32, 64, 128),
    norm="none",
    up="transposed2",
    up_keeps=True,
    up_relu=True,
    skip=skip,
    dropout=0.0,
    kernel_init=kernel_init,
    dtype="float32",
  )
  c.optimizer.name = "adam"


def image_unet(c, data, skip, norm, learning_rate):
  """A U-Net of widths 16 to 128 whose outputs are pictures: 96x128, batch 16, Adam, one cycle.

  Args:
    c: ConfigDict to change.
    data: name of the source; of drawn scenes 320 are taken.
    skip: skip connections.
    norm: of the net.
    learning_rate: the highest of the cycle.
  """
  c.data.size = (96, 128)
  c.data.batch_size = 16
  c.model = dict(
    name="unet",
    widths=(16, 32, 64, 128),
    norm=norm,
    up="transposed2",
    up_keeps=False,
    up_relu=False,
    skip=skip,
    dropout=0.0,
    kernel_init="he",
    dtype="float32",
  )
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = learning_rate
  c.optimizer.clip_norm = 1.0
  c.total_epochs = 12.0
  c.eval_epochs = 3.0
  c.augment.flip = 0.5
  c.best_metric = "val/ssim"
  if data == "road_scenes":
    c.data.source.update(num_train=320)


def objects(c, data, backbone, weights):
  """Five classes of objects and background, on a frozen encoder, at 192x256.

  Args:
    c: ConfigDict to change.
    data: "road_scenes" (drawn) or "camvid".
    backbone: of the net in `c.model`.
    weights: where the encoder starts from: see `backbone_weights`, or the workdir of a run.
  """
  objects_of = dict(classes="objects") if data in ("road_scenes", "camvid") else {}
  c.data.source = config_lib.data_source(data, **objects_of)
  c.data.size = (192, 256)
  c.data.batch_size = 8
  backbone_weights(c, backbone, weights)
  c.freeze = "^backbone/"
  c.optimizer.update(name="adamw", weight_decay=1e-4)
  c.schedule.update(name="one_cycle", learning_rate=1e-3)
  c.augment.flip = 0.5
  c.total_epochs, c.eval_epochs = 12.0, 3.0
  if data == "road_scenes":
    c.data.source.update(num_train=320)
    c.total_epochs, c.eval_epochs = 6.0, 2.0


def classification(c, data):
  """Small images of one class each, at 32x32, in batches of 64.

  Args:
    c: ConfigDict to change.
    data: "digits" (of scikit-learn), "cifar10_subset" or another source with classes; "folder" is
      read as one folder or one start of a name a class.
  """
  more = dict(kind="classification") if data == "folder" else {}
  c.data.source = config_lib.data_source(data, **more)
  c.data.size = (32, 32)
  c.data.batch_size = 64
  if data == "digits":
    c.data.source.size = 32
  config_lib.set_task(c, "classification")
  c.best_metric = "val/accuracy"
  c.pictures = 8


def backbone_weights(c, backbone, weights):
  """Where a backbone starts from, with the normalisation that its weights were trained with.

  Args:
    c: ConfigDict to change.
    backbone: its name.
    weights: a file, "imagenet" for a pip package's (EfficientNet-Lite0 alone), or empty.

  Raises:
    UserError: "imagenet" for a backbone that no package carries.
  """
  c.data.mean, c.data.std = weights_lib.normalization(backbone)
  if weights == "imagenet" and backbone != "efficientnet_lite0":
    raise UserError(
      f"no package carries ImageNet weights of {backbone!r}, only of 'efficientnet_lite0'; "
      "give a file of torchvision's weights"
    )
  if weights:
    c.init_from = "efficientnet_lite0" if weights == "imagenet" else weights
    c.init_part = "backbone"
