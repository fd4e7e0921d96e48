"""Programs that experiments share."""

import jax
import numpy as np
import optax
import pytest

from segjax import config as config_lib
from segjax import own_code
from segjax.data.labels import default_table
from segjax.training import experiment as experiment_lib

LABELS = default_table(("a", "b"))
KINDS = ("train_step", "eval_step", "predict_step", "abstract_state", "_init_program")


def build(change=None, **how):
  config = config_lib.default().unlock()
  config.model = dict(name="unet", widths=(4, 6))
  config.data.size = (16, 16)
  config.task.sigmoid = False
  for field, value in (change or {}).items():
    part, _, last = field.rpartition(".")
    part = config[part] if part else config
    with part.ignore_type():
      part[last] = value
  return experiment_lib.build(config, LABELS, **dict(steps_per_epoch=3) | how)


def programs(experiment):
  made = {kind: getattr(experiment, kind)() for kind in KINDS}
  return made | dict(train_step=made["train_step"].func)


@pytest.mark.parametrize(
  "change",
  [{"seed": 1}, {"name": "b"}, {"data.source.folder": "elsewhere"}, {"init_from": "runs/x"}],
)
def test_other_seeds_and_folders_have_the_same_programs(change):
  first, second = programs(build()), programs(build(change))
  assert all(first[kind] is second[kind] for kind in KINDS)


@pytest.mark.parametrize(
  ("change", "how"),
  [
    ({"schedule.learning_rate": 0.5}, {}),
    ({"data.mean": (0.5, 0.5, 0.5)}, {}),
    ({"model.widths": (4, 8)}, {}),
    ({"loss.dice": 1.0}, {}),
    ({"augment.flip": 0.5}, {}),
    ({"ema_decay": 0.9}, {}),
    ({"freeze": "down1"}, {}),
    ({"epochs": 7}, {}),
    ({}, dict(steps_per_epoch=4)),
    ({"loss.class_weights": ("median_frequency",)}, dict(class_weights=(1.0, 2.0))),
  ],
)
def test_anything_else_has_programs_of_its_own(change, how):
  first, second = programs(build()), programs(build(change, **how))
  assert not any(first[kind] is second[kind] for kind in KINDS)


def test_weights_of_classes_that_the_labels_gave_count():
  weights = [(1.0, 2.0), (1.0, 3.0)]
  change = {"loss.class_weights": ("median_frequency",)}
  a, b = (programs(build(change, class_weights=w))["train_step"] for w in weights)
  assert a is not b


@pytest.mark.slow
def test_each_seed_draws_its_own_parameters_and_dropout():
  experiments = [build({"seed": seed, "model.dropout": 0.5}) for seed in (0, 1, 0)]
  states = [e.init()[0] for e in experiments]
  rng = np.random.default_rng(0)
  batch = dict(
    image=rng.integers(0, 256, (4, 16, 16, 3), np.uint8),
    label=rng.integers(0, 2, (4, 16, 16), np.uint8),
    valid=np.ones(4, bool),
  )
  stepped = [e.train_step()(s, batch)[0].params for e, s in zip(experiments, states, strict=True)]
  first, other, again = map(optax.tree.norm, stepped)
  assert first == again != other
  kernels = [jax.tree.leaves(s) for s in stepped]
  assert all(np.array_equal(x, y) for x, y in zip(kernels[0], kernels[2], strict=True))


def test_code_of_the_user_is_traced_anew(tmp_path, monkeypatch):
  code = "import optax\n\ndef make(learning_rate):\n  return optax.sgd(learning_rate)\n"
  (tmp_path / "own_parts.py").write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  config = build().config
  config.optimizer = dict(name="own_parts:make")
  own_code.allow(config)
  first, second = (programs(experiment_lib.build(config, LABELS)) for _ in range(2))
  assert not any(first[kind] is second[kind] for kind in KINDS)
