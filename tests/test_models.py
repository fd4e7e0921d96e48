"""The road U-Net and the properties of all nets; `test_zoo` has one tester over every net."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_with_core_packages
from light import random_variables, shapes

from segjax import models
from segjax.errors import UserError

SMALL = dict(widths=(4, 6, 8), num_classes=3)


def test_train_is_keyword_only_without_a_default():
  net, image = models.make("unet", **SMALL), np.zeros((1, 8, 8, 3), np.float32)
  with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'train'"):
    net.apply({}, image)
  with pytest.raises(TypeError, match="takes 2 positional arguments but 3"):
    net.apply({}, image, False)


@pytest.mark.parametrize("skip", [True, False])
def test_skip_connections_carry_detail(skip):
  """Through the bottleneck the image reaches the logits of any U-Net, past it only by skips."""
  net = models.make("unet", widths=(4, 6), num_classes=1, skip=skip)
  image = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
  variables = random_variables(net)

  @jax.jit
  @functools.partial(jax.grad, argnums=1)
  def sensitivity(params, image):
    return (net.apply(dict(params=params), image, train=False) ** 2).sum()

  params = variables["params"]
  assert np.any(sensitivity(params, image))
  blocked = jax.tree.map(np.zeros_like, params["bottom"])
  assert np.any(sensitivity(params | dict(bottom=blocked), image)) == skip


def test_parameter_names_are_api():
  """The names of the road U-Net; renaming one breaks checkpoints: do it on purpose only."""
  variables = shapes(models.make("unet"))
  flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
  blocks = [f"{b}{i}" for b in ("down", "join") for i in (1, 2, 3, 4)] + ["bottom"]
  want = {f"{b}/conv{i}" for b in blocks for i in (1, 2)} | {f"up{i}" for i in (1, 2, 3, 4)}
  assert {k.rpartition("/")[0] for k in flat} == want | {"head"}


def test_one_value_a_channel_is_nothing_to_normalise_by():
  net = models.layers.BatchNorm()
  variables = net.init(jax.random.key(0), jnp.ones((1, 1, 1, 3)), train=True)
  with pytest.raises(UserError, match=r"single value per channel .*batch_size=2"):
    net.apply(variables, jnp.ones((1, 1, 1, 3)), train=True, mutable=["batch_stats"])
  net.apply(variables, jnp.ones((1, 1, 1, 3)), train=False)
  net.apply(variables, jnp.ones((2, 1, 1, 3)), train=True, mutable=["batch_stats"])


@pytest.mark.slow
def test_logits_of_an_image_that_the_backbone_extends_are_cut(shallow_backbones):
  net = models.make("backbone_unet", backbone="shallow_vgg", widths=(4,) * 5, num_classes=2)
  image = np.random.default_rng(1).random((1, 20, 45, 3), np.float32)
  variables = random_variables(net)
  apply = jax.jit(lambda v, x: net.apply(v, x, train=False))
  whole = np.pad(image, ((0, 0), (0, 12), (0, 0), (0, 0)), mode="edge")
  np.testing.assert_array_equal(apply(variables, image), apply(variables, whole)[:, :20])


def test_unknown_names_list_what_there_is():
  with pytest.raises(ValueError, match=r"did you mean 'unet'.*encoder_decoder, .*unet"):
    models.make("unett")
  with pytest.raises(ValueError, match=r"unknown dtype 'bfloat'; did you mean 'bfloat16'"):
    models.make("unet", dtype="bfloat")
  with pytest.raises(ValueError, match=r"did you mean 'widths'.*fields: num_classes, widths"):
    models.make("unet", width=(3,))
  with pytest.raises(ValueError, match="transposed2, transposed3, bilinear"):
    shapes(models.make("unet", up="nearest"))
  with pytest.raises(ValueError, match="'pad' or 'resize'"):
    shapes(models.make("unet", fit="crop"))


@pytest.mark.torch
def test_same_as_a_torch_unet():
  """The road U-Net with the same weights gives PyTorch's logits."""
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  f = torch.nn.functional
  net = models.make("unet")
  variables = random_variables(net)
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


@pytest.mark.slow
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
    task = Segmentation(("a", "b"), sigmoid=True)
    schedule = optim.make_schedule("constant", learning_rate=1e-3, total_steps=3)
    optimizer, mesh = optim.make_optimizer("adam", schedule), steps.make_mesh()
    s = state.init_state(net, optimizer, jax.random.key(0), size=(16, 16))
    step = steps.make_train_step(net, task, optimizer, mesh=mesh)
    batch = dict(image=np.zeros((2, 16, 16, 3), np.uint8), label=np.ones((2, 16, 16), np.uint8),
                 valid=np.ones(2, bool))
    s, sums = step(s, steps.put_batch(batch, mesh))
    print("loss", float(task.loss(sums)), int(s.step))
  """
  done = run_with_core_packages(code)
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("loss 0.69")
