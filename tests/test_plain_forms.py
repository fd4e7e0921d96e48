"""Every net in plain forms: standard operations alone, and the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import losses, metrics, models, ops

# Of each net fields that make it light.
FIELDS = {
  "attention_segmenter": dict(backbone="mobilenet_v3_small", width=16),
  "backbone_unet": dict(backbone="mobilenet_v3_small", widths=(16, 8, 8, 8, 8)),
  "classifier": dict(backbone="small_cnn"),
  "deeplabv3": dict(backbone="mobilenet_v3_small", output_stride=16, head_features=16),
  "deeplabv3_plus": dict(backbone="mobilenet_v3_small"),
  "encoder_decoder": dict(widths=(8, 8)),
  "fcn": dict(backbone="resnet18"),
  "fcn16s": dict(backbone="mobilenet_v3_small"),
  "fcn32s": dict(backbone="vgg11_bn"),
  "fcn8s": dict(backbone="efficientnet_lite0"),
  "lraspp": dict(backbone="mobilenet_v3_small"),
  "projection": dict(backbone="small_cnn"),
  "prototypes": dict(backbone="small_cnn"),
  "segformer": dict(
    backbone=models.mit_b0(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), num_heads=(1, 1, 2, 2))
  ),
  "unet": dict(widths=(4, 8, 16), norm="batch", up="transposed3"),
}
QUICK = ("backbone_unet", "classifier", "encoder_decoder", "segformer", "unet")
SIZE = (32, 48)


def build(name):
  """(function of variables and images, shapes of the variables)."""
  known = models.MODELS[name].__dataclass_fields__
  net = models.make(name, **{k: v for k, v in FIELDS[name].items() if k in known})
  image = jnp.zeros((2, *SIZE, 3))
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image, train=False))
  return lambda variables, image: net.apply(variables, image, train=False), shapes


def lowered(name):
  """The jitted function and its arguments."""
  function, shapes = build(name)
  rng = np.random.default_rng(0)

  def draw(path, x):  # variances near 1, kernels small
    value = rng.normal(size=x.shape) / np.sqrt(max(np.prod(x.shape[:-1]), 1))
    return jnp.asarray(1 + 0.1 * value if path[-1].key in ("var", "scale") else value, x.dtype)

  variables = jax.tree_util.tree_map_with_path(draw, shapes)
  return jax.jit(function), (variables, jnp.asarray(rng.normal(size=(2, *SIZE, 3)), jnp.float32))


@pytest.mark.parametrize("name", models.names())
def test_programs_are_of_standard_operations(name):
  function, args = lowered(name)
  with ops.plain_forms():
    program = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(*args)
    jaxpr = str(jax.make_jaxpr(function)(*args))
  assert "@segjax" not in program.mlir_module()
  assert "platform_index" not in jaxpr and "segjax_conv" not in jaxpr


@pytest.mark.parametrize(
  "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in models.names()]
)
def test_results_are_the_same(name):
  function, args = lowered(name)
  wanted = function(*args)
  with ops.plain_forms():
    found = function(*args)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * (float(jnp.abs(b).max()) + 1e-3))


def test_losses_and_metrics_have_no_branches_by_platform():
  logits, label = jnp.zeros((1, 2, 3, 4)), jnp.ones((1, 2, 3), jnp.int32)

  def both(logits, label):
    counts = metrics.confusion_matrix(logits.argmax(-1), label, num_classes=4)
    return losses.cross_entropy(logits, label), counts

  assert "platform_index" in str(jax.make_jaxpr(both)(logits, label))
  with ops.plain_forms():
    assert "platform_index" not in str(jax.make_jaxpr(both)(logits, label))
