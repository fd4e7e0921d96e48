"""Every net under every transformation of JAX.

Transformations are traced for every net of the zoo and lowered where a rule could be missing; they
are computed for nets of few blocks, and their results are compared. Programs for eight devices
are made by one process that has eight virtual ones, which runs this file.
"""

import json
import os
import subprocess
import sys
import threading
from functools import partial

import flax.errors
import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, eight_devices
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from light import NETS, TINY, build, random_variables, tiers

from segjax import losses, metrics, models, ops
from segjax.models import layers

pytestmark = pytest.mark.usefixtures("light_backbones")

QUICK = ("unet/none",)
SIZE = (32, 32)


def apply_net(net, params, variables, image, key, train=True):
  """(f32 scalar, new batch statistics) of a net."""
  out, updates = net.apply(
    variables | dict(params=params),
    image,
    train=train,
    mutable=["batch_stats", "intermediates"],
    rngs=dict(dropout=key),
  )
  target = jnp.sin(jnp.arange(out.shape[-1], dtype=out.dtype))
  return ((out - target) ** 2).mean(), updates.get("batch_stats", {})


class Problem:
  """A net, its variables, a batch of images, a direction, and its loss."""

  def __init__(self, name, size=SIZE, count=4, **fields):
    self.net = build(name, **fields)
    self.variables = random_variables(self.net)
    self.params = self.variables["params"]
    rng = np.random.default_rng(0)
    self.images = jnp.asarray(rng.normal(size=(count, *size, 3)), jnp.float32)
    self.direction = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), self.params
    )
    self.key = jax.random.key(0)

  def loss(self, params, images=None, train=True):
    images = self.images if images is None else images
    return apply_net(self.net, params, self.variables, images, self.key, train)[0]


def inner(a, b):
  """Inner product of two trees."""
  return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def forward_over_reverse(p, params, direction):
  return jax.jvp(jax.grad(p.loss), (params,), (direction,))[1]


def reverse_over_reverse(p, params, direction):
  return jax.grad(lambda q: inner(jax.grad(p.loss)(q), direction))(params)


def scanned(p, params, direction):
  del direction
  body = jax.checkpoint(lambda q, _: (jax.tree.map(jnp.subtract, q, jax.grad(p.loss)(q)), None))
  return jax.lax.scan(body, params, None, 2)[0]


def per_example(p, params, direction):
  """The mean of the gradients of single images, in evaluation: batch norms take no batch."""
  del direction
  each = jax.vmap(lambda x: jax.grad(p.loss)(params, x[None], False))(p.images)
  return jax.tree.map(lambda g: g.mean(0), each)


def over_params(p, params, direction):
  """The gradients of an ensemble of two."""
  both = jax.tree.map(lambda x, d: jnp.stack([x, x + 0.1 * d]), params, direction)
  return jax.tree.map(lambda g: g[1], jax.vmap(jax.grad(p.loss))(both))


def linearized(p, params, direction):
  push = jax.linearize(jax.grad(p.loss), params)[1]
  return push(direction)


def rematerialized(p, params, direction):
  """`nn.remat` passes on no keywords; a module around the net takes `train` by position."""
  del direction
  net = nn.remat(Positional, static_argnums=(2,))(p.net)

  def loss(params):
    variables = {k: dict(net=v) for k, v in (p.variables | dict(params=params)).items()}
    rngs, mutable = dict(dropout=p.key), ["batch_stats", "intermediates"]
    return (net.apply(variables, p.images, False, rngs=rngs, mutable=mutable)[0] ** 2).mean()

  return jax.grad(loss)(params)


class Positional(nn.Module):
  """A net whose `train` is an argument by position, as Flax's transformations need it."""

  net: nn.Module

  def __call__(self, image, train):
    """As the net's own call."""
    return self.net(image, train=train)


TRANSFORMATIONS = {
  "grad": lambda p, params, direction: jax.grad(p.loss)(params),
  "forward over reverse": forward_over_reverse,
  "reverse over reverse": reverse_over_reverse,
  "linearize": linearized,
  "scan of checkpoint": scanned,
  "vmap over images": per_example,
  "vmap over parameters": over_params,
  "nn.remat": rematerialized,
}


def once_traced(p):
  """`p.loss` as programs that were traced once, so that transformations alone count."""
  programs = {
    (images.shape, train): jax.extend.core.jaxpr_as_fun(
      jax.make_jaxpr(lambda q, x, train=train: p.loss(q, x, train))(p.params, images)
    )
    for images, train in ((p.images, True), (p.images[:1], False))
  }

  def loss(params, images=None, train=True):
    images = p.images if images is None else images
    return programs[images.shape, train](*jax.tree.leaves((params, images)))[0]

  return loss


# Every kind of layer; the others have no operation that these have not.
LOWERED = (
  "attention_segmenter", "classifier/convnext", "classifier/mobile", "classifier/resnet",
  "classifier/transformers", "classifier/vgg", "classifier/vit", "fcn8s", "segformer", "unet",
  "unet/group", "unet/none",
)  # fmt: skip


@pytest.mark.parametrize("name", tiers(NETS, QUICK))
def test_transformations_are_traced_and_lowered(name):
  """With no rank promoted; each result has the parameters' shapes."""
  p = Problem(name)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), p.params)

  p.loss = once_traced(p)

  def every(params, direction):
    return {k: f(p, params, direction) for k, f in TRANSFORMATIONS.items()}

  with jax.numpy_rank_promotion("raise"):
    traced = jax.jit(every).trace(p.params, p.direction)
  for result in traced.out_info.values():
    assert jax.tree.map(lambda x: (x.shape, x.dtype), result) == shapes
  if name in LOWERED:
    traced.lower()


@pytest.mark.parametrize("name", tiers(["unet/none", "classifier/resnet"], QUICK))
def test_no_tracer_leaks(name):
  p = Problem(name)
  with jax.checking_leaks():
    jax.eval_shape(p.loss, p.params)


@pytest.mark.parametrize("name", tiers(["classifier/cnn", "unet/group"], slow=["classifier/cnn"]))
def test_transformations_agree(name):
  """Three ways to a product with the Hessian; gradients as one by one and by finite difference."""
  p = Problem(name, size=(24, 24))
  run = {k: jax.jit(partial(f, p)) for k, f in TRANSFORMATIONS.items()}
  got = {k: f(p.params, p.direction) for k, f in run.items() if "scan" not in k}
  products = [got[k] for k in ("forward over reverse", "reverse over reverse", "linearize")]
  length = float(jnp.sqrt(inner(products[0], products[0])))
  for other in products[1:]:
    for a, b in zip(jax.tree.leaves(products[0]), jax.tree.leaves(other), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * length)
  moved = jax.tree.map(lambda x, d: x + 0.1 * d, p.params, p.direction)
  grad = jax.jit(jax.grad(p.loss))
  evaluated = jax.jit(jax.grad(lambda q: p.loss(q, train=False)))(p.params)
  pairs = [(got["vmap over parameters"], grad(moved)), (got["vmap over images"], evaluated)]
  stepped = p.params
  for _ in range(2):
    stepped = jax.tree.map(jnp.subtract, stepped, grad(stepped))
  pairs.append((run["scan of checkpoint"](p.params, p.direction), stepped))
  for found, wanted in pairs:
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * scale)
  slope = jax.jit(lambda q, d: jax.jvp(p.loss, (q,), (d,))[1])(p.params, p.direction)
  assert float(slope) == pytest.approx(float(inner(got["grad"], p.direction)), rel=1e-3)


# One of each family and kind of block; deeper ones have more of the same.
REAL = (
  "efficientnet_lite0", "mit_b0", "mobilenet_v3_large", "mobilenet_v3_small", "resnet18",
  "resnet50", "resnext50_32x4d", "small_cnn", "vgg11_bn", "vgg16", "vit_tiny",
)  # fmt: skip


@pytest.mark.parametrize("name", tiers(REAL, slow=("mit_b0", "mobilenet_v3_small", "resnet18")))
def test_gradients_of_every_backbone_are_traced(name):
  backbone = models.make_backbone(name)
  image = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
  variables = jax.eval_shape(partial(backbone.init, train=False), jax.random.key(0), image)

  def loss(params, image):
    features = backbone.apply(variables | dict(params=params), image, train=False)
    return sum(x.sum() for x in features if x is not None)

  def product(params, image):
    return jax.jvp(jax.grad(lambda q: loss(q, image)), (params,), (params,))[1]

  variables = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)
  found = jax.eval_shape(product, variables["params"], image)
  assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, variables["params"])


@pytest.mark.parametrize("name", tiers(NETS, QUICK))
@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_narrow_dtypes_are_lowered(name, dtype):
  p = Problem(name, dtype=dtype)
  traced = jax.jit(jax.vmap(jax.value_and_grad(p.loss), (None, 0))).trace(
    p.params, p.images[:, None].repeat(2, 1)
  )
  assert traced.out_info[0].dtype == jnp.float32
  traced.lower()


@pytest.mark.slow
def test_a_vmapped_gradient_in_bfloat16_is_computed():
  p = Problem("unet", dtype="bfloat16")
  keys = jax.random.split(p.key, 3)

  def loss(params, key):
    return apply_net(p.net, params, p.variables, p.images, key)[0]

  values, grads = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))(p.params, keys)
  assert len(np.unique(values)) == 3
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


CONVOLUTIONS = {
  "3x3": dict(padding=1),
  "strided": dict(padding=1, stride=2),
  "dilated": dict(padding=2, dilation=2),
  "depthwise": dict(padding=1, groups=8),
  "1x1": dict(),
}


def convolution(name, dtype=jnp.float32):
  """(function of image and kernel, image, kernel)."""
  fields, rng = CONVOLUTIONS[name], np.random.default_rng(0)
  size = 1 if name == "1x1" else 3
  image, kernel = (
    jnp.asarray(rng.normal(size=s), dtype)
    for s in ((2, 9, 8, 8), (size, size, 8 // fields.get("groups", 1), 8))
  )
  return partial(ops.conv, **fields), image, kernel


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_transpose(name):
  """<conv(x), y> = <x, transpose(y)>, for the image and for the kernel."""
  conv, image, kernel = convolution(name)
  y = conv(image, kernel)
  g = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
  for x, function in (
    (image, lambda x: conv(x, kernel)),
    (kernel, lambda k: conv(image, k)),
  ):
    (back,) = jax.linear_transpose(function, x)(g)
    np.testing.assert_allclose(jnp.vdot(x, back), jnp.vdot(y, g), rtol=1e-4)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_operations_run_with_jit_disabled(name):
  conv, image, kernel = convolution(name)
  grad = jax.grad(lambda x, k: (conv(x, k) ** 2).sum(), (0, 1))
  want = conv(image, kernel), grad(image, kernel)
  with jax.disable_jit():
    got = conv(image, kernel), grad(image, kernel)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", tiers(["unet/none", "classifier/resnet"], slow=QUICK))
def test_nets_run_with_jit_disabled(name):
  p = Problem(name, size=(16, 16), count=2)
  want = jax.jit(lambda q: p.loss(q, train=False))(p.params)
  with jax.disable_jit():
    got = p.loss(p.params, train=False)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def compilations(function):
  """How many programs are compiled while function() runs."""
  count = []

  def listen(event, seconds, **_):
    del seconds
    if event.endswith("backend_compile_duration"):
      count.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    jax.block_until_ready(function())
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return len(count)


def test_a_second_call_without_jit_compiles_nothing():
  conv, image, kernel = convolution("3x3")
  image = image[:, :7]  # of a size that no other test has compiled

  def both():
    net = build("unet/none")
    return (
      jax.grad(lambda x, k: ops.max_pool_2x2(conv(x, k)).sum(), (0, 1))(image, kernel),
      net.apply(variables, pictures, train=False),
    )

  variables = random_variables(build("unet/none"))
  pictures = jnp.ones((1, 8, 12, 3))
  assert compilations(both) > 0
  assert compilations(both) == 0


@pytest.mark.slow
def test_threads_compile_at_once():
  found, errors = [None] * 4, []

  def work(i):
    try:
      p = Problem("unet/none", size=(16 + 4 * i, 20), count=1)
      found[i] = float(jax.jit(jax.value_and_grad(p.loss))(p.params)[0])
    except Exception as error:  # shown by the assertion
      errors.append(error)

  threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert not errors
  for i in (0, 3):
    p = Problem("unet/none", size=(16 + 4 * i, 20), count=1)
    assert found[i] == pytest.approx(float(jax.jit(p.loss)(p.params)), rel=1e-5)


@pytest.mark.parametrize("name", tiers(NETS, QUICK))
def test_export_for_all_platforms_with_any_batch(name):
  p = Problem(name)
  function = jax.jit(lambda variables, image: p.net.apply(variables, image, train=False))
  image = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), *SIZE, 3), jnp.float32)
  with ops.plain_forms():
    program = jax.export.export(function, platforms=("cpu", "cuda", "tpu"))(p.variables, image)
    jaxpr = str(jax.make_jaxpr(function)(p.variables, p.images))
  assert program.platforms == ("cpu", "cuda", "tpu")
  assert "@segjax" not in program.mlir_module()
  assert "platform_index" not in jaxpr and "segjax_conv" not in jaxpr
  if name == "unet":
    again = jax.export.deserialize(program.serialize())
    for count in (1, 3):
      np.testing.assert_allclose(
        jax.jit(again.call)(p.variables, p.images[:count]),
        function(p.variables, p.images[:count]),
        rtol=1e-4,
        atol=1e-4,
      )


@pytest.mark.parametrize("name", tiers(NETS))
def test_nnx_trains_it(name):
  """`ToNNX` with batch statistics; three steps lower the loss and move the averages."""
  p = Problem(name)

  def init():
    net = nnx.bridge.ToNNX(p.net, rngs=nnx.Rngs(0, dropout=1))
    return nnx.bridge.lazy_init(net, p.images, train=False)

  net = init() if name == "unet" else nnx.eval_shape(init)

  def loss(net):
    out = net(p.images, train=True, mutable=["batch_stats", "intermediates"])
    out = out[0] if isinstance(out, tuple) else out
    return ((out - 1) ** 2).mean()

  graph, state = nnx.split(net)

  def step(state):
    net = nnx.merge(graph, state)
    value, grads = nnx.value_and_grad(loss)(net)
    params = nnx.state(net, nnx.Param)
    nnx.update(net, jax.tree.map(lambda x, g: x - 0.02 * g, params, grads))
    return value, nnx.state(net, nnx.Any(nnx.Param, nnx.BatchStat))

  if name != "unet":
    value, after = jax.eval_shape(step, state)
    wanted = nnx.state(net, nnx.Any(nnx.Param, nnx.BatchStat))
    assert value.shape == () and jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, wanted)
    return
  step, values = jax.jit(step), []
  first = nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))
  for _ in range(3):
    value, changed = step(state)
    nnx.update(net, changed)
    state = nnx.state(net)
    values.append(float(value))
  last = nnx.to_pure_dict(nnx.state(net, nnx.BatchStat))
  assert values[2] < values[0]
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), first, last)
  assert all(jax.tree.leaves(moved))


class Scanned(nn.Module):
  """A net over a sequence of batches, whose batch statistics are carried on."""

  net: nn.Module

  @nn.compact
  def __call__(self, batches):
    scan = nn.scan(
      lambda net, carry, image: (carry, net(image, train=True)),
      variable_broadcast="params",
      variable_carry="batch_stats",
      split_rngs=dict(params=False, dropout=True),
    )
    return scan(self.net, None, batches)[1]


def test_flaxs_vmap_and_scan_take_a_net():
  p = Problem("unet")
  batches = jnp.stack([p.images, p.images])
  rngs = dict(params=p.key, dropout=p.key)
  axes = dict(params=0, batch_stats=0)
  many = nn.vmap(
    Positional, in_axes=(0, None), variable_axes=axes, split_rngs=dict(params=True, dropout=True)
  )(p.net)
  init = jax.eval_shape(lambda: many.init(rngs, batches, False))
  for x, one in zip(jax.tree.leaves(init), jax.tree.leaves(p.variables), strict=True):
    assert x.shape == (2, *one.shape)
  once = {k: dict(net=v) for k, v in p.variables.items()}
  out, updates = jax.eval_shape(
    lambda: Scanned(p.net).apply(once, batches, mutable=["batch_stats"], rngs=rngs)
  )
  assert out.shape == (2, 4, *SIZE, 3)
  assert jax.tree.map(jnp.shape, updates["batch_stats"]) == jax.tree.map(
    jnp.shape, once["batch_stats"]
  )


def test_flax_says_where_batch_statistics_are_not_mutable():
  p = Problem("unet")
  with pytest.raises(flax.errors.ModifyScopeVariableError, match="batch_stats"):
    p.net.apply(p.variables, p.images, train=True, rngs=dict(dropout=p.key))


# ------------------------------------------------------------------------- eight devices


def by_sharding(spec, kind=AxisType.Auto):
  """The gradient of a batch that is divided by a mesh as `spec` says.

  Where a map has fewer rows than there are devices along them, XLA gives wrong gradients of strided
  kernels, also of `jax.lax.conv_general_dilated` alone.
  """

  def make(p):
    shape = (4, 2) if "space" in spec else (8, 1)
    mesh = jax.make_mesh(shape, ("data", "space"), axis_types=(kind,) * 2)
    images = jax.device_put(p.images, NamedSharding(mesh, spec))
    params = jax.device_put(p.params, NamedSharding(mesh, P()))
    return jax.jit(jax.value_and_grad(p.loss)), params, images

  return make


def by_shard_map(p):
  """The same by shard_map with its checks; batch norms over all devices."""
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

  def run(params, images):
    def loss(params):
      with layers.norms_over("data"):
        return jax.lax.pmean(p.loss(params, images), "data")

    return jax.value_and_grad(loss)(params)

  specs = dict(in_specs=(P(), P("data")), out_specs=(P(), P()))
  return jax.jit(jax.shard_map(run, mesh=mesh, **specs)), p.params, p.images


def by_pmap(p):
  """The same by pmap."""

  def run(params, images):
    with layers.norms_over("data"):
      return jax.lax.pmean(jax.value_and_grad(p.loss)(params, images), "data")

  images = p.images.reshape(8, 1, *p.images.shape[1:])
  return jax.pmap(run, "data", in_axes=(None, 0), out_axes=None), p.params, images


DIVIDED = {
  "batch": by_sharding(P("data")),
  "batch and rows": by_sharding(P("data", "space")),
  "explicit mesh": by_sharding(P("data"), AxisType.Explicit),
  "shard_map": by_shard_map,
  "pmap": by_pmap,
}
# Compared with one device; dropout draws other masks for parts of a batch.
COMPARED = ("classifier/resnet", "unet/group")


def on_eight_devices(name):
  """{kind of division: error, or "" for a program that was lowered and, of some, compared}."""
  p, found = Problem(name, size=(64, 32), count=8), {}
  for kind, make in DIVIDED.items():
    if kind == "batch and rows" and name not in COMPARED:
      continue  # XLA divides the program of "batch" when it compiles it
    try:
      function, params, images = make(p)
      lowered = function.lower(params, images)
      if name in COMPARED:
        want = jax.jit(jax.value_and_grad(p.loss))(p.params, p.images)
        scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want))
        pairs = zip(
          jax.tree.leaves(lowered.compile()(params, images)), jax.tree.leaves(want), strict=True
        )
        for a, b in pairs:
          np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * scale)
      found[kind] = ""
    except Exception as error:  # read by the test
      found[kind] = f"{type(error).__name__}: {error}"
  return found


def losses_on_an_explicit_mesh():
  """Losses and metrics of arrays that are divided over eight devices."""
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
  rng, put = np.random.default_rng(0), lambda x: jax.device_put(x, NamedSharding(mesh, P("data")))
  logits = rng.normal(size=(8, 6, 5, 3)).astype(np.float32)
  label = rng.integers(0, 3, (8, 6, 5)).astype(np.uint8)

  def both(logits, label):
    matrix = metrics.confusion_matrix(logits.argmax(-1), label, num_classes=3)
    pixels = (losses.cross_entropy, losses.focal, losses.ohem, losses.boundary)
    images = (losses.dice, losses.jaccard, losses.focal_tversky, losses.lovasz)
    each = [loss(logits, label) for loss in pixels]
    return *(x.mean() for x in each), *(loss(logits, label) for loss in images), matrix

  want = both(jnp.asarray(logits), jnp.asarray(label))
  for a, b in zip(jax.jit(both)(put(logits), put(label)), want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
  "names",
  [
    pytest.param(["unet/group"], marks=pytest.mark.slow),
    pytest.param([n for n in NETS if n != "unet/group"], marks=pytest.mark.weekly),
  ],
)
def test_eight_devices(names):
  environment = os.environ | dict(XLA_FLAGS=eight_devices(), PYTHONPATH=str(ROOT))
  command = [sys.executable, __file__, *names]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert set(found) == set(names)
  assert {f"{n}, {k}: {v}" for n, of in found.items() for k, v in of.items() if v} == set()


if __name__ == "__main__":
  models.BACKBONES.update(TINY)
  losses_on_an_explicit_mesh()
  print(json.dumps({name: on_eight_devices(name) for name in sys.argv[1:]}))
