"""Gradients of whole nets and of the pools against the library's plain operations.

XLA may compute a value twice, in fusions that round differently. Where a gradient depends on a
comparison with such a value, it is lost without an error and the loss stays right. Whether XLA does
so depends on what surrounds the operation, so nets are compared in a scan of training steps with
`jax.checkpoint`, at both of XLA's optimisation levels.
"""

import os
import subprocess
import sys

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from light import NETS, TINY, build, tiers

from segjax import models, ops

pytestmark = pytest.mark.usefixtures("light_backbones")

STEPS, SIZE = 2, 48
# Nets with a norm of means over whole images.
POOLED = (
  models.Projection, models.Prototypes, models.DDRNet, models.DeepLabV3, models.DeepLabV3Plus,
)  # fmt: skip


# One of each kind of block; the others differ from these in their heads' convolutions alone.
DEFAULT_LEVEL = ("classifier/mobile", "classifier/resnet", "segformer")


def plain_conv(x, kernel, *, stride=1, padding=0, dilation=1, groups=1):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride,) * 2,
    padding if padding == "SAME" else ((padding, padding),) * 2,
    rhs_dilation=(dilation,) * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=groups,
  )


def plain_conv_transpose(x, kernel):
  padding = {3: ((1, 2), (1, 2)), 4: ((2, 2), (2, 2))}.get(len(kernel), "VALID")
  return jax.lax.conv_transpose(x, kernel, (2, 2), padding)


PLAIN = {
  "conv": plain_conv,
  "conv_transpose": plain_conv_transpose,
  "max_pool_2x2": lambda x: nn.max_pool(x, (2, 2), (2, 2)),
  "max_pool_3x3": lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
}


def use_plain_operations(monkeypatch):
  """Puts the library's operations in the place of ours."""
  for name, plain in PLAIN.items():
    monkeypatch.setattr(ops, name, plain)


def drawn(net):
  """Variables such as `init` gives, drawn by NumPy: compiling the initialisers takes longer."""
  rng = np.random.default_rng(0)

  def draw(path, x):
    if path[-1].key in ("scale", "var"):
      return rng.uniform(0.8, 1.2, x.shape).astype(np.float32)
    fan = np.prod(x.shape[:-1]) if path[-1].key == "kernel" or x.ndim > 1 else 100
    return rng.normal(0, np.sqrt(2 / fan), x.shape).astype(np.float32)

  image = jnp.zeros((1, SIZE, SIZE, 3))
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image, train=False))
  found = jax.tree_util.tree_map_with_path(draw, shapes)
  return {k: found.get(k, {}) for k in ("params", "batch_stats")}


def make_step(net, remat=False):
  """(variables, step) -> (variables after a step of gradient descent, gradients)."""
  # Batch norm of two pooled vectors makes them 1 and -1, whatever they are: no gradient is left.
  count = 6 if isinstance(net, POOLED) else 2
  shape = (STEPS, count, SIZE, SIZE, 3)
  images = jnp.array(np.random.default_rng(1).normal(size=shape), net.dtype)

  def step(variables, i):
    def loss(params):
      logits, updates = net.apply(
        variables | dict(params=params),
        images[i],
        train=True,
        mutable=["batch_stats", "intermediates"],
        rngs=dict(dropout=jax.random.fold_in(jax.random.key(2), i)),
      )
      target = np.sin(np.arange(logits.size, dtype=np.float32)).reshape(logits.shape)
      aux = updates.get("intermediates", {}).get("aux_logits", ())
      return sum(((x - target) ** 2).mean() for x in (logits, *aux)), updates

    loss = jax.checkpoint(loss) if remat else loss
    grads, updates = jax.grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], grads)
    stats = updates.get("batch_stats", variables["batch_stats"])
    return dict(params=params, batch_stats=stats), grads

  return step


def scanned(net):
  """Gradients of each step, as one program: a scan whose steps keep nothing for the backward."""
  run = jax.jit(lambda v: jax.lax.scan(make_step(net, remat=True), v, jnp.arange(STEPS))[1])
  return jax.tree.map(np.asarray, run(drawn(net)))


def one_by_one(net):
  """The same gradients, step by step."""
  step, variables, grads = jax.jit(make_step(net)), drawn(net), []
  for i in range(STEPS):
    variables, found = step(variables, i)
    grads.append(found)
  return jax.tree.map(lambda *x: np.stack(x), *grads)


def compare(got, want, tolerance):
  """Compares every gradient by the length of its error over its own."""
  got, want = (flax.traverse_util.flatten_dict(x, sep="/") for x in (got, want))
  assert got.keys() == want.keys()
  length = np.linalg.norm
  least = 1e-3 * max(length(g) for g in want.values())  # some are 0 in theory
  errors = {k: length(got[k] - g) / max(length(g), least) for k, g in want.items()}
  worst = max(errors, key=errors.get)
  assert errors[worst] < tolerance, (worst, errors[worst])


@pytest.mark.parametrize("name", tiers(NETS, quick=("classifier/cnn", "encoder_decoder")))
def test_gradients_in_a_scan_are_the_librarys(name, monkeypatch):
  got = scanned(build(name))
  use_plain_operations(monkeypatch)
  compare(got, one_by_one(build(name)), 1e-3)


@pytest.mark.parametrize("name", tiers(["unet", "classifier/resnet"]))
def test_gradients_in_bfloat16_are_the_librarys(name, monkeypatch):
  """To the rounding of bfloat16, which moves some maxima and gates; a lost gradient is off by 1."""
  got = scanned(build(name, dtype="bfloat16"))
  use_plain_operations(monkeypatch)
  compare(got, one_by_one(build(name, dtype="bfloat16")), 0.3)


@pytest.mark.parametrize("names", [["unet"], pytest.param(DEFAULT_LEVEL, marks=pytest.mark.weekly)])
@pytest.mark.slow
def test_gradients_at_the_default_optimisation_level(names, tmp_path, monkeypatch):
  """One process for all nets, whose gradients are compared with the library's of this one."""
  file = tmp_path / "gradients.npz"
  run = [sys.executable, __file__, str(file), *names]
  env = os.environ | dict(XLA_FLAGS="")
  done = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = np.load(file)
  use_plain_operations(monkeypatch)
  for name in names:
    want = flax.traverse_util.flatten_dict(one_by_one(build(name)), sep="/")
    got = {k: found[f"{name}:{k}"] for k in want}
    compare(got, want, 1e-3)


def close_values(shape, dtype, seed):
  """Values that differ in their last bits alone, many of them equal."""
  step = 2.0 ** (-8 if dtype == jnp.bfloat16 else -23)
  draws = np.random.default_rng(seed).integers(0, 4, shape)
  return jnp.array(1 + draws * step, dtype)


POOLS = {"2x2": (ops.max_pool_2x2, 2), "3x3": (ops.max_pool_3x3, 3)}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_every_window_gives_its_gradient_to_one_member(pool, dtype):
  """Also where the pool's input is computed anew, rounded otherwise, in the backward pass."""
  function, size = POOLS[pool]
  channels, rows = 6, 8
  u = close_values((2, 2 * rows, 2 * rows, channels), dtype, 0)
  factor, shift = (close_values((channels,), dtype, i) * (1.3 + i) for i in (1, 2))
  kernel = jnp.ones((channels, 3), dtype)

  @jax.jit
  def run(g):
    def step(factor, _):
      def inputs(u):
        normal = (u - u.mean((0, 1, 2))) * jax.lax.rsqrt(u.var((0, 1, 2)) * 1e6 + 1e-5)
        return nn.relu(normal * factor + u * shift)

      x, back = jax.vjp(inputs, u)
      y, pull = jax.vjp(jax.checkpoint(function), x)
      (dx,) = pull(g)
      # What a layer needs of it: its product, its gradient's sums, the gradient before it.
      others = y @ kernel, (dx * x).sum((0, 1, 2)), back(dx)
      return (factor * (1 + 1e-3 * dx.mean())).astype(dtype), (dx, others)

    return jax.lax.scan(step, factor, None, 2)[1][0]

  phases = [(0, 0)] if size == 2 else [(0, 0), (0, 1), (1, 0), (1, 1)]
  every = 1 if size == 2 else 2  # windows that do not overlap
  for a, b in phases:
    g = np.zeros((2, rows, rows, channels))
    g[:, a::every, b::every] = np.arange(1, channels + 1)
    dx = np.asarray(run(jnp.array(g, dtype)), np.float32)
    before = size - 2
    for of_step in np.pad(dx, ((0, 0), (0, 0), (before, 1), (before, 1), (0, 0))):
      taps = [of_step[:, i::2, j::2] for i in range(size) for j in range(size)]
      taps = np.stack([t[:, :rows, :rows] for t in taps])[:, :, a::every, b::every]
      assert ((taps != 0).sum(0) == 1).all()
      np.testing.assert_array_equal(taps.sum(0), g[:, a::every, b::every])


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 8)])
@pytest.mark.slow
def test_windows_of_ties_infinities_and_nans(pool, size):
  """A tie goes to the first member, -inf is a value as others are, nan is above all."""
  function, side = POOLS[pool]
  if side == 2 and min(size) < 2:
    return
  rng = np.random.default_rng(0)
  for values in ([0.0, 1.0], [-np.inf], [-np.inf, 1.0], [np.inf, 2.0], [-0.0, 0.0]):
    x = rng.choice(np.array(values, np.float32), (2, *size, 3))
    y, pull = jax.vjp(jax.jit(function), x)
    g = rng.integers(1, 9, y.shape).astype(np.float32)
    want = np.zeros_like(x)
    for n, i, j, c in np.ndindex(y.shape):
      rows, columns = (
        range(max(2 * k - side + 2, 0), min(2 * k + 2, m))
        for k, m in zip((i, j), size, strict=True)
      )
      members = [(x[n, r, q, c], -r, -q) for r in rows for q in columns]
      value, r, q = max(members)
      assert y[n, i, j, c] == value
      want[n, -r, -q, c] += g[n, i, j, c]
    np.testing.assert_array_equal(pull(g)[0], want)
  x = jnp.array(np.where(rng.random((1, *size, 2)) < 0.2, np.nan, 1), jnp.float32)
  y, pull = jax.vjp(function, x)
  np.testing.assert_array_equal(y, PLAIN[f"max_pool_{pool}"](x))
  (dx,) = pull(jnp.ones_like(y))
  assert dx.sum() == y.size


@pytest.mark.parametrize("pool", POOLS)
def test_pools_have_forward_mode_and_second_derivatives(pool):
  function, plain = POOLS[pool][0], PLAIN[f"max_pool_{pool}"]
  x, t = (
    jnp.array(np.random.default_rng(i).normal(size=(2, 6, 7, 3)), jnp.float32) for i in (0, 1)
  )

  def loss(pool):
    return lambda x: (jnp.sin(pool(x)) ** 2).sum()

  def derivatives(pool):
    grad = jax.grad(loss(pool))
    return (
      jax.jvp(pool, (x,), (t,))[1],
      jax.jvp(grad, (x,), (t,))[1],
      jax.grad(lambda x: (grad(x) * t).sum())(x),
      jax.vmap(pool)(jnp.stack([x, t])),
      jax.vmap(grad)(jnp.stack([x, t])),
    )

  for got, want in zip(
    jax.jit(derivatives, static_argnums=0)(function),
    jax.jit(derivatives, static_argnums=0)(plain),
    strict=True,
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
  models.BACKBONES.update(TINY)
  leaves = {
    f"{name}:{k}": v
    for name in sys.argv[2:]
    for k, v in flax.traverse_util.flatten_dict(scanned(build(name)), sep="/").items()
  }
  np.savez(sys.argv[1], **leaves)
