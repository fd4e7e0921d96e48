"""Image to image by a U-Net: pairs of images, or images to be restored; pixel or perceptual loss.

`degrade=noise` or `degrade=low_resolution` spoils images and asks for them back; `degrade=` with
`data=folder` learns from pairs, `images/x.jpg` and `targets/x.jpg`. `loss=l1`, `l2`, or
`perceptual`: content and style over ImageNet features of EfficientNet-Lite0 (the extra
`pretrained`) beside L1, weighted so that each counts about alike. Images at 96x128, batch 16, Adam,
one cycle. CamVid from a quarter of the resolution, 10 epochs, seed 0, two Xeon cores, 2026-11-25:
SSIM 0.656 by `l1` in 1.9 minutes, 0.649 by `perceptual` in 3.3.

  python launch/train.py --config=configs/unet_image_to_image.py
  python launch/train.py --config=configs/unet_image_to_image.py:data=camvid,loss=perceptual
  python launch/train.py --config=configs/unet_image_to_image.py:data=folder,degrade=
  python launch/train.py --config=configs/unet_image_to_image.py:smoke
"""

from segjax import config as config_lib
from segjax import recipes
from segjax.errors import choose

LOSSES = {
  "l1": dict(l1=1.0),
  "l2": dict(l1=0.0, l2=1.0),
  "perceptual": dict(l1=1.0, content=1e-3, style=1e-4),
}


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg, data="road_scenes", degrade="low_resolution", loss="l1", skip=True, smoke=False
  )
  c = config_lib.default()
  c.name = "unet_image_to_image"
  loss = choose(LOSSES, a.loss, "loss")
  config_lib.set_task(c, "image_to_image", degrade=a.degrade, **loss)
  c.data.source = config_lib.image_source(a.data)
  if a.data == "folder" and not a.degrade:
    c.data.source.kind = "pairs"
  recipes.image_unet(c, a.data, a.skip, norm="group", learning_rate=2e-3)
  return config_lib.smoke(c) if a.smoke else c
