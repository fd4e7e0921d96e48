"""The forms for GPUs give the same numbers as the plain ones, run here on the CPU."""

import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from light import random_variables

from segjax import losses, metrics, models, ops
from segjax.models import conv, layers
from segjax.ops import cpu, gpu
from segjax.training import steps


@pytest.fixture
def accelerated(monkeypatch):
  """A function that calls another with the forms of a GPU."""

  def take(*args, default, cuda=None, **_):
    return (cuda or default)(*args)

  def call(function, *args):
    with monkeypatch.context() as patch:
      patch.setattr(jax.lax, "platform_dependent", take)
      patch.setattr(cpu, "FORMS", gpu.FORMS)
      jax.clear_caches()
      out = function(*args)
    jax.clear_caches()
    return out

  return call


def library(x, kernel, stride=1, padding=0, dilation=1):
  """JAX's own convolution."""
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((padding, padding),) * 2,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def program(function, *args):
  """The program of a function on a GPU, as text."""
  return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def with_gradients(function):
  """x, kernel -> [value, gradient by x, gradient by the kernel], of the sum of squares."""

  def total(*args):
    return jnp.sum(function(*args) ** 2)

  return jax.jit(lambda x, kernel: [function(x, kernel), *jax.grad(total, (0, 1))(x, kernel)])


def assert_alike(found, wanted):
  for a, b in zip(map(np.asarray, found), map(np.asarray, wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


# Height, width, channels, features, and channels of the convolution that is done.
THIN = {
  "of_an_image": (6, 16, 3, 8, 24),
  "more_of_an_image": (6, 12, 3, 32, 12),
  "wide_of_an_image": (6, 12, 3, 64, 3),
  "eight_pixels": (8, 16, 8, 8, 64),
  "four_pixels": (5, 8, 16, 16, 64),
  "two_pixels": (4, 6, 32, 32, 64),
  "more_in_than_out": (8, 16, 24, 8, 192),
  "two_of_eight": (8, 6, 8, 8, 16),
  "uneven_width": (5, 7, 8, 8, 8),
  "fewer_of_many": (4, 8, 100, 16, 200),
  "too_many": (4, 8, 144, 16, 144),
  "wide": (4, 8, 64, 64, 64),
}


@pytest.mark.parametrize("case", THIN)
def test_thin_convolutions_are_those_of_several_pixels(case, accelerated):
  height, width, channels, features, done = THIN[case]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, height, width, channels)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, channels, features)), jnp.float32)

  def standard(x, kernel):
    return library(x, kernel, padding=1)

  def ours(x, kernel):
    return ops.conv(x, kernel, padding=1)

  found = accelerated(with_gradients(ours), x, kernel)
  assert_alike(found, with_gradients(standard)(x, kernel))
  # The kernel of the convolution, or of what it is over pixels one by one.
  assert f"tensor<3x3x{done}x" in program(ours, x, kernel)


# Height, width, dilation, and whether its taps are those of regions.
FAR = [
  (7, 7, 5, True),
  (8, 6, 5, True),
  (6, 10, 5, True),
  (10, 10, 5, True),
  (11, 8, 5, False),
  (16, 17, 5, False),
  (6, 6, 6, False),
  (9, 5, 6, False),
]


@pytest.mark.parametrize("height, width, dilation, of_regions", FAR)
def test_taps_that_reach_far(height, width, dilation, of_regions, accelerated, monkeypatch):
  monkeypatch.setattr(gpu, "MANY", 3)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, height, width, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)

  def standard(x, kernel):
    return library(x, kernel, padding=dilation, dilation=dilation)

  def ours(x, kernel):
    return ops.conv(x, kernel, padding=dilation, dilation=dilation)

  found = accelerated(with_gradients(ours), x, kernel)
  assert_alike(found, with_gradients(standard)(x, kernel))
  text = program(with_gradients(ours), x, kernel)
  assert ("stablehlo.convolution" in text) == of_regions
  assert f"pad = [[{dilation}, {dilation}]" not in text


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_stem_is_one_over_blocks_of_pixels(channels, accelerated):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 12, 18, channels)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(7, 7, channels, 5)), jnp.float32)

  def standard(x, kernel):
    return library(x, kernel, stride=2, padding=3)

  def ours(x, kernel):
    return ops.conv(x, kernel, stride=2, padding=3)

  found = accelerated(with_gradients(ours), x, kernel)
  assert_alike(found, with_gradients(standard)(x, kernel))
  assert "tensor<4x4x16x5xf32>" in program(ours, x, kernel)
  assert_alike([accelerated(ours, x[:, 1:], kernel)], [standard(x[:, 1:], kernel)])


def test_one_output_a_pixel_is_a_product(accelerated):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 7)), jnp.float32)
  kernel = jnp.asarray(np.random.default_rng(1).normal(size=(1, 1, 7, 1)), jnp.float32)
  found = accelerated(with_gradients(ops.conv), x, kernel)
  wanted = with_gradients(library)(x, kernel)
  assert_alike(found, wanted)


def test_transposed_convolution_is_flaxs(accelerated):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 5, 7, 6)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 6, 4)), jnp.float32)

  def library(x, kernel):
    module = nn.ConvTranspose(4, (3, 3), (2, 2), ((1, 2), (1, 2)), use_bias=False)
    return module.apply(dict(params=dict(kernel=kernel)), x)

  found = accelerated(with_gradients(ops.conv_transpose), x, kernel)
  assert_alike(found, with_gradients(library)(x, kernel))


@pytest.mark.parametrize("classes", [2, 8, 300])
@pytest.mark.slow
def test_counts_are_the_same_numbers(classes, accelerated):
  rng = np.random.default_rng(0)
  pred, label = (jnp.asarray(rng.integers(0, classes, (2, 40, 50))) for _ in range(2))
  valid = jnp.asarray(rng.random((2, 40, 50)) < 0.8)
  count = lambda: metrics.confusion_matrix(pred, label, num_classes=classes, valid=valid)  # noqa: E731
  np.testing.assert_array_equal(accelerated(count), count())
  assert int(accelerated(count).sum()) == int(valid.sum())
  score, two = jnp.asarray(rng.random((2, 40, 50)), jnp.float32), label % 2
  histogram = lambda: metrics.score_histogram(score, two, valid=valid)  # noqa: E731
  np.testing.assert_array_equal(accelerated(histogram), histogram())


def test_likelihoods_and_their_gradients_are_the_same_numbers(accelerated):
  logits = jax.random.normal(jax.random.key(0), (2, 5, 6, 7))
  label = jax.random.randint(jax.random.key(1), (2, 5, 6), 0, 7)
  valid = label != 3

  def total(logits):
    return losses.log_likelihood(logits, label, valid=valid).sum()

  both = jax.value_and_grad(total)
  found, wanted = accelerated(both, logits), both(logits)
  np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
  np.testing.assert_array_equal(found[1], wanted[1])
  assert "scatter" not in str(accelerated(jax.make_jaxpr(both), logits))


@pytest.mark.parametrize(
  "name, fields",
  [
    ("unet", dict(widths=(4, 8, 16), norm="batch", up="transposed3", up_keeps=False)),
    pytest.param("classifier", dict(backbone="shallow_vgg"), marks=pytest.mark.weekly),
    pytest.param(
      "deeplabv3", dict(backbone="shallow_mobilenet", output_stride=16), marks=pytest.mark.weekly
    ),
    pytest.param("fcn", dict(backbone="shallow_resnet", output_stride=8), marks=pytest.mark.weekly),
  ],
)
@pytest.mark.slow
def test_norms_are_part_of_the_convolutions_in_evaluation(
  name, fields, accelerated, shallow_backbones
):
  """Statistics as after some training; the nets' outputs agree to float32's rounding."""
  model = models.make(name=name, num_classes=3, **fields)
  image = np.random.default_rng(1).normal(size=(2, 48, 64, 3)).astype(np.float32)
  variables = random_variables(model)
  rng = np.random.default_rng(0)
  moved = lambda x: (x + 0.3 * rng.random(x.shape)).astype(np.float32)  # noqa: E731
  variables = dict(variables, batch_stats=jax.tree.map(moved, variables["batch_stats"]))

  def apply():
    return np.asarray(jax.jit(lambda v: model.apply(v, image, train=False))(variables))

  wanted, found = apply(), accelerated(apply)
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


class Pair(nn.Module):
  """A convolution and a batch norm, applied together or one after the other."""

  together: bool = True
  use_bias: bool = False

  @nn.compact
  def __call__(self, x, train):
    convolution, norm = conv.Conv(4, use_bias=self.use_bias, name="conv"), layers.BatchNorm()
    if self.together:
      return layers.conv_norm(x, convolution, norm, train=train)
    return norm(convolution(x), train=train)


def draw_pair(**fields):
  """(Pair, variables with statistics as after some training, x)."""
  pair, x = Pair(**fields), jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
  variables = pair.init(jax.random.key(1), x, train=False)
  rng = np.random.default_rng(0)
  moved = lambda v: jnp.asarray(v + rng.random(v.shape), jnp.float32)  # noqa: E731
  return pair, jax.tree.map(moved, variables), x


def test_a_norm_multiplies_the_kernel_and_not_the_result():
  pair, variables, x = draw_pair()
  text = program(lambda v, x: pair.apply(v, x, train=False), variables, x)
  products = re.findall(r"stablehlo.multiply .* tensor<([\dx]+)xf32>", text)
  assert "3x3x3x4" in products and "2x5x6x4" not in products


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_norm_with_its_convolution_is_the_norm_of_its_result(use_bias, accelerated):
  pair, variables, x = draw_pair(use_bias=use_bias)
  wanted = Pair(together=False, use_bias=use_bias).apply(variables, x, train=False)

  def apply():
    return jax.jit(lambda v: pair.apply(v, x, train=False))(variables)

  np.testing.assert_allclose(apply(), wanted, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(accelerated(apply), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_what_is_captured_of_a_convolution_is_the_convolutions(train, accelerated):
  pair, variables, x = draw_pair()
  wanted = conv.Conv(4).apply(dict(params=variables["params"]["conv"]), x)
  how = dict(capture_intermediates=True, mutable=["batch_stats", "intermediates"])

  def capture():
    out, state = pair.apply(variables, x, train=train, **how)
    seen = state["intermediates"]
    return out, seen["conv"]["__call__"][0], seen["BatchNorm_0"]["__call__"][0]

  for out, of_conv, of_norm in (capture(), accelerated(capture)):
    np.testing.assert_allclose(of_conv, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(of_norm, out)


def test_training_without_mutable_statistics_raises_as_in_flax():
  pair, variables, x = draw_pair()
  with pytest.raises(flax.errors.ModifyScopeVariableError):
    pair.apply(variables, x, train=True)


def test_norms_over_an_axis_are_those_of_the_whole_batch():
  """In value, gradient and running averages, the images one by one along a named axis."""
  pair, variables, x = draw_pair()

  def step(variables, x):
    def loss(params):
      given = variables | dict(params=params)
      out, new = pair.apply(given, x, train=True, mutable=["batch_stats"])
      return jnp.sin(out).mean(), (out, new)

    return jax.grad(loss, has_aux=True)(variables["params"])

  def part(variables, x):
    with layers.norms_over("images"):
      return step(variables, x)

  gradient, (out, new) = step(variables, x)
  each = jax.vmap(part, (None, 0), axis_name="images")(variables, x[:, None])
  np.testing.assert_allclose(each[1][0][:, 0], out, rtol=1e-5, atol=1e-5)
  for found, wanted in ((each[0], gradient), (each[1][1], new)):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
      np.testing.assert_allclose(a.mean(0), b, rtol=1e-4, atol=1e-5)


def test_norm_of_gradients_is_optaxs():
  rng = np.random.default_rng(0)
  shapes = [(), (3,), (3, 3, 8, 8), (70_000,), (300, 300)]
  tree = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes]
  np.testing.assert_allclose(steps.global_norm(tree), optax.global_norm(tree), rtol=1e-5)
  np.testing.assert_allclose(steps.global_norm(tree[3:]), optax.global_norm(tree[3:]), rtol=1e-5)
  np.testing.assert_array_equal(jax.jit(steps.row_major)(tree[2]), tree[2])


def test_batch_norm_after_a_convolution_trains_as_after_its_result():
  _, variables, x = draw_pair()
  for train in (True, False):
    found, wanted = (
      Pair(together).apply(variables, x, train=train, mutable=["batch_stats"])
      for together in (True, False)
    )
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
