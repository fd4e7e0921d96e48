"""EoMT: its outputs beside those of transformers, the matching, the loss, masks that vanish."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import torchvision_models
from light import build, random_variables
from test_decoders import images, randomize
from test_parity import relative

from segjax import losses, models, weights
from segjax.data.labels import IGNORE
from segjax.errors import UserError
from segjax.losses.masks import shares
from segjax.models import dinov2
from segjax.tasks import MaskClassification
from segjax.training.steps import Net

NAMES = ("ground", "road", "house")


# ---------------------------------------------------------------------------- the net


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_masks_and_classes_are_those_of_transformers(masked, tmp_path):
  torchvision_models()  # which transformers imports
  import torch

  transformers = pytest.importorskip("transformers", reason="transformers is not installed")
  config = transformers.EomtConfig(
    hidden_size=24, num_hidden_layers=4, num_attention_heads=3, image_size=56, patch_size=8,
    num_register_tokens=2, num_upscale_blocks=2, num_blocks=2, num_queries=5, num_labels=6,
  )  # fmt: skip
  theirs = randomize(transformers.EomtForUniversalSegmentation(config))
  theirs.attn_mask_probs.fill_(float(masked))
  theirs.save_pretrained(tmp_path)
  fields = dict(width=24, depth=4, num_heads=3, patch=8, grid=7, registers=2)
  backbone = partial(dinov2.DinoV2, **fields)
  net = models.make("eomt", backbone=backbone, queries=5, blocks=2, num_classes=6)
  variables, report = weights.load_torch(tmp_path / "model.safetensors", random_variables(net))
  assert not (report.missing or report.unexpected or report.other_classes)
  image = images((56, 56))
  with torch.no_grad():
    want = theirs(torch.tensor(image).permute(0, 3, 1, 2))
    masks = torch.nn.functional.interpolate(want.masks_queries_logits, (56, 56), mode="bilinear")
    objects = want.class_queries_logits.softmax(-1)[..., :-1]
    scores = torch.einsum("bqk,bqhw->bhwk", objects, masks.sigmoid()).numpy()
  image = jnp.asarray(image)
  apply = partial(net.apply, train=False, mutable=["intermediates"])
  logits, sown = jax.jit(lambda v, x: apply(v, x, 0.0 if masked else None))(variables, image)
  sown = sown["intermediates"]
  assert len(sown["masks"]) == (3 if masked else 1)
  found = np.moveaxis(sown["masks"][-1], -1, 1)
  assert relative(found, want.masks_queries_logits.numpy()) < 1e-4
  assert relative(sown["classes"][-1], want.class_queries_logits.numpy()) < 1e-4
  assert relative(np.exp(logits), scores) < 1e-4


def test_another_backbone_is_one_clear_error():
  with pytest.raises(UserError, match=r"EoMT: backbone is .*expected a partial of dinov2.DinoV2"):
    random_variables(models.make("eomt", backbone=models.resnet18))
  with pytest.raises(UserError, match="dinov2_vits14"):
    random_variables(models.make("eomt", backbone="resnet18"))


def test_a_backbone_by_position():
  net = models.make("eomt", backbone=partial(dinov2.DinoV2, 12, 6, 3), num_classes=2, blocks=1)
  found = jax.eval_shape(
    partial(net.init, train=False), jax.random.key(0), jnp.zeros((1, 28, 28, 3))
  )
  assert found["params"]["backbone"]["pos_embed"].shape[-1] == 12
  assert "blocks_5" in found["params"]["backbone"] and "blocks_6" not in found["params"]["backbone"]


def test_masks_vanish_from_block_to_block():
  net = models.make("eomt", blocks=3)
  found = [[float(net._share(i, p)) for i in range(3)] for p in (0.0, 0.2, 0.3, 0.5, 0.8, 1.0)]
  half = 0.5**0.9
  want = [[1, 1, 1], [1, 1, 1], [half, 1, 1], [0, half, 1], [0, 0, 0], [0, 0, 0]]
  np.testing.assert_allclose(found, want, atol=1e-6)
  assert net._share(0, None) is None


def test_a_masked_query_sees_its_mask_alone(monkeypatch):
  """Of two patches; other tokens and queries that are free see all."""
  vit = models.eomt.QueryViT(width=4)
  monkeypatch.setattr(models.eomt.QueryViT, "make_rng", lambda *_: jax.random.key(0))
  masks = np.zeros((400, 4, 8, 3), np.float32) - 1
  masks[..., :4, 1], masks[..., 2] = 1, 1  # none, the left patch, both
  x = jnp.zeros((400, 3 + 2 + 2, 4))
  sees = np.asarray(vit._mask(masks, x, (1, 2), 1.0, False))
  assert sees.shape == (400, 1, 7, 7) and sees[:, :, 3:].all() and sees[..., :5].all()
  np.testing.assert_array_equal(sees[0, 0, :3, 5:], [[0, 0], [1, 0], [1, 1]])
  drawn = np.asarray(vit._mask(masks, x, (1, 2), 0.25, True))[:, 0, :3, 5:]
  assert drawn[:, 2].all() and abs(drawn[:, 0].all(-1).mean() - 0.75) < 0.1
  assert vit._mask(masks, x, (1, 2), 0.25, False).all()


# ---------------------------------------------------------------------------- matching and loss


@pytest.mark.parametrize("shape", [(7, 3, 8), (7, 5, 5), (2, 3, 4, 9)])
def test_the_matching_is_scipys(shape):
  """The least cost; of costs without ties the same pairs."""
  optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
  rng = np.random.default_rng(0)
  present = rng.random(shape[:-1]) < 0.7
  for draw in (lambda: rng.normal(size=shape), lambda: rng.integers(0, 3, shape)):
    cost = draw().astype(np.float32)
    found = np.asarray(jax.jit(losses.match)(cost, present)).reshape(-1, shape[-2])
    for c, p, query in zip(
      cost.reshape(-1, *shape[-2:]), present.reshape(found.shape), found, strict=True
    ):
      rows, columns = optimize.linear_sum_assignment(c[p])
      assert len(set(query)) == len(query)
      assert c[p, query[p]].sum() == pytest.approx(c[p][rows, columns].sum(), abs=1e-5)
      if draw.__code__.co_names[0] == "normal":
        np.testing.assert_array_equal(query[p], columns)


def test_a_matching_needs_a_query_for_each_target():
  with pytest.raises(ValueError, match="5 targets for 4 queries"):
    losses.match(jnp.zeros((5, 4)), jnp.ones(5, bool))
  broken = np.array([[np.nan, np.nan, 1], [np.nan] * 3], np.float32)
  found = np.asarray(jax.jit(losses.match)(broken, np.ones(2, bool)))
  assert found[0] == 2 and found[1] < 2


def test_shares_of_cells():
  mask = np.zeros((1, 3, 7), bool)
  mask[0, :2, :4] = True
  found = jax.jit(lambda x: shares(x, (2, 3), 2.5))(mask)
  rows, columns = np.array([2, 0]) / 2.5, np.array([2.5, 1.5, 0]) / 2.5
  np.testing.assert_allclose(found[0], np.outer(rows, columns), atol=1e-6)


def drawn(seed=0, count=2, queries=5, classes=4, cells=(6, 8)):
  """Masks, classes, and labels that are alike in cells of 2x2 pixels; class 3 is absent."""
  rng = np.random.default_rng(seed)
  masks = rng.normal(0, 2, (count, *cells, queries)).astype(np.float32)
  logits = rng.normal(0, 2, (count, queries, classes + 1)).astype(np.float32)
  label = rng.integers(0, 3, (count, *cells)).repeat(2, 1).repeat(2, 2)
  label[1] = np.where(label[1] == 1, 0, label[1])
  return masks, logits, label


@pytest.mark.torch
@pytest.mark.slow
def test_the_loss_is_that_of_transformers():
  """Of its functions, with every cell in the place of points drawn at random."""
  torchvision_models()
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  transformers = pytest.importorskip("transformers", reason="transformers is not installed")
  from scipy.optimize import linear_sum_assignment
  from transformers.models.eomt import modeling_eomt as eomt

  masks, logits, label = drawn()
  sums = jax.jit(partial(losses.mask_classification, cell=2.0))(masks, logits, label)
  criterion = eomt.EomtLoss(transformers.EomtConfig(num_labels=4), {})
  points = [torch.tensor(m).flatten(0, 1).T for m in masks]  # [Q,cells]
  kinds = [torch.tensor(np.unique(y)) for y in label]
  targets = [
    torch.stack([torch.tensor(y[::2, ::2] == int(k)).flatten() for k in ks]).float()
    for y, ks in zip(label, kinds, strict=True)
  ]
  pairs = []
  for x, t, ks, z in zip(points, targets, kinds, torch.tensor(logits), strict=True):
    cost = 5 * eomt.pair_wise_sigmoid_cross_entropy_loss(x, t) + 5 * eomt.pair_wise_dice_loss(x, t)
    pairs.append(linear_sum_assignment(cost - 2 * z.softmax(-1)[:, ks]))
  pairs = [tuple(map(torch.tensor, pair)) for pair in pairs]
  count = sum(map(len, kinds))
  assert count == 5 == int(sums["targets"].sum())
  x = torch.cat([x[q] for x, (q, _) in zip(points, pairs, strict=True)])
  t = torch.cat([t[n] for t, (_, n) in zip(targets, pairs, strict=True)])
  want = dict(
    mask=eomt.sigmoid_cross_entropy_loss(x, t, count),
    dice=eomt.dice_loss(x, t, count),
    cross_entropy=criterion.loss_labels(torch.tensor(logits), kinds, pairs)["loss_cross_entropy"],
  )
  divisors = dict(mask="targets", dice="targets", cross_entropy="weight")
  for name, value in want.items():
    found = float(sums[name].sum() / sums[divisors[name]].sum())
    assert found == pytest.approx(float(value), rel=1e-5), name


def test_ignored_pixels_and_images_count_for_nothing():
  masks, logits, label = drawn()
  loss = jax.jit(partial(losses.mask_classification, cell=2.0))
  label[:, :, 8:] = 1
  valid = np.ones(label.shape, bool)
  valid[:, :, 8:], valid[1] = False, False
  found = loss(masks, logits, label, valid=valid)
  cut = loss(masks[:, :, :4], logits, label[:, :, :8])
  for name, value in found.items():
    assert float(value[0]) == pytest.approx(float(cut[name][0]), rel=1e-5), name
  assert found["targets"][1] == found["mask"][1] == found["dice"][1] == 0
  label[0, 0, 0] = 4
  wrong = loss(masks, logits, label, valid=valid)
  assert np.isnan(wrong["mask"][0]) and np.isfinite(wrong["mask"][1])


def test_the_side_of_a_cell_is_that_of_the_label():
  masks, logits, label = drawn()
  found = losses.mask_classification(masks, logits, label.astype(np.uint8))
  want = losses.mask_classification(masks, logits, label, cell=2.0)
  assert found.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(found[name], value)
  with pytest.raises(ValueError, match=r"6x8 cells for labels of 12x14 pixels .*give `cell`"):
    losses.mask_classification(masks, logits, label[:, :, :14])
  with pytest.raises(TypeError, match="class indices"):
    losses.mask_classification(masks, logits, label.astype(np.float32))


def test_more_classes_than_queries():
  masks, logits, label = drawn(queries=2)
  found = jax.jit(partial(losses.mask_classification, cell=2.0))(masks, logits, label)
  assert found["targets"].tolist() == [2, 2] and np.isfinite(found["mask"]).all()


# ---------------------------------------------------------------------------- the task


def test_the_terms_of_the_loss_are_means():
  task = MaskClassification(NAMES)
  sums = dict(cross_entropy=6.0, weight=3.0, mask=8.0, dice=2.0, targets=4)
  assert task.terms(sums) == dict(cross_entropy=4.0, mask=10.0, dice=2.5)
  assert task.loss(sums) == 16.5
  empty = dict.fromkeys(sums, 0.0)
  assert task.loss(empty) == 0


@pytest.mark.parametrize("fields", [dict(sigmoid=True), dict(lovasz=1.0), dict(own="a:b")])
def test_losses_of_pixels_are_refused(fields):
  with pytest.raises(UserError, match=f"switch off .*{next(iter(fields))}|sigmoid needs 2"):
    MaskClassification(NAMES, **fields)


def test_a_net_without_masks_is_one_clear_error():
  net = models.make("unet", widths=(4, 8), num_classes=3)
  how = dict(mean=(0.0,) * 3, std=(1.0,) * 3, train=False)
  called = Net(net, random_variables(net), **how)
  with pytest.raises(UserError, match=r"set model\.name to 'eomt'"):
    jax.eval_shape(lambda x: MaskClassification(NAMES).outputs(called, x), images((16, 16)))


@pytest.mark.weekly
def test_it_learns_two_regions():
  """From masks that vanish; the predictions of an evaluation become right."""
  task, net = MaskClassification(NAMES), build("eomt", blocks=2)
  rng = np.random.default_rng(0)
  label = np.zeros((4, 28, 42), int)
  for i, y in enumerate(label):
    y[:, 14 * (1 + i % 2) :] = 1 + i // 2
  image = jnp.asarray(label[..., None] - 1 + 0.1 * rng.normal(size=(*label.shape, 3)), jnp.float32)
  label[:, :2] = IGNORE
  label, valid = jnp.asarray(label), jnp.ones(4, bool)

  def outputs(params, progress, train, key=None):
    how = dict(train=train, mutable=["intermediates"], rngs=dict(dropout=key) if train else {})
    logits, sown = net.apply(dict(params=params), image, progress, **how)
    sown = sown["intermediates"]
    return dict(logits=logits, **{k: sown[k] for k in ("masks", "classes", "cell")})

  import optax

  optimizer = optax.adam(3e-3)

  @jax.jit
  def step(params, state, i):
    def loss(params):
      out = outputs(params, i / 60, True, jax.random.fold_in(jax.random.key(0), i))
      sums = task.statistics(out, label, valid, evaluating=False)
      return task.loss(sums)

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  params = random_variables(net)["params"]
  state, history = optimizer.init(params), []
  for i in range(80):
    params, state, value = step(params, state, i)
    history.append(float(value))
  assert history[-1] < 0.5 * history[0]
  pred = task.predict(jax.jit(lambda p: outputs(p, None, False))(params))
  assert float((pred == label)[label != IGNORE].mean()) > 0.9
