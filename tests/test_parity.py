"""The same weights give torchvision's outputs, and its batch statistics after a training step."""

import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import torchvision_models
from light import random_variables, shapes

from segjax import models, ops, weights

pytestmark = pytest.mark.torch

FAMILIES = ("convnext_tiny", "mobile", "res", "swin_t", "vgg")
CLASSIFIERS = [b for b in models.BACKBONES if b.startswith(FAMILIES) and not re.search(r"\dd$", b)]
# Compared by numbers: a net of each kind of block and a head of each kind. The others have more
# blocks of the same kinds, as their exact counts and their names say.
COMPUTED = (
  "resnet18", "resnext50_32x4d", "vgg11_bn", "vgg16", "mobilenet_v3_small", "fcn_resnet50",
  "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
)  # fmt: skip
MOBILE = dict(backbone="mobilenet_v3_large", output_stride=16)
SEGMENTERS = {
  "fcn_resnet50": ("fcn", dict(aux=True)),
  "fcn_resnet101": ("fcn", dict(backbone="resnet101")),
  "deeplabv3_resnet50": ("deeplabv3", dict(aux=True)),
  "deeplabv3_resnet101": ("deeplabv3", dict(backbone="resnet101")),
  "deeplabv3_mobilenet_v3_large": ("deeplabv3", MOBILE | dict(aux=True, aux_index=3)),
  "lraspp_mobilenet_v3_large": ("lraspp", {}),
}


@pytest.fixture(scope="module")
def vision():
  return torchvision_models()


def build(vision, name):
  """A torchvision net with random weights and random running statistics."""
  import torch

  torch.manual_seed(0)
  if name in SEGMENTERS:
    more = dict(aux_loss=True) if SEGMENTERS[name][1].get("aux") else {}
    net = getattr(vision.segmentation, name)(weights=None, weights_backbone=None, **more)
  else:
    net = getattr(vision, name)(weights=None)
  for module in net.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
      torch.nn.init.normal_(module.running_mean, std=0.2)
      torch.nn.init.uniform_(module.weight, 0.5, 1)
      torch.nn.init.normal_(module.bias, std=0.1)
  return net


def run_torch(net, image):
  import torch

  with torch.no_grad():
    out = net(torch.from_numpy(image).permute(0, 3, 1, 2))
  out = out if isinstance(out, dict) else dict(out=out)
  return {k: v.permute(0, 2, 3, 1).numpy() if v.ndim == 4 else v.numpy() for k, v in out.items()}


def relative(a, b):
  return float(np.abs(a - b).max() / np.abs(b).max())


def make_ours(name):
  """(net, its fields) for a name of torchvision."""
  kind, fields = SEGMENTERS.get(name, ("classifier", dict(backbone=name)))
  return models.make(kind, **fields), fields


@pytest.mark.parametrize("name", [n for n in (*CLASSIFIERS, *SEGMENTERS) if n not in COMPUTED])
def test_every_tensor_of_a_larger_net_has_its_place(vision, name):
  """By name and shape; nothing is computed."""
  import torch

  with torch.device("meta"):
    theirs = build(vision, name)
  state = {k: np.zeros(v.shape, np.float32) for k, v in theirs.state_dict().items()}
  ours = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes(make_ours(name)[0]))
  variables, report = weights.load_torch(state, ours)
  assert not (report.missing or report.unexpected or report.other_classes)
  # ConvNeXt's factors of channels are [C,1,1] there.
  assert all(entry.endswith("layer_scale") for entry, *_ in report.reshaped)
  assert not any(x.any() for x in jax.tree.leaves(variables))


@pytest.mark.parametrize("name", COMPUTED)
def test_torch_outputs(vision, name):
  theirs = build(vision, name).eval()
  net, fields = make_ours(name)
  variables, report = weights.load_torch(theirs.state_dict(), random_variables(net))
  assert not (report.missing or report.unexpected or report.reshaped or report.other_classes)
  image = np.random.default_rng(0).normal(size=(2, 97, 131, 3)).astype(np.float32)
  want = run_torch(theirs, image)
  got, sown = jax.jit(lambda v, x: net.apply(v, x, train=False, mutable=["intermediates"]))(
    variables, image
  )
  assert relative(got, want["out"]) < 1e-4
  if fields.get("aux"):
    assert relative(sown["intermediates"]["aux_logits"][0], want["aux"]) < 1e-4


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torch_batch_statistics_after_a_step(vision, name):
  import torch

  theirs = build(vision, name).train()
  net = models.make("classifier", backbone=name)
  variables, _ = weights.load_torch(theirs.state_dict(), random_variables(net))
  image = np.random.default_rng(0).normal(size=(4, 97, 131, 3)).astype(np.float32)
  rngs = dict(dropout=jax.random.key(0))
  step = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"], rngs=rngs)[1])
  got = flax.traverse_util.flatten_dict(step(variables, image), sep="/")
  run_torch(theirs, image)
  # Read back by the names that loading maps them to.
  want, _ = weights.load_torch(theirs.state_dict(), variables)
  want = flax.traverse_util.flatten_dict(dict(batch_stats=want["batch_stats"]), sep="/")
  before = flax.traverse_util.flatten_dict(dict(batch_stats=variables["batch_stats"]), sep="/")
  assert got.keys() == want.keys()
  for key in want:
    assert relative(got[key], want[key]) < 1e-4, key
    assert relative(before[key], want[key]) > 1e-3, key
  assert torch.is_grad_enabled()


@pytest.mark.parametrize("stride", [8, 16])
def test_torch_dilated_backbone(vision, stride):
  """`replace_stride_with_dilation` of torchvision, for both dilated forms."""
  import torch

  torch.manual_seed(0)
  theirs = vision.resnet50(
    weights=None, replace_stride_with_dilation=[False, stride == 8, True]
  ).eval()
  net = models.make_backbone("resnet50", output_stride=stride)
  variables, report = weights.load_torch(theirs.state_dict(), random_variables(net))
  assert not report.missing
  image = np.random.default_rng(0).normal(size=(1, 97, 131, 3)).astype(np.float32)
  got = jax.jit(lambda v, x: net.apply(v, x, train=False)[-1])(variables, image)
  body = torch.nn.Sequential(*list(theirs.children())[:-2])
  assert relative(got, run_torch(body, image)["out"]) < 1e-4


def test_torch_adaptive_pooling(vision):
  import torch

  x = np.random.default_rng(0).normal(size=(2, 5, 17, 3)).astype(np.float32)
  want = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(x).permute(0, 3, 1, 2), (7, 4))
  got = ops.adaptive_avg_pool(jnp.asarray(x), (7, 4))
  np.testing.assert_allclose(got, want.permute(0, 2, 3, 1), atol=1e-6)
