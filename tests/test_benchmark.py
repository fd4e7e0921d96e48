"""The benchmark's figures, its peer, and that it needs the core packages alone."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import launch, run_with_core_packages, write_pairs
from jax.experimental.compilation_cache import compilation_cache

from segjax import config as config_lib
from segjax import models
from segjax.benchmark import machine, peer, step, timing, training
from segjax.errors import UserError
from segjax.models.cost import static_cost


@pytest.fixture(autouse=True)
def small_rates(monkeypatch):
  """The machine's rates by small arrays, which take no seconds."""
  for name, size in (("matrix_rate", dict(size=256)), ("memory_rate", dict(megabytes=8))):
    monkeypatch.setattr(step, name, partial(getattr(step, name), **size))


def tiny_config():
  c = config_lib.default()
  c.model = dict(name="unet", widths=(4, 6), dtype="float32")
  c.data.update(size=(16, 24), batch_size=2)
  return c


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.slow
def test_figures_fit_together(mode):
  config = tiny_config()
  program = step.prepare(config, mode)
  found = step.measure(program, config, mode, repeats=3)
  json.dumps(found)
  assert found["images_per_s"] == pytest.approx(2 / found["seconds"])
  assert found["gflops_per_s"] == pytest.approx(found["gflops"] / found["seconds"])
  assert found["share"] == pytest.approx(found["gflops_per_s"] / found["matrix_gflops_per_s"])
  by_bytes = found["gbytes"] / found["memory_gbytes_per_s"]
  assert found["floor_s"] == pytest.approx(
    max(found["gflops"] / found["matrix_gflops_per_s"], by_bytes)
  )
  assert found["gbytes"] > 4 * 2 * 16 * 24 * (4 + 4) / 1e9
  net = models.make(**config.model, num_classes=1)
  assert found["parameters"] == static_cost(net, (16, 24))[0]
  assert found["compile_s"] > 0 and found["peak_mb"] > 0
  # 2 * 9 * (3*4 + 4*4 + 4*6 + 6*6 ...) products per pixel at the least, twice more to train.
  least = 2 * 2 * 16 * 24 * 9 * (3 * 4 + 4 * 4) / 1e9 * (3 if mode == "train" else 1)
  assert least < found["gflops"] < 20 * least


def test_a_train_program_trains():
  """The state goes from call to call, or the donated one would be used again."""
  config = tiny_config()
  program = step.prepare(config, "train")
  states = [program.call()[0] for _ in range(3)]
  assert int(states[-1].step) == 3


@pytest.mark.slow
def test_class_weights_by_a_rule_need_no_data():
  config = tiny_config()
  config.task.sigmoid, config.loss.class_weights = False, ("median_frequency",)
  config.data.source = config_lib.data_source("folder", folder="/nowhere")
  assert int(step.prepare(config, "train").call()[0].step) == 1


@pytest.mark.slow
def test_several_steps_per_call_are_reported_per_step():
  config = tiny_config()
  single = step.prepare(config, "train")
  config.steps_per_dispatch = 3
  program = step.prepare(config, "train")
  states = [program.call()[0] for _ in range(2)]
  assert int(states[-1].step) == 6
  assert (program.steps, program.images, program.gflops) == (3, 2, single.gflops)
  found = step.measure(program, config, "train", repeats=2)
  assert found["steps_per_dispatch"] == 3
  assert found["images_per_s"] == pytest.approx(2 / found["seconds"])
  assert found["floor_s"] == pytest.approx(found["gflops"] / found["matrix_gflops_per_s"])


@pytest.fixture
def timed(monkeypatch):
  """Times of calls; the fastest of them takes a quarter of a second."""
  results = []

  def time_samples(call, repeats):
    results.extend(np.array(call()) for _ in range(repeats))
    return [0.5, 0.25]

  monkeypatch.setattr(machine, "time_samples", time_samples)
  return results


def test_matrix_products_are_counted(timed):
  assert machine.matrix_rate(size=50, repeats=2) == pytest.approx(2 * 50**3 / 0.25e9)
  x = np.asarray(jax.random.normal(jax.random.key(0), (50, 50)))
  np.testing.assert_allclose(timed[0], x @ x, rtol=1e-4, atol=1e-4)


def test_an_accelerators_calls_are_queued(monkeypatch):
  """A call takes 10 ms and its result comes 30 ms after it is waited for."""
  waits, calls = [], []

  def time_calls(call, repeats):
    out = []
    for _ in range(repeats):
      calls.clear()
      waits.append(call())
      out.append(0.01 * len(calls) + 0.03)
    return out

  def call():
    calls.append(0)
    return len(calls)

  monkeypatch.setattr(timing, "time_calls", time_calls)
  assert timing.time_samples(call, 2) == pytest.approx([0.04] * 2)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  waits.clear()
  found = timing.time_samples(call, 2)
  assert waits == [1, 1, 1, 2, 2]  # 0.1 s are two calls of 0.04 s and more
  assert found == pytest.approx([0.025] * 2)


def test_bytes_of_memory_are_counted(timed):
  assert machine.memory_rate(megabytes=8, repeats=2) == pytest.approx(2 * 8e6 / 0.25e9)
  assert [x.nbytes for x in timed] == [8e6] * 2  # each is read and written
  assert [(x.min(), x.max()) for x in timed] == [(1, 1), (2, 2)]


def command(code):
  return f"{sys.executable} -c {json.dumps(code)}"


def test_a_peers_figure_is_read():
  code = "print('warming up'); print('{\\\"train_step_s\\\": 0.5, \\\"infer_s\\\": 0.25}')"
  assert peer.run_peer(command(code), "train") == 0.5
  assert peer.run_peer(command(code), "infer") == 0.25


@pytest.mark.parametrize(
  ("code", "part"),
  [("raise SystemExit('no torch')", "no torch"), ("print(3)", "expected JSON"),
   ("pass", "no output")],
)  # fmt: skip
def test_a_peer_that_fails_is_reported(code, part):
  with pytest.raises(UserError, match=part):
    peer.run_peer(command(code), "train")


def test_the_input_alone(tmp_path):
  config = tiny_config()
  data = write_pairs(tmp_path / "data", count=10)
  config.data.source = config_lib.data_source("folder", folder=str(data), train_fraction=0.7)
  assert training.measure_input(config, batches=3)["images_per_s"] > 0


def test_a_step_of_a_training_beside_the_bare_one(monkeypatch):
  """15 steps of 2 images that are timed took 1 s; the first row, which compiles, is left out."""
  alone = iter(([0.02, 0.03], [0.03, 0.04]))
  monkeypatch.setattr(timing, "time_calls", lambda call, repeats: next(alone)[:repeats])

  def train(config, workdir, before_evaluation):
    rows = [(1, 0.1), (10, 40.0), (5, 20.0)]
    with (workdir / "metrics.jsonl").open("w") as file:
      for step, (steps, rate) in enumerate(rows, 1):
        row = {"step": step, "train/steps": steps, "time/images_per_s": rate}
        file.write(json.dumps(row) + "\n")
        file.write(json.dumps({"step": step, "val/loss": 1.0}) + "\n")
    before_evaluation()
    before_evaluation()

  monkeypatch.setattr("segjax.training.train", train)
  found = training.measure_training(tiny_config(), repeats=2)
  assert found["step_s"] == pytest.approx(1 / 15) and found["bare_step_s"] == pytest.approx(0.03)
  assert found["overhead"] == pytest.approx(1 / 15 / 0.03 - 1)
  assert 0 < found["seconds"] < 60


@pytest.mark.slow
def test_it_needs_the_core_packages_alone(monkeypatch):
  monkeypatch.setenv("GLIBC_TUNABLES", "")  # or it would start anew, without the block
  code = """
    import runpy
    sys.argv = ["benchmark.py", "--config=configs/unet_road.py:smoke", "--repeats=1",
                "--config.data.size=(32,64)", "--config.model.widths=(4,8)"]
    runpy.run_path("launch/benchmark.py", run_name="__main__")
  """
  done = run_with_core_packages(code)
  assert done.returncode == 0, done.stderr
  assert "images_per_s" in done.stdout


def test_compile_times_are_not_those_of_a_cache(tmp_path):
  options = {"compilation_cache_dir": str(tmp_path), "persistent_cache_min_compile_time_secs": 0}
  x = np.ones((8, 8), np.float32)  # of jnp, it would be compiled and kept itself
  before = {k: getattr(jax.config, f"jax_{k}") for k in options}

  def lowered():
    return jax.jit(lambda x: jnp.sin(x @ x)).lower(x)

  def kept():
    return {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}

  try:
    for name, value in options.items():
      jax.config.update(f"jax_{name}", value)
    compilation_cache.reset_cache()
    program, seconds = timing.compile_anew(lowered())
    assert seconds > 0 and program(x).shape == (8, 8)
    assert not kept()
    lowered().compile()
    assert kept()
  finally:
    for name, value in before.items():
      jax.config.update(f"jax_{name}", value)
    compilation_cache.reset_cache()


@pytest.mark.weekly
def test_the_launcher_prints_and_writes(tmp_path):
  file = tmp_path / "figures.json"
  code = "print('{\\\"train_step_s\\\": 0.5}')"
  small = ("--config.data.size=(32,64)", "--config.model.widths=(4,8)", "--config.model.dropout=0")
  args = ("--config=configs/unet_road.py:smoke", *small, f"--json={file}", "--repeats=2")
  args += ("--rounds=2",)
  done = launch("benchmark", *args, f"--peer={command(code)}")
  assert done.returncode == 0, done.stderr
  assert "ratio" in done.stdout
  figures = json.loads(file.read_text())
  assert len(figures["pairs"]) == 2
  ratios = [a / b for a, b in figures["pairs"]]
  assert figures["ratio"] == pytest.approx(np.median(ratios))
  done = launch("benchmark", *args, "--mode=end_to_end")
  assert done.returncode == 0, done.stderr
  figures = json.loads(file.read_text())
  # Six steps of which the rows after the first report four.
  assert figures["seconds"] > 4 * figures["step_s"] > 0 and figures["bare_step_s"] > 0
  done = launch("benchmark", *args, "--mode=trian")
  assert done.returncode == 1 and "'train'" in done.stderr
