"""Losses and metrics under the transformations, strict modes and meshes of JAX; they are traced."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, eight_devices
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from segjax import losses, metrics, ops

CLASSES = 3
LOGITS = (8, 6, 5, CLASSES), jnp.float32
ONE_LOGIT = (8, 6, 5, 1), jnp.float32
LABEL = (8, 6, 5), jnp.int32
VALID = (8, 6, 5), jnp.bool_
PIXELWISE = ("boundary", "cross_entropy", "dice", "focal", "focal_tversky", "jaccard",
             "log_likelihood", "lovasz", "ohem", "tversky")  # fmt: skip
COUNTS = ("boundary_counts", "confusion_matrix", "contour_counts", "image_counts", "image_matrices")


def of_logits(loss, **how):
  return lambda logits, label, valid: loss(logits, label, valid=valid, **how)


FUNCTIONS = {
  **{n: (of_logits(getattr(losses, n)), LOGITS, LABEL, VALID) for n in PIXELWISE},
  **{f"{n} of one logit": (of_logits(getattr(losses, n)), ONE_LOGIT, LABEL, VALID)
     for n in PIXELWISE},
  **{n: (of_logits(getattr(metrics, n), num_classes=CLASSES), LABEL, LABEL, VALID)
     for n in COUNTS},
  "weights": (of_logits(losses.cross_entropy, class_weights=(1.0, 2.0, 3.0), label_smoothing=0.1),
              LOGITS, LABEL, VALID),
  "weights of dice": (of_logits(losses.dice, class_weights=(1.0, 2.0, 3.0)), LOGITS, LABEL, VALID),
  "hardest": (lambda loss, valid: losses.hardest(loss, valid=valid), (*LABEL[:1], jnp.float32),
              VALID),
  "mask_classification": (of_logits(lambda m, label, valid: losses.mask_classification(
                            m, m[:, :4, 0, :] @ jnp.ones((4, CLASSES + 1)), label, valid=valid)),
                          ((8, 6, 5, 4), jnp.float32), LABEL, VALID),
  "calibration_sums": (of_logits(metrics.calibration_sums), LOGITS, LABEL, VALID),
  "temperature_sums": (of_logits(metrics.temperature_sums), LOGITS, LABEL, VALID),
  "score_histogram": (of_logits(metrics.score_histogram), (*LABEL[:1], jnp.float32), LABEL, VALID),
}  # fmt: skip
LOSSES = [n for n in FUNCTIONS
          if n.split()[0] in (*PIXELWISE, "weights", "mask_classification")]  # fmt: skip
# Its matching is optax's loop, which mixes what differs between devices with what does not.
NOT_CHECKED = ("mask_classification",)


def arguments(name, **how):
  return [jax.ShapeDtypeStruct(*spec, **how) for spec in FUNCTIONS[name][1:]]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ranks_and_dtypes_are_not_promoted(name):
  function = FUNCTIONS[name][0]
  with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
    if name == "mask_classification":  # optax's loop promotes
      with pytest.raises((ValueError, jax.dtypes.TypePromotionError), match="promot"):
        jax.eval_shape(function, *arguments(name))
    else:
      jax.eval_shape(function, *arguments(name))


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n.split()[0] in PIXELWISE])
def test_batches_and_sizes_may_be_symbolic(name):
  function, *specs = FUNCTIONS[name]
  symbols = jax.export.symbolic_shape("b,h,w")
  with ops.plain_forms():
    for count in (1, 3):
      shapes = [jax.ShapeDtypeStruct((*symbols[:count], *s[count:]), d) for s, d in specs]
      jax.eval_shape(function, *shapes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap(name):
  more = [jax.ShapeDtypeStruct((2, *x.shape), x.dtype) for x in arguments(name)]
  found = jax.eval_shape(jax.vmap(FUNCTIONS[name][0]), *more)
  want = jax.eval_shape(FUNCTIONS[name][0], *arguments(name))
  same = jax.tree.map(lambda a, b: a.shape == (2, *b.shape) and a.dtype == b.dtype, found, want)
  assert all(jax.tree.leaves(same))


def on_eight_devices():
  """{"name, kind of division": what is wrong there}."""
  auto = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  explicit = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
  both = jax.make_mesh((4, 2), ("data", "rows"), axis_types=(AxisType.Explicit,) * 2)
  found = {}

  def attempt(name, kind, function, *specs):
    try:
      jax.eval_shape(function, *specs)
    except Exception as error:  # read by the test
      found[f"{name}, {kind}"] = f"{type(error).__name__}: {error}"[:300]

  for name, (function, *_) in FUNCTIONS.items():
    parts = jax.shard_map(
      function, mesh=auto, in_specs=P("data"), out_specs=P("data"),
      check_vma=name not in NOT_CHECKED,
    )  # fmt: skip
    if name not in ("confusion_matrix", "score_histogram", "calibration_sums", "temperature_sums"):
      attempt(name, "shard_map", parts, *arguments(name))
    for mesh, spec in ((explicit, P("data")), (both, P("data", "rows")), (both, P(None, "rows"))):
      divided = arguments(name, sharding=NamedSharding(mesh, spec))
      gradient = jax.grad(lambda *xs, f=function: sum(x.sum() for x in jax.tree.leaves(f(*xs))))
      what = dict(value=function) | (dict(gradient=gradient) if name in LOSSES else {})
      for kind, each in what.items():
        attempt(name, f"explicit {spec}, {kind}", each, *divided)
        with jax.set_mesh(mesh):
          attempt(name, f"explicit {spec}, {kind}, set", each, *divided)
  rng = np.random.default_rng(0)
  for name in ("boundary", "boundary_counts", "contour_counts"):  # these read rows of other devices
    function, *specs = FUNCTIONS[name]
    draws = {"f": rng.normal, "i": lambda size: rng.integers(0, CLASSES, size),
             "b": lambda size: rng.random(size) > 0.2}  # fmt: skip
    whole = [jnp.asarray(draws[dtype.dtype.kind](size=shape), dtype) for shape, dtype in specs]
    divided = jax.device_put(whole, NamedSharding(both, P("data", "rows")))
    if not (jax.jit(function)(*divided) == jax.jit(function)(*whole)).all():
      found[name] = "another value where rows are divided"
  return found


@pytest.mark.slow
def test_on_eight_devices():
  environment = os.environ | dict(XLA_FLAGS=eight_devices(), PYTHONPATH=str(ROOT))
  done = subprocess.run(
    [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout) == {}


def test_class_weights_of_a_divided_batch_are_those_of_a_whole_one():
  mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))
  rng = np.random.default_rng(0)
  logits = rng.normal(size=LOGITS[0]).astype(np.float32)
  label = rng.integers(0, CLASSES, LABEL[0])
  divided = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (logits, label)]
  weigh = of_logits(losses.cross_entropy, class_weights=(1.0, 0.5, 3.0))
  np.testing.assert_array_equal(jax.jit(weigh)(*divided, None), jax.jit(weigh)(logits, label, None))


if __name__ == "__main__":
  print(json.dumps(on_eight_devices()))
