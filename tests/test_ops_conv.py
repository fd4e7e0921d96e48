"""The primitive of convolutions composes with JAX's transformations; all values are JAX's own."""

import concurrent.futures
import functools
import math
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, eight_devices
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from segjax import ops
from segjax.ops.conv import conv_p
from segjax.ops.llvm import xla_call

# Height, width, channels, features, kernel size, and arguments of `ops.conv`.
CASES = {
  "direct": (6, 7, 5, 4, 3, dict(padding=1)),
  "winograd": (16, 17, 16, 16, 3, dict(padding=1)),
  "strided": (9, 8, 3, 8, 3, dict(padding=1, stride=2)),
  "dilated": (12, 13, 4, 5, 3, dict(padding=2, dilation=2)),
  "uneven": (8, 7, 3, 4, 5, dict(padding=((1, 3), (0, 2)), stride=3)),
  "same": (6, 9, 3, 4, 3, dict(padding="SAME", stride=2)),
  "small": (3, 4, 5, 6, 3, dict(padding=1)),
  "far": (10, 9, 3, 4, 3, dict(padding=6, dilation=6)),
  "pointwise": (5, 6, 7, 4, 1, dict(stride=2)),
  "depthwise": (7, 6, 4, 4, 3, dict(padding=1, groups=4)),
  "thin_groups": (5, 6, 8, 16, 3, dict(padding=1, groups=4)),
  "wide_groups": (5, 6, 32, 16, 3, dict(padding=1, groups=2)),
  "transposed2": (3, 5, 4, 6, 2, None),
  "transposed3": (3, 5, 4, 6, 3, None),
}
SOME = ("direct", "strided", "depthwise", "thin_groups", "pointwise", "transposed3")


def library(x, kernel, stride=1, padding=0, dilation=1, groups=1):
  """JAX's own convolution."""
  pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    pads,
    rhs_dilation=(dilation, dilation),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def transposed(x, kernel):
  padding = "VALID" if kernel.shape[0] == 2 else ((1, 2), (1, 2))
  return jax.lax.conv_transpose(x, kernel, (2, 2), padding)


def draw(case, batch=2, seed=0, dtype=np.float32):
  """(our function, JAX's, image, kernel)."""
  height, width, channels, features, size, how = CASES[case]
  rng = np.random.default_rng(seed)
  groups = 1 if how is None else how.get("groups", 1)
  x = rng.normal(size=(batch, height, width, channels)).astype(dtype)
  kernel = rng.normal(size=(size, size, channels // groups, features)).astype(dtype)
  kernel /= math.sqrt(size * size * channels)
  if how is None:
    return ops.conv_transpose, transposed, x, kernel
  return functools.partial(ops.conv, **how), functools.partial(library, **how), x, kernel


def assert_equal(found, wanted, rtol=1e-5, name=""):
  found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
  for a, b in zip(found, wanted, strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype
    largest = float(np.abs(b).max()) if b.size else 0
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * (largest + 1e-6), err_msg=name)


def loss(f):
  """A function of image and kernel that is linear in neither, nor quadratic."""
  return lambda x, kernel: jnp.sin(f(x, kernel)).sum()


def hvp_forward(f):
  """Forward over reverse: the Hessian of `loss` times its gradient."""

  def product(*args):
    gradient = jax.grad(loss(f), (0, 1))
    return jax.jvp(gradient, args, gradient(*args))[1]

  return product


def hvp_reverse(f):
  """Reverse over reverse: the gradient of the gradient's norm."""

  def norm(*args):
    return sum((g**2).sum() for g in jax.grad(loss(f), (0, 1))(*args)) / 2

  return jax.grad(norm, (0, 1))


def third(f):
  """Third derivative along a line."""

  def along(t, x, kernel):
    return loss(f)(x + t * jnp.cos(x), kernel + t * jnp.cos(kernel))

  return lambda *args: jax.grad(jax.grad(jax.grad(along)))(0.1, *args)


TRANSFORMS = {
  "value": lambda f: f,
  "grad": lambda f: jax.grad(loss(f), (0, 1)),
  "jvp": lambda f: lambda *args: jax.jvp(f, args, tuple(jnp.cos(a) for a in args)),
  "linearize": lambda f: lambda *args: jax.linearize(f, *args)[1](*(jnp.cos(a) for a in args)),
  "hvp_forward": hvp_forward,
  "hvp_reverse": hvp_reverse,
}
# Slow to compile and alike for all forms.
SELDOM = {
  "third": third,
  "checkpoint": lambda f: jax.grad(jax.checkpoint(loss(f)), (0, 1)),
  "per_example": lambda f: (
    lambda x, kernel: jax.vmap(lambda x: jax.grad(loss(f), 1)(x[None], kernel))(x)
  ),
  "scan": lambda f: (
    lambda x, kernel: jax.lax.scan(
      lambda total, x: (total + loss(f)(x[None], kernel), None), 0.0, x
    )[0]
  ),
}


def assert_alike(case, transforms, *more):
  """Transforms of our function and of JAX's, compiled together, give the same."""
  ours, theirs, *args = draw(case)
  both = lambda f, args: {name: t(f)(*args, *more) for name, t in transforms.items()}  # noqa: E731
  found, wanted = jax.jit(lambda *args: (both(ours, args), both(theirs, args)))(*args)
  for name in transforms:
    assert_equal(found[name], wanted[name], 2e-5, name)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_of_any_order_are_those_of_the_library(case):
  assert_alike(case, TRANSFORMS | (SELDOM if case in SOME else {}))


def transposes(f):
  def both(x, kernel):
    out = jax.eval_shape(f, x, kernel)
    out = jnp.sin(jnp.arange(math.prod(out.shape), dtype=out.dtype)).reshape(out.shape)
    of_image = jax.linear_transpose(lambda x: f(x, kernel), x)(out)
    return of_image, jax.linear_transpose(lambda kernel: f(x, kernel), kernel)(out)

  return both


@pytest.mark.parametrize("case", CASES)
def test_linear_transposes(case):
  assert_alike(case, dict(linear_transpose=transposes))


def mapped(axes):
  """A transform: vmap over axes of image and kernel, in value and gradient."""

  def transform(f):
    f = jax.vmap(f, axes)

    def both(*args):
      args = [
        a if axis is None else jnp.stack([a, 2 * a, a[::-1]], axis)
        for a, axis in zip(args, axes, strict=True)
      ]
      return f(*args), jax.grad(loss(f), (0, 1))(*args)

    return both

  return transform


@pytest.mark.parametrize("case", SOME)
def test_vmap_of_image_kernel_or_both(case):
  """In value and gradient: the transposes have other slots mapped."""
  axes = ((0, None), (3, None), (None, 0), (None, 4), (0, 0), (2, 1))
  assert_alike(case, {str(a): mapped(a) for a in axes})


def test_vmap_within_vmap_and_of_many():
  ours, theirs, x, kernel = draw("direct", batch=1)
  xs, kernels = (np.stack([a * (i + 1) for i in range(10)]) for a in (x, kernel))

  def pairs(f):
    each = jax.vmap(jax.vmap(f, (0, None)), (None, 0))(xs, kernels)
    return each, jax.vmap(f)(xs, kernels)

  assert_equal(pairs(ours), pairs(theirs))


def test_a_mapped_image_or_kernel_is_one_convolution():
  ours, _, x, kernel = draw("thin_groups")
  for axes, args in (((0, None), (x[None], kernel)), ((None, 0), (x, kernel[None]))):
    jaxpr = jax.make_jaxpr(jax.vmap(ours, axes))(*args)
    used = [e.primitive for e in jaxpr.jaxpr.eqns]
    assert used.count(conv_p) == 1 and not {"scan", "while"} & {p.name for p in used}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["winograd", "depthwise", "thin_groups", "pointwise", "small"])
def test_narrow_floats(case, dtype):
  """Also mapped, which some products of XLA on a CPU do not take."""
  ours, theirs, *args = draw(case, dtype=dtype)

  def mapped(f):
    gradient = jax.grad(lambda x, kernel: f(x, kernel).astype(jnp.float32).sum(), (0, 1))
    return lambda x, kernel: jax.vmap(gradient, (0, None))(jnp.stack([x, x]), kernel)

  found = jax.jit(mapped(ours))(*args)
  wide = [np.asarray(a, np.float32) for a in args]
  wanted = jax.jit(mapped(theirs))(*wide)
  for a, b in zip(found, wanted, strict=True):
    assert a.dtype == dtype
    np.testing.assert_allclose(
      np.asarray(a, np.float32), b, rtol=0, atol=0.02 * float(jnp.abs(b).max())
    )


@pytest.mark.parametrize("case", ["strided", "depthwise"])
def test_finite_differences_in_float64(case):
  with jax.enable_x64():
    ours, _, x, kernel = draw(case, dtype=np.float64)
    assert ours(x, kernel).dtype == jnp.float64
    check_grads(jax.jit(ours), (x, kernel), order=2, rtol=1e-7)


@pytest.mark.parametrize("case", ["direct", "transposed3"])
def test_an_unjitted_call_compiles_once(case):
  ours, theirs, x, kernel = draw(case)
  x, kernel = jnp.asarray(x) + 0, jnp.asarray(kernel) + 0

  def call():
    return ours(x, kernel), jax.vjp(ours, x, kernel)[1](theirs(x, kernel))

  assert_equal(call()[0], theirs(x, kernel))
  compiled = []
  listen = lambda name, *_, **__: compiled.append(name)  # noqa: E731
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    call()
  finally:
    jax.monitoring.clear_event_listeners()
  assert not [name for name in compiled if "compile" in name]


def test_disable_jit():
  ours, theirs, *args = draw("direct")
  with jax.disable_jit():
    found = jax.grad(loss(ours), (0, 1))(*args)
  assert_equal(found, jax.grad(loss(theirs), (0, 1))(*args))


@pytest.mark.parametrize("case", ["direct", "depthwise", "transposed3"])
def test_check_tracer_leaks_and_rank_promotion(case):
  ours, _, *args = draw(case)
  with jax.check_tracer_leaks(), jax.numpy_rank_promotion("raise"):
    jax.jit(jax.grad(loss(ours), (0, 1)))(*args)
    jax.vmap(ours, (0, None))(args[0][None], args[1])


def test_threads_that_compile_at_once():
  """Each the same shape, whose kernels are registered once."""
  _, _, x, kernel = draw("direct", batch=5)
  ours = [jax.jit(lambda x, k, i=i: ops.conv(x, k, padding=1) + i) for i in range(4)]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda f: f(x, kernel), ours))
  for i, y in enumerate(found):
    assert_equal(y, library(x, kernel, padding=1) + i)


@pytest.mark.parametrize("case", ["direct", "depthwise", "transposed2", "transposed3"])
def test_plain_forms_export_for_all_platforms_with_any_batch(case):
  ours, theirs, x, kernel = draw(case)
  symbolic = jax.export.symbolic_shape("b, 2*h, 2*w, c")[:3]
  image = jax.ShapeDtypeStruct((*symbolic, x.shape[3]), x.dtype)

  def step(f):
    return jax.jit(lambda x, k: (f(x, k), jax.grad(loss(f), (0, 1))(x, k)))

  def exported(f):
    return jax.export.export(step(f), platforms=("cpu", "cuda", "tpu"))(image, kernel)

  step(ours)(x, kernel)  # with the usual forms, which the context must not get
  with ops.plain_forms():
    program = exported(ours)
  text = program.mlir_module()
  assert "custom_call" not in text.replace("custom_call @shape_assertion", "")
  # JAX has branches of its own, for convolutions and sines.
  assert text.count("stablehlo.case") <= exported(theirs).mlir_module().count("stablehlo.case")
  wider = np.concatenate([x, x, x])[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
  assert_equal(program.call(wider, kernel), step(theirs)(wider, kernel))


def test_symbolic_batch_traces_with_the_usual_forms_too():
  ours, _, x, kernel = draw("direct")
  image = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), *x.shape[1:]), x.dtype)
  exported = jax.export.export(jax.jit(ours), platforms=("cuda",))(image, kernel)
  assert exported.out_avals[0].shape[1:] == (*x.shape[1:3], 4)


@pytest.mark.parametrize("case", CASES)
def test_plain_forms_give_the_same(case):
  ours, _, *args = draw(case)
  step = jax.jit(lambda *args: (ours(*args), jax.grad(loss(ours), (0, 1))(*args)))
  with ops.plain_forms():
    text, plain = step.lower(*args).as_text(), step(*args)
  assert "custom_call" not in text
  assert_equal(step(*args), plain)


def test_the_context_of_plain_forms_ends():
  ours, _, *args = draw("direct")
  with pytest.raises(ZeroDivisionError), ops.plain_forms():
    assert conv_p not in [e.primitive for e in jax.make_jaxpr(ours)(*args).eqns]
    raise ZeroDivisionError
  assert conv_p in [e.primitive for e in jax.make_jaxpr(ours)(*args).eqns]


@pytest.mark.parametrize("case", SOME)
def test_empty_batches(case):
  ours, theirs, x, kernel = draw(case, batch=0)
  gradients = lambda f: jax.grad(loss(f), (0, 1))(x, kernel)  # noqa: E731
  assert_equal((ours(x, kernel), gradients(ours)), (theirs(x, kernel), gradients(theirs)))


def test_an_image_smaller_than_the_kernel():
  kernel = np.ones((3, 3, 2, 4), np.float32)
  assert ops.conv(np.zeros((1, 2, 5, 2), np.float32), kernel).shape == (1, 0, 3, 4)


@pytest.mark.parametrize(
  "padding", ["valid", "same", (1, 1), ((1, 1),), 0.5, ((0.5, 0.5), (0.5, 0.5)), None]
)
def test_padding_that_is_none(padding):
  x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2))
  with pytest.raises(ValueError, match=r"padding is .*, expected a whole number, 'SAME', 'VAL"):
    ops.conv(x, kernel, padding=padding)


def test_ways_to_write_a_padding():
  x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2))
  for padding in (1, np.int64(1), [[1, 1], [1, 1]], np.ones((2, 2), int), "SAME"):
    assert ops.conv(x, kernel, padding=padding).shape == (1, 4, 4, 2)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("pads", [((-1, 1), (0, -2)), ((5, 0), (1, 4)), ((-2, 6), (3, -1))])
def test_padding_that_cuts_or_that_no_tap_reaches_over(pads, size):
  """In value and gradient; XLA reads beyond the image on a CPU where padding is negative."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 8, 9, 2)).astype(np.float32)
  kernel = rng.normal(size=(size, size, 2, 4)).astype(np.float32)

  def padded(x, kernel):
    edges = ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0))
    return library(jax.lax.pad(x, 0.0, edges), kernel)

  ours = functools.partial(ops.conv, padding=pads)
  for transform in (TRANSFORMS["value"], TRANSFORMS["grad"]):
    assert_equal(jax.jit(transform(ours))(x, kernel), jax.jit(transform(padded))(x, kernel))


@pytest.mark.parametrize("field", ["stride", "dilation"])
@pytest.mark.parametrize("value", [(2, 2), 0, -1, 1.0, "2"])
def test_strides_and_dilations_that_are_none(field, value):
  x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 2))
  with pytest.raises(ValueError, match=f"{field} is .*, expected one whole number of 1 or more"):
    ops.conv(x, kernel, **{field: value})
  assert ops.conv(x, kernel, **{field: np.int64(1)}, padding="VALID").shape == (1, 2, 2, 2)


def test_shapes_and_dtypes_that_do_not_fit():
  x, kernel = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 4, 4))
  for function in (ops.conv, ops.conv_transpose):
    with pytest.raises(ValueError, match="add a batch axis"):
      function(x[0], kernel)
    with pytest.raises(ValueError, match="3 channels"):
      function(x[..., :3], kernel)
    with pytest.raises(TypeError, match=r"bfloat16.*float32.*astype"):
      function(x.astype("bfloat16"), kernel)
  with pytest.raises(ValueError, match="4 for each of 3 groups"):
    ops.conv(x, kernel, groups=3)
  with pytest.raises(ValueError, match="expected 2x2, 3x3 or 4x4"):
    ops.conv_transpose(x, jnp.zeros((5, 5, 4, 4)))


def test_a_shard_map_that_checks_what_varies():
  mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
  split, whole = PartitionSpec("data"), PartitionSpec()
  for case in ("direct", "thin_groups", "transposed3"):
    ours, theirs, *args = draw(case)

    def step(x, kernel, f=ours):
      return f(x, kernel), hvp_forward(f)(x, kernel)

    part = jax.shard_map(
      step, mesh=mesh, in_specs=(split, whole), out_specs=(split, (split, whole))
    )
    assert_equal(jax.jit(part)(*args), jax.jit(functools.partial(step, f=theirs))(*args), 2e-5)


@pytest.mark.skipif(xla_call.machine() is None, reason="no kernels on this machine")
@pytest.mark.slow
def test_several_devices():
  """Sharded batches, shard_map, Explicit axes; which programs use the kernels of a CPU."""
  code = """
  import jax, jax.numpy as jnp, numpy as np
  from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
  from segjax import ops

  rng = np.random.default_rng(0)
  x = rng.normal(size=(8, 10, 12, 4)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 4, 8)).astype(np.float32)
  loss = lambda x, k: jnp.sin(ops.conv(x, k, padding=1)).sum()
  step = lambda x, k: (ops.conv(x, k, padding=1), jax.grad(loss, (0, 1))(x, k))

  def check(f, *args, kernels):
    program = jax.jit(f).lower(*args)
    assert ("@segjax" in program.as_text()) == kernels, program.as_text()
    for a, b in zip(jax.tree.leaves(program.compile()(*args)), wanted, strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(np.abs(b).max()))

  assert len(jax.devices()) == 8
  with ops.plain_forms():
    wanted = jax.tree.leaves(jax.jit(step)(x, kernel))
  check(step, x, kernel, kernels=True)  # one device, although there are eight
  auto = jax.make_mesh((8,), ("d",), (AxisType.Auto,))
  split, whole = NamedSharding(auto, P("d")), NamedSharding(auto, P())
  check(step, jax.device_put(x, split), jax.device_put(kernel, whole), kernels=False)
  specs = dict(in_specs=(P("d"), P()), out_specs=(P("d"), (P("d"), P())))
  check(jax.shard_map(step, mesh=auto, **specs), x, kernel, kernels=True)
  two = jax.make_mesh((4, 2), ("d", "e"), (AxisType.Auto,) * 2)  # part of the axes
  part = jax.shard_map(step, mesh=two, axis_names={"d"}, **specs)
  check(part, x, kernel, kernels=False)
  explicit = jax.make_mesh((8,), ("d",))
  with jax.set_mesh(explicit):
    args = jax.device_put(x, P("d")), jax.device_put(kernel, P())
    check(step, *args, kernels=False)
    assert jax.typeof(jax.jit(ops.conv)(*args)).sharding.spec[0] == "d"
    assert not any(jax.typeof(jax.jit(jax.grad(loss, 1))(*args)).sharding.spec)
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": eight_devices()},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
