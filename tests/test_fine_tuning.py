"""Layer-wise learning rates and LoRA: fine-tuning a pretrained transformer."""

from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from light import random_variables, shapes

from segjax import config as config_lib
from segjax import models, weights
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.models import dinov3, layers, lora
from segjax.training import experiment, freezing, layer_decay, optim, steps

TINY = partial(dinov3.DinoV3, depth=3, width=8, num_heads=2, registers=1)


def names_of(net):
  return list(flax.traverse_util.flatten_dict(shapes(net)["params"], sep="/"))


# ---------------------------------------------------------------------------- layer-wise decay


def test_learning_rates_shrink_from_the_head_to_the_patches():
  names = names_of(models.make("classifier", backbone=TINY, num_classes=2))
  found = layer_decay.factors(names, 0.5)
  kinds = {
    "head/fc/kernel": 1, "backbone/norm/scale": 1, "backbone/blocks_2/attn/q/kernel": 0.5,
    "backbone/blocks_1/ls1/gamma": 0.25, "backbone/blocks_0/norm1/bias": 0.125,
    "backbone/patch_embed_proj/kernel": 0.0625, "backbone/cls_token": 0.0625,
    "backbone/register_tokens": 0.0625,
  }  # fmt: skip
  assert {k: found[k] for k in kinds} == kinds
  assert set(found.values()) == set(kinds.values())


@pytest.mark.parametrize(
  ("names", "order"),
  [
    (
      ["patch_embed_proj", "layers_0_blocks_0", "layers_0_blocks_1", "layers_0_downsample_norm",
       "layers_1_blocks_0", "norm"],
      [5, 4, 3, 2, 1, 0],
    ),
    (
      ["downsample_layers_0_0", "stages_0_0", "stages_0_1", "downsample_layers_1_1", "stages_1_0"],
      [3, 3, 2, 1, 1],
    ),
    (["bn1", "conv1", "layer1_0", "layer1_1", "layer2_0"], [4, 4, 3, 2, 1]),
    (["patch_embeddings_0_proj", "block_0_0", "block_0_1", "layer_norm_0"], [4, 3, 2, 1]),
  ],
)  # fmt: skip
def test_other_backbones_have_an_order_too(names, order):
  """Swin, ConvNeXt, ResNet, MiT."""
  full = [f"backbone/{n}/kernel" for n in names]
  found = layer_decay.factors(full, 0.5)
  assert [found[n] for n in full] == [0.5**i for i in order]


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion"])
def test_an_optimizer_scales_its_updates_by_layer(name):
  """As if each parameter had a learning rate of its own; frozen ones stay out of it."""
  params = dict(backbone=dict(blocks_0=dict(w=jnp.ones(2)), blocks_1=dict(w=jnp.ones(2))))
  params["head"] = dict(w=jnp.ones(2))
  grads = jax.tree.map(lambda x: x * 0.3, params)

  def update(decay, frozen=()):
    made = optim.make_optimizer(
      name, optax.constant_schedule(0.1), weight_decay=0.01, layer_decay=decay
    )
    if frozen:
      made = optax.multi_transform(
        dict(trained=made, frozen=optax.set_to_zero()), lambda p: freezing.labels(p, frozen)
      )
    return made.update(grads, made.init(params), params)[0]

  plain, scaled = update(1.0), update(0.5)
  for part, factor in (("blocks_0", 0.25), ("blocks_1", 0.5)):
    want = factor * plain["backbone"][part]["w"]
    np.testing.assert_allclose(scaled["backbone"][part]["w"], want, rtol=1e-6)
  np.testing.assert_array_equal(scaled["head"]["w"], plain["head"]["w"])
  held = update(0.5, ("backbone/blocks_1/w",))
  assert not held["backbone"]["blocks_1"]["w"].any()
  np.testing.assert_array_equal(
    held["backbone"]["blocks_0"]["w"], scaled["backbone"]["blocks_0"]["w"]
  )


def test_wrong_layer_decays_are_errors():
  for decay, words in ((0.0, "above 0"), (1.5, "at most 1")):
    with pytest.raises(UserError, match=words):
      layer_decay.factors(["backbone/blocks_0/w"], decay)
  with pytest.raises(UserError, match="no blocks of a backbone"):
    optim.make_optimizer("sgd", 0.1, layer_decay=0.9).init(dict(down1=dict(kernel=jnp.ones(1))))


# ---------------------------------------------------------------------------- LoRA


@pytest.mark.slow
def test_lora_starts_as_the_net_itself_and_is_merged_exactly():
  """Additions of queries and values alone, which count, and come back as part of the kernels."""
  image = np.random.default_rng(0).normal(size=(1, 32, 48, 3)).astype(np.float32)
  net = models.make("classifier", backbone=TINY, lora_rank=2, num_classes=2)
  variables = random_variables(net)
  flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
  added = [n for n in flat if n.endswith("lora_b")]
  assert {n.split("/")[-2] for n in added} == {"q", "v"} and len(added) == 2 * 3
  plain, without = lora.merged(net, variables)
  assert plain.lora_rank == 0
  run = jax.jit(lambda v: net.apply(v, image, train=False))
  found = jax.jit(lambda v: plain.apply(v, image, train=False))(without)
  assert set(names_of(plain)) == set(flax.traverse_util.flatten_dict(without["params"], sep="/"))
  np.testing.assert_allclose(found, run(variables), rtol=1e-4, atol=1e-5)
  flat |= {n: np.zeros_like(flat[n]) for n in added}
  none = dict(params=flax.traverse_util.unflatten_dict(flat, sep="/"))
  assert np.abs(run(none) - found).max() > 1e-2
  start = jax.jit(lambda: net.init(jax.random.key(0), image, train=False))()["params"]
  start = flax.traverse_util.flatten_dict(start, sep="/")
  assert all(not start[n].any() for n in added)
  assert all(start[n.replace("lora_b", "lora_a")].any() for n in added)


def test_weights_of_a_run_with_lora_start_a_net_without():
  net = models.make("classifier", backbone=TINY, lora_rank=2, num_classes=2)
  source = random_variables(net)
  plain = models.make("classifier", backbone=TINY, num_classes=2)
  loaded, report = weights.load_variables(source, random_variables(plain))
  assert not (report.missing or report.unexpected)
  part = source["params"]["backbone"]["blocks_1"]["attn"]["q"]
  want = part["kernel"] + part["lora_a"] @ part["lora_b"]
  found = loaded["params"]["backbone"]["blocks_1"]["attn"]["q"]
  assert found.keys() == {"kernel", "bias"}
  np.testing.assert_allclose(found["kernel"], want, rtol=1e-5, atol=1e-6)
  # Of a net with additions they are taken as they are; a file without leaves them as initialised.
  loaded, report = weights.load_variables(source, random_variables(net))
  jax.tree.map(np.testing.assert_array_equal, loaded["params"], source["params"])
  _, report = weights.load_variables(random_variables(plain), source)
  assert {n.split("/")[-1] for n in report.missing} == {"lora_a", "lora_b"}


def test_freezing_leaves_the_additions_free():
  names = names_of(models.make("classifier", backbone=TINY, lora_rank=2))
  params = flax.traverse_util.unflatten_dict(dict.fromkeys(names, 0), sep="/")
  frozen = set(freezing.frozen_names("^backbone/", params))
  left = set(names) - frozen
  assert {n.split("/")[-1] for n in left if n.startswith("backbone/")} == {"lora_a", "lora_b"}
  assert len(left) == 2 * 2 * 3 + 2


def test_lora_without_a_transformer_is_an_error():
  config = config_lib.default()
  config.model = dict(name="unet", widths=(4, 8), lora_rank=4)
  config.total_steps, config.total_epochs = 1, 0.0
  with pytest.raises(UserError, match=r"lora_rank is 4.*dinov3_vits16"):
    experiment.build(config, default_table(("no", "yes")))


@pytest.mark.slow
def test_a_frozen_transformer_trains_its_head(monkeypatch):
  """By config, with rates by layer; of the backbone nothing but LoRA's additions moves."""
  monkeypatch.setitem(models.BACKBONES, "tiny", (TINY, layers.MeanHead))
  c = config_lib.default()
  c.model = dict(name="fcn", backbone="tiny", output_stride=16, lora_rank=2)
  c.update(total_steps=12, total_epochs=0.0, freeze="^backbone/")
  c.data.update(size=(32, 48), batch_size=4)
  c.optimizer.update(name="adamw", layer_decay=0.8)
  c.schedule.learning_rate = 1e-2
  made = experiment.build(c, default_table(("no", "yes")))
  state, _ = made.init()
  first = flax.traverse_util.flatten_dict(jax.device_get(state.params), sep="/")
  rng, step, losses = np.random.default_rng(0), made.train_step(), []
  label = rng.integers(0, 2, (4, 2, 3)).repeat(16, 1).repeat(16, 2).astype(np.uint8)
  image = (label[..., None] * 150 + rng.integers(0, 60, (4, 32, 48, 3))).astype(np.uint8)
  batch = dict(image=image, label=label, valid=np.ones(4, bool))
  for _ in range(8):
    state, sums = step(state, steps.put_batch(batch, made.mesh))
    losses.append(float(made.task.loss(sums)))
  last = flax.traverse_util.flatten_dict(jax.device_get(state.params), sep="/")
  moved = {n for n in first if not np.array_equal(first[n], last[n])}
  assert {n for n in moved if n.startswith("backbone/")} == {n for n in first if "lora" in n}
  assert {n for n in first if n.startswith("head/")} <= moved
  assert losses[-1] < 0.8 * losses[0]
