"""Classes that overlap: drivable surface, lane marking, shadow, vehicle, each with a sigmoid.

256x256, batch 4, binary cross-entropy + Dice of each class, AdamW in one cycle to 3e-3, left-right
flips. The net is the small road U-Net of `unet_road.py` with a batch norm and a logit per class.

  python launch/train.py --config=configs/multi_label.py
  python launch/train.py --config=configs/multi_label.py:data=folder \\
    --config.data.source.folder=PATH
  python launch/train.py --config=configs/multi_label.py:smoke

`data=folder` reads PATH/images/x.jpg and a mask for each class, PATH/masks/CLASS/x.png: 0 and 255,
or 0 and 1 with 255 for pixels that are not scored; a class without a mask of an image is absent.

Drawn scenes, one Zen 4 core beside other work, 2026-11-29, seed 0: mean IoU 0.399 after 6.5
minutes, drivable 0.914, vehicle 0.682; lane marking and shadow are not found at 0.5 yet (average
precision 0.070 and 0.111, shares of the pixels 0.007 and 0.032).
"""

from segjax import config as config_lib


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", smoke=False)
  c = config_lib.default()
  c.name = "multi_label"

  own = dict(classes="overlapping") if a.data == "road_scenes" else {}
  c.data.source = config_lib.data_source(a.data, **own)
  if a.data == "folder":
    c.data.source.kind = "multi_label"
  c.data.size = (256, 256)
  c.data.batch_size = 4
  c.data.mean = (0.5, 0.5, 0.5)
  c.data.std = (0.25, 0.25, 0.25)

  c.model = dict(
    name="unet",
    widths=(8, 16, 32, 64, 128),
    norm="batch",
    skip=True,
    kernel_init="he",
    dtype="float32",
  )

  config_lib.set_task(c, "multi_label", cross_entropy=1.0, dice=1.0)

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-2
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = 3e-3
  c.total_epochs = 4.0  # of 125 steps
  c.eval_epochs = 1.0
  c.best_metric = "val/mean_iou"

  c.augment.flip = 0.5
  return config_lib.smoke(c) if a.smoke else c
