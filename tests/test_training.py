"""Steps, schedules, feeding: exactness, devices."""

import gzip
import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT, eight_devices, write_pairs
from light import random_variables

from segjax import config as config_lib
from segjax import models, ops, training
from segjax.data import pipeline, sources
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.inference import Predictor, run_model
from segjax.tasks import Segmentation
from segjax.training import experiment as experiment_lib
from segjax.training import input_pipeline, optim, restore, steps
from segjax.training.eval_step import make_eval_step
from segjax.training.evaluation import evaluate
from segjax.training.state import init_state
from segjax.training.writers import read_metrics

SIZE = (16, 24)


def tiny_config(folder, **changes):
  """A run of seconds on the files of `write_pairs`."""
  c = config_lib.default()
  c.name = "tiny"
  c.data.source = config_lib.data_source("folder", folder=str(folder), train_fraction=0.7)
  c.data.update(size=SIZE, batch_size=2)
  c.model = dict(name="unet", widths=(4, 6), norm="batch", dropout=0.1, dtype="float32")
  c.total_steps, c.total_epochs = 6, 0.0
  c.eval_steps, c.eval_epochs = 3, 0.0
  c.log_steps, c.pictures, c.ema_decay, c.writers = 2, 1, 0.9, ()
  c.augment.flip = 0.5
  c.batch_augment.cutmix = 0.5
  c.update_from_flattened_dict(changes)
  return c


@pytest.fixture
def data(tmp_path):
  return write_pairs(tmp_path / "data", count=10)


def parts(num_classes=2, sigmoid=True, learning_rate=1e-2, **model):
  table = default_table(tuple("abcd"[:num_classes]))
  task = Segmentation(table.names, table.palette, sigmoid=sigmoid, dice=0.5)
  net = models.make("unet", num_classes=task.num_outputs, **{"widths": (4, 6)} | model)
  schedule = optim.make_schedule("constant", learning_rate=learning_rate, total_steps=10)
  return net, task, optim.make_optimizer("adam", schedule)


def fresh_state(net, optimizer, size=SIZE):
  return jax.jit(lambda: init_state(net, optimizer, jax.random.key(0), size=size))()


def random_batch(count, num_classes=2, seed=0):
  rng = np.random.default_rng(seed)
  return dict(
    image=rng.integers(0, 256, (count, *SIZE, 3)).astype(np.uint8),
    label=rng.choice([*range(num_classes), 255], (count, *SIZE)).astype(np.uint8),
    valid=np.ones(count, bool),
  )


def same(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) for x, y in pairs)


# ---------------------------------------------------------------------------- steps


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_averages_and_norms_of_narrow_parameters_are_wide(dtype):
  net, task, optimizer = parts(param_dtype=dtype)
  mesh = steps.make_mesh(jax.devices()[:1])
  init = lambda: init_state(net, optimizer, jax.random.key(0), size=SIZE, ema=True)  # noqa: E731
  state = jax.eval_shape(init)
  assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(dtype)}
  assert {x.dtype for x in jax.tree.leaves(state.ema_params)} == {jnp.dtype("float32")}
  kinds = jax.tree.map(lambda x: (x.shape, x.dtype), state)
  step = steps.make_train_step(net, task, optimizer, mesh=mesh, ema_decay=lambda step: 0.9)
  new, _ = jax.eval_shape(step, state, random_batch(2))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == kinds
  for value in (1e-5, 300.0):  # squares that float16 does not have
    found = steps.global_norm(dict(a=jnp.full(100, value, dtype)))
    assert float(found) == pytest.approx(10 * float(dtype(value)), rel=1e-6)


@pytest.mark.slow
def test_the_loss_of_a_step_is_optaxs_and_so_is_the_update():
  """One step against the textbook: optax's own loss on float images, Adam by hand."""
  net, task, optimizer = parts()
  task = Segmentation(task.classes, task.palette, sigmoid=True)
  mesh = steps.make_mesh(jax.devices()[:1])
  state = fresh_state(net, optimizer)
  batch = random_batch(4)
  valid = batch["label"] != 255

  def loss_fn(params):
    logits = net.apply(dict(params=params), batch["image"] / np.float32(255), train=True)[..., 0]
    loss = optax.sigmoid_binary_cross_entropy(logits, (batch["label"] == 1).astype("f4"))
    return (loss * valid).sum() / valid.sum()

  want, grads = jax.jit(jax.value_and_grad(loss_fn))(state.params)
  adam = jax.tree.map(lambda p, g: p - 1e-2 * g / (jnp.abs(g) + 1e-8), state.params, grads)
  step = steps.make_train_step(net, task, optimizer, mesh=mesh)
  new, sums = step(state, steps.put_batch(batch, mesh))
  assert float(task.loss(sums)) == pytest.approx(float(want), rel=1e-5)
  assert float(sums["grad_norm"]) == pytest.approx(float(optax.global_norm(grads)), rel=1e-4)
  assert int(new.step) == 1
  for a, b in zip(jax.tree.leaves(new.params), jax.tree.leaves(adam), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.slow
def test_seeds_share_a_program_and_draw_otherwise():
  """The programs of a study's first seed serve the others."""
  config = config_lib.read(f"{ROOT}/configs/unet_road.py:smoke")
  config.augment.brightness, config.data.size = 0.5, SIZE
  config.model.update(widths=(4, 8))
  texts, starts, losses = [], [], []
  for seed in (0, 1, 2**32 - 1):
    config.seed = seed
    exp = experiment_lib.build(config, default_table(("no", "yes")))
    batch = steps.put_batch(random_batch(4), exp.mesh)
    step, state = exp.train_step(), exp.init()[0]
    function, bound = steps.unbound(step)
    texts.append(function.lower(*bound, state, batch).as_text())
    starts.append(np.array(jax.tree.leaves(state.params)[-1]).tolist())
    ones = jax.tree.map(lambda x: 0.1 * jnp.ones_like(x), state.params)
    losses.append(float(step(state.replace(params=ones), batch)[1]["cross_entropy"]))
  assert texts[0] == texts[1] == texts[2]
  assert len(set(map(str, starts))) == len(set(losses)) == 3


@pytest.mark.slow
def test_the_state_is_donated_and_the_average_is_exact():
  net, task, optimizer = parts(norm="batch")
  mesh = steps.make_mesh(jax.devices()[:1])
  init = jax.jit(lambda: init_state(net, optimizer, jax.random.key(0), size=SIZE, ema=True),
                 out_shardings=steps.replicated(mesh))  # fmt: skip
  state = init()
  decay = lambda step: jnp.minimum(0.25, (1 + step) / (10 + step))  # noqa: E731
  step = steps.make_train_step(net, task, optimizer, mesh=mesh, ema_decay=decay)
  want = jax.device_get((state.ema_params, state.ema_batch_stats))
  for seed in range(4):
    old = state
    state, _ = step(state, steps.put_batch(random_batch(4, seed=seed), mesh))
    # Copies: on a CPU device_get gives views, and what is looked at cannot be donated.
    d, new = min(0.25, (1 + seed) / (10 + seed)), (state.params, state.batch_stats)
    new = jax.tree.map(np.array, new)
    want = jax.tree.map(lambda e, p, d=d: d * e + (1 - d) * p, want, new)
    assert all(x.is_deleted() for x in jax.tree.leaves(old.params))
  for a, b in zip(
    jax.tree.leaves((state.ema_params, state.ema_batch_stats)), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)
  assert steps.unbound(step)[0]._cache_size() == 1
  evaluated = dict(params=state.ema_params, batch_stats=state.ema_batch_stats)
  assert same(state.eval_variables(), evaluated)


@pytest.mark.parametrize(("num_classes", "sigmoid"), [(2, True), (3, False)])
@pytest.mark.slow
def test_a_tail_of_seven_at_batch_4_equals_batch_1(num_classes, sigmoid):
  net, task, optimizer = parts(num_classes, sigmoid, norm="batch")
  mesh = steps.make_mesh(jax.devices()[:1])
  state = fresh_state(net, optimizer)
  whole = random_batch(7, num_classes)

  class Source:
    def __len__(self):
      return 7

    def __getitem__(self, i):
      return dict(image=whole["image"][i], label=whole["label"][i])

  eval_step = make_eval_step(net, task, mesh=mesh)
  sums = [
    evaluate(eval_step, state, pipeline.eval_batches(Source(), batch_size=n), mesh) for n in (4, 1)
  ]
  assert sums[0]["examples"] == 7
  for key in sums[0]:
    if np.issubdtype(sums[0][key].dtype, np.integer):
      np.testing.assert_array_equal(sums[0][key], sums[1][key])
    else:
      np.testing.assert_allclose(sums[0][key], sums[1][key], rtol=1e-5)
  assert sums[0]["pixels"] == (whole["label"] != 255).sum() == sums[0]["matrix"].sum()


def feed_both_ways(folder):
  """Trains with data from the host, and with data kept on the device until the host takes over."""
  data = write_pairs(folder / "data", count=10)
  whole = training.train(tiny_config(data, **{"data.feed": "host"}), folder / "host")
  print("then")
  short = tiny_config(data, **{"data.feed": "device", "total_steps": 3})
  training.train(short, folder / "device")
  rows = [
    [{k: v for k, v in r.items() if not k.startswith("time/")} for r in read_metrics(f)]
    for f in (folder / "host" / "metrics.jsonl", folder / "device" / "metrics.jsonl")
  ]
  first, early = ([r for r in run if "info/total_steps" not in r] for run in rows)
  assert first[: len(early)] == early and early[-1]["step"] == 3
  resumed = training.train(tiny_config(data, **{"data.feed": "host"}), folder / "device")
  assert same(whole, resumed)


@pytest.mark.weekly
def test_device_and_host_feeding_give_the_same_numbers(tmp_path):
  """Bit for bit, the running statistics and moving averages too, as users compile the steps."""
  code = f"""
    import pathlib
    from test_training import feed_both_ways
    feed_both_ways(pathlib.Path({str(tmp_path)!r}))
  """
  host, _, device = run_as_users_compile(code).partition("then")
  assert "sent by the host (data.feed='host')" in host
  assert "kept on the device (data.feed='device')" in device


@pytest.mark.weekly
def test_several_steps_in_a_dispatch_are_the_same_steps(tmp_path, data):
  """As one by one but for the last bits; split by other work that is due, and resumed exactly."""
  changes = {"data.feed": "device", "total_steps": 9, "eval_steps": 4, "log_steps": 3}
  one = training.train(tiny_config(data, **changes), tmp_path / "one")
  changes |= {"steps_per_dispatch": 2}
  several = training.train(tiny_config(data, **changes), tmp_path / "several")
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(several), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  assert int(several.step) == 9
  rows = read_metrics(tmp_path / "several" / "metrics.jsonl")
  assert [r["step"] for r in rows if "val/loss" in r] == [4, 8, 9]
  rows = [r for r in rows if "train/loss" in r]
  windows = [(3, 3), (4, 1), (6, 2), (8, 2), (9, 1)]
  assert [(r["step"], r["train/steps"]) for r in rows] == windows
  others = [r for r in read_metrics(tmp_path / "one" / "metrics.jsonl") if "train/loss" in r]
  mean = [sum(r["train/loss"] * r["train/steps"] for r in x) for x in (rows, others)]
  assert mean[0] == pytest.approx(mean[1], rel=1e-4)
  training.train(tiny_config(data, **changes | {"total_steps": 4}), tmp_path / "resumed")
  resumed = training.train(tiny_config(data, **changes), tmp_path / "resumed")
  assert same(several, resumed)
  again = read_metrics(tmp_path / "resumed" / "metrics.jsonl")
  again = [r for r in again if "train/loss" in r]
  time = ("time/images_per_s", "time/minutes")
  assert [{k: v for k, v in r.items() if k not in time} for r in again] == [
    {k: v for k, v in r.items() if k not in time} for r in rows
  ]


def test_how_many_steps_a_dispatch_makes(data, monkeypatch):
  config = tiny_config(data, **{"data.feed": "device", "log_steps": 7})
  assert input_pipeline.steps_per_dispatch(config, data_on_device=True) == 1
  monkeypatch.setattr(input_pipeline.jax, "default_backend", lambda: "gpu")
  assert input_pipeline.steps_per_dispatch(config, data_on_device=True) == 7
  assert input_pipeline.steps_per_dispatch(config, data_on_device=False) == 1
  config.steps_per_dispatch = 5
  assert input_pipeline.steps_per_dispatch(config, data_on_device=True) == 5
  with pytest.raises(
    UserError, match=r"steps_per_dispatch is 5, which needs .*data\.feed='device'"
  ):
    input_pipeline.steps_per_dispatch(config, data_on_device=False)
  config.steps_per_dispatch = -1
  with pytest.raises(UserError, match="steps_per_dispatch is -1, expected 0"):
    input_pipeline.steps_per_dispatch(config, data_on_device=True)


@pytest.mark.slow
def test_recomputing_keeps_fewer_bytes_and_the_same_numbers(data):
  net, task, optimizer = parts(norm="batch", dropout=0.1)
  batch, states = random_batch(4), []
  for remat in (False, True):
    state = fresh_state(net, optimizer)
    step = steps.make_train_step(
      net, task, optimizer, mesh=steps.make_mesh(jax.devices()[:1]), remat=remat
    )
    states.append(step(state, batch)[0])
  for a, b in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  variables = random_variables(net)

  def kept(remat):
    def loss(params):
      variables_now = variables | dict(params=params)
      image = batch["image"].astype(jnp.float32)
      return net.apply(
        variables_now,
        image,
        train=True,
        mutable=["batch_stats"],
        rngs=dict(dropout=jax.random.key(1)),
      )[0].sum()

    function = jax.checkpoint(loss, policy=ops.products_saveable) if remat else loss
    residuals = jax.eval_shape(lambda p: jax.vjp(function, p)[1], variables["params"])
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(residuals))

  assert kept(True) < kept(False) / 2


@pytest.mark.slow
def test_a_trace_of_some_steps(tmp_path, data, capsys):
  training.train(tiny_config(data), tmp_path / "run", profile_steps=("2", "3"))
  assert "trace of steps 2 to 3" in capsys.readouterr().out
  folder = tmp_path / "run" / "profile"
  assert [f.stat().st_size > 1000 for f in folder.rglob("*.xplane.pb")] == [True]
  with gzip.open(next(folder.rglob("perfetto_trace.json.gz"))) as file:
    names = [str(event.get("name")) for event in json.load(file)["traceEvents"]]
  assert sum(name.endswith(" put_batch") for name in names) == 2  # a call per step
  assert any("train_step" in name for name in names)
  for wrong in (("3", "2"), ("0", "2"), ("a", "b"), ("4",)):
    with pytest.raises(UserError, match=r"profile_steps is .*, expected the first and the last"):
      training.train(tiny_config(data), tmp_path / "other", profile_steps=wrong)
  for folder, late in (("run", ("2", "3")), ("other", ("5", "7"))):
    with pytest.raises(UserError, match=r"expected steps after \d, where the run stands, up to 6"):
      training.train(tiny_config(data), tmp_path / folder, profile_steps=late)


def test_feeding_chooses_by_size_and_device(data, monkeypatch):
  config = tiny_config(data)
  source = input_pipeline.make_source(config, "train", training=True)
  assert not input_pipeline.is_on_device(config, source)  # on a CPU there is nothing to gain
  monkeypatch.setattr(experiment_lib.jax, "default_backend", lambda: "gpu")
  assert input_pipeline.is_on_device(config, source)
  config.data.device_mb = 0
  assert not input_pipeline.is_on_device(config, source)
  config.data.update(feed="device", fit="crop")
  with pytest.raises(UserError, match=r"data\.feed='device' needs data\.fit='resize'"):
    input_pipeline.is_on_device(config, source)
  config.data.update(feed="gpu", fit="resize")
  with pytest.raises(UserError, match=r"data\.feed is 'gpu', expected"):
    input_pipeline.is_on_device(config, source)
  config.data.eval_fit = "whole"
  with pytest.raises(UserError, match=r"data\.eval_fit is 'whole', expected 'resize' or 'full'"):
    input_pipeline.make_source(config, "val")


def test_full_size_evaluation_equals_one_by_one_and_compiles_once_per_size():
  net, task, optimizer = parts(3, False, norm="batch")
  mesh = steps.make_mesh(jax.devices()[:1])
  state = fresh_state(net, optimizer)
  rng = np.random.default_rng(0)
  shapes = [(16, 24), (17, 30), (16, 24), (20, 28), (16, 23), (17, 30), (16, 24)]
  examples = [
    dict(
      image=rng.integers(0, 256, (*s, 3)).astype(np.uint8),
      label=rng.choice([0, 1, 2, 255], s).astype(np.uint8),
    )
    for s in shapes
  ]
  eval_step = make_eval_step(net, task, mesh=mesh)
  batches = pipeline.full_size_batches(pipeline.FullSize(examples, 8, 1), batch_size=4)
  sums = evaluate(eval_step, state, batches, mesh)
  assert eval_step._cache_size() == 2  # 16x24 and 24x32
  alone = pipeline.full_size_batches(pipeline.FullSize(examples, 8, 1), batch_size=1)
  each = evaluate(eval_step, state, alone, mesh)
  np.testing.assert_array_equal(sums["matrix"], each["matrix"])
  assert sums["examples"] == each["examples"] == 7
  np.testing.assert_allclose(sums["cross_entropy"], each["cross_entropy"], rtol=1e-5)
  assert sums["pixels"] == sum((e["label"] != 255).sum() for e in examples)


@pytest.mark.slow
def test_crops_and_full_size_evaluation_train_evaluate_and_predict(tmp_path, data):
  config = tiny_config(data, **{"data.fit": "crop", "data.eval_fit": "full"})
  config.writers = ("pictures",)
  workdir = tmp_path / "run"
  training.train(config, workdir)
  last = [r for r in read_metrics(workdir / "metrics.jsonl") if "val/loss" in r][-1]
  experiment, state = restore.run(workdir)
  source = input_pipeline.make_source(experiment.config, "val")
  batches = input_pipeline.eval_batches(experiment.config, source)
  sums = evaluate(experiment.eval_step(), state, batches, experiment.mesh)
  assert experiment.task.summary(sums)["loss"] == last["val/loss"]
  assert sums["matrix"].sum() == 3 * 40 * 60  # every pixel of the three whole images
  image = source.source[0]["image"]
  found = Predictor(run_model.RunModel(experiment, state))(image)
  assert found.probabilities.shape == (40, 60, 2)
  assert list((workdir / "images").iterdir())


@pytest.mark.slow
def test_broken_files_are_left_out_and_counted_where_that_is_asked_for(tmp_path, data, capsys):
  file = data / "images" / "x003.png"
  file.write_bytes(file.read_bytes()[:99])
  (data / "masks" / "x005.png").unlink()
  with pytest.raises(UserError, match=r"x005\.png"):
    training.train(tiny_config(data), tmp_path / "run")
  training.train(tiny_config(data, **{"data.skip_broken": True}), tmp_path / "run")
  out = capsys.readouterr().out
  assert "left out (data.skip_broken)" in out
  assert "x003.png" in out
  assert "x005" in out
  rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
  assert rows[0]["info/train_examples"] + rows[0]["info/val_examples"] == 8


@pytest.mark.weekly
def test_one_device_and_eight_agree(tmp_path):
  """The same three steps with batch norm, dropout and augmentation on 1 and on 8 devices."""
  code = """
    import sys
    import jax, numpy as np
    sys.path.insert(0, "tests")
    from test_training import parts, random_batch, SIZE
    from segjax import augment
    from segjax.training import steps
    from segjax.training.eval_step import make_eval_step
    from segjax.training.state import init_state

    out = {}
    for count in (1, 8):
      net, task, optimizer = parts(norm="batch", dropout=0.3, learning_rate=1e-3)
      mesh = steps.make_mesh(jax.devices()[:count])
      init = jax.jit(lambda: init_state(net, optimizer, jax.random.key(0), size=SIZE),
                     out_shardings=steps.replicated(mesh))
      state = init()
      step = steps.make_train_step(net, task, optimizer, mesh=mesh,
                                   augment=augment.make_augment(flip=0.5, brightness=0.3))
      eval_step = make_eval_step(net, task, mesh=mesh)
      for seed in range(3):
        batch = steps.put_batch(random_batch(16, seed=seed), mesh)
        assert len(batch["image"].sharding.device_set) == count
        state, sums = step(state, batch)
      out[count] = jax.device_get((state, sums, eval_step(state, batch)))
    assert len(jax.devices()) == 8
    for a, b in zip(*map(jax.tree.leaves, out.values()), strict=True):
      np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    assert (out[1][1]["pixels"] == out[8][1]["pixels"]).all()
    print("agree")
  """
  env = os.environ | dict(XLA_FLAGS=eight_devices())
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)],
    cwd=ROOT,
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stdout == "agree\n", done.stderr


def losses_of_a_step():
  """Loss and gradient norm of a step, and the loss of an evaluation after it."""
  net, task, optimizer = parts(3, False, norm="batch", up="transposed3")
  mesh = steps.make_mesh(jax.devices()[:1])
  batch = steps.put_batch(random_batch(4, 3), mesh)
  state, sums = steps.make_train_step(net, task, optimizer, mesh=mesh)(
    fresh_state(net, optimizer), batch
  )
  after = make_eval_step(net, task, mesh=mesh)(state, batch)
  return [float(x) for x in (task.loss(sums), sums["grad_norm"], task.loss(after))]


def run_as_users_compile(code):
  """Output of code that computes without the flags of `conftest.FAST_COMPILATION`."""
  start = """
    import os, sys
    sys.path.insert(0, "tests")
    import conftest
    del os.environ["XLA_FLAGS"]  # read when jax first computes
  """
  command = [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.slow
def test_what_users_compile_gives_the_same_numbers():
  code = """
    from test_training import losses_of_a_step
    print(losses_of_a_step())
  """
  found = json.loads(run_as_users_compile(code))
  np.testing.assert_allclose(found, losses_of_a_step(), rtol=1e-4)


@pytest.mark.weekly
def test_four_scenes_are_overfitted():
  source = sources.make("road_scenes", "train", num_train=4, height=64, width=96)
  examples = [pipeline.resize(source[i], (64, 64)) for i in range(4)]
  batch = {k: np.stack([e[k] for e in examples]) for k in ("image", "label")}
  batch["valid"] = np.ones(4, bool)
  net, task, optimizer = parts(widths=(8, 16, 32), norm="batch")
  mesh = steps.make_mesh(jax.devices()[:1])
  state = fresh_state(net, optimizer, size=(64, 64))
  step, batch = steps.make_train_step(net, task, optimizer, mesh=mesh), steps.put_batch(batch, mesh)
  for _ in range(150):
    state, sums = step(state, batch)
  assert task.summary(jax.device_get(sums))["mean_iou"] > 0.95


# ---------------------------------------------------------------------------- schedules


def test_schedules_at_chosen_steps():
  def at(name, points, **fields):
    s = optim.make_schedule(name, learning_rate=1.0, total_steps=100, **fields)
    return [round(float(s(p)), 4) for p in points]

  assert at("constant", [0, 99]) == [1, 1]
  assert at("step", [0, 9, 10, 25], every_steps=10, factor=0.5) == [1, 1, 0.5, 0.25]
  assert at("multi_step", [0, 49, 50, 80], milestone_steps=(50, 75)) == [1, 1, 0.1, 0.01]
  within = dict(warmup_steps=10, milestone_steps=(4, 8, 50))  # two of them within the warm-up
  assert at("multi_step", [11, 49, 51], **within) == [0.01, 0.01, 0.001]
  assert at("cosine", [0, 50, 100]) == [1, 0.5, 0]
  assert at("polynomial", [0, 50, 100], power=2.0) == [1, 0.25, 0]
  assert at("one_cycle", [0, 30, 100]) == [0.04, 1, 0.0]
  assert at("cosine", [0, 5, 10, 55, 100], warmup_steps=10) == [0, 0.5, 1, 0.5, 0]
  assert at("multi_step", [10, 49, 50], warmup_steps=10, milestone_steps=(50,)) == [1, 1, 0.1]
  with pytest.raises(UserError, match="every_epochs"):
    at("step", [0])


@pytest.mark.torch
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_are_pytorchs(name):
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  optimizer = optim.make_optimizer(name, 0.1, weight_decay=0.05)
  peers = dict(sgd=torch.optim.SGD, adam=torch.optim.Adam, adamw=torch.optim.AdamW)
  fields = dict(lr=0.1, weight_decay=0.05) | (dict(momentum=0.9) if name == "sgd" else {})
  w = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
  peer, params = peers[name]([w], **fields), jnp.array([1.0, -2.0, 3.0])
  state = optimizer.init(params)
  for i in range(5):
    peer.zero_grad()
    ((w - i) ** 3).sum().backward()
    peer.step()
    grads = jax.grad(lambda p, i=i: ((p - i) ** 3).sum())(params)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params, w.detach().numpy(), rtol=2e-4)


def test_gradients_are_clipped():
  optimizer = optim.make_optimizer("sgd", 1.0, momentum=0.0, clip_norm=1.0)
  updates, _ = optimizer.update(jnp.array([30.0, 40.0]), optimizer.init(jnp.zeros(2)))
  np.testing.assert_allclose(updates, [-0.6, -0.8], rtol=1e-6)


# ---------------------------------------------------------------------------- durations


def test_rows_and_lines_hold_the_f1_of_the_positive_class():
  summary = dict(loss=0.5, pixel_accuracy=0.7, mean_iou=0.4, constant_accuracy=0.6)
  summary |= {"f1/a": 0.1, "f1/b": 0.2}
  palette = np.zeros((256, 3), np.uint8)
  two, more = (Segmentation(("a", "b"), palette, sigmoid=s) for s in (True, False))
  means = dict(loss=0.5, pixel_accuracy=0.7, mean_iou=0.4)
  assert two.row(summary) == means | {"f1/b": 0.2}
  assert two.line(summary) == means | {"f1/b": 0.2, "constant_accuracy": 0.6}
  assert more.row(summary) == means  # the last class is one of many
  assert more.line(summary) == means | dict(constant_accuracy=0.6)


def test_durations_by_suffix():
  c = config_lib.default()
  assert config_lib.duration(c, "total", 50) == 500
  c.total_steps = 7
  with pytest.raises(UserError, match=r"total_steps=7 and total_epochs=10 are both set"):
    config_lib.duration(c, "total", 50)
  c.total_epochs = 0.0
  assert config_lib.duration(c, "total", 50) == 7
  c.total_steps = 0
  with pytest.raises(UserError, match="one of them above 0"):
    config_lib.duration(c, "total", 50, required=True)
  c.total_epochs = 0.001
  assert config_lib.duration(c, "total", 50) == 1
