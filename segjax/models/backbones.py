"""The table of backbones, each with the head that makes a classifier of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from segjax.errors import UserError, choose
from segjax.models import (
  convnext,
  dinov2,
  dinov3,
  efficientnet,
  mobilenet,
  resnet,
  segformer,
  small_cnn,
  swin,
  vgg,
  vit,
)
from segjax.models.layers import Layered, MeanHead

# Name: (backbone, its classifier's head).
BACKBONES = {
  "resnet18": (resnet.resnet18, MeanHead),
  "resnet34": (resnet.resnet34, MeanHead),
  "resnet50": (resnet.resnet50, MeanHead),
  "resnet101": (resnet.resnet101, MeanHead),
  "resnet18d": (resnet.resnet18d, MeanHead),
  "resnet50d": (resnet.resnet50d, MeanHead),
  "resnet101d": (resnet.resnet101d, MeanHead),
  "resnext50_32x4d": (resnet.resnext50_32x4d, MeanHead),
  "resnext101_64x4d": (resnet.resnext101_64x4d, MeanHead),
  "vgg11_bn": (vgg.vgg11_bn, vgg.VGGHead),
  "vgg16": (vgg.vgg16, vgg.VGGHead),
  "vgg16_bn": (vgg.vgg16_bn, vgg.VGGHead),
  "mobilenet_v3_small": (mobilenet.mobilenet_v3_small, partial(mobilenet.MobileNetV3Head, 1024)),
  "mobilenet_v3_large": (mobilenet.mobilenet_v3_large, partial(mobilenet.MobileNetV3Head, 1280)),
  "efficientnet_lite0": (efficientnet.efficientnet_lite0, efficientnet.EfficientNetHead),
  "efficientnet_lite1": (efficientnet.efficientnet_lite1, efficientnet.EfficientNetHead),
  "efficientnet_lite2": (
    efficientnet.efficientnet_lite2,
    partial(efficientnet.EfficientNetHead, dropout=0.3),
  ),
  "vit_tiny": (vit.vit_tiny, MeanHead),
  "small_cnn": (small_cnn.small_cnn, small_cnn.SmallCNNHead),
  **{name: (mit, segformer.MiTHead) for name, mit in segformer.BACKBONES.items()},
  **{name: (net, convnext.NormHead) for name, net in convnext.BACKBONES.items()},
  **{name: (net, swin.SwinHead) for name, net in swin.BACKBONES.items()},
  **{name: (net, MeanHead) for name, net in (dinov2.BACKBONES | dinov3.BACKBONES).items()},
}


def make_backbone(
  backbone: str | Callable, *, output_stride: int = 32, like: Layered | None = None, **fields: Any
) -> nn.Module:
  """Builds a backbone, (image f32[B,H,W,C], train=…) -> list of features, index i at stride 2^i.

  Args:
    backbone: a key of `BACKBONES`; a class or a `functools.partial` that makes a module; or a
      module, which is returned as it is. A stride that it does not have is None in its list.
    output_stride: 32; or 16 or 8 for backbones that can be dilated: indices whose stride would
      be larger stay at this one.
    like: the net whose part "backbone" it becomes; fields of `Layered` have its values, where the
      backbone has them and a partial does not set them.
    **fields: attributes of the class, `name` for the submodule's name among them.

  Raises:
    UserError: unknown name, or a backbone that cannot be dilated.
  """
  if isinstance(backbone, nn.Module):
    return backbone
  maker = backbone if callable(backbone) else choose(BACKBONES, backbone, "backbone")[0]
  if output_stride != 32 and "output_stride" not in getattr(maker, "keywords", {}):
    if "output_stride" not in inspect.signature(maker).parameters:
      raise UserError(f"backbone {backbone!r} has no output_stride {output_stride}, only its own")
    fields["output_stride"] = output_stride
  return maker(**fields) if like is None else like.build(maker, name="backbone", **fields)


class Classifier(Layered):
  """A backbone with its classification head, the head of torchvision where it has one.

  Attributes:
    num_classes: classes.
    backbone: a key of `BACKBONES`, a module, or a function that makes one; see
      `make_backbone`. The head of
      one without a name is `MeanHead`.
  """

  num_classes: int = 1000
  backbone: str | Callable = "resnet18"

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
    """f32[B,H,W,C] -> logits f32[B,num_classes]; the head sows `penultimate`."""
    features = make_backbone(self.backbone, like=self)(image, train=train)
    maker = BACKBONES[self.backbone][1] if isinstance(self.backbone, str) else MeanHead
    return self.build(maker, num_classes=self.num_classes, name="head")(features, train=train)


def feature_at(features: list[jax.Array], index: int, net: str) -> jax.Array:
  """`features[index]`, or a UserError where the backbone has none at that stride."""
  if index < len(features) and features[index] is not None:
    return features[index]
  have = [2**i for i, f in enumerate(features) if f is not None]
  raise UserError(f"{net} needs features at stride {2**index}; this backbone has strides {have}")


def pyramid(features: list, net: str) -> list[jax.Array]:
  """The features from stride 4 on, the finest first, or a UserError where there are none."""
  found = [x for x in features[2:] if x is not None]
  return found or [feature_at(features, 2, net)]
