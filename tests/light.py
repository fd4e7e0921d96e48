"""Small stand-ins for the nets of the zoo: tiny backbones, drawn weights, fast nets."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models, ops
from segjax.models import (
  attention,
  convnext,
  dinov2,
  dinov3,
  efficientnet,
  layers,
  mobilenet,
  resnet,
  segformer,
  swin,
  vgg,
  vit,
)

# A shallow member of each family of backbones: name -> (constructor, the backbone it is like).
SHALLOW = {
  "shallow_resnet": (partial(resnet.ResNet, (1, 1, 1, 1)), "resnet18"),
  "shallow_resnext": (partial(resnet.ResNet, (1, 1, 1, 1), True, 32, 4), "resnet18"),
  "shallow_vgg": (partial(vgg.VGG, (1, 1, 1, 1, 1), True), "vgg16"),
  "shallow_vgg16": (partial(vgg.VGG, (1, 1, 1, 1, 1), False), "vgg16"),
  "shallow_mobilenet": (
    partial(mobilenet.MobileNetV3, (*mobilenet.SMALL[:4], mobilenet.SMALL[8])),
    "mobilenet_v3_small",
  ),
  "shallow_efficientnet": (
    partial(
      efficientnet.EfficientNetLite0,
      tuple((1, *row[1:]) for row in efficientnet.STAGES),
    ),
    "efficientnet_lite0",
  ),
}
SHALLOW["shallow_resnetd"] = partial(resnet.ResNet, (1, 1, 1, 1), pooled=True), "resnet18"
FOUR = dict(depths=(1, 1, 1, 1), widths=(4, 4, 8, 8))
SHALLOW["shallow_convnext"] = partial(convnext.ConvNeXt, **FOUR), "convnext_tiny"
FOUR |= dict(responses=True)
SHALLOW["shallow_convnextv2"] = partial(convnext.ConvNeXt, **FOUR), "convnextv2_tiny"
FOUR = dict(depths=(2, 1, 1, 1), width=4, num_heads=(1, 2, 2, 2), window=2)
SHALLOW["shallow_swin"] = partial(swin.Swin, **FOUR), "swin_t"
DINO = dict(depth=1, width=16, num_heads=2)
SHALLOW["shallow_dinov2"] = partial(dinov2.DinoV2, **DINO, grid=3), "dinov2_vits14"
SHALLOW["shallow_dinov3"] = partial(dinov3.DinoV3, **DINO, registers=1), "dinov3_vits16"
SHALLOW["shallow_vit"] = (partial(models.vit_tiny, depth=1, width=12, grid=3), "vit_tiny")


class TinyResNet(layers.Layered):
  """Stem, 3x3 pool, basic block, bottleneck, grouped and dilated bottleneck."""

  output_stride: int = 32

  @nn.compact
  def __call__(self, image, *, train):
    basic = partial(self.build, resnet.BasicBlock)
    bottleneck = partial(self.build, resnet.Bottleneck)
    stem = self.build(layers.Conv, 8, 7, 2, use_bias=self.norm == "none", name="stem")
    x = self.activated(self.normed(image, stem, "norm", train=train))
    features = [image, x, basic(8)(ops.max_pool_3x3(x), train=train)]
    features.append(basic(12, stride=2)(features[-1], train=train))
    features.append(bottleneck(4, stride=2)(features[-1], train=train))
    grouped = dict(groups=4, base_width=32, stride=2 if self.output_stride == 32 else 1)
    x = bottleneck(4, dilation=3 - grouped["stride"], **grouped)(features[-1], train=train)
    return [*features, x]


class TinyMobile(layers.Layered):
  """ReLU, hard swish, ReLU6, squeeze-and-excitation; 3x3 and 5x5, strided, dilated depthwise."""

  output_stride: int = 32

  @nn.compact
  def __call__(self, image, *, train):
    act = self.activation or nn.hard_swish
    x = self.build(mobilenet.ConvBlock, 8, 3, 2, activation=act)(image, train=train)
    features = [image, x]
    for row, stride, dilation in (
      ((3, 12, 8, True, False), 2, 1),
      ((5, 12, 8, True, True), 2, 1),
      ((3, 8, 8, False, True), 1, 2),
    ):
      x = self.build(mobilenet.InvertedResidual, *row, stride, dilation)(x, train=train)
      features += [x] if stride == 2 else []
    for size, width in ((3, 12), (5, 16)):
      x = self.build(efficientnet.MBConv, size, 2, 1, 2, width)(x, train=train)
      features.append(x)
    return features


class TinyConvNeXt(layers.Layered):
  """A ResNet-D's shortcut, then a block of ConvNeXt V2."""

  @nn.compact
  def __call__(self, image, *, train):
    pooled = self.build(resnet.BasicBlock, 8, 2, pooled=True)(image, train=train)
    blocks = dict(depths=(1,), widths=(8,), responses=True, drop_path=0.5)
    x = self.build(convnext.ConvNeXt, **blocks)(pooled, train=train)
    return [image, pooled, None, x[-1]]


class TinyTransformers(layers.Layered):
  """A block of DINOv2, of a Swin transformer with shifted windows, and of DINOv3."""

  @nn.compact
  def __call__(self, image, *, train):
    dino = dict(width=8, depth=1, num_heads=2, registers=1, output_stride=16)
    fine = self.build(dinov2.DinoV2, **dino, grid=3, patch=4)(image, train=train)[-1]
    fine = self.build(swin.Block, 1, 3, 1, 0.1)(fine, train=train)
    return [image, None, fine, self.build(dinov3.DinoV3, **dino, patch=2)(fine, train=train)[-1]]


class Light(layers.Layered):
  """A strided convolution per stride, for tests of a net's head."""

  output_stride: int = 32

  @nn.compact
  def __call__(self, image, *, train):
    features = [image]
    for width in (4, 6, 8, 8, 12):
      x = self.build(nn.Conv, width, (3, 3), 2)(features[-1])
      features.append(self.activated(x, nn.silu))
    return features


# Every block of every backbone, in few layers: name -> (constructor, head of a classifier).
TINY = {
  "light": (Light, layers.MeanHead),
  "tiny_resnet": (TinyResNet, layers.MeanHead),
  "tiny_mobile": (TinyMobile, layers.MeanHead),
  "tiny_convnext": (TinyConvNeXt, convnext.NormHead),
  "tiny_vgg": (partial(vgg.VGG, (1, 1), True), layers.MeanHead),
  "tiny_cnn": (partial(models.small_cnn, widths=(6, 8)), layers.MeanHead),
  "tiny_transformers": (TinyTransformers, layers.MeanHead),
  "tiny_vit": (partial(vit.ViT, depth=1, width=12, grid=3), layers.MeanHead),
}
LIGHT = dict(num_classes=3, backbone="light")
MIT = segformer.MiT(depths=(1, 1), widths=(4, 8), num_heads=(1, 2), sr_ratios=(4, 1))
TWO_BLOCKS = partial(dinov2.DinoV2, **DINO | dict(depth=2), grid=3, registers=1)
# Every net over a tiny backbone, and every kind of block as a classifier.
NETS = {
  "attention_segmenter": LIGHT | dict(rates=(1, 2), width=8),
  "backbone_unet": LIGHT | dict(widths=(8, 8, 4)),
  "classifier/cnn": LIGHT | dict(backbone="tiny_cnn"),
  "classifier/convnext": LIGHT | dict(backbone="tiny_convnext"),
  "classifier/mobile": LIGHT | dict(backbone="tiny_mobile"),
  "classifier/resnet": LIGHT | dict(backbone="tiny_resnet"),
  "classifier/transformers": LIGHT | dict(backbone="tiny_transformers", lora_rank=2),
  "classifier/vgg": LIGHT | dict(backbone="tiny_vgg"),
  "classifier/vit": LIGHT | dict(backbone="tiny_vit"),
  "ddrnet": dict(num_classes=3, width=4, pool_width=4, head_width=4, aux=True),
  "deeplabv3": LIGHT | dict(aux=True, output_stride=16, rates=(1, 2, 9), head_features=8),
  "deeplabv3_plus": LIGHT | dict(rates=(1, 2)),
  "dpt": LIGHT | dict(features=8),
  "encoder_decoder": dict(num_classes=3, widths=(4, 8)),
  "eomt": dict(num_classes=3, backbone=TWO_BLOCKS, queries=4, blocks=1),
  "fcn": LIGHT | dict(output_stride=16),
  "fcn16s": LIGHT,
  "fcn32s": LIGHT | dict(hidden=8),
  "fcn8s": LIGHT,
  "fpn": LIGHT | dict(width=8, features=8),
  "linear": LIGHT,
  "linknet": LIGHT | dict(features=4),
  "lraspp": LIGHT,
  "projection": LIGHT | dict(width=8),
  "prototypes": LIGHT | dict(width=8, bottleneck=4),
  "pspnet": LIGHT | dict(output_stride=16, features=8),
  "segformer": dict(num_classes=3, backbone=MIT, decoder_width=8),
  "unet": dict(num_classes=3, widths=(4, 6, 8), norm="batch", dropout=0.5),
  "unet/group": dict(num_classes=3, widths=(8, 16), norm="group", up="transposed3"),
  "unet/none": dict(num_classes=3, widths=(4, 8), up="bilinear", dropout=0.25),
  "unet/no_skip": dict(num_classes=3, widths=(4, 8), skip=False, up_keeps=False),
  "unetplusplus": LIGHT | dict(widths=(8, 8, 4, 4, 4)),
  "upernet": LIGHT | dict(features=8),
}

# Nets with convolutions of every kind, norms, dropout and attention between them. What must hold
# for every net is tested of these on each change and of the others weekly: tracing and compiling
# all takes many minutes. Shapes, names and parity of all are tested on each change.
EACH_CHANGE = ("classifier/mobile", "segformer", "unet", "unet/group")


def tiers(names, quick=(), slow=EACH_CHANGE):
  """Names as values of a test: some in the quick tests, some in the slow ones, others weekly."""

  def marks(name):
    return [] if name in quick else [pytest.mark.slow if name in slow else pytest.mark.weekly]

  return [pytest.param(name, marks=marks(name)) for name in names]


def build(name, **fields):
  """The net of a name of NETS; its backbone is known within the fixture `light_backbones`."""
  return models.make(name.split("/")[0], **NETS[name] | fields)


class TwoConvs(nn.Module):
  """A stand-in for any net over a backbone: it compiles at once.

  Attributes:
    num_classes: logits.
    pixels: logits for each pixel, else for each image.
    dtype: compute dtype.
  """

  num_classes: int
  pixels: bool = True
  dtype: object = jnp.float32

  @nn.compact
  def __call__(self, image, *, train):
    x = nn.Conv(4, (3, 3), dtype=self.dtype, name="backbone")(image)
    x = nn.BatchNorm(use_running_average=not train, dtype=self.dtype, name="norm")(x)
    x = nn.relu(x) if self.pixels else nn.relu(x).mean((1, 2))
    self.sow("intermediates", "penultimate", x)
    return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x).astype(jnp.float32)


class AskedConvs(nn.Module):
  """The stand-in for a net that attends to an asked class.

  Attributes:
    num_classes: classes that can be asked for.
    attention: its kind.
    dtype: compute dtype.
  """

  num_classes: int
  attention: str = "dot"
  dtype: object = jnp.float32

  @nn.compact
  def __call__(self, image, query=None, *, train):
    x = nn.relu(nn.Conv(4, (8, 8), 8, dtype=self.dtype, name="backbone")(image))
    classes = jnp.tile(jnp.arange(self.num_classes), (len(image), 1))
    asked = jax.nn.one_hot(classes if query is None else query[:, None], self.num_classes)
    weights = attention.ClassAttention(self.attention, 4, name="class_attention")(asked, x)
    self.sow("intermediates", "attention", weights)
    seen = nn.Dense(1, name="head")(x[:, None] * weights[..., None])[..., 0]
    return ops.resize_bilinear(seen.transpose(0, 2, 3, 1), image.shape[1:3])


class QueryConvs(nn.Module):
  """The stand-in for a net of masks and classes.

  Attributes:
    num_classes: classes.
    dtype: compute dtype.
  """

  num_classes: int
  dtype: object = jnp.float32

  @nn.compact
  def __call__(self, image, progress=None, *, train):
    x = nn.relu(nn.Conv(4, (8, 8), 8, dtype=self.dtype, name="backbone")(image))
    masks = nn.Dense(2 * self.num_classes, name="head")(x)
    shape = masks.shape[-1], self.num_classes + 1
    classes = self.param("query", nn.initializers.normal(), shape)
    classes = jnp.tile(classes[None], (len(x), 1, 1))
    for name, value in dict(masks=masks, classes=classes, cell=jnp.float32(8)).items():
      self.sow("intermediates", name, value)
    scores = jnp.einsum("bhwq,bqk->bhwk", nn.sigmoid(masks), nn.softmax(classes)[..., :-1])
    return jnp.log(ops.resize_bilinear(scores, image.shape[1:3]))


def make_stand_in(name, make=models.make, **fields):
  """As `models.make`: a net that compiles at once, whatever the config asks for."""
  if name in ("projection", "prototypes"):
    fields |= dict(backbone="small_cnn")
  elif name == "attention_segmenter":
    known = AskedConvs.__dataclass_fields__
    dtype = models.DTYPES[fields.get("dtype", "float32")]
    return AskedConvs(**{k: v for k, v in fields.items() if k in known} | dict(dtype=dtype))
  elif name == "eomt":
    return QueryConvs(fields["num_classes"], models.DTYPES[fields.get("dtype", "float32")])
  elif name == "ddrnet" or "backbone" in models.MODELS[name].__dataclass_fields__:
    dtype = models.DTYPES[fields.get("dtype", "float32")]
    return TwoConvs(fields["num_classes"], pixels=name != "classifier", dtype=dtype)
  elif name == "unet":
    fields |= dict(widths=(4, 8))
  return make(name, **fields)


def shapes(net, size=(64, 64), channels=3):
  """Shapes of a net's variables; nothing is computed."""
  image = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
  return jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), image)


def random_variables(net, **how):
  """Values such as `init` gives, drawn by numpy: compiling the initialisers takes longer.

  For `how` see `shapes`.
  """
  rng = np.random.default_rng(0)

  def draw(path, x):
    if path[-1].key in ("scale", "var", "gamma"):
      return np.ones(x.shape, np.float32)
    if path[-1].key != "kernel" and x.ndim < 2:
      return np.zeros(x.shape, np.float32)
    fan = np.prod(x.shape[:-1])
    return rng.normal(0, np.sqrt(2 / fan), x.shape).astype(np.float32)

  found = jax.tree_util.tree_map_with_path(draw, shapes(net, **how))
  return {k: found.get(k, {}) for k in ("params", "batch_stats")}
