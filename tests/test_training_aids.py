"""Early stopping, and steps that are not finite, kept and repeated."""

import math
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import write_pairs
from test_training import same, tiny_config

from segjax import training
from segjax.analysis import commands
from segjax.errors import UserError
from segjax.training import nan_debug
from segjax.training.checkpoints import NotFinite
from segjax.training.early_stopping import EarlyStopping
from segjax.training.evaluation import read_sums
from segjax.training.state import TrainState
from segjax.training.writers import read_metrics

# ---------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize(
  "mode, min_delta, values, ends, best",
  [
    ("max", 0.0, [0.1, 0.3, 0.2, 0.3, 0.9], 4, 0.3),  # equal is no improvement
    ("min", 0.0, [3.0, 2.0, 2.5, 1.0, 1.5, 1.2], 6, 1.0),
    ("min", 0.5, [3.0, 2.6, 2.5, 2.4], 3, 3.0),  # a change of min_delta is none
    ("max", 0.0, [None, 0.2, math.nan, None], 4, 0.2),
    ("max", 0.0, [None, math.nan, 1.0], 2, math.nan),
    ("max", 0.0, [0.1, 0.2, 0.3, 0.4], None, 0.4),
  ],
)
def test_a_training_ends_after_so_many_evaluations_without_an_improvement(
  mode, min_delta, values, ends, best
):
  stops, found = EarlyStopping("m", mode=mode, patience=2, min_delta=min_delta), None
  for i, value in enumerate(values, 1):
    stops.add(i, dict(m=value))
    if stops.done:
      found = i
      break
  assert found == ends
  np.testing.assert_equal(stops.best, best)


def test_the_rows_of_a_run_decide_and_patience_0_never_ends_one(tmp_path):
  config = tiny_config(tmp_path)
  config.early_stopping.update(patience=1, metric="val/loss", mode="min")
  rows = [
    {"step": 3, "val/loss": 2.0},
    {"step": 3, "val/loss": 1.0},
    {"step": 4, "train/loss": 0.5},
  ]
  assert not EarlyStopping.of(config, rows).done
  stops = EarlyStopping.of(config, [*rows, {"step": 6, "val/loss": 1.5}])
  assert stops.done
  assert stops.text() == (
    "val/loss has not improved in 1 evaluations; its best is 1.0000, at step 3"
  )
  config.early_stopping.patience = 0
  assert not EarlyStopping.of(config, [*rows, {"step": 6, "val/loss": 1.5}]).done


@pytest.mark.weekly
def test_a_resumed_run_ends_at_the_step_of_an_uninterrupted_one(tmp_path, capsys):
  data = write_pairs(tmp_path / "data", count=10)
  config = tiny_config(data, total_steps=20, eval_steps=2)
  config.schedule.learning_rate, config.ema_decay = 0.0, 0.0  # batch norm alone changes
  config.early_stopping.update(patience=2, metric="val/iou/thing", min_delta=1.0)
  whole = training.train(config, tmp_path / "whole")
  assert "  stopped     early: val/iou/thing has not improved in 2" in capsys.readouterr().out
  assert int(whole.step) == 6
  training.train(config, tmp_path / "parts", until=4)
  assert same(whole, training.train(config, tmp_path / "parts"))
  done = training.train(config, tmp_path / "parts")
  assert int(done.step) == 6
  assert "nothing left to train (val/iou/thing" in capsys.readouterr().out
  kept = read_sums(tmp_path / "whole")
  (tmp_path / "whole" / "val_sums.npz").unlink()  # which the same command brings back
  assert int(training.train(config, tmp_path / "whole").step) == 6
  np.testing.assert_equal(read_sums(tmp_path / "whole"), kept)
  config.early_stopping.patience = 3
  assert int(training.train(config, tmp_path / "parts").step) == 8
  rows = read_metrics(tmp_path / "parts" / "metrics.jsonl")
  assert [r["step"] for r in rows if "val/loss" in r] == [2, 4, 6, 8]
  config.early_stopping.metric = "val/iou/thin"
  with pytest.raises(UserError, match=r"early_stopping.metric .*; did you mean 'val/iou/thing'"):
    training.train(config, tmp_path / "other")
  config.early_stopping.mode = "least"
  with pytest.raises(UserError, match=r"early_stopping.mode is 'least', expected 'max' or 'min'"):
    training.train(config, tmp_path / "other")


# ---------------------------------------------------------------------------- not finite


def test_the_state_before_the_step_and_its_batch_are_kept(tmp_path):
  def step(state, batch):
    loss = jnp.sum(batch["image"]) * state.params["w"][0]
    return state.replace(step=state.step + 1), dict(loss=loss, grad_norm=jnp.float32(1))

  task = SimpleNamespace(loss=lambda sums: sums["loss"])
  state = TrainState(jnp.int32(4), dict(w=jnp.array([2.0, -1.0])), {}, ())
  good, bad = (dict(image=jnp.array([1.0, x])) for x in (2.0, jnp.inf))
  watched = nan_debug.watched(step, task, tmp_path)
  assert float(watched(state, good)[1]["loss"]) == 6.0
  assert not (tmp_path / nan_debug.FILE).exists()
  with pytest.raises(NotFinite, match=r"step 5: loss inf.*not_finite.npz"):
    watched(state, bad)
  kept, batch = nan_debug.read(tmp_path / nan_debug.FILE, state)
  assert kept.step == 4
  np.testing.assert_array_equal(kept.params["w"], [2.0, -1.0])
  np.testing.assert_array_equal(batch["image"], [1.0, np.inf])
  narrow = state.replace(params=dict(w=jnp.array([2.0, -1.0], jnp.bfloat16)))
  nan_debug.write(tmp_path / "narrow.npz", narrow, bad)
  kept = nan_debug.read(tmp_path / "narrow.npz", narrow)[0].params["w"]
  assert kept.dtype == jnp.bfloat16 and kept.tolist() == [2.0, -1.0]
  with pytest.raises(UserError, match="state/params/v is not in it"):
    nan_debug.read(tmp_path / nan_debug.FILE, state.replace(params=dict(v=1.0)))
  content = bytearray((tmp_path / nan_debug.FILE).read_bytes())
  content[len(content) // 2] ^= 255
  (tmp_path / nan_debug.FILE).write_bytes(content)
  with pytest.raises(UserError, match="damaged"):
    nan_debug.read(tmp_path / nan_debug.FILE, state)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_kept_by_a_resumed_run_and_repeated(tmp_path, capsys):
  data = write_pairs(tmp_path / "data", count=10)
  config = tiny_config(data, total_steps=20, checkpoint_steps=1)
  config.optimizer.name, config.schedule.learning_rate = "sgd", 1e18
  with pytest.raises(NotFinite, match=r"--config.nan_debug=True the same command keeps the step"):
    training.train(config, tmp_path / "run")
  with pytest.raises(UserError, match="no step was kept"):
    commands.run("replay", dict(workdir=tmp_path / "run"))
  config.nan_debug = True
  with pytest.raises(NotFinite, match=r"launch/analyze.py replay") as error:
    training.train(config, tmp_path / "run")
  capsys.readouterr()
  commands.run("replay", dict(workdir=tmp_path / "run"))
  out = capsys.readouterr().out
  assert f"step {out.split()[1]}: loss" in str(error.value)
  assert "batch image: uint8[2, 16, 24, 3], from " in out
  assert "state before the step, not finite: none" in out
  loss = str(error.value).split("loss ")[1].split(",")[0]
  assert f"  loss {loss}, gradient norm" in out
