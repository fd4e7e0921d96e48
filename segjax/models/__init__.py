"""Pure Flax modules: images f32[B,H,W,C] -> logits f32[B,H,W,K].

>>> import jax
>>> net = make("unet", widths=(4, 8), num_classes=2)
>>> image = jax.numpy.zeros((1, 30, 45, 3))
>>> variables = net.init(jax.random.key(0), image, train=False)
>>> net.apply(variables, image, train=False).shape
(1, 30, 45, 2)

Every net composes with the transformations of JAX and Flax; `tests/test_composability.py` has
these lines:

- `jit`, `grad`, `jvp`, `linearize`, products with the Hessian in any order, `lax.scan`,
  `jax.checkpoint`, `disable_jit`, `numpy_rank_promotion="raise"`, several threads. JAX's policies
  of `jax.checkpoint` do not know our convolutions, `ops.products_saveable` does; `jet` of
  `jax.experimental` knows neither them nor max-pools.
- `vmap` over images, parameters or both. Gradients per example: `train=False`, or a norm that does
  not look at the batch.
- A mesh with the batch divided over it, Auto or Explicit, and over Auto axes rows of images too.
  Every map of the net needs as many rows as there are devices along them: with fewer, XLA's
  gradients of strided kernels are wrong (those of `jax.lax.conv_general_dilated` too).
- `shard_map` with its checks and `pmap`: within `layers.norms_over(axis)` batch norm is over all
  devices.
- bfloat16 and float16 by `dtype`, float64 by `dtype`, `param_dtype` and `jax_enable_x64`; logits
  are float32 at least.
- `jax.export` for cpu, cuda and tpu with a symbolic batch, within `ops.plain_forms()`.
- `nnx.bridge.ToNNX`; training needs `mutable=["batch_stats", "intermediates"]`, else Flax raises.
- `nn.remat`, `nn.vmap`, `nn.scan` pass on no keywords, so a module around the net takes `train`:

  class Positional(nn.Module):
    net: nn.Module

    def __call__(self, image, train):
      return self.net(image, train=train)

  nn.remat(Positional, static_argnums=(2,))(net)
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax import own_code
from segjax.errors import UserError, choose
from segjax.models.attention import AttentionSegmenter
from segjax.models.backbone_unet import BackboneUNet
from segjax.models.backbones import BACKBONES, Classifier, make_backbone
from segjax.models.cost import count_params
from segjax.models.ddrnet import DDRNet
from segjax.models.deeplab import DeepLabV3, DeepLabV3Plus
from segjax.models.dpt import DPT
from segjax.models.efficientnet import efficientnet_lite0
from segjax.models.encoder_decoder import EncoderDecoder
from segjax.models.eomt import EoMT
from segjax.models.fcn import FCN, FCN8s, FCN16s, FCN32s
from segjax.models.fpn import FPN
from segjax.models.linear import Linear
from segjax.models.linknet import Linknet
from segjax.models.lraspp import LRASPP
from segjax.models.mobilenet import mobilenet_v3_large, mobilenet_v3_small
from segjax.models.projection import Projection, Prototypes
from segjax.models.pspnet import PSPNet
from segjax.models.resnet import (
  resnet18,
  resnet34,
  resnet50,
  resnet101,
  resnext50_32x4d,
  resnext101_64x4d,
)
from segjax.models.segformer import SegFormer, mit_b0, mit_b1, mit_b2, mit_b3, mit_b4, mit_b5
from segjax.models.small_cnn import small_cnn
from segjax.models.unet import UNet
from segjax.models.unetplusplus import UNetPlusPlus
from segjax.models.upernet import UPerNet
from segjax.models.vgg import vgg11_bn, vgg16, vgg16_bn
from segjax.models.vit import vit_tiny

MODELS = {
  "attention_segmenter": AttentionSegmenter,
  "backbone_unet": BackboneUNet,
  "classifier": Classifier,
  "ddrnet": DDRNet,
  "deeplabv3": DeepLabV3,
  "deeplabv3_plus": DeepLabV3Plus,
  "dpt": DPT,
  "encoder_decoder": EncoderDecoder,
  "eomt": EoMT,
  "fcn": FCN,
  "fcn16s": FCN16s,
  "fcn32s": FCN32s,
  "fcn8s": FCN8s,
  "fpn": FPN,
  "linear": Linear,
  "linknet": Linknet,
  "lraspp": LRASPP,
  "projection": Projection,
  "prototypes": Prototypes,
  "pspnet": PSPNet,
  "segformer": SegFormer,
  "unet": UNet,
  "unetplusplus": UNetPlusPlus,
  "upernet": UPerNet,
}

DTYPES = {d: getattr(jnp, d) for d in ("bfloat16", "float16", "float32", "float64")}

__all__ = [
  "BACKBONES",
  "DPT",
  "FCN",
  "FPN",
  "LRASPP",
  "AttentionSegmenter",
  "BackboneUNet",
  "Classifier",
  "DDRNet",
  "DeepLabV3",
  "DeepLabV3Plus",
  "EncoderDecoder",
  "EoMT",
  "FCN8s",
  "FCN16s",
  "FCN32s",
  "Linear",
  "Linknet",
  "PSPNet",
  "Projection",
  "Prototypes",
  "SegFormer",
  "UNet",
  "UNetPlusPlus",
  "UPerNet",
  "count_params",
  "efficientnet_lite0",
  "load",
  "make",
  "make_backbone",
  "mit_b0",
  "mit_b1",
  "mit_b2",
  "mit_b3",
  "mit_b4",
  "mit_b5",
  "mobilenet_v3_large",
  "mobilenet_v3_small",
  "names",
  "resnet18",
  "resnet34",
  "resnet50",
  "resnet101",
  "resnext50_32x4d",
  "resnext101_64x4d",
  "small_cnn",
  "vgg11_bn",
  "vgg16",
  "vgg16_bn",
  "vit_tiny",
]


def names() -> list[str]:
  """The names that `make` knows, sorted."""
  return sorted(MODELS)


def make(name: str, **fields: Any) -> nn.Module:
  """Builds a net by name.

  Args:
    name: one of `names()`, or in a config "package.module:attribute", a Flax module of your own or
      a function that builds one.
    **fields: attributes of the class, those of `layers.Layered` among them; `dtype` and
      `param_dtype` may be strings: bfloat16, float16, float32 or float64.

  Raises:
    UserError: (a ValueError) for an unknown name, field or dtype; lists the known ones. Also for
      float64 where JAX has it not enabled.
  """
  cls = own_code.choose(MODELS, name, "model")
  own_code.check_arguments(cls, fields, f"model {name!r}")
  for field in ("dtype", "param_dtype"):
    if isinstance(fields.get(field), str):
      fields[field] = choose(DTYPES, fields[field], "dtype")
    if fields.get(field) == jnp.float64 and not jax.config.jax_enable_x64:
      raise UserError(f"{field} is float64: jax.config.update('jax_enable_x64', True) comes first")
  net = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
  if not isinstance(net, nn.Module):
    raise UserError(f"model {name!r} gives {type(net).__name__}, expected a module of flax.linen")
  return net


def load(file: str | os.PathLike) -> tuple[nn.Module, dict[str, Any]]:
  """The net in a file of `weights.save`, and its variables.

  Args:
    file: path of a .safetensors file, which `launch/export.py --format=safetensors` writes too.

  Returns:
    (net, variables): `net.apply(variables, image, train=False)` gives its logits. Numbers that the
    file stores in fewer bits than the net's are widened, batch norm's statistics to float32.

  Raises:
    UserError: see `weights.load` and `make`.
  """
  from segjax import weights  # which needs `models.lora`

  variables, net_config, _ = weights.load(file)
  try:
    net = make(**net_config)
  except UserError as error:
    raise UserError(f"{file}: {error}") from error
  least = dict(params=getattr(net, "param_dtype", jnp.float32))
  return net, {
    part: jax.tree.map(partial(_widened, least=least.get(part, jnp.float32)), tree)
    for part, tree in variables.items()
  }


def _widened(x, least):
  floats = jnp.issubdtype(x.dtype, jnp.inexact)
  return x.astype(jnp.promote_types(x.dtype, least)) if floats else x
