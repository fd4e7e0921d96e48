"""The losses of the segmentation task: from a config to a number, and class weights by a rule."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import write_pairs

from segjax import config as config_lib
from segjax import losses, ranges, study, textfiles, training
from segjax.errors import UserError
from segjax.tasks import ClassQuery, MaskClassification, Segmentation
from segjax.training import class_balance, preflight, restore, workdir
from segjax.training import experiment as experiment_lib
from segjax.training.evaluation import merge
from segjax.training.input_pipeline import make_source

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 6, 8, 3)).astype(np.float32)
LABEL = np.where(RNG.random((5, 6, 8)) < 0.8, RNG.integers(0, 3, (5, 6, 8)), 255)
MASK = np.array([True, True, False, True, True])
VALID = (LABEL != 255) & MASK[:, None, None]
WEIGHTS = (20.0, 1.0, 0.3)


def pixels(loss, **how):
  return lambda z, y: np.asarray(loss(z, y, valid=VALID, **how)).sum() / VALID.sum()


def images(loss, **how):
  return lambda z, y: np.asarray(loss(z, y, valid=VALID, **how))[MASK].sum() / MASK.sum()


def hardest(z, y):
  loss = np.asarray(losses.cross_entropy(z, y, valid=VALID))
  kept = [np.sort(each[v])[::-1][: max(1, round(0.1 * v.sum()))] for each, v in zip(loss, VALID)]  # noqa: B905
  kept = np.concatenate([k for k, m in zip(kept, MASK, strict=True) if m])
  return kept.mean()


def weighted(z, y):
  loss = losses.cross_entropy(z, y, valid=VALID, class_weights=WEIGHTS)
  return np.asarray(loss).sum() / np.array(WEIGHTS)[y[VALID]].sum()


CASES = {  # fields of the task -> the loss they stand for
  "smooth": (dict(cross_entropy=1.0, label_smoothing=0.2),
             pixels(losses.cross_entropy, label_smoothing=0.2)),
  "ohem": (dict(ohem=1.0, ohem_share=0.1), hardest),
  "boundary": (dict(boundary=0.5), lambda *a: 0.5 * pixels(losses.boundary)(*a)),
  "jaccard": (dict(jaccard=1.0), images(losses.jaccard)),
  "tversky": (dict(tversky=1.0, tversky_alpha=0.2, tversky_beta=0.9),
              images(losses.tversky, alpha=0.2, beta=0.9)),
  "focal_tversky": (dict(tversky=1.0, tversky_gamma=0.75), images(losses.focal_tversky)),
  "lovasz": (dict(lovasz=2.0), lambda *a: 2 * images(losses.lovasz)(*a)),
  "sum": (dict(cross_entropy=1.0, dice=0.5, lovasz=1.0),
          lambda *a: pixels(losses.cross_entropy)(*a) + 0.5 * images(losses.dice)(*a)
          + images(losses.lovasz)(*a)),
}  # fmt: skip


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_loss_of_the_task_is_the_mean_over_what_counts(name, sigmoid):
  """Also of statistics that are summed over batches, one of them without a scored pixel."""
  given, want = CASES[name]
  label = np.where(LABEL == 2, 1, LABEL) if sigmoid else LABEL
  logits = LOGITS[..., :1] if sigmoid else LOGITS
  task = Segmentation(("a", "b", "c")[: 2 if sigmoid else 3], sigmoid=sigmoid,
                      **dict(cross_entropy=0.0) | given)  # fmt: skip
  parts, statistics = [], jax.jit(partial(task.statistics, evaluating=False))
  for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
    sums = statistics(logits[part], jnp.asarray(label[part]), MASK[part])
    assert np.isfinite(float(task.loss(sums)))
    parts.append(sums)
  want = float(want(logits, label))
  assert task.summary(merge(parts))["loss"] == pytest.approx(want, rel=1e-5)


def test_class_weights_of_the_task_weigh_dice_where_asked():
  label = jnp.asarray(LABEL)
  of_dice = losses.dice(LOGITS, LABEL, valid=VALID, class_weights=WEIGHTS)
  plain = images(losses.dice)(LOGITS, LABEL)
  want = {True: float(np.asarray(of_dice)[MASK].mean()), False: plain}
  for asked in (False, True):
    task = Segmentation(("a", "b", "c"), dice=1.0, class_weights=WEIGHTS, dice_weighted=asked)
    sums = task.statistics(LOGITS, label, MASK, evaluating=False)
    total = weighted(LOGITS, LABEL) + want[asked]
    assert float(task.loss(sums)) == pytest.approx(total, rel=1e-5)
  assert abs(want[True] - want[False]) > 1e-3


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(cross_entropy=0.0), "the loss is empty: one of cross_entropy, .*lovasz must be above 0"),
    (dict(dice_weighted=True), "dice_weighted needs loss.class_weights and a softmax"),
    (dict(dice_weighted=True, class_weights=(1.0, 2.0), sigmoid=True), "needs .* a softmax"),
  ],
)
def test_losses_that_do_not_fit_together(fields, words):
  with pytest.raises(UserError, match=words):
    Segmentation(("a", "b"), **fields)


def test_a_loss_of_a_tasks_own_term_is_not_empty():
  ClassQuery(("a", "b"), cross_entropy=0.0, attention=1.0)
  MaskClassification(("a", "b"), cross_entropy=0.0, dice=0.0, mask=1.0)
  with pytest.raises(UserError, match="one of cross_entropy, attention must be above 0"):
    ClassQuery(("a", "b"), cross_entropy=0.0)


@pytest.mark.parametrize("name", ["jaccard", "tversky", "lovasz", "ohem", "boundary", "dice"])
def test_class_query_has_none_of_them(name):
  with pytest.raises(UserError, match=f"switch off {name}"):
    ClassQuery(("a", "b"), **{name: 1.0})


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("lovasz", -1.0, "at least 0"),
    ("ohem_share", 0.0, "above 0"),
    ("ohem_share", 1.5, "up to 1"),
    ("tversky_gamma", 0.0, "above 0"),
    ("tversky_beta", float("nan"), "at least 0"),
    ("label_smoothing", 1.0, "below 1"),
    ("boundary", float("inf"), "at least 0"),
    ("class_weights", ("median",), "unknown rule .*'median'.*median_frequency"),
    ("class_weights", ("inverse", 1.0), "expected a number per class or the name of one rule"),
  ],
)
def test_values_out_of_range(field, value, words):
  config = config_lib.default()
  config.loss[field] = value
  with pytest.raises(UserError, match=words):
    ranges.check(config)


@pytest.mark.parametrize("term", ["focal", "ohem", "dice"])
@pytest.mark.parametrize(
  "field, value", [("class_weights", ("median_frequency",)), ("label_smoothing", 0.1)]
)
def test_what_is_for_the_cross_entropy_needs_it(term, field, value):
  loss = config_lib.default().loss
  loss.update({"cross_entropy": 0.0, term: 1.0, field: value})
  with pytest.raises(UserError, match=rf"loss\.{field} is for the cross-entropy, .* is 0"):
    preflight.check_loss(loss)
  loss.cross_entropy = 0.5
  preflight.check_loss(loss)


def test_class_weights_of_dice_alone():
  loss = config_lib.default().loss
  loss.update(cross_entropy=0.0, dice=1.0, dice_weighted=True, class_weights=(1.0, 2.0))
  preflight.check_loss(loss)


def test_an_unknown_loss_is_named():
  config = config_lib.default()
  config.loss.lovaz = 1.0
  with pytest.raises(UserError, match="'lovaz' in loss; did you mean 'lovasz'"):
    config_lib.check(config)


# ---------------------------------------------------------------------------- weights by a rule


def config_of(tmp_path, rule, task="segmentation"):
  """A config on a small set of own images of two classes."""
  config = config_lib.default()
  folder = write_pairs(tmp_path / "data", count=10, size=(24, 32))
  config.data.source = config_lib.data_source("folder", folder=str(folder))
  config.data.size, config.data.batch_size = (16, 16), 2
  config_lib.set_task(config, task, class_weights=(rule,))
  config.model = dict(name="unet", widths=(4, 4))
  return config


@pytest.mark.parametrize("rule", losses.RULES)
def test_a_rule_counts_the_train_split(rule, tmp_path):
  config = config_of(tmp_path, rule)
  config.task.sigmoid = False
  ranges.check(config)
  config_lib.check(config)
  source = make_source(config, "train").source
  counts = np.array([[(source[i]["label"] == c).sum() for c in (0, 1)] for i in range(len(source))])
  want = losses.class_weights(counts, rule)
  assert class_balance.count(config) == tuple(want) and want[0] != want[1]
  assert class_balance.count(config, source) == tuple(want)
  experiment = experiment_lib.build(config, source.labels)
  assert experiment.task.class_weights == tuple(want)
  assert config.loss.class_weights == (rule,)
  experiment = experiment_lib.build(config, source.labels, class_weights=(1.0, 7.0))
  assert experiment.task.class_weights == (1.0, 7.0)


def test_a_rule_for_images_of_one_class():
  config = config_lib.default()
  config_lib.set_task(config, "classification", class_weights=("median_frequency",))
  config.data.source = config_lib.data_source("digits")
  source = make_source(config, "train").source
  count = np.bincount([int(source[i]["label"]) for i in range(len(source))])
  np.testing.assert_allclose(class_balance.count(config), np.median(count) / count, rtol=1e-12)


def test_an_override_names_a_rule():
  config = config_lib.read("configs/unet_camvid.py")
  study.override(config, "loss.class_weights", "median_frequency")
  assert config.loss.class_weights == ("median_frequency",)
  study.override(config, "loss.class_weights", "(1.0, 2.0)")
  assert config.loss.class_weights == (1.0, 2.0)


def test_a_folder_keeps_the_weights_of_its_run(tmp_path):
  config = config_of(tmp_path, "inverse")
  source = make_source(config, "train")
  labels, folder = source.source.labels, tmp_path / "run"
  data = workdir.fingerprint(source, make_source(config, "val"))
  workdir.prepare(config, folder, labels, data, 0.0, (0.25, 3.0))
  kept = textfiles.read_state(folder / class_balance.FILE)
  assert kept == dict(rule="inverse", weights=dict(zip(labels.names, (0.25, 3.0), strict=True)))
  assert class_balance.read(folder, "inverse", labels) == (0.25, 3.0)
  assert workdir.kept_class_weights("inverse", folder, labels) is None  # it starts anew
  (folder / "checkpoints" / "3").mkdir(parents=True)
  assert workdir.kept_class_weights("inverse", folder, labels) == (0.25, 3.0)
  assert class_balance.read(folder, "inverse_log", labels) is None
  assert class_balance.read(folder, class_balance.rule(config_lib.default().loss), labels) is None
  for damaged in ({"a": 1.0}, {labels.names[0]: 1.0, labels.names[1]: "x"}, [1.0, 2.0]):
    broken = dict(rule="inverse", weights=damaged)
    (folder / class_balance.FILE).write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"class_weights.json: found .* a weight for each of"):
      class_balance.read(folder, "inverse", labels)


def test_no_file_without_a_rule(tmp_path):
  config = config_of(tmp_path, "inverse")
  config.loss.class_weights = (1.0, 2.0)
  source = make_source(config, "train")
  data = workdir.fingerprint(source, make_source(config, "val"))
  workdir.prepare(config, tmp_path / "run", source.source.labels, data, 0.0, (1.0, 2.0))
  assert not (tmp_path / "run" / class_balance.FILE).exists()


@pytest.mark.slow
def test_training_by_a_rule_says_its_weights(tmp_path, capsys):
  config = config_of(tmp_path, "median_frequency")
  config.total_steps, config.total_epochs, config.writers, config.pictures = 2, 0.0, (), 0
  training.train(config, tmp_path / "run")
  weights = class_balance.count(config)
  names = make_source(config, "train").source.labels.names
  text = ", ".join(f"{n} {w:.3g}" for n, w in zip(names, weights, strict=True))
  assert f"by 'median_frequency': {text}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_keeps_its_weights_and_resumes_with_them(tmp_path, monkeypatch):
  config = config_of(tmp_path, "median_frequency")
  config.total_steps, config.total_epochs, config.writers, config.pictures = 2, 0.0, (), 0
  training.train(config, tmp_path / "run")
  weights = class_balance.count(config)
  labels = make_source(config, "train").source.labels
  assert class_balance.read(tmp_path / "run", "median_frequency", labels) == weights
  monkeypatch.setattr(class_balance, "count", lambda *_: 1 / 0)  # nothing is counted again
  experiment, _ = restore.run(tmp_path / "run")
  assert experiment.task.class_weights == weights
  config.total_steps = 4
  training.train(config, tmp_path / "run")
  assert class_balance.read(tmp_path / "run", "median_frequency", labels) == weights
