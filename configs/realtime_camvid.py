"""Driver's views, 11 classes: nets for real time, DDRNet-23-slim and LR-ASPP on MobileNetV3.

From scratch with the settings of `unet_camvid.py`: random 240x320 crops of CamVid's 360x480 images,
whole images at evaluation, batch 8, cross-entropy and Dice, one cycle of AdamW up to 2e-3, the
moving average evaluated; flip, scale and colour. DDRNet has the auxiliary head of its paper.
Parameters: 5.7 and 3.2 million. Not trained to the end yet: no score here.

  python launch/train.py --config=configs/realtime_camvid.py:data=camvid
  python launch/train.py --config=configs/realtime_camvid.py:data=camvid,net=lraspp
  python launch/train.py --config=configs/realtime_camvid.py
  python launch/train.py --config=configs/realtime_camvid.py:smoke
  python launch/benchmark.py --config=configs/realtime_camvid.py:net=lraspp --mode=infer

`data=camvid` reads $SEGJAX_DATA/camvid, or --config.data.source.folder.
"""

from segjax import config as config_lib
from segjax import weights
from segjax.errors import choose

NETS = {
  "ddrnet": dict(name="ddrnet", aux=True, dtype="float32"),
  "lraspp": dict(name="lraspp", backbone="mobilenet_v3_large", dtype="float32"),
}


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="road_scenes", net="ddrnet", smoke=False)
  c = config_lib.default()
  c.name = f"realtime_camvid_{a.net}"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (240, 320)
  c.data.batch_size = 8
  c.data.fit = "crop"
  c.data.eval_fit = "full"

  c.data.mean, c.data.std = weights.normalization("resnet18")
  c.model = choose(NETS, a.net, "net")

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0
  c.loss.dice = 1.0

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-2
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = 2e-3
  c.total_epochs = 20.0
  c.eval_epochs = 5.0
  c.ema_decay = 0.99

  c.augment.flip = 0.5
  c.augment.scale_min = 0.8
  c.augment.scale_max = 1.6
  c.augment.aspect = 0.1
  c.augment.brightness = 0.3
  c.augment.contrast = 0.3
  c.augment.saturation = 0.3

  if a.data == "road_scenes":
    c.data.source.classes = "all"
    c.data.source.num_train = 400
    c.data.size = (192, 256)
    c.total_epochs = 6.0  # of 50 steps
    c.eval_epochs = 2.0
  return config_lib.smoke(c) if a.smoke else c
