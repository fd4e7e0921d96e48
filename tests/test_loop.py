"""The loop: runs that resume, are refused, are stopped, are killed, and start from one another."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT, eight_devices, launch, write_pairs
from test_training import same, tiny_config

from segjax import config as config_lib
from segjax import training
from segjax.analysis import figures
from segjax.errors import Stopped, UserError
from segjax.training import evaluator, initial, input_pipeline, restore
from segjax.training import experiment as experiment_lib
from segjax.training.background import Background
from segjax.training.checkpoints import Checkpoints
from segjax.training.log import Log
from segjax.training.writers import read_metrics


@pytest.fixture
def data(tmp_path):
  return write_pairs(tmp_path / "data", count=10)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """(final state, workdir) of an uninterrupted run of `tiny_config` on data like `data`."""
  root = tmp_path_factory.mktemp("whole")
  data = write_pairs(root / "data", count=10)
  return training.train(tiny_config(data), root / "run"), root / "run"


def rows_of(run):
  """The rows of a run's metrics.jsonl, without times and the row about the run itself."""
  rows = [r for r in read_metrics(run / "metrics.jsonl") if "info/total_steps" not in r]
  return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]


def test_a_run_is_a_pure_function_of_its_config_and_resumes_bit_for_bit(whole, data, tmp_path):
  """State and rows of another run, in two parts; `test_training` has those of other seeds."""
  whole, workdir = whole
  half = tiny_config(data, total_steps=3)
  training.train(half, tmp_path / "parts")
  resumed = training.train(tiny_config(data), tmp_path / "parts")
  assert same(whole, resumed)
  assert rows_of(workdir) == rows_of(tmp_path / "parts")
  steps = [(r["step"], r["train/steps"]) for r in rows_of(workdir) if "train/steps" in r]
  assert steps == [(2, 2), (3, 1), (4, 1), (6, 2)]
  done = training.train(tiny_config(data), tmp_path / "parts")
  assert same(whole, done)


@pytest.mark.slow
def test_a_run_whose_rows_were_lost_says_so_and_continues(whole, data, tmp_path, capsys):
  run = tmp_path / "run"
  training.train(tiny_config(data, total_steps=3), run)
  (run / "metrics.jsonl").unlink()
  assert "lost" not in capsys.readouterr().out
  assert same(whole[0], training.train(tiny_config(data), run))
  assert "metrics.jsonl has no rows" in capsys.readouterr().out
  rows = read_metrics(run / "metrics.jsonl")
  assert rows[0]["step"] == 3 and rows[0]["info/steps_per_epoch"] == 3
  assert figures.curves(run, "run", run / "curves.png").is_file()


@pytest.mark.slow
def test_the_step_is_compiled_once(data, tmp_path, monkeypatch):
  made = []
  for kind in ("train_step", "eval_step"):
    original = getattr(experiment_lib.Experiment, kind)

    def spy(self, *args, original=original):
      made.append(original(self, *args))
      return made[-1]

    monkeypatch.setattr(experiment_lib.Experiment, kind, spy)
  training.train(tiny_config(data), tmp_path / "run")
  made = {id(f): f for f in made}.values()  # the check before the first step asks for one too
  assert [getattr(f, "func", f)._cache_size() for f in made] == [1, 1]


def test_what_a_workdir_holds(data, tmp_path, capsys):
  """And that the metric of the best checkpoint is the first that is printed."""
  run = tmp_path / "run"
  training.train(tiny_config(data, writers=("pictures",), best_metric="val/recall/thing"), run)
  lines = [x.split() for x in capsys.readouterr().out.splitlines() if x.startswith("  val ")]
  assert [x[:4] for x in lines] == [["val", "step", n, "recall/thing"] for n in "36"]
  assert json.loads((run / "config.json").read_text())["data"]["batch_size"] == 2
  rows = read_metrics(run / "metrics.jsonl")
  assert rows[0]["info/steps_per_epoch"] == 3
  assert rows[0]["info/total_steps"] == 6
  assert rows[0]["info/parameters"] > 0
  assert sum(r.get("train/steps", 0) for r in rows) == 6
  assert [r["step"] for r in rows if "val/loss" in r] == [3, 6]
  assert sorted(p.name for p in (run / "images").iterdir()) == [
    "val_examples_step000003.png",
    "val_examples_step000006.png",
  ]
  kept = sorted(int(p.name) for p in (run / "checkpoints").iterdir())
  assert kept in ([6], [3, 6])


@pytest.mark.slow
def test_training_continues_while_pictures_are_drawn(data, tmp_path, monkeypatch):
  after, seen, run = threading.Event(), [], tmp_path / "run"

  def panel(rows):
    seen.append(after.wait(20))
    return rows[0][0][1]

  def next_batch(*args, original=input_pipeline.next_batch):
    if len(read_metrics(run / "metrics.jsonl")) > 1:  # the first evaluation's row is there
      after.set()
    return original(*args)

  monkeypatch.setattr(evaluator, "panel", panel)
  monkeypatch.setattr(input_pipeline, "next_batch", next_batch)
  training.train(tiny_config(data, writers=("pictures",), log_steps=100), run)
  assert seen == [True, True]


def test_background_works_in_order_and_reports_errors_once():
  done, background = [], Background("test")
  gate = threading.Event()
  background.submit(gate.wait, 20)
  for i in range(5):
    background.submit(done.append, i)
  assert not done
  gate.set()
  background.wait()
  assert done == [0, 1, 2, 3, 4]
  background.submit([].pop)
  with pytest.raises(IndexError, match="pop from empty list"):
    background.wait()
  background.submit([].pop)
  while not background._errors:
    time.sleep(0.001)
  with pytest.raises(IndexError, match="pop from empty list"):
    background.submit(done.append, 5)
  background.submit(done.append, 6)
  background.close()
  background.wait()
  assert done == [0, 1, 2, 3, 4, 6]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux")
def test_background_and_what_it_starts_give_way_to_the_steps():
  def priority():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

  own, found, background = priority(), [], Background("test")

  def work():
    found.append(priority())
    thread = threading.Thread(target=lambda: found.append(priority()))
    thread.start()
    thread.join()

  background.submit(work)
  background.wait()
  background.close()
  assert found == [19, 19]
  assert priority() == own


def open_checkpoints(folder):
  return Checkpoints(folder, best_metric="val/loss", best_mode="min")


def test_a_checkpoint_holds_what_was_when_it_was_saved(tmp_path, monkeypatch):
  """While it is written the data go on, and the arrays are given to the next step."""
  goes_on, save = threading.Event(), ocp.CheckpointManager.save

  def slow_save(self, *args, **kwargs):
    assert goes_on.wait(20)
    return save(self, *args, **kwargs)

  monkeypatch.setattr(ocp.CheckpointManager, "save", slow_save)
  data = grain.MapDataset.range(10).to_iter_dataset()
  iterator, state = iter(data), dict(x=jnp.arange(3.0))
  assert [next(iterator) for _ in range(2)] == [0, 1]
  with contextlib.closing(open_checkpoints(tmp_path)) as checkpoints:
    checkpoints.save(7, state, iterator)
    assert next(iterator) == 2
    state["x"].delete()
    goes_on.set()
    checkpoints.wait()
    again = iter(data)
    like = dict(x=jax.ShapeDtypeStruct((3,), jnp.float32))
    assert checkpoints.restore(7, like, again)["x"].tolist() == [0, 1, 2]
    assert next(again) == 2


def test_a_checkpoint_that_cannot_be_written_is_reported_at_the_next(tmp_path, monkeypatch):
  def save(*args, **kwargs):
    raise OSError("no space left")

  monkeypatch.setattr(ocp.CheckpointManager, "save", save)
  iterator = iter(grain.MapDataset.range(10).to_iter_dataset())
  checkpoints = open_checkpoints(tmp_path)
  for then in ("save", "wait", "close"):
    checkpoints.save(1, dict(x=jnp.zeros(2)), iterator)
    args = (2, dict(x=jnp.zeros(2)), iterator) if then == "save" else ()
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*no space left"):
      getattr(checkpoints, then)(*args)


@pytest.mark.slow
def test_pictures_that_cannot_be_written_are_reported(data, tmp_path):
  (tmp_path / "images").write_text("")
  with pytest.raises(UserError, match=r"cannot write to .*images"):
    training.train(tiny_config(data, writers=("pictures",)), tmp_path)


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_beside_the_latest(data, tmp_path):
  config = tiny_config(data, total_steps=8, eval_steps=1, best_metric="val/loss", best_mode="min")
  config.schedule.learning_rate = 0.3  # so large that the best is not the last
  training.train(config, tmp_path / "run")
  rows = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "val/loss" in r]
  best = min(rows, key=lambda r: r["val/loss"])["step"]
  kept = {int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()}
  assert kept == {best, 8}
  _, state = restore.run(tmp_path / "run", "best")
  assert int(state.step) == best
  with pytest.raises(UserError, match=f"there is 'best', 'latest', .*{best}"):
    restore.run(tmp_path / "run", "77")


@pytest.mark.slow
def test_checkpoints_of_chosen_steps_are_kept(data, tmp_path):
  config = tiny_config(data, total_steps=9, eval_steps=9, keep_epochs=(0.34, 4 / 3))
  training.train(config, tmp_path / "run")  # of 3 steps per epoch
  kept = {int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()}
  assert kept == {1, 4, 9}
  assert int(restore.run(tmp_path / "run", "4")[1].step) == 4
  sums = np.load(tmp_path / "run" / "val_sums.npz")
  assert sums["step"] == 9
  assert sums["matrix"].sum() == sums["pixels"]
  with pytest.raises(UserError, match="keep_steps and keep_epochs are both set"):
    training.train(tiny_config(data, keep_steps=(1,), keep_epochs=(1,)), tmp_path / "other")


@pytest.mark.slow
def test_another_model_in_the_same_workdir_is_refused_and_named(data, tmp_path):
  training.train(tiny_config(data, total_steps=3), tmp_path)
  with pytest.raises(UserError, match=r"model\.widths: \(4, 6\) -> \(4, 8\)"):
    training.train(tiny_config(data, **{"model.widths": (4, 8)}), tmp_path)
  assert config_lib.load(tmp_path / "config.json").model.widths == (4, 6)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(data, tmp_path):
  training.train(tiny_config(data, total_steps=3), tmp_path)
  config = config_lib.load(tmp_path / "config.json")
  config.total_steps, config.schedule.learning_rate = 40, 1e30
  config_lib.save(config, tmp_path / "config.json")
  with pytest.raises(UserError, match=r"not finite at step \d+.*checkpoint of step \d+ is kept"):
    training.train(config, tmp_path)
  _, state = restore.run(tmp_path, "latest")
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_metric_that_is_not_measured_is_named(data, tmp_path):
  with pytest.raises(UserError, match=r"'val/miou' is not measured.*val/mean_iou"):
    training.train(tiny_config(data, best_metric="val/miou"), tmp_path)


KILLED = """
import sys
from test_training import tiny_config
from segjax import training
config = tiny_config(sys.argv[1], total_steps=60, eval_steps=20, checkpoint_steps=5, pictures=0)
training.train(config, sys.argv[2])
"""


def run_killable(data, workdir):
  return subprocess.Popen(
    [sys.executable, "-c", KILLED, str(data), str(workdir)],
    cwd=ROOT / "tests",
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for_step(workdir, step):
  limit = time.time() + 120
  while time.time() < limit:
    rows = read_metrics(workdir / "metrics.jsonl")
    if rows and rows[-1]["step"] >= step:
      return
    time.sleep(0.005)
  raise AssertionError(f"step {step} was never reached")


@pytest.mark.slow
@pytest.mark.parametrize(
  "moments", [(23,), pytest.param((7, 23, 41), marks=pytest.mark.weekly)], ids=str
)
def test_killed_and_resumed_equals_uninterrupted(data, tmp_path, moments):
  config = tiny_config(data, total_steps=60, eval_steps=20, checkpoint_steps=5, pictures=0)
  whole = training.train(config, tmp_path / "whole")
  for step in moments:
    process = run_killable(data, tmp_path / "killed")
    wait_for_step(tmp_path / "killed", step)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
  resumed = training.train(config, tmp_path / "killed")
  assert int(resumed.step) == 60
  assert same(whole, resumed)
  assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "killed")


@pytest.mark.slow
def test_a_signal_amid_a_steps_bookkeeping_is_saved_too(data, tmp_path, monkeypatch):
  """The signal comes while the row of steps 1 and 2 is written, step 3 being under way."""
  original = Log.add

  def add(self, step, *args):
    original(self, step, *args)
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(Log, "add", add)
  with pytest.raises(Stopped) as stopped:
    training.train(tiny_config(data, total_steps=40, eval_steps=40), tmp_path)
  assert stopped.value.step == 3
  _, state = restore.run(tmp_path, "latest")
  assert int(state.step) == 3


@pytest.mark.slow
def test_a_signal_in_the_last_step_lets_nothing_else_begin(data, tmp_path, monkeypatch):
  original = evaluator.Evaluator.run

  def evaluate_slowly(self, state, step):
    if step == 6:
      os.kill(os.getpid(), signal.SIGTERM)
    return original(self, state, step)

  monkeypatch.setattr(evaluator.Evaluator, "run", evaluate_slowly)
  with pytest.raises(Stopped) as stopped:
    training.train(tiny_config(data), tmp_path)
  assert stopped.value.step == 6
  assert int(training.train(tiny_config(data), tmp_path).step) == 6


@pytest.mark.slow
def test_other_data_and_other_lengths_of_a_schedule_are_refused(data, tmp_path):
  config = tiny_config(data, **{"schedule.name": "one_cycle"})
  training.train(config, tmp_path / "run")
  longer = tiny_config(data, **{"schedule.name": "one_cycle", "total_steps": 9})
  with pytest.raises(UserError, match=r"total_steps: 6 -> 9 \(the schedule 'one_cycle' depends"):
    training.train(longer, tmp_path / "run")
  moved = (tmp_path / "data").rename(tmp_path / "moved")
  config.data.source.folder = str(moved)
  assert int(training.train(config, tmp_path / "run").step) == 6
  (moved / "images" / "x003.png").rename(moved / "images" / "y.png")
  (moved / "masks" / "x003.png").rename(moved / "masks" / "y.png")
  with pytest.raises(UserError, match=r"other data: train was \[7, .*Use the old data"):
    training.train(config, tmp_path / "run")
  (moved / "classes.txt").write_text("ground\nother\n")
  with pytest.raises(UserError, match="classes was"):
    training.train(config, tmp_path / "run")


@pytest.mark.slow
def test_a_run_is_restored_on_as_many_devices_as_divide_its_batch(data, tmp_path):
  training.train(tiny_config(data, **{"data.batch_size": 6}), tmp_path / "run")
  code = """
    import sys
    from segjax.training import restore
    from segjax.training import restore
    experiment, state = restore.run(sys.argv[1])
    print(experiment.mesh.size, int(state.step))
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run")], cwd=ROOT, text=True,
    capture_output=True, env={**os.environ, "XLA_FLAGS": eight_devices()}, check=False,
  )  # fmt: skip
  assert done.stdout.split() == ["2", "6"], done.stderr


@pytest.mark.slow
def test_a_run_starts_from_the_best_checkpoint_of_another(data, tmp_path):
  """Not from an early one that was kept, and whatever devices it was trained on."""
  config = dict(keep_steps=(1, 2), best_metric="val/loss", best_mode="max")
  training.train(tiny_config(data, **config), tmp_path / "run")
  assert restore.checkpoint_steps(tmp_path / "run")[0] == 1
  experiment, state = restore.run(tmp_path / "run", "best")
  assert int(state.step) in (3, 6)
  fresh, _ = experiment.init()
  variables = dict(params=fresh.params, batch_stats=fresh.batch_stats)
  loaded, _ = initial.load_initial(str(tmp_path / "run"), "all", variables)
  assert same(loaded, state.eval_variables())
  shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
  with pytest.raises(UserError, match="no checkpoints/<step>"):
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    initial.load_initial(str(tmp_path / "run"), "all", variables)


@pytest.mark.weekly
def test_a_run_of_many_devices_starts_one_of_few(data, tmp_path):
  code = """
    import sys
    from test_training import tiny_config
    from segjax import training
    config = tiny_config(sys.argv[1])
    config.data.batch_size = 8
    config.data.source.train_fraction = 0.8
    training.train(config, sys.argv[2])
  """
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code), str(data), str(tmp_path / "run")],
    cwd=ROOT / "tests", text=True, capture_output=True, check=False,
    env={**os.environ, "XLA_FLAGS": eight_devices()},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  experiment, state = restore.run(tmp_path / "run", "best")
  fresh, _ = experiment.init()
  variables = dict(params=fresh.params, batch_stats=fresh.batch_stats)
  loaded, _ = initial.load_initial(str(tmp_path / "run"), "all", variables)
  assert same(loaded, state.eval_variables())


@pytest.mark.slow
@pytest.mark.parametrize(
  "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.weekly)]
)
def test_sigterm_and_ctrl_c_save_and_say_so(tmp_path, number):
  args = ["--config=configs/unet_road.py:smoke", f"--workdir={tmp_path / 'run'}",
          "--config.total_steps=2000", "--config.eval_steps=1000",
          "--config.writers=()", "--config.schedule.name=constant"]  # fmt: skip
  process = subprocess.Popen(
    [sys.executable, "launch/train.py", *args], cwd=ROOT, stdout=subprocess.PIPE, text=True
  )
  wait_for_step(tmp_path / "run", 6)
  process.send_signal(number)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 128 + number
  assert "saved. The same command with the same --workdir resumes" in output
  stopped = int(output.split("stopped at step ")[1].split(";")[0])
  done = launch("train", *args, f"--config.total_steps={stopped + 2}")
  assert done.returncode == 0, done.stderr
  assert f"from the checkpoint of step {stopped}\n" in done.stdout, done.stdout
