"""The fast layers against the standard ones, in value and gradient."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import config as config_lib
from segjax import ops, ranges
from segjax.errors import UserError
from segjax.models import layers
from segjax.models.conv import Conv

KEY = jax.random.key(0)


def value_and_pullback(f, g, *args):
  """f(*args) and the gradients of its inner product with g, compiled."""
  return jax.jit(lambda *a: (f(*a), jax.vjp(f, *a)[1](g)))(*args)


def standard_pool(x):
  return nn.max_pool(x, (2, 2), (2, 2))


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (1, 7, 9, 5), (3, 2, 3, 1)])
@pytest.mark.parametrize("kind", ["continuous", "ties", "relu", "constant"])
def test_max_pool_is_nn_max_pool_bit_for_bit(shape, kind):
  x = jax.random.normal(KEY, shape)
  if kind == "ties":
    x = jnp.round(x * 2) / 2
  elif kind == "relu":
    x = nn.relu(x)
  elif kind == "constant":
    x = jnp.full_like(x, -1.5)
  g = jax.random.normal(jax.random.key(1), standard_pool(x).shape)
  (y, dx), (y0, dx0) = (
    value_and_pullback(ops.max_pool_2x2, g, x),
    value_and_pullback(standard_pool, g, x),
  )
  np.testing.assert_array_equal(y, y0)
  np.testing.assert_array_equal(dx[0], dx0[0])


def test_max_pool_gradient_goes_to_the_first_maximum():
  g = jax.grad(lambda x: ops.max_pool_2x2(x).sum())(jnp.zeros((1, 2, 2, 1)))
  assert g[0, :, :, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


PAIRS = {
  "2x2": (
    lambda: layers.ConvTranspose(5, 2),
    lambda: nn.ConvTranspose(5, (2, 2), strides=(2, 2), padding="VALID"),
  ),
  "3x3": (
    lambda: layers.ConvTranspose(5, 3),
    lambda: nn.ConvTranspose(5, (3, 3), strides=(2, 2), padding=((1, 2), (1, 2))),
  ),
  "4x4": (
    lambda: layers.ConvTranspose(5, 4),
    lambda: nn.ConvTranspose(5, (4, 4), strides=(2, 2), padding=((2, 2), (2, 2))),
  ),
}


@pytest.mark.parametrize("shape", [(2, 6, 8, 4), (1, 5, 3, 128), (1, 1, 1, 4)])
@pytest.mark.parametrize("pair", PAIRS)
def test_transposed_convolution_is_nn_conv_transpose(pair, shape):
  fast, standard = (make() for make in PAIRS[pair])
  x = jax.random.normal(KEY, shape)
  variables = jax.jit(standard.init)(KEY, x)
  variables = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(KEY, p.shape), variables)
  own = jax.eval_shape(fast.init, KEY, x)
  assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, variables)
  g = jax.random.normal(jax.random.key(1), jax.eval_shape(standard.apply, variables, x).shape)
  y, pull = value_and_pullback(fast.apply, g, variables, x)
  y0, pull0 = value_and_pullback(standard.apply, g, variables, x)
  np.testing.assert_allclose(y, y0, atol=1e-5)
  for a, b in zip(jax.tree.leaves(pull), jax.tree.leaves(pull0), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("pair", PAIRS)
def test_transposed_convolution_is_pytorchs(pair):
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  x = np.random.default_rng(0).normal(size=(2, 5, 7, 4)).astype("f4")
  module = PAIRS[pair][0]()
  variables = module.init(KEY, x)
  padding = dict(padding=1, output_padding=1) if pair == "3x3" else dict(padding=int(pair == "4x4"))
  peer = torch.nn.ConvTranspose2d(4, 5, int(pair[0]), 2, bias=False, **padding)
  kernel = np.asarray(variables["params"]["kernel"])[::-1, ::-1].transpose(2, 3, 0, 1)
  peer.weight.data = torch.tensor(kernel.copy())
  want = peer(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(module.apply(variables, x), want, atol=1e-5)


@pytest.mark.torch
def test_resize_bilinear_enlarges_as_pytorch_does():
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype("f4")
  want = torch.nn.functional.interpolate(
    torch.tensor(x.transpose(0, 3, 1, 2)), size=(11, 20), mode="bilinear", align_corners=False
  )
  got = ops.resize_bilinear(x, (11, 20))
  np.testing.assert_allclose(got, want.numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("sizes", [((5, 7), (11, 20)), ((1, 4), (3, 4)), ((3, 1), (1, 2))])
def test_resize_between_corners_is_pytorchs(sizes):
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  x = np.random.default_rng(0).normal(size=(2, *sizes[0], 3)).astype("f4")
  want = torch.nn.functional.interpolate(
    torch.tensor(x.transpose(0, 3, 1, 2)), size=sizes[1], mode="bilinear", align_corners=True
  )
  got = ops.resize_bilinear(x, sizes[1], corners=True)
  np.testing.assert_allclose(got, want.numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("stride", [2, 8])
def test_average_pools_count_the_zeros_beyond_the_image(stride):
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  x = np.random.default_rng(0).normal(size=(2, 5, 17, 3)).astype("f4")
  pool = torch.nn.AvgPool2d(2 * stride + 1, stride, padding=stride)
  want = pool(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(ops.avg_pool(x, stride), want, atol=1e-6)


def test_nearest_pixels():
  x = jnp.arange(6.0).reshape(1, 2, 3, 1)
  want = x.repeat(2, 1).repeat(2, 2)
  np.testing.assert_array_equal(ops.resize_nearest(x), want)
  np.testing.assert_array_equal(ops.resize_nearest(x, (3, 5)), want[:, :3, :5])
  np.testing.assert_array_equal(ops.resize_nearest(x, (2, 6)), x.repeat(2, 2))
  np.testing.assert_array_equal(ops.resize_nearest(x, (5, 2)), x[:, [0, 0, 0, 1, 1]][:, :, [0, 1]])
  one = jnp.ones((1, 1, 1, 1))
  assert ops.resize_nearest(one, (1, 1)) is one


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_means_of_integers_are_those_of_floats(dtype):
  x = np.random.default_rng(0).integers(0, 200, (1, 6, 8, 3)).astype(dtype)
  forms = {
    "adaptive": lambda x: ops.adaptive_avg_pool(x, (2, 3)),
    "average": lambda x: ops.avg_pool(x, 2),
    "corners": lambda x: ops.resize_bilinear(x, (9, 11), corners=True),
    "bilinear": lambda x: ops.resize_bilinear(x, (9, 11)),
  }
  for name, form in forms.items():
    got = form(x)
    assert got.dtype == jnp.float32, name
    np.testing.assert_array_equal(got, form(x.astype(np.float32)), err_msg=name)
  for pool in (ops.max_pool_2x2, ops.max_pool_3x3):
    assert pool(jnp.asarray(x)).dtype == dtype
    np.testing.assert_array_equal(pool(jnp.asarray(x)), pool(jnp.asarray(x, jnp.float32)))
  low = jnp.full((1, 4, 4, 1), -7, jnp.int32)
  assert (ops.max_pool_3x3(low) == -7).all()


def test_sizes_that_are_none():
  x = jnp.zeros((1, 4, 6, 3))
  assert ops.resize_nearest(x, np.array([8, 8])).shape == (1, 8, 8, 3)
  assert isinstance(ops.resize_bilinear(np.zeros((1, 4, 6, 3)), (4, 6), corners=True), jax.Array)
  for resize in (ops.resize_bilinear, ops.resize_nearest):
    for image, size in ((x, 8), (x, (8,)), (x[0], (8, 8)), (x, (1, 8, 8, 3))):
      with pytest.raises(ValueError, match=r"expected \[B,H,W,C\] and \(height, width\)"):
        resize(image, size)


def test_what_changes_a_convolution_counts_before_a_norm_with_known_statistics():
  net, x = layers.ConvNorm(2, kernel_size=1), jnp.ones((1, 4, 4, 3))
  variables = jax.tree.map(jnp.ones_like, net.init(jax.random.key(0), x, train=False))

  def silence(call, args, kwargs, context):
    out = call(*args, **kwargs)
    return (
      0 * out if isinstance(context.module, Conv) and context.method_name == "__call__" else out
    )

  def run():
    with nn.intercept_methods(silence):
      return net.apply(variables, x, train=False)

  with ops.plain_forms():
    usual = jax.jit(lambda: net.apply(variables, x, train=False))()
    changed = jax.jit(run)()
  np.testing.assert_allclose(usual, 3.0, rtol=1e-4)
  np.testing.assert_array_equal(changed, jax.jit(partial(run))())  # traced anew
  np.testing.assert_allclose(changed, 0.0, atol=1e-4)


def test_boxed_parameters_are_evaluated():
  divided = nn.with_partitioning(nn.initializers.he_normal(), (None, None, None, "model"))
  net, x = layers.ConvNorm(2, kernel_init=divided), jnp.ones((1, 4, 4, 3))
  variables = net.init(jax.random.key(0), x, train=False)
  assert isinstance(variables["params"]["conv"]["kernel"], nn.Partitioned)
  want = net.apply(nn.unbox(variables), x, train=False)
  np.testing.assert_array_equal(net.apply(variables, x, train=False), want)


@pytest.mark.parametrize(("rate", "words"), [(0.5, 2), (0.25, 3), (0.375, 5), (0.1, 40)])
def test_dropout_keeps_its_share_and_draws_no_more_than_it_needs(rate, words):
  """Of 40 channels; kept values are scaled, the draws of any two channels are independent."""
  x = jnp.full((64, 100, 40), 2.0)
  layer = layers.Dropout(rate)
  y = np.asarray(layer.apply({}, x, train=True, rngs={"dropout": KEY}))
  kept = y != 0
  np.testing.assert_allclose(y[kept], 2 / (1 - rate), rtol=1e-6)
  deviation = np.sqrt(rate * (1 - rate) / 6400)
  np.testing.assert_allclose(kept.mean((0, 1)), 1 - rate, atol=5 * deviation)
  correlation = np.corrcoef(kept.reshape(-1, 40).T) - np.eye(40)
  assert np.abs(correlation).max() < 5 / 80
  again = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(1)})
  assert (np.asarray(again) != y).mean() > rate * (1 - rate)
  np.testing.assert_array_equal(layer.apply({}, x, train=False), x)
  jaxpr = jax.make_jaxpr(lambda key: layer.apply({}, x, train=True, rngs={"dropout": key}))(KEY)
  drawn = [e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == "random_bits"]
  assert drawn == [(64, 100, words)]


def test_dropout_of_nothing_needs_no_key():
  x = jnp.ones((2, 3))
  assert layers.Dropout(0.0).apply({}, x, train=True) is x


@pytest.mark.parametrize("rate", [1.0, 1.5, 50, -0.25])
def test_rates_that_are_no_share_are_refused(rate):
  with pytest.raises(UserError, match=f"dropout is {rate}, expected a share"):
    layers.Dropout(rate).apply({}, jnp.ones((2, 3)), train=True, rngs={"dropout": KEY})
  config = config_lib.default()
  config.model = dict(name="unet", dropout=float(rate))
  with pytest.raises(UserError, match=r"model\.dropout is .*, expected"):
    ranges.check(config)


def test_instance_norm_of_a_single_value_is_an_error():
  """It would be 0 whatever the image."""
  net = layers.DoubleConv(4, norm="instance")
  variables = net.init(KEY, jnp.zeros((1, 1, 1, 3)), train=False)
  assert net.apply(variables, jnp.ones((1, 2, 1, 3)), train=False).shape == (1, 2, 1, 4)
  with pytest.raises(UserError, match=r"one value per channel and image, \(2, 1, 1, 4\), which is"):
    net.apply(variables, jnp.ones((2, 1, 1, 3)), train=True)
  net.apply(variables, jnp.ones((2, 1, 1, 3)), train=False)  # runs that were trained so


def test_unknown_norm_lists_the_known_ones():
  with pytest.raises(ValueError, match="none, batch, group, instance, layer"):
    layers.DoubleConv(4, norm="weight").init(KEY, jnp.zeros((1, 8, 8, 3)), train=False)
