"""Errors: one line that names field or file for users, a stack for faults of ours."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import ROOT, write_pairs
from test_training import tiny_config

from segjax import cli, errors, hosts, models, ranges, startup, streams, textfiles, training
from segjax import config as config_lib
from segjax.data import sources
from segjax.data.labels import LabelTable, default_table, read_table
from segjax.errors import UserError, did_you_mean, explain, nearest
from segjax.stopping import SIGNALS, StopSignals
from segjax.training import experiment as experiment_lib
from segjax.training import preflight
from segjax.training import workdir as workdir_lib
from segjax.training.plan import make_plan


@pytest.fixture
def data(tmp_path):
  return write_pairs(tmp_path / "data", count=10)


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
  "name, near",
  [("UNet", "unet"), ("U-Net", "unet"), ("ResNet-18", "resnet18"), ("unett", "unet"),
   ("DeepLabV3", "deeplabv3"), ("ADAM", "adam"), ("Cosine", "cosine"), ("zzz", None)],
)  # fmt: skip
def test_the_nearest_name_whatever_the_case(name, near):
  known = [*models.names(), *models.BACKBONES, "adam", "adamw", "sgd", "cosine", "constant"]
  assert nearest(name, known) == ([near] if near else [])


@pytest.mark.parametrize(
  "field, near",
  [("lr", "schedule.learning_rate"), ("batch_size", "data.batch_size"), ("bs", "data.batch_size"),
   ("learning_rate", "schedule.learning_rate"), ("optimizer.nam", "optimizer.name"),
   ("Data.Size", "data.size"), ("weight_decay", "optimizer.weight_decay"),
   ("loss.dise", "loss.dice"), ("mesh.dat", "mesh.data"), ("optimizer.remat", "remat")],
)  # fmt: skip
def test_an_unknown_field_of_a_config_is_answered_by_its_full_name(field, near):
  assert nearest(field, config_lib.flatten(config_lib.default()), 3)[0] == near


def test_a_mistyped_field_of_the_net_is_not_taken_for_one_of_the_data():
  known = config_lib.flatten(config_lib.read(f"{ROOT}/configs/unet_road.py"))
  assert nearest("model.width", known, 3)[0] == "model.widths"


def test_a_run_of_another_net_and_data_set_is_named_by_these_and_a_few_fields(tmp_path):
  old, new = (config_lib.read(f"{ROOT}/configs/{name}.py") for name in ("unet_road", "unet_flood"))
  config_lib.save(old, tmp_path / "config.json")
  with pytest.raises(UserError) as error:
    workdir_lib.check(new, tmp_path, {})
  found = str(error.value).partition("(old -> new) in ")[2].split("; ")
  assert found[0] == "data.source.name: 'road_scenes' -> 'aerial_scenes'"
  assert len(found) < 16 and "model.name" not in str(error.value)
  assert "more fields. Use the old values, or use another folder" in str(error.value)


def test_choosers_of_configs_suggest_a_name():
  for call in (
    lambda: config_lib.set_task(config_lib.default(), "Segmentation"),
    lambda: models.make("Unet", num_classes=1),
    lambda: models.make("unet", Widths=(4,)),
    lambda: config_lib.data_source("Kitti-Road"),
    lambda: config_lib.parse_arg("Smoke", smoke=False),
  ):
    with pytest.raises(UserError) as error:
      call()
    assert re.search("did you mean '(segmentation|unet|widths|kitti_road|smoke)'", str(error.value))


def test_unknown_overrides_of_the_command_line(capsys):
  spec = f"{ROOT}/configs/unet_road.py:smoke"
  with pytest.raises(SystemExit) as done:
    cli._check_overrides([f"--config={spec}", "--config.seed=1", "--config.lr=1"], spec)
  assert done.value.code == 1
  assert "--config.lr=1: the config has no field 'lr'; did you mean 'schedule.learning_rate'" in (
    capsys.readouterr().err
  )
  cli._check_overrides(["--config.data.size=(4,4)", "--config.model={}"], spec)
  with pytest.raises(SystemExit):
    cli._check_overrides(["--config.model.stem=deep"], spec)
  assert "fields of a net or of your own code can be changed here if the config" in (
    capsys.readouterr().err
  )


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize(
  "field, value",
  [("data.size", (5,)), ("data.size", ("a", "b")), ("data.size", (0, 4)), ("data.size", (4.5, 4)),
   ("data.size", (True, 4)), ("data.mean", (0.5, 0.5)), ("data.mean", (124.0, 116.0, 104.0)),
   ("data.std", (0.0, 1.0, 1.0)), ("data.std", (-1.0, 1.0, 1.0)), ("data.std", (58.0, 57.0, 57.0)),
   ("data.threads", -1), ("data.workers", -1), ("data.workers", 2**64), ("data.batch_size", 0),
   ("optimizer.b1", 2.0), ("optimizer.b1", 1.0), ("optimizer.b2", -0.1), ("optimizer.eps", 0.0),
   ("optimizer.eps", -1.0), ("optimizer.weight_decay", -1e-4), ("schedule.learning_rate", -1e-3),
   ("schedule.learning_rate", float("nan")), ("schedule.learning_rate", float("inf")),
   ("keep_steps", (-5,)), ("loss.focal_gamma", float("nan")), ("loss.dice", -1.0),
   ("loss.class_weights", (-1.0, 2.0)), ("loss.class_weights", (True, 2.0)),
   ("loss.class_weights", (0.0, 0.0)), ("ema_decay", 1.0),
   ("ema_decay", -0.5), ("total_epochs", float("nan")), ("log_steps", 0), ("seed", -1),
   ("loss.class_weights", (None,)), ("model.widths", ()), ("model.widths", (0,)),
   ("model.widths", (8, -1)), ("model.widths", (8.5, 16)), ("best_mode", "MAX"),
   ("early_stopping.mode", "MAX"),
   ("data.source.num_val", 10**12), ("data.source.height", 0), ("aux_weight", -0.1),
   ("schedule.every_epochs", 1e308), ("total_epochs", 1e10)],
)  # fmt: skip
def test_values_without_a_sense_are_named_at_the_start(field, value, tmp_path):
  config = config_lib.default()
  with config.ignore_type():
    config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=rf"^{field.replace('.', '[.]')} (is|are) .*expected"):
    training.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_training_without_an_update_is_refused():
  config = config_lib.default()
  config.total_epochs, config.optimizer.accumulate_steps = 3.0, 6
  assert make_plan(config, 2).total == 6
  config.optimizer.accumulate_steps = 7
  with pytest.raises(UserError, match="accumulate_steps is 7 and the training has 6 steps, so not"):
    make_plan(config, 2)


@pytest.mark.parametrize(
  "metric, right",
  [("val/loss", "min"), ("val/loss/dice", "min"), ("val/color_error", "min"), ("val/l1", "min"),
   ("val/mean_iou", "max"), ("val/iou/loss", "max"), ("val/f1/road", "max"), ("val/psnr", "max")],
)  # fmt: skip
def test_a_metric_that_is_sought_at_the_wrong_end_is_said(metric, right):
  config, wrong = config_lib.default(), dict(min="max", max="min")[right]
  config.best_metric, config.best_mode = metric, right
  assert preflight.directions(config) == []
  config.best_mode = wrong
  (said,) = preflight.directions(config)
  assert said.startswith(f"best_metric is {metric!r} and best_mode is {wrong!r}")
  assert said.endswith(f"set best_mode={right!r}")
  config.best_mode = right
  config.early_stopping.update(patience=2, metric=metric, mode=wrong)
  (said,) = preflight.directions(config)
  assert said.endswith(f"set early_stopping.mode={right!r}")
  config.early_stopping.patience = 0  # of none
  assert preflight.directions(config) == []


def test_every_config_is_within_the_ranges():
  files = sorted((ROOT / "configs").glob("*.py"))
  assert len(files) > 5
  for file in files:
    config = config_lib.read(str(file))
    ranges.check(config)
    config_lib.check(config)
    assert preflight.directions(config) == []
  fields = config_lib.flatten(config_lib.default())
  unknown = [f for f in ranges.RANGES if not f.startswith(("loss", "task", "data.source", "model"))]
  assert set(unknown) <= set(fields)


def test_an_optimiser_of_optax_has_ranges_of_its_own():
  config = config_lib.default()
  config.optimizer = dict(name="rmsprop", momentum=None)
  ranges.check(config)
  config.optimizer = dict(name="sgd", momentum=1.0)
  with pytest.raises(UserError, match=r"optimizer\.momentum is 1\.0"):
    ranges.check(config)


@pytest.mark.parametrize("field", ["loss.class_weights", "keep_steps", "schedule.milestone_steps",
                                   "keep_epochs", "data.size", "freeze"])  # fmt: skip
def test_none_in_place_of_several_values_is_one_line(field):
  config = config_lib.default()
  config_lib.set_task(config, "segmentation")
  config.update_from_flattened_dict({field: None})
  with pytest.raises(UserError, match=rf"{field} is None, expected"):
    preflight.check_config(config)


@pytest.mark.parametrize("line", ["data.size = 256", "total_steps = 'many'", "keep_steps = 3"])
def test_a_value_of_another_type_in_a_config_file(line, tmp_path):
  (tmp_path / "x.py").write_text(
    "from segjax import config\n"
    f"def get_config():\n  c = config.default()\n  c.{line}\n  return c\n"
  )
  with pytest.raises(UserError, match=r"x\.py: Could not .* a value of the field's own type$"):
    config_lib.read(str(tmp_path / "x.py"))


def test_a_batch_beyond_the_memory_is_named(monkeypatch):
  config = config_lib.default()
  config.data.size, config.data.batch_size = (3000, 3000), 64
  monkeypatch.setattr(os, "sysconf", lambda name: 2**12)
  with pytest.raises(UserError, match=r"data.batch_size=64 .*data.size=\(3000, 3000\) take 7 GB"):
    ranges.check(config)
  monkeypatch.setattr(os, "sysconf", lambda name: 2**20)
  ranges.check(config)


def test_a_field_of_no_use_in_a_users_own_config_is_named(tmp_path):
  config = config_lib.default()
  config.total_stepz = 5
  with pytest.raises(UserError, match=r"no field 'total_stepz' in the config.*'total_steps'"):
    training.train(config, tmp_path / "run")


# ---------------------------------------------------------------------------- classes and nets


@pytest.mark.parametrize(
  "classes, message",
  [((("a", (0, 0, 0)), ("b", (1, 1, 1)), ("a", (2, 2, 2))), "one name, 'a' .classes 0, 2"),
   ((("a", (9, 0, 0)), ("b", (9, 0, 0))), r"one colour, \(9, 0, 0\) .classes 0, 1"),
   ((("a", (0, 0, 0)),), "one class, a, so every answer is right")],
)  # fmt: skip
def test_classes_that_cannot_be_distinguished(classes, message):
  task = type("Task", (), dict(label_kind="mask"))
  with pytest.raises(UserError, match=message):
    preflight.check_labels(LabelTable(classes), task)
  preflight.check_labels(default_table(tuple(map(str, range(255)))), task)
  of_images = type("Task", (), dict(label_kind="class"))
  with pytest.raises(UserError, match="one name") if "name" in message else nullcontext():
    preflight.check_labels(LabelTable(classes), of_images)


class Wrong(nn.Module):
  """A net of a researcher's own with a fault."""

  how: str = "bug"
  num_classes: int = 1
  dtype: type = np.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    x = nn.Conv(self.num_classes, (3, 3))(image)
    if self.how == "bug":
      return x + len(3)
    return dict(
      half=x[:, ::2, ::2], channels=x.repeat(3, -1), image=x.mean((1, 2)), right=x
    )[self.how]  # fmt: skip


@pytest.mark.parametrize("how", ["bug", "half", "channels", "image", "right"])
def test_a_nets_own_error_keeps_its_stack_and_wrong_shapes_are_named(how, data, monkeypatch):
  monkeypatch.setitem(models.MODELS, "wrong", Wrong)
  config = tiny_config(data)
  config.model = dict(name="wrong", how=how)
  experiment = experiment_lib.build(config, default_table(("a", "b")))
  if how == "bug":
    with pytest.raises(TypeError, match="object of type 'int' has no len"):
      preflight.check_outputs(experiment, experiment.abstract_state())
    return
  state = experiment.abstract_state()
  if how == "right":
    return preflight.check_outputs(experiment, state)
  with pytest.raises(UserError, match=r"'wrong' does not fit the task .*needs \(1, 16, 24, 1\)"):
    preflight.check_outputs(experiment, state)


def test_a_net_that_does_not_take_the_tasks_arguments_is_named(data, monkeypatch):
  class Plain(nn.Module):
    num_classes: int = 1
    dtype: type = np.float32

    @nn.compact
    def __call__(self, image):
      return nn.Conv(self.num_classes, (1, 1))(image)

  monkeypatch.setitem(models.MODELS, "plain", Plain)
  config = tiny_config(data)
  config.model = dict(name="plain")
  experiment = experiment_lib.build(config, default_table(("a", "b")))
  with pytest.raises(UserError, match=r"net\(image, train=False\) \(.*argument 'train'\)"):
    preflight.check_experiment(experiment, np.zeros((16, 24), np.uint8))


# ---------------------------------------------------------------------------- what went wrong


@pytest.mark.parametrize(
  "error",
  [MemoryError(), np._core._exceptions._ArrayMemoryError((9,), np.dtype("f4")),
   RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
   jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
   MemoryError("std::bad_alloc"), OSError(errno.ENOMEM, "Cannot allocate memory")],
)  # fmt: skip
def test_out_of_memory_names_what_to_lower(error):
  assert explain(error).startswith("out of memory")
  for word in ("data.batch_size", "data.size", "remat", "bfloat16", "--tiles=256"):
    assert word in explain(error)


@pytest.mark.parametrize(
  "number, mend",
  [(errno.EACCES, "permissions"), (errno.EPERM, "permissions"), (errno.EROFS, "read-only"),
   (errno.EIO, "disk"), (errno.ESTALE, "server"), (errno.ENOSPC, "space"), (errno.EDQUOT, "space"),
   (errno.EMFILE, "ulimit -n"), (errno.ENFILE, "ulimit -n")],
)  # fmt: skip
def test_a_fault_of_the_machine_names_the_file_and_is_no_damage_of_it(number, mend):
  error = OSError(number, os.strerror(number), "a/b.json")
  assert re.fullmatch(rf"a/b\.json: {os.strerror(number)}; .*{mend}.*", explain(error))
  assert errors.fault_of_machine(error) and errors.fault_of_machine(MemoryError())
  for other in (FileNotFoundError(2, "x", "y"), EOFError(), UserError("x")):
    assert not errors.fault_of_machine(other)


def test_only_faults_of_the_user_are_explained():
  for error in (ValueError("RESOURCE"), TypeError("x"), RuntimeError("x"), OSError(5, "x"),
                AssertionError(), FileNotFoundError(2, "x", "y")):  # fmt: skip
    assert explain(error) is None
  assert explain(UserError("mine")) == "mine"
  full = OSError(errno.ENOSPC, "No space left on device")  # of print, where the output is a file
  said = "the output, or shared memory (/dev/shm): No space left on device; free some space"
  assert explain(full) == said
  for error in (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
                OSError("a temporary directory could not be created")):  # fmt: skip
    assert explain(error).endswith("; set TMPDIR to a folder that can be written to")
  assert explain(OSError(errno.EMFILE, "x")).startswith("this process: x; raise the limit")
  assert explain(OSError(errno.ENAMETOOLONG, "x", "n" * 300)).startswith(f"{'n' * 80}...: longer")
  with pytest.raises(AssertionError) as ours:
    raise AssertionError
  assert explain(ours.value) is None  # JAX's alone is for a backend
  text = "Unable to initialize backend 'cuda': not in the list of known backends"
  assert "JAX_PLATFORMS" in explain(RuntimeError(text))


def test_a_library_that_tells_all_is_cut_to_the_fault_of_the_disk():
  text = f"RESOURCE_EXHAUSTED: {'spec ' * 300} Failed to write: No space left on device ['28']"
  with pytest.raises(UserError) as error, errors.writing("to x", "free some"):
    raise ValueError(text)
  assert str(error.value) == "cannot write to x: No space left on device; free some"


def test_only_the_disk_is_blamed_for_a_write():
  faults = [OSError(n, os.strerror(n)) for n in (errno.ENOSPC, errno.EACCES, errno.EROFS)]
  for error in (*faults, OSError("full"), ValueError("[OS error 28: No space left on device]")):
    wrapped = RuntimeError("x")
    wrapped.__cause__ = error
    for fault in (error, wrapped):
      with pytest.raises(UserError, match=r"cannot write to x: .*free spa"), errors.writing("to x"):
        raise fault
  for error in (TypeError("x"), OSError(errno.EMFILE, "x"), BrokenPipeError(errno.EPIPE, "x"),
                OSError(errno.EBADF, "x"), ValueError("x"),
                UserError("cannot write y: No space left on device")):  # fmt: skip
    with pytest.raises(type(error)) as kept, errors.writing("to x"):
      raise error
    assert kept.value is error


@pytest.mark.parametrize("what", [b"", b"{", b"[]", b"null", b"7", "{ä".encode("latin-1"),
                                  '{"a": 1}'.encode("utf-16"), b"[" * 100_000])  # fmt: skip
def test_state_files_that_are_no_objects(what, tmp_path):
  file = tmp_path / "config.json"
  file.write_bytes(what)
  for read in (lambda: textfiles.read_json(file, dict), lambda: config_lib.load(file)):
    with pytest.raises(UserError, match=r"config\.json.*restore the file"):
      read()


@pytest.mark.parametrize(
  "change, message",
  [(lambda c: c.pop("data"), "no fields 'data'"),
   (lambda c: c.update(data=5), "no fields 'data'"),
   (lambda c: c.update(los=c.pop("loss")), "no fields 'loss'"),
   (lambda c: c["data"].update(siez=c["data"].pop("size")), "no field 'siez' in data; .*'size'"),
   (lambda c: c["data"]["source"].update(sead=1), "no field 'sead' in data.source; .*'seed'"),
   (lambda c: c["loss"].update(dise=1.0), "no field 'dise' in loss; did you mean 'dice'"),
   (lambda c: c.update(ema_decay="x"), "ema_decay is 'x', expected a value such as 0.0"),
   (lambda c: c["data"].update(size=[1.5, 2]), "data.size is"),
   (lambda c: c["data"].update(mean=None), "data.mean is None"),
   (lambda c: c["task"].update(name=7), "task.name is 7"),
   (lambda c: c["model"].pop("name"), "model.name is None")],
)  # fmt: skip
def test_a_config_that_is_damaged_names_the_field(change, message, tmp_path):
  values = json.loads(json.dumps(config_lib.default().to_dict(), default=list))
  change(values)
  file = tmp_path / "config.json"
  file.write_text(json.dumps(values))
  with pytest.raises(UserError, match=message):
    config_lib.load(file)


@pytest.mark.parametrize("text", ['[["a"]]', "[7]", '[["a", [1, 2]]]', '[["a", [1, 2, 300]]]',
                                  '[[1, [1, 2, 3]]]', "{}"])  # fmt: skip
def test_label_tables_that_are_damaged(text, tmp_path):
  file = tmp_path / "labels.json"
  file.write_text(text)
  with pytest.raises(UserError, match=r"labels\.json"):
    experiment_lib.load_labels(file)


def test_text_is_utf_8_whatever_the_locale(tmp_path):
  labels = default_table(("straße", "道"))
  experiment_lib.save_labels(labels, tmp_path / "labels.json")
  assert experiment_lib.load_labels(tmp_path / "labels.json") == labels
  textfiles.replace_text(tmp_path / "x", "é")
  assert (tmp_path / "x").read_bytes() == "é".encode()
  with pytest.raises(RuntimeError, match="stop"):
    textfiles.replace(tmp_path / "x", lambda part: (part.write_text(""), _stop()))
  assert [p.name for p in tmp_path.iterdir() if p.name.startswith("x")] == ["x"]
  assert (tmp_path / "x").read_bytes() == "é".encode()


def _stop():
  raise RuntimeError("stop")


# ---------------------------------------------------------------------------- paths


def test_a_colon_in_a_folder_and_a_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  for spec, parts in {
    "x.py:a=1,b": ("x.py", "a=1,b"), "x.py": ("x.py", ""), "a:b/x.py": ("a:b/x.py", ""),
    "a:b/x.py:smoke": ("a:b/x.py", "smoke"), "x:y": ("x", "y"),
    "x.py:folder=a.py:b": ("x.py", "folder=a.py:b"), "~/x.py:s": (f"{tmp_path}/x.py", "s"),
  }.items():  # fmt: skip
    assert config_lib.split_spec(spec) == parts
  for arg, expanded in {
    "--workdir=~/r": f"--workdir={tmp_path}/r", "~/r": f"{tmp_path}/r", "--x=a~b": "--x=a~b",
    "--config.data.source.folder=~": f"--config.data.source.folder={tmp_path}",
    "-w=~": f"-w={tmp_path}",
    "--config.freeze=a\n~": "--config.freeze=a\n~", "crops": "crops",
  }.items():  # fmt: skip
    assert cli.expand_home(arg) == expanded
  folder = tmp_path / "a:b"
  folder.mkdir()
  (folder / "x.py").write_text(
    "from segjax import config\ndef get_config(arg):\n  c = config.default()\n"
    "  c.name, c.init_from = arg, '~/w.pth'\n  return c\n"
  )
  config = config_lib.read(f"{folder}/x.py:some")
  assert (config.name, config.init_from) == ("some", f"{tmp_path}/w.pth")
  (folder / "x.py").write_text("from segjax import config\nget_config = lambda: config.default()\n")
  assert config_lib.read(f"{folder}/x.py").name == "unnamed"
  with pytest.raises(UserError, match=r"no function 'get_study'.*; it is a config, .*train\.py"):
    config_lib.call_file(f"{folder}/x.py", "get_study")
  with pytest.raises(UserError, match=r"no such file .*X\.py'; did you mean '.*x\.py'"):
    config_lib.read(f"{folder}/X.py")
  monkeypatch.setattr(os, "access", lambda file, how: how != os.R_OK)
  with pytest.raises(UserError, match=r"x\.py: cannot be read; check its permissions"):
    config_lib.read(f"{folder}/x.py")


@pytest.mark.parametrize("name", ["lr=[0.1]", "a*b", "a?b", "~", "\udcff"])
def test_paths_at_which_a_run_would_be_lost_are_refused(name, data, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r"path|home"), workdir_lib.locked(Path(name)):
    pass
  assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_without_a_home_nothing_is_kept(monkeypatch):
  def no_home():
    raise RuntimeError("Could not determine home directory.")

  for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(Path, "home", no_home)
  startup.keep_compilations()
  assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


# ---------------------------------------------------------------------------- signals and pipes


@pytest.fixture
def hangup():
  """SIGHUP as a terminal leaves it; where these tests run under nohup, it is ignored."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_a_dropped_interrupt_comes_again(number, hangup):
  old = [signal.getsignal(n) for n in SIGNALS]
  stop = StopSignals()
  stop.listen()
  try:
    stop.check()
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(number)  # before the first step: at once
    assert stop.signal == number
    with pytest.raises(KeyboardInterrupt):
      stop.check()  # had the first been dropped
    with pytest.raises(KeyboardInterrupt), stop.patiently():
      raise AssertionError("a training began")
  finally:
    for n, handler in zip(SIGNALS, old, strict=True):
      signal.signal(n, handler)


def test_a_closed_terminal_stops_a_training_unless_nohup_says_otherwise(hangup):
  stop = StopSignals()
  with stop.patiently():
    signal.raise_signal(signal.SIGHUP)
  assert stop.signal == signal.SIGHUP and not stop.interrupted
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  with stop.patiently():
    signal.raise_signal(signal.SIGHUP)
  assert not stop.signal
  assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_in_a_training_the_first_signal_is_noted_and_a_later_one_interrupts():
  stop, now = StopSignals(), [0.0]
  before = signal.getsignal(signal.SIGINT)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("time.monotonic", lambda: now[0])
    with stop.patiently() as same:
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)  # the same Ctrl-C, sent twice
      assert same.signal == signal.SIGINT and not same.interrupted
      now[0] = 1.0
      with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
      assert same.interrupted
  assert signal.getsignal(signal.SIGINT) is before
  with stop.patiently():  # of the next training in this process
    assert not stop.signal and not stop.interrupted


def test_several_processes_leave_sigterm_to_jax(monkeypatch):
  stop, before = StopSignals(), signal.getsignal(signal.SIGTERM)
  for count, kept in ((2, True), (1, False)):
    monkeypatch.setattr(jax, "process_count", lambda count=count: count)
    with stop.patiently(but=hosts.of_jax()):
      assert (signal.getsignal(signal.SIGTERM) is before) == kept
      assert signal.getsignal(signal.SIGINT) == stop._note
    assert signal.getsignal(signal.SIGTERM) is before


PIPED = """
import sys
from segjax import cli

def main():
  print("straße \\udcff")
  sys.stdout.flush()
  sys.stdin.read()  # until the reader has gone
  print("more")

cli.run(main)
"""


def test_a_reader_that_goes_and_a_terminal_of_ascii(tmp_path):
  env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
  process = subprocess.Popen(
    [sys.executable, "-c", PIPED], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, cwd=tmp_path,
  )  # fmt: skip
  assert process.stdout.readline() == b"stra\\xdfe \\udcff\n"
  process.stdout.close()
  process.stdin.close()
  assert process.stderr.read() == b""
  assert process.wait(30) == 128 + signal.SIGPIPE


def test_a_reader_that_goes_before_the_help(tmp_path):
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, "-c", PIPED, "--help"], env={**os.environ, "PYTHONPATH": str(ROOT)},
    stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60, check=False,
  )  # fmt: skip
  os.close(writer)
  assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


FULL_DISK = """
import resource
from pathlib import Path
from segjax import cli

def main():
  import jax.numpy as jnp
  from segjax.training.checkpoints import Checkpoints, Position

  checkpoints = Checkpoints(Path("c"), best_metric="m", best_mode="max")
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
  checkpoints.save(1, {str(i): jnp.arange(9999.0) for i in range(40)}, Position(b"{}"))
  checkpoints.wait()

cli.run(main)
"""


def test_a_full_disk_is_told_in_one_line(tmp_path):
  env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "false"}
  how = dict(env=env, cwd=tmp_path, text=True)
  args = [sys.executable, "-c", FULL_DISK]
  run = subprocess.run(args, check=False, capture_output=True, **how)
  assert (run.returncode, run.stdout) == (1, "")
  assert re.fullmatch(r"error: cannot write checkpoints to \S+/c: File too large; .*\n", run.stderr)


def test_closed_streams_take_the_null_device(monkeypatch):
  for name in ("stdin", "stdout", "stderr"):
    monkeypatch.setattr(sys, name, None)
  streams.open_closed()
  try:
    print("x", flush=True)
    print("x", file=sys.stderr, flush=True)
    assert sys.stdin.read() == ""
    assert all(os.get_inheritable(f.fileno()) for f in (sys.stdin, sys.stdout, sys.stderr))
    streams.open_closed()  # nothing is closed any more
  finally:
    for stream in (sys.stdin, sys.stdout, sys.stderr):
      stream.close()


def test_hints_are_empty_where_nothing_is_near():
  assert did_you_mean("zzz", ["unet"]) == ""
  assert did_you_mean("x", []) == ""
  assert did_you_mean("s", ["seed"]) == ""  # one letter is no initials


@pytest.mark.parametrize(
  "line", ['"road"', "'road'", "- road", "road\tRD", "ground;road", "road rgb(255,0,0)"]
)
def test_names_of_other_kinds_of_tables_are_refused(line, tmp_path):
  (tmp_path / "classes.txt").write_text(f"ground\n{line}\n")
  with pytest.raises(UserError, match=r"classes\.txt, line 2: found .*expected one name without"):
    read_table(tmp_path / "classes.txt")


def test_fields_that_change_nothing_are_said():
  config = config_lib.default()
  config.total_epochs = 10.0
  for fields, said in (
    ({"schedule.warmup_epochs": 10.0}, "schedule.warmup_epochs is 10 and total_epochs 10"),
    ({"schedule.warmup_epochs": 9.0}, None),
    ({"schedule.name": "step", "schedule.every_epochs": 12.0}, "schedule.every_epochs is 12"),
    ({"schedule.name": "cosine", "schedule.every_epochs": 12.0}, None),
    ({"schedule.name": "multi_step", "schedule.milestone_epochs": (5.0, 20.0)}, "is 20 and total"),
    ({"keep_epochs": (5.0, 11.0)}, "keep_epochs is 11"),
    ({"keep_epochs": (5.0, 10.0)}, None),
    ({"schedule.warmup_steps": 100}, None),  # of a length in epochs
    ({"early_stopping.metric": "val/loss"}, "patience is 0: nothing stops early"),
    ({"early_stopping.metric": "val/loss", "early_stopping.patience": 2}, None),
    ({"ema_decay_end": 1.0}, "ema_decay is 0: no average is kept"),
    ({"ema_decay": 0.9, "ema_decay_end": 1.0}, None),
  ):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(fields)
    found = preflight.without_effect(changed)
    assert len(found) == (said is not None) and all(said in text for text in found), fields


def test_names_of_a_list_that_are_paths(tmp_path):
  write_pairs(tmp_path / "set")
  for split, names in (("train", "x000\nimages/x001.png"), ("val", "x002")):
    (tmp_path / "set" / f"{split}.txt").write_text(f"{names}\n")
  with pytest.raises(UserError, match=r"no image, e.g. 'images/x001.png'; a line of a list is one "
                                      r"name without folder, such as 'x000'"):  # fmt: skip
    sources.make("folder", "train", folder=str(tmp_path / "set"))
