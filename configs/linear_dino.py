"""Driver's views, 11 classes: a linear head on a DINO transformer, frozen or fine-tuned.

  net        batch norm and one linear layer on the last block's patches, up-sampled bilinearly
  weights    `weights=FILE` of DINOv2 or DINOv3, of facebookresearch or transformers; without them
             the transformer is random and its features say little
  training   the head alone; `lora=8` also additions of rank 8 to the kernels of queries and values;
             `tuned` everything, with learning rates that shrink by 0.75 from block to block
  Not trained to its end yet, and not with weights: a random frozen ViT-S/14 has mean IoU 0.154 on
  CamVid after 4 epochs, 3.1 minutes of two Zen 4 cores (seed 0, 2026-11-29).

  python launch/train.py --config=configs/linear_dino.py:data=camvid,weights=dinov2_vits14.pth
  python launch/train.py \\
    --config=configs/linear_dino.py:backbone=dinov3_vits16,weights=dinov3_vits16.safetensors,lora=8
  python launch/train.py --config=configs/linear_dino.py:smoke

`data=camvid` reads $SEGJAX_DATA/camvid, or --config.data.source.folder.
"""

from segjax import config as config_lib
from segjax import weights


def get_config(arg=""):
  a = config_lib.parse_arg(
    arg,
    data="road_scenes",
    backbone="dinov2_vits14",
    weights="",
    lora=0,
    tuned=False,
    smoke=False,
  )
  c = config_lib.default()
  c.name = f"linear_{a.backbone}" + ("_tuned" if a.tuned else f"_lora{a.lora}" if a.lora else "")

  patch = 14 if a.backbone.startswith("dinov2") else 16
  c.data.source = config_lib.data_source(a.data)
  c.data.size = (15 * patch, 20 * patch)
  c.data.batch_size = 8
  c.data.mean, c.data.std = weights.normalization(a.backbone)
  c.model = dict(
    name="linear", backbone=a.backbone, output_stride=16, lora_rank=a.lora, dtype="float32"
  )
  if a.weights:
    c.init_from = a.weights
    c.init_part = "backbone"
  c.freeze = "" if a.tuned else "^backbone/"

  c.task.sigmoid = False
  c.loss.cross_entropy = 1.0
  c.optimizer.name = "adamw"
  c.optimizer.weight_decay = 0.05 if a.tuned else 1e-4
  c.optimizer.layer_decay = 0.75 if a.tuned else 1.0
  c.schedule.name = "cosine"
  c.schedule.learning_rate = 2e-4 if a.tuned else 1e-3
  c.schedule.warmup_epochs = 1.0
  c.total_epochs = 20.0
  c.eval_epochs = 5.0
  c.augment.flip = 0.5

  if a.data == "road_scenes":
    c.data.source.classes = "all"
    c.data.source.num_train = 400
  return config_lib.smoke(c) if a.smoke else c
