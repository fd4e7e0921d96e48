"""Colourisation by a U-Net, with or without skip connections: lightness in, colour out.

Regression of a and b of CIELAB; with `output=bins` a softmax over a grid of colours with rare
colours weighted up; with `output=lab` regression of the whole picture, lightness too. Batch norm,
widths 16 to 128, images at 96x128, batch 16, Adam, one cycle. CamVid, seeds 0 to 2, two Xeon
cores, 2026-11-25, a and b alone: PSNR 29.7 dB, SSIM 0.981, 2.7 minutes beside tests; the whole
picture 27.0 dB, 0.923, 1.5 minutes.

  python launch/train.py --config=configs/unet_colorization.py
  python launch/train.py --config=configs/unet_colorization.py:data=camvid,skip=0
  python launch/train.py --config=configs/unet_colorization.py:data=camvid,output=bins
  python launch/train.py --config=configs/unet_colorization.py:smoke

Any source of images will do, `data=folder` without labels too, as they are not looked at. Real sets
are read from $SEGJAX_DATA/<name>, or --config.data.source.folder.
"""

from segjax import config as config_lib
from segjax import recipes


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="road_scenes", skip=True, output="regression", norm="l1", smoke=False
  )
  c = config_lib.default()
  c.name = "unet_colorization" if a.skip else "unet_colorization_noskip"
  config_lib.set_task(c, "colorization", output=a.output, norm=a.norm)
  c.data.source = config_lib.image_source(a.data)
  recipes.image_unet(c, a.data, a.skip, norm="batch", learning_rate=3e-3)
  return config_lib.smoke(c) if a.smoke else c
