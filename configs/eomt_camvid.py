"""Driver's views, 11 classes: EoMT, a plain ViT whose last blocks see queries of masks.

The recipe of the paper (Kerssies et al., CVPR 2025) at a size for few images: AdamW, a smaller rate
for earlier blocks, the weights 2, 5 and 5 of class, mask and Dice, masks of the attention that
vanish one block after another, so that prediction has none. It needs a pretrained backbone:
`weights=FILE`, of facebookresearch or transformers; a random one learns little from so few images.
Not trained to its end yet: no score here.

  python launch/train.py --config=configs/eomt_camvid.py:data=camvid,weights=dinov2_vits14_reg4.pth
  python launch/train.py --config=configs/eomt_camvid.py
  python launch/train.py --config=configs/eomt_camvid.py:smoke

`data=camvid` reads $SEGJAX_DATA/camvid, or --config.data.source.folder.
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="road_scenes", backbone="dinov2_vits14_reg", weights="", smoke=False
  )
  c = config_lib.default()
  c.name = "eomt_camvid"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (238, 322)  # multiples of the patch
  c.data.batch_size = 8
  c.data.fit = "crop"
  c.data.eval_fit = "full"

  c.data.mean, c.data.std = weights.normalization(a.backbone)
  c.model = dict(name="eomt", backbone=a.backbone, queries=50, blocks=3, dtype="float32")
  if a.weights:
    c.init_from = config_lib.initial_weights(a.backbone, a.weights)
    c.init_part = "backbone"

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 0.05
  c.optimizer.layer_decay = 0.8
  c.schedule.name = "polynomial"
  c.schedule.learning_rate = 2e-4
  c.schedule.power = 0.9
  c.schedule.warmup_epochs = 2.0
  c.total_epochs = 40.0
  c.eval_epochs = 5.0

  c.augment.flip = 0.5
  c.augment.scale_min = 0.8
  c.augment.scale_max = 1.6
  c.augment.brightness = 0.3
  c.augment.contrast = 0.3
  c.augment.saturation = 0.3

  if a.data == "road_scenes":
    c.data.source.classes = "all"
    c.data.source.num_train = 400
    c.data.size = (196, 252)
    c.total_epochs = 12.0  # of 50 steps
    c.eval_epochs = 3.0
  config_lib.set_task(c, "mask_classification", mask_epochs=c.total_epochs)
  return config_lib.smoke(c) if a.smoke else c
