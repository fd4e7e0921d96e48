"""One tester over every net: parameter counts, any size, gradients, modes, dtypes, names."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_with_core_packages

from segjax import models
from segjax.errors import UserError

AERIAL = dict(
  num_outputs=8,
  widths=(32, 64, 128, 256, 512),
  norm="batch",
  up="transposed3",
  up_keeps=False,
  up_relu=False,
  dropout=0.5,
  fit="resize",
)
COUNTS = [
  ("encoder_decoder", {}, 53_761),
  ("unet", dict(skip=False), 529_457),
  ("unet", {}, 578_417),
  ("unet", AERIAL, 8_633_672),
]
SMALL = dict(widths=(4, 6, 8), num_outputs=3)
NETS = {
  "encoder_decoder": ("encoder_decoder", dict(num_outputs=3)),
  "unet": ("unet", SMALL),
  "unet_noskip": ("unet", SMALL | dict(skip=False)),
  "unet_batch": ("unet", SMALL | dict(norm="batch", dropout=0.3)),
  "unet_group": ("unet", SMALL | dict(norm="group", up="bilinear", up_keeps=False)),
  "unet_aerial": ("unet", AERIAL | SMALL),
}


def init(name, **fields):
  net = models.make(name, **fields)
  image = jnp.zeros((1, 16, 16, 3))
  return net, jax.jit(lambda: net.init(jax.random.key(0), image, train=False))()


def shapes(name, **fields):
  """Shapes of the variables, without computing them."""
  return jax.eval_shape(lambda: init(name, **fields)[1])


@pytest.mark.parametrize(("name", "fields", "count"), COUNTS)
def test_parameter_count_is_exact(name, fields, count):
  assert models.count_params(shapes(name, **fields)["params"]) == count


@pytest.mark.parametrize("net", NETS)
def test_any_size(net):
  name, fields = NETS[net]
  net, variables = init(name, **fields)
  apply = jax.jit(lambda v, x: net.apply(v, x, train=False))
  for size in ((32, 48), (33, 47), (5, 7), (1, 1)):
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits = jax.eval_shape(apply, variables, image)
    assert logits.shape == (2, *size, 3)
    assert logits.dtype == jnp.float32
  assert jnp.isfinite(apply(variables, jax.random.uniform(jax.random.key(1), (2, 13, 7, 3)))).all()


@pytest.mark.parametrize("net", NETS)
def test_gradients_are_finite_and_reach_every_parameter(net):
  name, fields = NETS[net]
  net, variables = init(name, **fields)
  image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))

  def loss(params):
    logits, _ = net.apply(
      variables | dict(params=params),
      image,
      train=True,
      mutable=["batch_stats"],
      rngs=dict(dropout=jax.random.key(2)),
    )
    return (logits**2).mean() + logits.mean()

  flat = flax.traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables["params"]), sep="/")
  for key, g in flat.items():
    assert jnp.isfinite(g).all(), key
    assert jnp.abs(g).max() > 0, key


@pytest.mark.parametrize("net", ["unet_batch", "unet_aerial"])
def test_train_differs_from_eval_and_moves_the_statistics(net):
  name, fields = NETS[net]
  net, variables = init(name, **fields)
  image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
  rngs = dict(dropout=jax.random.key(2))
  train = jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"], rngs=rngs))
  logits, updates = train(variables, image)
  assert not jnp.allclose(
    logits, jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, image)
  )
  before, after = (jax.tree.leaves(v["batch_stats"]) for v in (variables, updates))
  assert all(not jnp.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("net", NETS)
def test_bfloat16_is_close_and_parameters_stay_float32(net):
  name, fields = NETS[net]
  wide, variables = init(name, **fields)
  narrow, own = init(name, **fields, dtype="bfloat16")
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(own))
  image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
  a, b = (jax.jit(lambda v, n=n: n.apply(v, image, train=False))(variables) for n in (wide, narrow))
  assert b.dtype == jnp.float32
  assert 0 < jnp.abs(a - b).max() < 0.05 * jnp.abs(a).max() + 0.02


def test_train_is_keyword_only_without_a_default():
  net, variables = init("unet", **SMALL)
  with pytest.raises(TypeError):
    net.apply(variables, jnp.zeros((1, 8, 8, 3)))
  with pytest.raises(TypeError):
    net.apply(variables, jnp.zeros((1, 8, 8, 3)), False)


def test_compiles_once():
  net, variables = init("unet", **SMALL)
  apply = jax.jit(lambda v, x: net.apply(v, x, train=False))
  for i in range(3):
    apply(variables, jnp.full((1, 16, 16, 3), float(i)))
  assert apply._cache_size() == 1


def test_skip_connections_carry_detail():
  """Without skips, a change of one pixel reaches the output through the bottleneck alone."""
  for skip in (True, False):
    variables = shapes("unet", **SMALL, skip=skip)
    first = variables["params"]["join1"]["conv1"]["kernel"].shape[2]
    assert first == (6 + 4 if skip else 6)


def test_parameter_names_are_api():
  """The names of the road U-Net; renaming one breaks checkpoints: do it on purpose only."""
  variables = shapes("unet")
  flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
  blocks = [f"{b}{i}" for b in ("down", "join") for i in (1, 2, 3, 4)] + ["bottom"]
  want = {f"{b}/conv{i}" for b in blocks for i in (1, 2)} | {f"up{i}" for i in (1, 2, 3, 4)}
  assert {k.rpartition("/")[0] for k in flat} == want | {"head"}


def test_one_value_a_channel_is_nothing_to_normalise_by():
  net = models.layers.BatchNorm()
  variables = net.init(jax.random.key(0), jnp.ones((1, 1, 1, 3)), train=True)
  with pytest.raises(UserError, match=r"one value a channel .*batch_size=2"):
    net.apply(variables, jnp.ones((1, 1, 1, 3)), train=True, mutable=["batch_stats"])
  net.apply(variables, jnp.ones((1, 1, 1, 3)), train=False)
  net.apply(variables, jnp.ones((2, 1, 1, 3)), train=True, mutable=["batch_stats"])


@pytest.mark.slow
def test_logits_of_an_image_that_the_backbone_extends_are_cut():
  net = models.make("backbone_unet", backbone="vgg11_bn", widths=(4,) * 5, num_outputs=2)
  image = jax.random.uniform(jax.random.key(1), (1, 20, 45, 3))
  variables = net.init(jax.random.key(0), image, train=False)
  whole = jnp.pad(image, ((0, 0), (0, 12), (0, 0), (0, 0)), mode="edge")
  want = net.apply(variables, whole, train=False)[:, :20]
  np.testing.assert_array_equal(net.apply(variables, image, train=False), want)


def test_unknown_names_list_what_there_is():
  with pytest.raises(ValueError, match=r"did you mean 'unet'.*encoder_decoder, .*unet"):
    models.make("unett")
  with pytest.raises(ValueError, match=r"unknown dtype 'bfloat'; did you mean 'bfloat16'"):
    models.make("unet", dtype="bfloat")
  with pytest.raises(ValueError, match=r"did you mean 'widths'.*fields: num_outputs, widths"):
    models.make("unet", width=(3,))
  with pytest.raises(ValueError, match="transposed2, transposed3, bilinear"):
    shapes("unet", up="nearest")
  with pytest.raises(ValueError, match="'pad' or 'resize'"):
    shapes("unet", fit="crop")


def test_same_as_a_torch_unet():
  """The road U-Net with the same weights gives PyTorch's logits."""
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  f = torch.nn.functional
  net, variables = init("unet")
  image = np.random.default_rng(0).random((1, 32, 48, 3), np.float32)
  p = jax.tree.map(np.asarray, variables["params"])

  def conv(x, q, padding):
    kernel = torch.tensor(q["kernel"].transpose(3, 2, 0, 1).copy())
    return f.conv2d(x, kernel, torch.tensor(q["bias"]), padding=padding)

  def double(x, q):
    return torch.relu(conv(torch.relu(conv(x, q["conv1"], 1)), q["conv2"], 1))

  x, skips = torch.tensor(image.transpose(0, 3, 1, 2)), []
  for i in (1, 2, 3, 4):
    skips.append(double(x, p[f"down{i}"]))
    x = f.max_pool2d(skips[-1], 2)
  x = double(x, p["bottom"])
  for i in (4, 3, 2, 1):
    q = p[f"up{i}"]
    kernel = torch.tensor(q["kernel"][::-1, ::-1].transpose(2, 3, 0, 1).copy())
    x = torch.relu(f.conv_transpose2d(x, kernel, torch.tensor(q["bias"]), stride=2))
    x = double(torch.cat([x, skips[i - 1]], 1), p[f"join{i}"])
  want = conv(x, p["head"], 0).numpy().transpose(0, 2, 3, 1)
  got = jax.jit(lambda v: net.apply(v, image, train=False))(variables)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_models_and_a_train_step_need_only_the_core_packages():
  """Runs a train step where importing anything beyond the five packages' own needs fails."""
  code = """
    for b in Block.blocked:
      try:
        __import__(b)
      except ImportError:
        continue
      assert b == "orbax", b  # flax may have imported it by itself
    from segjax import models
    from segjax import config as config_lib
    from segjax.tasks import Segmentation
    from segjax.training import optim, state, steps
    before = set(sys.modules)
    c = config_lib.default()
    net = models.make("unet", widths=(4, 8))
    task = Segmentation(("a", "b"), np.zeros((256, 3), np.uint8), sigmoid=True)
    schedule = optim.make_schedule("constant", learning_rate=1e-3, total_steps=3)
    optimizer, mesh = optim.make_optimizer("adam", schedule), steps.make_mesh()
    s = state.init_state(net, optimizer, jax.random.key(0), size=(16, 16))
    step = steps.make_train_step(net, task, optimizer, mesh=mesh)
    batch = dict(image=np.zeros((2, 16, 16, 3), np.uint8), label=np.ones((2, 16, 16), np.uint8),
                 mask=np.ones(2, bool))
    s, sums = step(s, steps.put_batch(batch, mesh))
    print("loss", float(task.loss(sums)), int(s.step))
  """
  done = run_with_core_packages(code)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("loss 0.69")
