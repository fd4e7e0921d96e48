"""SegFormer: counts, names, sizes, stochastic depth, and Hugging Face's logits."""

import functools
import sys

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models, weights
from segjax.models import segformer

# Of transformers' SegformerForSemanticSegmentation with 19 labels.
COUNTS = dict(
  mit_b0=3_719_027,
  mit_b1=13_682_131,
  mit_b2=27_361_235,
  mit_b3=47_237_075,
  mit_b4=64_007_635,
  mit_b5=84_607_955,
)
TINY = dict(depths=(1, 1, 1, 1), widths=(4, 8, 12, 16), num_heads=(1, 2, 3, 4))
DEEP = dict(
  depths=(3, 2, 4, 3),
  widths=(16, 24, 36, 48),
  num_heads=(1, 2, 3, 4),
  sr_ratios=(6, 3, 2, 1),
  mlp_ratios=(4, 2, 3, 4),
)

# These programs take longer to compile than to run.
quick_jit = functools.partial(jax.jit, compiler_options=dict(xla_backend_optimization_level=0))


def tiny(dtype=jnp.float32, **fields):
  backbone = segformer.MiT(**TINY, dtype=dtype, drop_path=0)
  return segformer.SegFormer(
    num_classes=3, backbone=backbone, decoder_width=8, dtype=dtype, **fields
  )


def shapes(net):
  return jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))


def random_variables(net):
  """Values that make every branch count, unlike small initial weights."""
  rng = np.random.default_rng(0)

  def values(v):
    if len(v.shape) > 1:
      return rng.normal(0, np.prod(v.shape[:-1]) ** -0.5, v.shape).astype(v.dtype)
    return rng.uniform(0.5, 1.5, v.shape).astype(v.dtype)

  return jax.tree.map(values, shapes(net))


def images(size=(64, 64), count=2):
  return np.random.default_rng(1).normal(size=(count, *size, 3)).astype(np.float32)


def flatten(tree):
  """Leaves by their path, joined with `_`."""
  return {"_".join(k): v for k, v in flax.traverse_util.flatten_dict(tree).items()}


@pytest.mark.parametrize(
  "backbone", [b if b < "mit_b2" else pytest.param(b, marks=pytest.mark.slow) for b in COUNTS]
)
def test_parameter_count_is_exact(backbone):
  net = segformer.SegFormer(backbone=backbone)
  assert models.count_params(shapes(net)["params"]) == COUNTS[backbone]


def test_parameter_names_are_the_checkpoints():
  variables = shapes(segformer.SegFormer(backbone=segformer.MiT(**DEEP)))
  norms, weights = set(), {"head_classifier", "head_linear_fuse"}
  for i, depth in enumerate(DEEP["depths"]):
    weights |= {f"backbone_patch_embeddings_{i}_proj", f"head_linear_c_{i}_proj"}
    norms |= {f"backbone_patch_embeddings_{i}_layer_norm", f"backbone_layer_norm_{i}"}
    for j in range(depth):
      block = f"backbone_block_{i}_{j}_"
      weights |= {block + "attention_self_" + name for name in ("query", "key", "value")}
      weights |= {block + "attention_output_dense"}
      weights |= {block + "mlp_" + name for name in ("dense1", "dwconv_dwconv", "dense2")}
      norms |= {block + "layer_norm_1", block + "layer_norm_2"}
      if i < 3:
        weights |= {block + "attention_self_sr"}
        norms |= {block + "attention_self_layer_norm"}
  norms |= {"head_batch_norm"}
  want = {f"{name}_{leaf}" for name in weights for leaf in ("kernel", "bias")}
  want |= {f"{name}_{leaf}" for name in norms for leaf in ("scale", "bias")}
  assert set(flatten(variables["params"])) == want - {"head_linear_fuse_bias"}
  assert set(flatten(variables["batch_stats"])) == {"head_batch_norm_mean", "head_batch_norm_var"}


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (5, 7), (1, 1)])
def test_strides_of_the_features_and_size_of_the_logits(size):
  image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
  net = segformer.mit_b0(**TINY, dtype=jnp.bfloat16)

  def features(image):
    found = net.init_with_output(jax.random.key(0), image, train=False)[0]
    assert found[0] is image
    return found

  found = jax.eval_shape(features, image)
  assert found[1] is None
  for i, width in enumerate(TINY["widths"], 2):
    assert found[i].shape == (2, -(-size[0] // 2**i), -(-size[1] // 2**i), width)
    assert found[i].dtype == jnp.bfloat16
  net = tiny(dtype=jnp.bfloat16)
  logits, variables = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False), image
  )
  assert logits.shape == (2, *size, 3)
  assert logits.dtype == jnp.float32
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))


def test_one_size_compiles_once_and_tiny_images_give_numbers():
  net = tiny()
  variables, apply = random_variables(net), quick_jit(lambda v, x: net.apply(v, x, train=False))
  for _ in range(3):
    assert np.isfinite(apply(variables, images((5, 7)))).all()
  assert apply._cache_size() == 1


def test_attention_extends_maps_smaller_than_its_reduction():
  net, x = segformer.Attention(2, reduction=4), np.random.default_rng(0).normal(size=(1, 2, 6, 8))
  variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
  rng = np.random.default_rng(1)
  variables = jax.tree.map(lambda v: rng.normal(size=v.shape).astype(v.dtype), variables)
  apply = quick_jit(functools.partial(net.apply, train=False))
  want = apply(variables, np.pad(x, ((0, 0), (0, 2), (0, 0), (0, 0)), mode="edge"))
  np.testing.assert_allclose(apply(variables, x), want[:, :2], atol=1e-5)


def test_drop_path_drops_whole_branches_of_some_samples_in_training():
  block, x = segformer.Block(1, drop_path=0.5), np.zeros((64, 4, 4, 8), np.float32)
  variables = jax.eval_shape(lambda: block.init(jax.random.key(0), x, train=False))
  variables = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), variables)
  params = variables["params"]  # the attention gives 1 everywhere, the mix-FFN 10
  params["attention"]["output_dense"]["bias"] += 1
  params["mlp"]["dense2"]["bias"] += 10
  rngs = dict(dropout=jax.random.key(1))
  y = np.asarray(quick_jit(lambda: block.apply(variables, x, train=True, rngs=rngs))())
  assert (y == y[:, :1, :1, :1]).all()
  values, counts = np.unique(y[:, 0, 0, 0], return_counts=True)
  assert values.tolist() == [0, 2, 20, 22]  # of each branch, nothing or twice
  assert counts.min() > 5
  assert np.all(quick_jit(lambda: block.apply(variables, x, train=False))() == 11)


def test_drop_path_of_a_net_is_its_backbones():
  small = functools.partial(segformer.MiT, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1))
  fields = (1, 1, 1, 1), (8, 8, 8, 8), *(getattr(segformer.MiT, n) for n in (
    "num_heads", "sr_ratios", "mlp_ratios", "patch_sizes", "strides"))  # fmt: skip
  for backbone, rate in (
    (small, 0.3),
    (functools.partial(small, drop_path=0.2), 0.2),
    (functools.partial(segformer.MiT, *fields, 0.1), 0.1),
  ):
    found = []

    def look(call, args, kwargs, context, found=found):
      if isinstance(context.module, segformer.MiT):
        found.append(context.module.drop_path)
      return call(*args, **kwargs)

    net = models.make("segformer", backbone=backbone, drop_path=0.3, num_classes=2)
    with nn.intercept_methods(look):
      jax.eval_shape(
        functools.partial(net.init, train=False), jax.random.key(0), jnp.zeros((1, 32, 32, 3))
      )
    assert set(found) == {rate}


def test_drop_path_grows_from_zero_to_its_rate(monkeypatch):
  rates = []
  block = segformer.Block
  monkeypatch.setattr(segformer, "Block", lambda *a, **k: (rates.append(a[3]), block(*a, **k))[1])
  shapes(segformer.SegFormer(drop_path=0.7))
  np.testing.assert_allclose(rates, np.arange(8) / 10, atol=1e-9)


def test_drop_path_differs_by_its_key():
  net, image = segformer.MiT(**TINY, drop_path=0.5), images((32, 32), 4)
  variables = random_variables(net)
  train = quick_jit(lambda v, key: net.apply(v, image, train=True, rngs=dict(dropout=key))[-1])
  a, b = (train(variables, jax.random.key(i)) for i in (0, 1))
  assert not np.allclose(a, b)
  assert np.array_equal(a, train(variables, jax.random.key(0)))


def test_unknown_backbones_list_what_there_is():
  with pytest.raises(ValueError, match=r"did you mean 'mit_b0'.*mit_b0, mit_b1"):
    shapes(segformer.SegFormer(backbone="mitb0"))


def filled(variables, state):
  """The variables with a checkpoint's values, by name; every key and every leaf is used once."""
  slots = {k[0] + " " + "_".join(k[1:]): k for k in flax.traverse_util.flatten_dict(variables)}
  flat = flax.traverse_util.flatten_dict(variables)
  new = {}
  for key, tensor in state.items():
    module, leaf = key.rsplit(".", 1)
    if leaf == "num_batches_tracked":
      continue
    module = module.replace("segformer.encoder.", "backbone.").replace("decode_head.", "head.")
    value = tensor.numpy()
    leaf = dict(running_mean="mean", running_var="var", bias="bias").get(
      leaf, "kernel" if value.ndim > 1 else "scale"
    )
    collection = "batch_stats" if leaf in ("mean", "var") else "params"
    path = slots.pop(f"{collection} {module.replace('.', '_')}_{leaf}")
    new[path] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    assert new[path].shape == flat[path].shape, key
  assert not slots
  return flax.traverse_util.unflatten_dict(new)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["b0", "deep"])
def test_logits_equal_those_of_transformers_torch(name, tmp_path, monkeypatch):
  torch = pytest.importorskip("torch", reason="torch is not installed")
  # transformers imports torchvision where there is one, which fails if it is for another torch.
  monkeypatch.setitem(sys.modules, "torchvision", None)
  transformers = pytest.importorskip("transformers", reason="transformers is not installed")
  safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
  fields = DEEP if name == "deep" else {}
  renamed = dict(widths="hidden_sizes", num_heads="num_attention_heads")
  theirs = transformers.SegformerForSemanticSegmentation(
    transformers.SegformerConfig(
      num_labels=19,
      decoder_hidden_size=256,
      **{renamed.get(k, k): list(v) for k, v in fields.items()},
    )
  ).eval()
  epsilons = {m.eps for m in theirs.modules() if isinstance(m, torch.nn.LayerNorm)}
  assert epsilons == {segformer.LayerNorm.keywords["epsilon"]}
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for key, value in theirs.state_dict().items():
      if value.ndim > 1:
        value.normal_(0, value[0].numel() ** -0.5, generator=generator)
      elif key.endswith((".weight", "running_var")):
        value.uniform_(0.5, 2, generator=generator)
      elif value.ndim == 1:
        value.normal_(0, 0.3, generator=generator)
  # What it saves has the names of published checkpoints; since version 5 its modules have others.
  theirs.save_pretrained(tmp_path)
  state = safetensors.load_file(tmp_path / "model.safetensors")
  backbone = segformer.MiT(**DEEP) if name == "deep" else "mit_b0"
  net = segformer.SegFormer(backbone=backbone, decoder_width=256)
  variables = filled(shapes(net), state)
  for names in (state, theirs.state_dict()):
    found, report = weights.load_torch(names, jax.tree.map(np.zeros_like, variables))
    assert not report.missing
    jax.tree.map(np.testing.assert_array_equal, found, variables)
  image = images((97, 131))
  with torch.no_grad():
    want = torch.nn.functional.interpolate(
      theirs(torch.tensor(image.transpose(0, 3, 1, 2))).logits,
      size=image.shape[1:3],
      mode="bilinear",
      align_corners=False,
    )
  want = want.numpy().transpose(0, 2, 3, 1)
  got = np.asarray(quick_jit(lambda v: net.apply(v, image, train=False))(variables))
  assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()
