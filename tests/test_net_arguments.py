"""Arguments of every net: norm, activation, initialisation, dtypes, backbone, number of channels.

Programs are traced, not compiled, where the values do not matter.
"""

import dataclasses
import inspect
import json
import re
from functools import partial

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light import MIT, NETS, SHALLOW, Light, build, random_variables, shapes, tiers

from segjax import losses, metrics, models, weights
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.models import conv, layers, norms, resnet, segformer
from segjax.tasks import TASKS, Segmentation
from segjax.training.freezing import frozen_norms

pytestmark = pytest.mark.usefixtures("light_backbones")

SHARED = {"norm", "activation", "kernel_init", "dtype", "param_dtype"}
# A SegFormer whose backbone is made from its fields, unlike that of `NETS`.
FIELDS = {f: getattr(MIT, f) for f in ("depths", "widths", "num_heads", "sr_ratios")}
OWN_MIT = dict(backbone=partial(segformer.MiT, **FIELDS))


QUICK = ("encoder_decoder", "unet")
# Backbones with a head of their own.
HEADS = ("small_cnn", "shallow_vgg16", "shallow_mobilenet", "shallow_efficientnet")
MARKED = tiers((*NETS, *(f"classifier/{b}" for b in HEADS)), QUICK)


def net_of(name, **fields):
  if name.split("/")[-1] in HEADS:
    return models.make("classifier", backbone=name.split("/")[1], num_classes=3, **fields)
  return build(name, **(OWN_MIT if name == "segformer" else {}) | fields)


def flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep="/")


def program(net, variables, channels=3, **how):
  """The traced program of a net on images of 64x64, as text, and the logits' shape."""
  dtype = jnp.result_type(net.dtype, jnp.float32)
  image = jax.ShapeDtypeStruct((2, 64, 64, channels), dtype)

  def apply(variables, image):
    return net.apply(variables, image, mutable=["batch_stats", "intermediates"], **how)

  jaxpr, out = jax.make_jaxpr(apply, return_shape=True)(variables, image)
  return str(jaxpr), out[0]


def test_every_net_and_backbone_takes_the_shared_fields():
  for name, net in models.MODELS.items():
    assert {f.name for f in dataclasses.fields(net)} >= SHARED, name
  for name, (backbone, head) in models.BACKBONES.items():
    assert inspect.signature(backbone).parameters.keys() >= SHARED, name
    assert inspect.signature(head).parameters.keys() >= SHARED, name


# ---------------------------------------------------------------------------- initialisation


def test_an_initializer_is_a_name_or_one_of_flaxs():
  image = jnp.zeros((1, 8, 8, 3))

  def params(init, **fields):
    net = models.make("encoder_decoder", widths=(4,), kernel_init=init, **fields)
    return flat(net.init(jax.random.key(0), image, train=False)["params"])

  he, same, other = params("he"), params(nn.initializers.he_uniform()), params("glorot")
  for name, value in he.items():
    np.testing.assert_array_equal(value, same[name])
    assert name.endswith("bias") or (value != other[name]).any()
  kernel = conv.Conv(4, kernel_init="he").init(jax.random.key(0), image)["params"]["kernel"]
  want = nn.initializers.he_uniform()(jax.random.key(0), (3, 3, 3, 4))
  assert kernel.std() == pytest.approx(float(want.std()), rel=0.2)
  for wrong, words in (("hee", "did you mean 'he'"), (3, "expected a name or an initializer")):
    with pytest.raises(UserError, match=words):
      params(wrong)


# ---------------------------------------------------------------------------- norms, activations


@pytest.mark.parametrize("name", MARKED)
def test_a_norm_stands_where_the_nets_own_do(name):
  """Under the same names; "none" leaves none, and every convolution before it gets a bias."""
  own, layer = shapes(net_of(name)), shapes(net_of(name, norm=nn.LayerNorm))
  kept = {"center"} if name == "prototypes" else set()
  assert layer.get("batch_stats", {}).keys() == kept
  if name not in (
    "encoder_decoder",
    "unet/none",
    "unet/no_skip",
    "classifier/shallow_vgg16",
  ):  # they have none
    assert flat(layer["params"]).keys() == flat(own["params"]).keys()
  assert any(k.endswith("/scale") for k in flat(layer["params"])) or "/" not in name
  none = flat(shapes(net_of(name, norm="none"))["params"])
  fixed = "class_attention/norm/scale"
  assert not [k for k in none if k.endswith("/scale") and k != fixed]
  for kernel in (k for k in none if k.endswith("/kernel")):
    # DINOv3's keys have no bias either way.
    if not kernel.endswith(
      ("score/kernel", "head/scale/kernel", "DinoV3_0/blocks_0/attn/k/kernel")
    ):
      assert kernel.replace("/kernel", "/bias") in none, kernel


@pytest.mark.parametrize(
  "norm",
  [
    *norms.NORMS, nn.BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm, nn.RMSNorm,
    partial(nn.GroupNorm, num_groups=2), lambda name: nn.LayerNorm(name=name),
  ],
)  # fmt: skip
def test_norms_that_are_known_and_flaxs(norm):
  net = models.make("unet", widths=(32, 64), num_classes=2, norm=norm, dtype="bfloat16")
  variables = shapes(net)
  for train in (False, True):
    _, logits = program(net, variables, train=train)
    assert logits.shape == (2, 64, 64, 2)
  assert {len(v) for k, v in variables.get("batch_stats", {}).items()} <= {2}


def test_flaxs_batch_norm_is_the_nets_own():
  """In training, in its running averages, and in evaluation by them."""
  image = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
  found = []
  for norm in ("batch", partial(nn.BatchNorm, momentum=0.9)):
    net = models.make("unet", widths=(4, 6), num_classes=2, norm=norm)
    variables = random_variables(net)
    apply = partial(jax.jit(net.apply, static_argnames=("train", "mutable")), variables, image)
    logits, new = apply(train=True, mutable=("batch_stats",))
    found.append((logits, apply(train=False), new["batch_stats"]["down1"]["norm1"]["mean"]))
  for own, flaxs in zip(*found, strict=True):
    np.testing.assert_allclose(own, flaxs, rtol=1e-4, atol=1e-5)
  assert np.abs(found[0][0] - found[0][1]).max() > 0.01


def test_batch_by_name_is_the_nets_own_batch_norm():
  """Of MobileNet with its own epsilon, so that a config that names it changes nothing."""
  texts = {
    norm: program(net, shapes(net), train=True)[0]
    for norm in (None, "batch")
    for net in [build("classifier/mobile", norm=norm)]
  }
  assert texts[None] == texts["batch"] and "0.001" in texts[None]


def test_frozen_norms_are_flaxs_too():
  net, x = layers.ConvNorm(4, norm=nn.BatchNorm), jnp.ones((2, 4, 4, 3))
  variables = net.init(jax.random.key(0), x, train=False)
  apply = partial(net.apply, variables, x, train=True, mutable=["batch_stats"])
  with frozen_norms(("norm/scale",)):
    _, new = apply()
  jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])
  assert (apply()[1]["batch_stats"]["norm"]["var"] != 1).all()


def test_wrong_norms_and_activations_are_one_clear_error():
  for fields, words in (
    (dict(norm="bach"), "none, batch, group"),
    (dict(norm=nn.LayerNorm()), r"nn.LayerNorm or partial"),
    (dict(norm=3), "expected one of"),
    (dict(activation="rely"), "did you mean 'relu'"),
    (dict(activation=nn.PReLU), r"lambda x: Module\(\)\(x\)"),
  ):
    with pytest.raises(UserError, match=words):
      shapes(models.make("unet", widths=(4, 8), **fields))
  prelu = models.make("unet", widths=(4, 8), activation=lambda x: nn.PReLU()(x))  # noqa: PLW0108
  assert [k for k in flat(shapes(prelu)["params"]) if "PReLU" in k]


# ---------------------------------------------------------------------------- backbones


class Plain(nn.Module):
  """Somebody's own backbone, which knows nothing of segjax."""

  width: int = 4

  @nn.compact
  def __call__(self, image, *, train):
    features = [image]
    for i in range(5):
      features.append(nn.Conv(self.width, (3, 3), 2, name=f"stage{i}")(features[-1]))
    return features


# Of them EoMT takes a DINOv2 alone.
WITH_BACKBONE = tiers(
  (n for n in NETS if "backbone" in NETS[n] and n != "eomt"), (*QUICK, "classifier/cnn")
)
STAGES = (1, 1, 1, 1)
GROUPED = partial(resnet.ResNet, STAGES, norm="group")


@pytest.mark.parametrize("name", WITH_BACKBONE)
def test_own_backbones(name):
  own = set(shapes(Plain())["params"])
  stride = dict(output_stride=32) if hasattr(build(name), "output_stride") else {}
  for backbone in (Plain, Plain(width=4), partial(Plain, width=4)):
    net = build(name, backbone=backbone, **stride)
    params = shapes(net)["params"]
    assert params["backbone"].keys() == own
    assert hash(net) == hash(build(name, backbone=backbone, **stride))
  if stride:
    with pytest.raises(UserError, match="no output_stride 8"):
      shapes(build(name, backbone=Plain, output_stride=8))


@pytest.mark.slow
def test_a_backbone_gets_the_nets_fields_but_those_that_it_sets():
  def statistics(**fields):
    net = models.make("deeplabv3", num_classes=2, **fields)
    return shapes(net).get("batch_stats", {}).keys()

  dilated = partial(resnet.ResNet, output_stride=16)
  assert models.make_backbone(dilated, output_stride=8).output_stride == 16
  assert statistics(backbone=GROUPED) == {"head"}
  assert statistics(backbone="shallow_resnet") == {"head", "backbone"}
  assert statistics(backbone=GROUPED, norm="batch") == {"head"}
  assert statistics(backbone="shallow_resnet", norm="group") == set()
  net = models.make("deeplabv3", backbone=GROUPED, param_dtype="bfloat16", output_stride=16)
  assert {x.dtype for x in jax.tree.leaves(shapes(net)["params"])} == {jnp.dtype("bfloat16")}
  net = models.make("deeplabv3", backbone=resnet.ResNet(dtype=jnp.bfloat16), num_classes=2)
  assert {x.dtype for x in jax.tree.leaves(shapes(net))} == {jnp.dtype("float32")}


# ---------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("name", MARKED)
def test_initialisation_activation_and_dtypes_reach_every_layer(name):
  """Each kernel is drawn once; no activation of the net's own is left; logits are wide."""
  drawn, called = [], []

  def init(key, shape, dtype):
    drawn.append(shape)
    return jnp.zeros(shape, dtype)

  def activation(x):
    called.append(x.dtype)
    return jnp.tanh(x)

  narrow = dict(dtype="bfloat16", param_dtype="bfloat16")
  net = net_of(name, kernel_init=init, activation=activation, **narrow)
  variables = shapes(net, channels=5)
  params = flat(variables["params"])
  # Flax reshapes the kernels of its attention and asks for each of them once.
  assert len(drawn) == len([k for k in params if k.endswith("/kernel")])
  assert {x.dtype for x in params.values()} == {jnp.dtype("bfloat16")}
  statistics = jax.tree.leaves(variables.get("batch_stats", {}))
  assert {x.dtype for x in statistics} <= {jnp.dtype("float32")}
  called.clear()
  text, logits = program(net, variables, 5, train=False)
  assert logits.dtype == jnp.float32 and logits.shape[-1] == 3
  assert called
  own = ("hard_swish", "gelu", "silu", *([] if "mobile" in name else ["relu", "relu6"]))
  assert not [a for a in own if f"name={a}\n" in text or f"name={a} " in text]
  named = program(net_of(name, activation="tanh", **narrow), variables, 5, train=False)
  assert named[0] == text


@pytest.mark.parametrize("name", MARKED)
def test_nothing_in_a_float64_net_is_narrower(name):
  with jax.enable_x64(True):
    net = net_of(name, dtype="float64", param_dtype="float64")
    variables = shapes(net)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float64")}
    for train in (False, True):
      rngs = dict(dropout=jax.random.key(0))
      text, logits = program(net, variables, train=train, rngs=rngs)
      assert logits.dtype == jnp.float64
      assert ":f32[" not in text and "float32" not in text


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.slow
def test_a_float64_gradient_is_the_difference_quotient(norm):
  with jax.enable_x64(True):
    fields = dict(dtype="float64", param_dtype="float64", activation="tanh", norm=norm)
    net = models.make("unet", widths=(3, 4), num_classes=3, **fields)
    rng = np.random.default_rng(0)
    image, label = rng.normal(size=(2, 8, 8, 3)), rng.integers(0, 3, (2, 8, 8))
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape) ** 2 / 4, shapes(net))

    @jax.jit
    def loss(params):
      logits, _ = net.apply(
        variables | dict(params=params), image, train=True, mutable=["batch_stats"]
      )
      return losses.cross_entropy(logits, label).mean() + losses.dice(logits, label).mean()

    params = variables["params"]
    way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
    slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.jit(jax.grad(loss))(params), way)))
    up, down = (loss(jax.tree.map(lambda p, w, h=h: p + h * w, params, way)) for h in (1e-5, -1e-5))
    assert (up - down) / 2e-5 == pytest.approx(float(slope), rel=1e-7)


@pytest.mark.slow
def test_losses_and_metrics_of_float64_are_computed_in_it():
  rng = np.random.default_rng(0)
  logits, label = rng.normal(size=(2, 5, 6, 4)), rng.integers(0, 4, (2, 5, 6))
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  own = np.take_along_axis(p, label[..., None], -1)[..., 0]
  y = np.eye(4)[label]
  overlap, total = (p * y).sum((1, 2)), (p + y).sum((1, 2))
  image, truth = rng.random((2, 1, 12, 13, 3))
  want = {
    "cross_entropy": -np.log(own),
    "focal": -((1 - own) ** 2) * np.log(own),
    "dice": 1 - ((2 * overlap + 1) / (total + 1)).mean(-1),
    "psnr": -10 * np.log10(((image - truth) ** 2).mean((1, 2, 3))),
  }
  with jax.enable_x64(True):
    found = {n: getattr(losses, n)(logits, label) for n in ("cross_entropy", "focal", "dice")}
    found["psnr"] = metrics.psnr(image, truth)
    for name, value in want.items():
      assert found[name].dtype == jnp.float64, name
      np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
    assert metrics.ssim(image, truth).dtype == metrics.colorfulness(image).dtype == jnp.float64
    text = str(jax.make_jaxpr(metrics.ssim)(image, truth))
    assert ":f32[" not in text
    assert losses.class_probabilities(logits.astype(np.float16)).dtype == jnp.float32
    matrix = metrics.confusion_matrix(logits.argmax(-1), label, num_classes=4)
    assert matrix.dtype == jnp.int32


def test_float64_needs_its_switch():
  for field in ("dtype", "param_dtype"):
    with pytest.raises(UserError, match="jax_enable_x64"):
      models.make("unet", **{field: "float64"})
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
      models.make("unet", **{field: "bfloat"})


# ---------------------------------------------------------------------------- channels


def drawn(net, channels=3, seed=0):
  rng = np.random.default_rng(seed)
  found = shapes(net, channels=channels)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), found)


def torch_names(variables):
  """Our variables of a ResNet as PyTorch's state dict."""
  kinds = dict(kernel="weight", scale="weight", mean="running_mean", var="running_var")
  out = {}
  for path, value in flat(variables).items():
    module, leaf = path.split("/", 1)[1].rsplit("/", 1)
    array = np.asarray(value)
    array = array.transpose(3, 2, 0, 1) if leaf == "kernel" else array
    name = re.sub(r"(layer\d)_0", r"\1.0", module).replace("downsample_", "downsample.")
    out[f"{name.replace('/', '.')}.{kinds.get(leaf, leaf)}"] = array
  return out


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_a_first_convolution_is_adapted_as_in_timm(channels):
  """timm, models/_manipulate.py: the sum for one channel, else repeated and times 3 / C."""
  stem = resnet.ResNet
  state = torch_names(drawn(stem(STAGES)))
  mine = drawn(stem(STAGES), channels, seed=1)
  loaded, report = weights.load_torch(state, mine)
  weight = state["conv1.weight"].astype(np.float64)
  if channels == 1:
    want = weight.sum(1, keepdims=True)
  else:
    repeat = -(-channels // 3)
    want = np.tile(weight, (1, repeat, 1, 1))[:, :channels] * (3 / channels)
  kernel = loaded["params"]["conv1"]["kernel"]
  np.testing.assert_allclose(kernel.transpose(3, 2, 0, 1), want, rtol=1e-6, atol=1e-6)
  found, shape = (64, 3, 7, 7), (7, 7, channels, 64)
  assert report.other_channels == (("conv1.weight", "conv1/kernel", found, shape),)
  assert f"adapted from images of 3 channels to {channels}: conv1.weight {found}" in str(report)
  assert ("conv1.weight", "conv1/kernel") in report.loaded and not report.missing


@pytest.mark.slow
def test_other_mismatches_stay_errors():
  net = resnet.ResNet(STAGES)
  for key, cut in (
    ("conv1.weight", lambda w: w[:, :2]),  # not of three channels
    ("conv1.weight", lambda w: w[:32]),  # other features
    ("conv1.weight", lambda w: w[..., :5]),  # another size
    ("layer1.0.conv1.weight", lambda w: w[:, :3]),  # not on the image
  ):
    state = torch_names(drawn(net))
    state[key] = cut(state[key])
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
      weights.load_torch(state, drawn(net, 4))
  _, report = weights.load_torch(torch_names(drawn(net)), drawn(net, seed=2))
  assert not report.other_channels and "adapted" not in str(report)


@pytest.mark.parametrize("name", ["unet", "encoder_decoder", *SHALLOW, "small_cnn", "mit"])
@pytest.mark.slow
def test_the_first_convolution_is_known_in_every_net(name):
  backbone = name not in models.MODELS
  net = MIT if name == "mit" else models.make_backbone(name) if backbone else models.make(name)
  theirs, mine = (drawn(net, channels)["params"] for channels in (3, 4))
  if backbone:
    theirs, mine = dict(backbone=theirs), dict(backbone=mine)
  _, report = weights.load_variables(dict(params=theirs), dict(params=mine))
  ((_, path, found, wanted),) = report.other_channels
  assert (found[2], wanted[2]) == (3, 4) and path.startswith("backbone/") == backbone
  assert not report.missing and len(report.loaded) == len(jax.tree.leaves(mine))


# ---------------------------------------------------------------------------- tasks, configs


def test_a_task_needs_no_palette():
  classes = ("ground", "road", "house")
  np.testing.assert_array_equal(Segmentation(classes).palette, default_table(classes).palette)
  own = np.full((256, 3), 7, np.uint8)
  assert Segmentation(classes, own).palette is own
  assert Segmentation(classes) == Segmentation(classes, own)
  many = tuple(map(str, range(1000)))
  for name, task in TASKS.items():
    given = many if name == "classification" else ("background", "thing")
    fields = dict(sigmoid=False) if name == "segmentation" else {}
    assert task(given, **fields).palette.shape == (256, 3), name


def test_new_fields_at_their_defaults_change_no_identity(tmp_path):
  from segjax import config as config_lib
  from segjax import study

  config = config_lib.default()
  config.model.update(norm="batch", kernel_init="glorot")
  before = study.identity(config)
  config.model.param_dtype = "float32"
  assert study.identity(config) == before
  config_lib.save(config, tmp_path / "config.json")
  assert "param_dtype" in json.loads((tmp_path / "config.json").read_text())["model"]
  config.model.param_dtype = "bfloat16"
  assert study.identity(config) != before
  net = models.make(**dict(config.model), num_classes=2)
  assert (net.norm, net.kernel_init, net.param_dtype) == ("batch", "glorot", jnp.bfloat16)
  assert Light().param_dtype == jnp.float32
