"""Small stand-ins for the nets of the zoo: shallow backbones, drawn weights, light configs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from segjax import models

# A shallow member of each family of backbones: name -> (constructor, the backbone it is like).
SHALLOW = {
  "shallow_resnet": (partial(models.resnet.ResNet, (1, 1, 1, 1)), "resnet18"),
  "shallow_resnext": (partial(models.resnet.ResNet, (1, 1, 1, 1), True, 32, 4), "resnet18"),
  "shallow_vgg": (partial(models.vgg.VGG, (1, 1, 1, 1, 1), True), "vgg16"),
  "shallow_mobilenet": (
    partial(models.mobilenet.MobileNetV3, (*models.mobilenet.SMALL[:4], models.mobilenet.SMALL[8])),
    "mobilenet_v3_small",
  ),
  "shallow_efficientnet": (
    partial(
      models.efficientnet.EfficientNetLite0,
      tuple((1, *row[1:]) for row in models.efficientnet.STAGES),
    ),
    "efficientnet_lite0",
  ),
}
SHALLOW["shallow_vit"] = (partial(models.vit_tiny, depth=1, width=12, grid=3), "vit_tiny")


def light_fields(config, same_family=False):
  """Fields that give a config's net a shallow backbone without weights, or few features.

  Args:
    config: ConfigDict of an experiment.
    same_family: keeps the backbone's family; others are replaced by those that compile fastest.

  Returns:
    {"model.backbone": "shallow_vgg"} and the like; empty for a net that is light already.
  """
  model = config.model
  if "backbone" not in model:
    return {"model.widths": (4, 8)} if model.name == "unet" else {}
  dense = model.name not in ("classifier", "projection", "prototypes")
  family = model.backbone.split("_")[0].rstrip("0123456789")
  backbone = f"shallow_{family if same_family else 'vgg'}" if dense else "small_cnn"
  fields = {"model.backbone": backbone, "init_from": ""}
  return fields | ({"model.width": 8} if model.name == "attention_segmenter" else {})


def shapes(net, size=(64, 64)):
  """Shapes of a net's variables; nothing is computed."""
  image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  return jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), image)


def random_variables(net):
  """Values such as `init` gives, drawn by numpy: compiling the initialisers takes longer."""
  rng = np.random.default_rng(0)

  def draw(path, x):
    if path[-1].key in ("scale", "var"):
      return np.ones(x.shape, np.float32)
    if path[-1].key != "kernel" and x.ndim < 2:
      return np.zeros(x.shape, np.float32)
    fan = np.prod(x.shape[:-1])
    return rng.normal(0, np.sqrt(2 / fan), x.shape).astype(np.float32)

  found = jax.tree_util.tree_map_with_path(draw, shapes(net))
  return {k: found.get(k, {}) for k in ("params", "batch_stats")}
