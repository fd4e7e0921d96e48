"""Every net in plain forms: standard operations alone, and the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light import NETS, build, shapes, tiers

from segjax import losses, metrics, ops

pytestmark = pytest.mark.usefixtures("light_backbones")

SIZE = (32, 48)


def lowered(name):
  """The jitted function and its arguments."""
  net = build(name)
  rng = np.random.default_rng(0)

  def draw(path, x):  # variances near 1, kernels small
    value = rng.normal(size=x.shape) / np.sqrt(max(np.prod(x.shape[:-1]), 1))
    return jnp.asarray(1 + 0.1 * value if path[-1].key in ("var", "scale") else value, x.dtype)

  variables = jax.tree_util.tree_map_with_path(draw, shapes(net))
  function = jax.jit(lambda variables, image: net.apply(variables, image, train=False))
  return function, (variables, jnp.asarray(rng.normal(size=(2, *SIZE, 3)), jnp.float32))


@pytest.mark.parametrize("name", tiers(NETS, quick=("classifier/cnn", "unet")))
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
