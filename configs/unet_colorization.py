"""Colourisation by a U-Net, with or without skip connections: lightness in, colour out.

Regression of a and b of CIELAB, by `norm=l1` or `l2`; with `output=bins` a softmax over a grid of
colours with rare colours weighted up; with `output=lab` regression of the whole picture, lightness
too. Batch norm, widths 16 to 128, images at 96x128, batch 16, Adam, one cycle up to 3e-3. CamVid,
seeds 0 to 2, two Xeon cores, 2026-11-25, a and b alone: PSNR 29.7 dB, SSIM 0.981, 2.7 minutes
beside tests; the whole picture 27.0 dB, 0.923, 1.5 minutes.

  python launch/train.py --config=configs/unet_colorization.py
  python launch/train.py --config=configs/unet_colorization.py:data=camvid,skip=0
  python launch/train.py --config=configs/unet_colorization.py:data=camvid,output=bins
  python launch/train.py --config=configs/unet_colorization.py:smoke

Any source of images will do, `data=folder` without labels too, as they are not looked at. Real sets
are read from $SEGJAX_DATA/<name>, or --config.data.source.folder.
"""

from segjax import config as config_lib


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="road_scenes", skip=True, output="regression", norm="l1", smoke=False
  )
  c = config_lib.default()
  c.name = "unet_colorization" if a.skip else "unet_colorization_noskip"

  c.data.source = config_lib.image_source(a.data)
  c.data.size = (96, 128)
  c.data.batch_size = 16

  c.model = dict(
    name="unet",
    widths=(16, 32, 64, 128),
    norm="batch",
    up="transposed2",
    up_keeps=False,
    up_relu=False,
    skip=a.skip,
    dropout=0.0,
    kernel_init="he",
    dtype="float32",
  )

  config_lib.set_task(c, "colorization", output=a.output, norm=a.norm)

  c.optimizer.name = "adam"
  c.optimizer.clip_norm = 1.0
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = 3e-3
  c.total_epochs = 12.0
  c.eval_epochs = 3.0
  c.best_metric = "val/ssim"

  c.augment.flip = 0.5

  if a.data == "road_scenes":
    c.data.source.num_train = 320
  return config_lib.smoke(c) if a.smoke else c
