"""The fast forms equal the library's convolution and pooling, in value and gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import ops
from segjax.models import layers

# Height, width, channels, features, kernel size, groups, stride, dilation, padding.
CASES = {
  "depthwise": (9, 12, 6, 6, 3, 6, 1, 1, 1),
  "depthwise_5x5_strided": (9, 12, 6, 6, 5, 6, 2, 1, 2),
  "depthwise_same": (10, 13, 4, 4, 5, 4, 2, 1, "SAME"),
  "depthwise_dilated": (11, 8, 4, 4, 3, 4, 1, 2, 2),
  "grouped_thin": (9, 7, 32, 32, 3, 8, 1, 1, 1),
  "grouped_thin_strided": (9, 8, 24, 48, 3, 6, 2, 1, 1),
  "grouped_wide": (6, 7, 64, 32, 3, 4, 1, 1, 1),
  "grouped_wide_strided_dilated": (9, 8, 32, 64, 3, 2, 2, 2, 2),
  "wide": (7, 9, 5, 4, 3, 1, 1, 3, 3),
  "wide_uneven": (7, 9, 5, 4, 3, 1, 1, 3, ((1, 4), (3, 0))),
  "small": (3, 4, 5, 6, 3, 1, 1, 1, 1),
  "one_pixel": (1, 1, 5, 6, 3, 1, 1, 1, 1),
  "one_pixel_strided": (2, 1, 5, 6, 3, 1, 2, 1, 1),
  "small_strided": (7, 8, 5, 6, 3, 1, 2, 1, 1),
  "small_strided_2x2": (6, 8, 5, 6, 2, 1, 2, 1, 0),
  "small_dilated_strided": (7, 8, 5, 6, 3, 1, 3, 2, ((2, 3), (0, 2))),
  "wide_sees_the_centre_alone": (7, 9, 5, 4, 3, 1, 1, 12, 12),
  "wide_in_one_direction": (4, 30, 5, 4, 3, 1, 1, 8, 8),
  "thin": (9, 12, 8, 5, 3, 1, 1, 1, 1),
  "thin_strided_dilated": (11, 12, 6, 8, 3, 1, 2, 2, 2),
  "same": (10, 13, 3, 4, 3, 1, 2, 1, "SAME"),
  "dense": (7, 6, 33, 32, 3, 1, 1, 1, 1),
  "dense_strided": (8, 9, 32, 40, 3, 1, 2, 1, "SAME"),
  "dense_dilated_5x5": (9, 12, 32, 32, 5, 1, 1, 2, 4),
  "dense_of_an_image": (11, 14, 3, 8, 7, 1, 2, 1, 3),
  "patches_of_an_image": (90, 110, 3, 16, 7, 1, 2, 1, 3),
  "product_of_uneven_padding": (9, 12, 24, 8, 3, 1, 1, 1, ((0, 1), (2, 0))),
  "product_1x1": (7, 6, 12, 5, 1, 1, 1, 1, 0),
  "product_1x1_strided": (7, 6, 12, 5, 1, 1, 2, 1, 0),
  "product_of_strips": (50, 200, 32, 16, 3, 1, 1, 1, 1),
  "product_of_strips_strided": (170, 200, 16, 32, 3, 1, 2, 1, 1),
  "tiles": (17, 31, 16, 24, 3, 1, 1, 1, 1),
  "tiles_of_uneven_padding": (21, 18, 33, 16, 3, 1, 1, 3, ((2, 4), (3, 1))),
  "product_of_strips_dilated": (61, 130, 32, 16, 3, 1, 1, 2, 2),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.weekly)])
@pytest.mark.slow
def test_fast_convolutions_equal_the_standard_one(case, dtype):
  height, width, channels, features, size, groups, stride, dilation, padding = CASES[case]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, height, width, channels)), dtype)
  kernel = jnp.asarray(rng.normal(size=(size, size, channels // groups, features)), dtype)
  pads = [(padding, padding)] * 2 if isinstance(padding, int) else padding

  def standard(x, kernel):
    return jax.lax.conv_general_dilated(
      x.astype(jnp.float32),
      kernel.astype(jnp.float32),
      (stride, stride),
      pads,
      rhs_dilation=(dilation, dilation),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  def fast(x, kernel):
    return ops.conv(x, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)

  want, want_back = jax.vjp(jax.jit(standard), x, kernel)
  got, got_back = jax.vjp(jax.jit(fast), x, kernel)
  assert got.dtype == x.dtype
  g = jnp.asarray(rng.normal(size=want.shape), dtype)
  tolerance = 1e-5 if dtype == "float32" else 0.03
  pairs = [(got, want), *zip(got_back(g), want_back(g.astype(jnp.float32)), strict=True)]
  for a, b in pairs:
    scale = float(jnp.abs(b).max())
    np.testing.assert_allclose(
      np.asarray(a, np.float32), np.asarray(b, np.float32), atol=tolerance * scale
    )


def test_max_pool_3x3_passes_nan_on():
  x = jnp.arange(49.0).reshape(1, 7, 7, 1).at[0, 3, 4, 0].set(jnp.nan)
  want = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
  np.testing.assert_array_equal(ops.max_pool_3x3(x), want)
  assert np.isnan(want).sum() == 2


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 1), (2, 5)])
@pytest.mark.slow
def test_max_pool_3x3_is_bit_for_bit(size):
  """Few different values, so that windows have ties; the first maximum gets the gradient."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.integers(-2, 2, (2, *size, 3)), jnp.float32)

  def standard(x):
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

  want, want_back = jax.vjp(standard, x)
  got, got_back = jax.vjp(ops.max_pool_3x3, x)
  np.testing.assert_array_equal(got, want)
  # Whole numbers: sums over the overlapping windows are exact in any order.
  g = jnp.asarray(rng.integers(-4, 5, want.shape), jnp.float32)
  np.testing.assert_array_equal(got_back(g)[0], want_back(g)[0])


def test_gradient_of_max_pool_3x3_adds_windows_by_columns():
  """A pixel of four windows gets a sum of sums; another order would be another run of a seed."""
  rng = np.random.default_rng(0)
  x, g = (rng.normal(size=(2, n, n, 5)).astype(np.float32) for n in (16, 8))
  windows = np.lib.stride_tricks.sliding_window_view(
    np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf), (3, 3), (1, 2)
  )[:, ::2, ::2]
  index = windows.reshape(*g.shape, 9).argmax(-1)
  want = np.zeros((2, 18, 18, 5), np.float32)
  for column in range(3):
    of_column = np.zeros_like(want)
    for row in range(3):
      taps = of_column[:, row : row + 15 : 2, column : column + 15 : 2]
      taps += np.where(index == 3 * row + column, g, np.float32(0))
    want += of_column
  (got,) = jax.vjp(ops.max_pool_3x3, jnp.array(x))[1](jnp.array(g))
  np.testing.assert_array_equal(got, want[:, 1:-1, 1:-1])


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_equals_flax_but_for_the_unbiased_variance(train):
  x = jax.random.normal(jax.random.key(0), (3, 4, 5, 6)) * 2 + 1
  ours = layers.BatchNorm()
  theirs = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
  keys = iter(jax.random.split(jax.random.key(1), 5))
  variables = (
    jax.tree.map(
      lambda v: v + jax.random.uniform(next(keys), v.shape), ours.init(next(keys), x, train=False)
    )
    if not train
    else ours.init(next(keys), x, train=False)
  )
  got, new = ours.apply(variables, x, train=train, mutable=["batch_stats"])
  want, old = theirs.apply(variables, x, mutable=["batch_stats"])
  np.testing.assert_allclose(got, want, atol=1e-5)
  new, old = new["batch_stats"], old["batch_stats"]
  np.testing.assert_allclose(new["mean"], old["mean"], atol=1e-6)
  count = 3 * 4 * 5
  unbiased = (old["var"] - 0.9) * count / (count - 1) + 0.9 if train else old["var"]
  np.testing.assert_allclose(new["var"], unbiased, rtol=1e-5)
