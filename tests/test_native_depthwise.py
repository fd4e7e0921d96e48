"""The depthwise kernels of segjax.ops.llvm equal the library, whoever computes which part."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_native import library

from segjax import ops
from segjax.ops import llvm as native
from segjax.ops.llvm import convolution, depthwise, depthwise_gradient, handler, xla_call

pytestmark = pytest.mark.skipif(xla_call.machine() is None, reason="no kernels on this machine")

# Batch, height, width, channels, kernel size, stride, dilation, padding.
CASES = {
  "odd_channels_strided": (2, 11, 14, 21, 5, 2, 1, ((1, 2), (2, 1))),
  "strips": (3, 40, 61, 40, 3, 1, 1, ((1, 1), (1, 1))),
}
MORE = {
  "one_row": (2, 1, 19, 9, 3, 1, 1, ((1, 1), (1, 1))),
  "one_pixel": (1, 1, 1, 1, 3, 1, 1, ((1, 1), (1, 1))),
  "several_shares": (1, 6, 5, 300, 3, 2, 1, ((0, 1), (0, 1))),
  "no_padding": (2, 8, 11, 5, 3, 1, 1, ((0, 0), (0, 0))),
  "uneven_padding": (2, 8, 11, 48, 5, 1, 1, ((0, 3), (4, 1))),
  "more_padding_than_image": (1, 2, 3, 4, 3, 1, 1, ((4, 5), (5, 4))),
  "strips_strided": (2, 75, 61, 16, 5, 2, 1, ((2, 2), (2, 2))),
  "wide_kernel": (2, 9, 12, 17, 7, 1, 1, ((3, 3), (3, 3))),
  "stride_beyond_the_kernel": (2, 10, 11, 8, 2, 3, 1, ((0, 0), (0, 0))),
  "dilated": (2, 12, 11, 16, 3, 1, 2, ((2, 2), (2, 2))),
  "dilated_strided": (2, 21, 19, 6, 5, 3, 2, ((4, 4), (4, 4))),
  "dilated_evenly_strided": (2, 13, 12, 6, 3, 2, 2, ((2, 2), (2, 2))),
}
SEVERAL = [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)]


def draw(case):
  """(spec, image, kernel, output)."""
  batch, height, width, channels, size, stride, dilation, pads = (CASES | MORE)[case]
  spec = native.Convolution(
    batch, height, width, channels, channels, size, stride, dilation, pads, groups=channels
  )
  rng = np.random.default_rng(0)
  shapes = (spec.shape(slot) for slot in ("image", "kernel", "output"))
  return spec, *(rng.normal(size=s).astype(np.float32) for s in shapes)


def all_slots(spec):
  """(image, kernel, output) -> the slots image, kernel and output of the other two, compiled."""

  def compute(x, kernel, g):
    return (
      native.depthwise_convolve(g, kernel, spec._replace(turned=True)),
      native.depthwise_weight_gradient(x, g, spec),
      native.depthwise_convolve(x, kernel, spec),
    )

  return jax.jit(compute)


@pytest.mark.parametrize("case", SEVERAL)
def test_kernels_equal_the_library(case):
  spec, *args = draw(case)

  @jax.jit
  def wanted(x, kernel, g):
    out, vjp = jax.vjp(functools.partial(library, spec), x, kernel)
    return *vjp(g), out

  with jax.enable_x64():
    expected = wanted(*(a.astype(np.float64) for a in args))
  for got, want in zip(all_slots(spec)(*args), expected, strict=True):
    assert got.dtype == jnp.float32 and want.dtype == jnp.float64
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * float(np.abs(np.asarray(want)).max()))


@pytest.fixture
def own_folder(tmp_path):
  """Compiled code of handlers that are not the package's stays out of the usual folder."""
  folder = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", str(tmp_path))
  yield
  jax.config.update("jax_compilation_cache_dir", folder)


@pytest.mark.usefixtures("own_folder")
def test_one_thread_gives_the_bits_of_all_every_time(monkeypatch):
  spec, *args = draw("strips")
  together = all_slots(spec)
  expected = together(*args)
  for _ in range(10):
    for again, first in zip(together(*args), expected, strict=True):
      np.testing.assert_array_equal(again, first)

  # Under names of their own, as XLA takes each name once.
  for module in (depthwise, depthwise_gradient):
    name = module.__name__.rpartition(".")[2]
    alone = types.FunctionType(getattr(module, name).__code__, vars(module), f"{name}_alone")
    monkeypatch.setattr(module, name, alone)
  shared = "%workers = select i1 %few, i64 %threads, i64 PARTS"
  assert shared in handler.HANDLER
  monkeypatch.setattr(
    handler, "HANDLER", handler.HANDLER.replace(shared, "%workers = add i64 0, 1")
  )
  alone = all_slots(spec)
  assert "depthwise_gradient_alone" in alone.lower(*args).as_text()
  for got, want in zip(alone(*args), expected, strict=True):
    np.testing.assert_array_equal(got, want)


def test_an_image_has_the_same_bits_in_any_batch():
  spec, x, kernel, g = draw("one_row")
  whole = all_slots(spec)(x, kernel, g)
  first = all_slots(spec._replace(batch=1))(x[:1], kernel, g[:1])
  for slot in (0, 2):
    np.testing.assert_array_equal(first[slot][0], whole[slot][0])


@pytest.mark.parametrize("machine", [(4, 32), (8, 16), (16, 32)])
@pytest.mark.parametrize("case", ["odd_channels_strided", "strips", "several_shares"])
@pytest.mark.slow
def test_vectors_of_any_width_give_the_same_bits(case, machine, monkeypatch):
  spec, *args = draw(case)
  expected = all_slots(spec)(*args)
  monkeypatch.setattr(xla_call, "machine", lambda: xla_call.Machine(*machine))
  for got, want in zip(all_slots(spec)(*args), expected, strict=True):
    np.testing.assert_array_equal(got, want)


def test_depthwise_convolutions_use_the_kernels_where_they_can():
  def targets(dtype):
    x, kernel = jnp.zeros((1, 12, 13, 8), dtype), jnp.zeros((3, 3, 1, 8), dtype)
    convolve = functools.partial(ops.conv, padding=1, stride=2, groups=8)
    step = jax.jit(jax.grad(lambda k, x: convolve(x, k).sum(), (0, 1)))
    text = step.trace(kernel, x).lower(lowering_platforms=("cpu",)).as_text()
    return text.count("@segjax_depthwise_gradient_"), text.count("@segjax_depthwise_")

  assert targets(jnp.float32) == (1, 2)  # the sum needs no value
  with jax.enable_x64():
    assert targets(jnp.float64) == (0, 0)
  assert targets(jnp.bfloat16) == (0, 0)


def test_wrong_numbers_leave_depthwise_convolutions_to_xla(monkeypatch):
  wrong = lambda *args, make=convolution.depthwise_convolve: 2 * make(*args)  # noqa: E731
  monkeypatch.setattr(convolution, "depthwise_convolve", wrong)
  monkeypatch.setattr(convolution, "is_sound", functools.cache(convolution.is_sound.__wrapped__))
  with pytest.warns(RuntimeWarning, match=r"\(depthwise\) give wrong numbers"):
    assert not native.usable_depthwise(draw("one_row")[0], jnp.float32)
