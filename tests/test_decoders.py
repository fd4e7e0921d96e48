"""Decoders over any backbone: what they read, and the outputs of the libraries that have them."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import torchvision_models
from light import random_variables
from test_parity import relative, run_torch

from segjax import models, ops, weights
from segjax.models import convnext, layers

# Of segmentation_models_pytorch over ResNet-18: class, its fields, our net, its fields.
PAIRS = {
  "fpn": ("FPN", {}, {}),
  "linknet": ("Linknet", {}, {}),
  "pspnet": ("PSPNet", dict(encoder_depth=5, upsampling=32), dict(output_stride=32)),
  "unetplusplus": ("UnetPlusPlus", {}, {}),
}


def randomize(net):
  """Random weights and statistics, in place; small enough that deep sums keep their digits."""
  import torch

  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for key, value in net.state_dict().items():
      if value.ndim > 1:
        value.normal_(0, value[0].numel() ** -0.5, generator=generator)
      elif key.endswith((".weight", "running_var")):
        value.uniform_(0.5, 1.5, generator=generator)
      elif value.ndim == 1:
        value.normal_(0, 0.2, generator=generator)
  return net.eval()


def run(net, variables, image, **how):
  """Logits of a net, in standard operations: the kernels of `ops` have tests of their own."""
  with ops.plain_forms():
    return jax.jit(lambda v, x: net.apply(v, x, train=False, **how))(variables, image)


def images(size, channels=3, count=2):
  return np.random.default_rng(0).normal(size=(count, *size, channels)).astype(np.float32)


# In the quick tests; each takes a second to trace.
QUICK = ("linknet-tiny_cnn",)
OVER = [
  pytest.param(n, b, marks=[] if f"{n}-{b}" in QUICK else [pytest.mark.slow])
  for n in (*PAIRS, "dpt", "linear", "upernet")
  for b in ("shallow_dinov2", "shallow_swin", "tiny_vit", "tiny_cnn")
]


@pytest.mark.usefixtures("light_backbones")
@pytest.mark.parametrize(("name", "backbone"), OVER)
def test_any_backbone(name, backbone):
  """With strides that are no powers of two, without stride 2, with few strides, rounded down."""
  fields = dict(output_stride=32) if name == "pspnet" else {}
  net = models.make(name, backbone=backbone, num_classes=2, **fields)
  image = jax.ShapeDtypeStruct((1, 57, 91, 3), np.float32)
  logits, _ = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False), image
  )
  assert logits.shape == (1, 57, 91, 2)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_outputs_are_those_of_segmentation_models_pytorch(name):
  torchvision_models()  # which smp imports
  smp = pytest.importorskip("segmentation_models_pytorch", reason="it is not installed")
  kind, fields, ours = PAIRS[name]
  theirs = getattr(smp, kind)("resnet18", encoder_weights=None, classes=4, **fields)
  randomize(theirs)
  net = models.make(name, backbone="resnet18", num_classes=4, **ours)
  variables, report = weights.load_torch(theirs.state_dict(), random_variables(net))
  assert not (report.missing or report.unexpected or report.reshaped or report.other_classes)
  image = images((64, 96))
  assert relative(run(net, variables, image), run_torch(theirs, image)["out"]) < 1e-4


WIDTHS = (4, 6, 8, 10)


def cut(image):
  """Features of `WIDTHS` channels, cut from an image's, at strides 4, 8, 16 and 32."""
  firsts = np.cumsum([0, *WIDTHS])
  return [
    image[:, :: 4 * 2**i, :: 4 * 2**i, firsts[i] : firsts[i] + w] for i, w in enumerate(WIDTHS)
  ]


def test_groups_of_fpns_norms_are_32():
  for features in (32, 64):
    found = set()

    def look(call, args, kwargs, context, found=found):
      if isinstance(context.module, nn.GroupNorm):
        found.add(context.module.num_groups)
      return call(*args, **kwargs)

    net = models.make("fpn", backbone="resnet18", features=features, num_classes=2)
    with nn.intercept_methods(look):
      jax.eval_shape(partial(net.init, train=False), jax.random.key(0), images((32, 32)))
    assert found == {32}


class Given(layers.Layered):
  """A backbone that gives `cut` of its image, for the heads alone."""

  @nn.compact
  def __call__(self, image, *, train):
    del train
    return [image, None, *cut(image)]


@pytest.mark.torch
@pytest.mark.slow
def test_upernets_head_is_that_of_transformers():
  torchvision_models()  # which transformers imports
  import torch

  transformers = pytest.importorskip("transformers", reason="transformers is not installed")
  from transformers.models.upernet.modeling_upernet import UperNetHead

  backbone = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 6, 8, 10], depths=[1] * 4)
  config = transformers.UperNetConfig(backbone_config=backbone, hidden_size=12, num_labels=5)
  theirs = randomize(UperNetHead(config, WIDTHS))
  net = models.make("upernet", backbone=Given, features=12, num_classes=5)
  state = {f"decode_head.{k}": v for k, v in theirs.state_dict().items()}
  image = images((97, 131), channels=28)
  variables, report = weights.load_torch(state, random_variables(net, channels=28))
  assert not (report.missing or report.unexpected or report.reshaped or report.other_classes)
  features = [torch.tensor(x).permute(0, 3, 1, 2) for x in cut(image)]
  with torch.no_grad():
    want = torch.nn.functional.interpolate(theirs(features), size=(97, 131), mode="bilinear")
  got = run(net, variables, image)
  assert relative(got, want.permute(0, 2, 3, 1).numpy()) < 1e-4


@pytest.mark.torch
@pytest.mark.slow
def test_transformers_upernet_is_read_whole():
  torchvision_models()  # which transformers imports
  transformers = pytest.importorskip("transformers", reason="transformers is not installed")

  stages = [f"stage{i}" for i in (1, 2, 3, 4)]
  backbone = transformers.ConvNextConfig(
    hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], out_features=stages
  )
  config = transformers.UperNetConfig(
    backbone_config=backbone, hidden_size=12, num_labels=5, use_auxiliary_head=False
  )
  theirs = transformers.UperNetForSemanticSegmentation(config)
  ours = partial(convnext.ConvNeXt, widths=(8, 12, 16, 20), depths=(1, 1, 2, 1))
  net = models.make("upernet", backbone=ours, features=12, num_classes=5)
  _, report = weights.load_torch(theirs.state_dict(), random_variables(net))
  assert not (report.missing or report.reshaped or report.other_classes)
  # Norms of the features, which this net has not.
  assert report.unexpected and all("hidden_states_norms" in n for n in report.unexpected)


@pytest.mark.torch
@pytest.mark.slow
def test_dpts_neck_and_head_are_those_of_transformers():
  torchvision_models()  # which transformers imports
  import torch

  transformers = pytest.importorskip("transformers", reason="transformers is not installed")
  from transformers.models.dpt import modeling_dpt

  fields = dict(neck_hidden_sizes=list(WIDTHS), fusion_hidden_size=12, num_labels=5)
  backbone = transformers.Swinv2Config()
  config = transformers.DPTConfig(backbone_config=backbone, is_hybrid=False, **fields)
  neck, head = modeling_dpt.DPTNeck(config), modeling_dpt.DPTSemanticSegmentationHead(config)
  theirs = randomize(torch.nn.ModuleDict(dict(neck=neck, head=head)))
  net = models.make("dpt", backbone=Given, features=12, num_classes=5)
  image = images((96, 160), channels=28)
  variables, report = weights.load_torch(theirs.state_dict(), random_variables(net, channels=28))
  unused = [k for k in theirs.state_dict() if ".layers.0.residual_layer1." in k]
  assert set(report.unexpected) == set(unused)
  assert not (report.missing or report.reshaped or report.other_classes)
  features = [torch.tensor(x).permute(0, 3, 1, 2) for x in cut(image)]
  with torch.no_grad():
    want = head(neck(features))
  got = run(net, variables, image)
  assert relative(got, want.permute(0, 2, 3, 1).numpy()) < 1e-4
