"""Aerial flood scenes, 8 classes: a U-Net, with or without augmentation.

The net (8,633,672 parameters at width 32) and the settings of a course report on FloodNet: random
256x256 crops, whole images at evaluation, batch 16, cross-entropy, Adam 1e-3 with weight decay
1e-4. `augment=0` leaves the random crop alone. Dubai has few images and gets Dice too, one cycle
and the moving average. `width=16` is a quarter of the net, for a machine without a GPU. Mean IoU
of that quarter on Dubai's photographs, two cores: 0.457 (seed 0, 20 minutes, 2026-11-21); at
160x160, 24 epochs, seeds 0 to 2, two Xeon cores, 2026-11-25: 0.435 (0.420 to 0.445) with
augmentation, 2.4 minutes, 0.492 (0.482 to 0.504) without, 2.3. The report's best, of FloodNet, is
0.248.

  python launch/train.py --config=configs/unet_flood.py
  python launch/train.py --config=configs/unet_flood.py:data=floodnet,augment=0
  python launch/train.py --config=configs/unet_flood.py:data=dubai_aerial,width=16
  python launch/train.py --config=configs/unet_flood.py:smoke

Real sets are read from $SEGJAX_DATA/<name>, or --config.data.source.folder.
"""

from segjax import config as config_lib


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="aerial_scenes", augment=True, width=32, smoke=False)
  c = config_lib.default()
  c.name = "unet_flood" if a.augment else "unet_flood_noaugment"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (256, 256)
  c.data.batch_size = 16
  c.data.fit = "crop"
  c.data.eval_fit = "full"

  c.model = dict(
    name="unet",
    widths=tuple(a.width * k for k in (1, 2, 4, 8, 16)),
    norm="batch",
    up="transposed3",
    up_keeps=False,
    up_relu=False,
    skip=True,
    dropout=0.5,
    fit="resize",
    kernel_init="he",
    dtype="float32",
  )

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0

  c.optimizer.name = "adam"
  c.optimizer.weight_decay = 1e-4
  c.schedule.name = "constant"
  c.schedule.learning_rate = 1e-3
  c.total_epochs = 30.0
  c.eval_epochs = 1.0

  if a.augment:
    c.augment.flip = 0.5
    c.augment.flip_vertical = 0.5
    c.augment.rotate = 30.0
    c.augment.crop_area_min = 0.4
    c.augment.rgb_shift = 0.1
    c.augment.brightness = 0.2

  if a.data == "aerial_scenes":
    c.data.source.num_train = 800
    c.data.source.num_val = 64
    c.total_epochs = 8.0  # of 50 steps
    c.eval_epochs = 2.0
  if a.data == "dubai_aerial":  # 56 large images, of which an epoch sees one crop each
    c.data.batch_size = 8
    c.total_epochs = 60.0
    c.eval_epochs = 20.0
    # With a constant rate mean IoU fell from 0.455 after 20 epochs to 0.414 after 60.
    c.loss.dice = 1.0
    c.schedule.name = "one_cycle"
    c.schedule.learning_rate = 2e-3
    c.ema_decay = 0.98
  return config_lib.smoke(c) if a.smoke else c
