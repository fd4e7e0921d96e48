"""The commands a user types: every config, evaluation, prediction, and every error's one line."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from conftest import DATA, ROOT, eight_devices, launch, launch_all, shows, write_kitti, write_pairs
from PIL import Image

from segjax import config as config_lib
from segjax.training.input_pipeline import make_source
from segjax.training.writers import read_metrics


@pytest.fixture(scope="module", params=["unet_road"])
def smoked(request, tmp_path_factory):
  """A workdir in which the config's :smoke variant ran, and its output."""
  workdir = tmp_path_factory.mktemp(request.param) / "run"
  config = (f"--config=configs/{request.param}.py:smoke", "--config.model.widths=(4,8)")
  done = launch("train", *config, f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  assert "TF_" not in done.stderr  # else TensorFlow prints a notice of its kernels
  return workdir, done.stdout


@pytest.mark.slow
def test_training_leaves_all_its_results(smoked):
  workdir, output = smoked
  names = {p.name for p in workdir.iterdir()}
  assert {"config.json", "labels.json", "metrics.jsonl", "checkpoints", "images"} <= names
  assert any(n.startswith("events.out.tfevents") for n in names)
  assert Image.open(workdir / "figures" / "curves.png").size[0] > 600
  example = make_source(config_lib.load(workdir / "config.json"), "val")[0]["image"]
  for file in (workdir / "images").iterdir():  # photograph, truth and prediction side by side
    picture = np.asarray(Image.open(file))
    assert shows(picture, example) and picture.shape[1] > 3 * example.shape[1]
  for text in ("parameters,", "MB", "per epoch at batch 4", "6 in all", "accuracy of always",
               "precision", "recall", "F1", "MaxF", "mean IoU", "images/s", "left"):  # fmt: skip
    assert text in output


@pytest.mark.slow
def test_evaluation_gives_trainings_last_numbers_exactly(smoked):
  workdir, _ = smoked
  done = launch("evaluate", f"--workdir={workdir}")
  assert done.returncode == 0, done.stderr
  row = [r for r in read_metrics(workdir / "metrics.jsonl") if "val/loss" in r][-1]
  (file,) = workdir.glob("evaluation_val_*.json")
  values = json.loads(file.read_text())
  compared = [k for k in row if k.startswith("val/")]
  assert len(compared) > 10
  for key in compared:
    assert row[key] == values[key.removeprefix("val/")], key


@pytest.mark.parametrize("smoked", ["unet_road"], indirect=True)
@pytest.mark.slow
def test_a_finished_run_says_so(smoked):
  workdir, _ = smoked
  config = f"configs/{workdir.parent.name.rstrip('0123456789')}.py:smoke"
  done = launch(
    "train", f"--config={config}", "--config.model.widths=(4,8)", f"--workdir={workdir}"
  )
  assert done.returncode == 0, done.stderr
  assert "already at step 6; nothing left to train" in done.stdout


@pytest.mark.parametrize("smoked", ["unet_road"], indirect=True)
@pytest.mark.slow
def test_tensorboard_holds_scalars_pictures_and_hyper_parameters(smoked):
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  workdir, _ = smoked
  events = EventAccumulator(str(workdir), size_guidance=dict(tensors=0)).Reload()
  tags = events.Tags()["tensors"]
  assert {"train/loss", "val/loss", "val/mean_iou", "val/f1/road", "val/confusion"} <= set(tags)
  assert [e.step for e in events.Tensors("val/loss")] == [3, 6]
  assert "_hparams_/session_start_info" in " ".join(
    [*tags, *events.summary_metadata, *(events.PluginTagToContent("hparams") or {})]
  )
  # A picture for each example and evaluation: width, height and the PNG file.
  shown = [tag for tag in tags if tag.startswith("examples/")]
  assert len(shown) > 1
  for tag in shown:
    assert events.summary_metadata[tag].plugin_data.plugin_name == "images"
    assert [e.step for e in events.Tensors(tag)] == [3, 6]
    width, height, png = events.Tensors(tag)[0].tensor_proto.string_val
    assert (int(width), int(height)) == Image.open(io.BytesIO(png)).size
    assert int(width) >= 400  # two pictures of a usable size side by side
  assert sorted(p.name for p in (workdir / "images").iterdir()) == [
    "val_examples_step000003.png", "val_examples_step000006.png",
  ]  # fmt: skip


@pytest.fixture
def trained(smoked):
  """A tiny run on drawn scenes."""
  return smoked[0]


@pytest.mark.slow
def test_prediction_of_any_size(trained, tmp_path):
  sizes = {"a": (123, 77), "b": (64, 64), "c": (31, 200)}
  (tmp_path / "in").mkdir()
  for name, size in sizes.items():
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3)).astype("u1")).save(
      tmp_path / "in" / f"{name}.png"
    )
  Image.new("L", (50, 40), 100).save(tmp_path / "in" / "grey.jpg")
  (tmp_path / "in" / "broken.png").write_text("nothing")
  args = (f"--workdir={trained}", f"--output={tmp_path / 'out'}")
  done = launch("predict", *args, f"--input={tmp_path / 'in'}")
  with open(tmp_path / "out" / "predictions.csv") as file:
    table = {row["file"]: row for row in csv.DictReader(file)}
  assert set(table) == {"a.png", "b.png", "c.png", "grey.jpg"}
  assert done.returncode == 1
  assert "4 of 5 images predicted" in done.stdout
  assert "broken.png: not an image" in done.stderr
  for name, size in (sizes | {"grey": (50, 40)}).items():
    index = Image.open(tmp_path / "out" / f"{name}_index.png")
    color = Image.open(tmp_path / "out" / f"{name}_color.png")
    assert index.size == color.size == size
    assert Image.open(tmp_path / "out" / f"{name}_overlay.png").size == size
    index, color = np.asarray(index), np.asarray(color)
    assert index.max() <= 1
    row = next(r for f, r in table.items() if f.startswith(f"{name}."))
    assert (int(row["width"]), int(row["height"])) == size
    assert float(row["road"]) == pytest.approx(index.mean(), abs=1e-6)
    np.testing.assert_array_equal(color[..., 0] == 255, index == 1)
  done = launch("predict", *args, f"--input={tmp_path / 'in' / 'b.png'}")
  assert done.returncode == 0, done.stderr


@pytest.mark.weekly
def test_color_baseline_is_reported(trained):
  done = launch("evaluate", f"--workdir={trained}", "--split=train", "--color_baseline")
  assert done.returncode == 0, done.stderr
  assert "12 train examples" in done.stdout
  assert "colour and position alone" in done.stdout
  assert done.stdout.count("accuracy of always") == 2


@pytest.mark.weekly
def test_real_photographs_smoke(kitti, tmp_path):
  done = launch(
    "train",
    "--config=configs/unet_road.py:data=kitti_road,smoke",
    f"--workdir={tmp_path / 'run'}",
    "--config.writers=()",
    "--config.data.cache_mb=0",
    env=dict(SEGJAX_DATA=str(DATA)),
  )
  assert done.returncode == 0, done.stderr
  assert "193 train and 37 val examples" in done.stdout


def test_help_shows_examples_and_flags(tmp_path):
  names = ["train", "evaluate", "predict"]
  for name, done in zip(names, launch_all([(n, ["--help"], {}) for n in names], tmp_path),
                        strict=True):  # fmt: skip
    assert f"python launch/{name}.py --" in done.stdout
    assert "--workdir:" in done.stdout
    assert ("--config:" in done.stdout) == (name == "train")


# ---------------------------------------------------------------------------- errors


def broken_sets(root):
  """Data sets for the source `folder`, each with one fault."""
  out = {}
  for fault in ("bare", "size", "truncated", "value", "empty", "good"):
    folder = out[fault] = write_pairs(root / fault, count=10)
    image, mask = folder / "images" / "x003.png", folder / "masks" / "x003.png"
    if fault == "bare":
      mask.unlink()
    elif fault == "size":
      Image.new("L", (9, 9)).save(mask)
    elif fault == "truncated":
      image.write_bytes(image.read_bytes()[:200])
    elif fault == "value":
      Image.new("L", (60, 40), 9).save(mask)
    elif fault == "empty":
      (folder / "train.txt").write_text("x001\nx002\nx003\nx004\n")
      (folder / "val.txt").write_text("")
  return out


def own_config(root, name, line):
  """A user's own config file with one more line."""
  file = root / f"{name}.py"
  file.write_text(
    "from segjax import config as config_lib\n\n\ndef get_config():\n"
    "  c = config_lib.smoke(config_lib.default())\n"
    f"  c.writers = ()\n  {line}\n  return c\n"
  )
  return f"--config={file}"


ON_FOLDER = ["--config=configs/unet_road.py:data=folder,smoke", "--config.writers=()"]
EMBEDDED = ["--config=configs/unet_road.py:smoke", "--config.writers=()"]


def error_cases(root):
  """name -> (arguments, expected parts of the message, more environment)."""
  sets = broken_sets(root)

  def on(fault, *args):
    return [*ON_FOLDER, f"--config.data.source.folder={sets[fault]}", *args]

  (root / "file").write_text("")
  eight = dict(XLA_FLAGS=eight_devices())
  huge = "--config.schedule.learning_rate=1e30"
  return {
    "no such folder": ([*ON_FOLDER, "--config.data.source.folder=/no/where"], ["/no/where"], {}),
    "image without label": (on("bare"), ["no label", "x003.png"], {}),
    "label of another size": (on("size"), ["x003.png", "9x9", "60x40"], {}),
    "truncated image": (on("truncated"), ["x003.png", "cannot be read"], {}),
    "value outside the table": (on("value"), ["x003.png", "value 9", "0 to 1"], {}),
    "empty split": (on("empty"), ["'val'", "empty"], {}),
    "unknown model": ([*EMBEDDED, "--config.model.name=unett"], ["'unett'", "'unet'"], {}),
    "unknown data": ([*EMBEDDED, "--config.data.source.name=road_scene"], ["'road_scenes'"], {}),
    "unknown data argument": (["--config=configs/unet_road.py:data=kity"], ["kitti_road"], {}),
    "unknown optimizer": ([*EMBEDDED, "--config.optimizer.name=adem"], ["'adam'", "sgd"], {}),
    "unknown schedule": ([*EMBEDDED, "--config.schedule.name=cosin"], ["'cosine'"], {}),
    "unknown loss": ([own_config(root, "a", "c.loss.dise = 1.0")], ["'dise'", "'dice'"], {}),
    "unknown model field": (
      [own_config(root, "b", "c.model.witdhs = (4, 8)")], ["'witdhs'", "'widths'"], {}),
    "one class per image": (
      [own_config(root, "digits", "c.data.source = config_lib.data_source('digits')")],
      ["'digits' has one class per image", "'segmentation'"], {}),
    "unknown task": ([*EMBEDDED, "--config.task.name=segment"], ["'segmentation'"], {}),
    "unknown writer": ([*EMBEDDED, "--config.writers=('cluu',)"], ["'cluu'", "'clu'"], {}),
    "mistyped field": (
      [*EMBEDDED, "--config.optimizer.nam=sgd"], ["'optimizer.nam'", "'optimizer.name'"], {}),
    "mistyped nested field": (
      [*EMBEDDED, "--config.data.batchsize=2"], ["'data.batchsize'", "'data.batch_size'"], {}),
    "mistyped flag": ([*EMBEDDED, "--workdri=x"], ["workdri", "workdir"], {}),
    "mistyped argument": (["--config=configs/unet_road.py:smok"], ["'smok'", "'smoke'"], {}),
    "argument without dashes": ([*EMBEDDED, "config.seed=1"], ["'config.seed=1'"], {}),
    "no rows": ([*EMBEDDED, "--config.log_steps=0"], ["log_steps is 0"], {}),
    "empty batch": ([*EMBEDDED, "--config.data.batch_size=0"], ["batch_size is 0"], {}),
    "unknown dtype": ([*EMBEDDED, "--config.model.dtype=bf16"], ["'bf16'", "bfloat16"], {}),
    "peak of a cycle": (
      [*EMBEDDED, "--config.schedule.name=one_cycle", "--config.schedule.peak_fraction=1.0"],
      ["peak_fraction is 1.0"], {}),
    "net of another task": (
      [own_config(root, "c", "c.model = dict(name='classifier', backbone='small_cnn')")],
      ["'classifier' does not fit the task 'segmentation'"], {}),
    "wrong type": (
      [*EMBEDDED, "--config.total_steps=ten"], ["total_steps=ten: expected a whole number"], {}),
    "no such config": (["--config=configs/unet_raod.py"], ["unet_raod", "unet_road.py"], {}),
    "no config": ([], ["--config is required"], {}),
    "indivisible batch": (EMBEDDED, ["batch_size is 4", "8 devices", "batch_size=8"], eight),
    "batch larger than the split": (
      [*EMBEDDED, "--config.data.batch_size=64"], ["12 examples", "batch_size=64"], {}),
    "two durations": ([*EMBEDDED, "--config.total_epochs=3"], ["total_steps=6", "both set"], {}),
    "loss not finite": ([*EMBEDDED, huge], ["not finite at step", "learning_rate"], {}),
    "workdir is a file": ([*EMBEDDED, f"--workdir={root / 'file'}"], ["cannot write to"], {}),
    "read-only folder": ([*EMBEDDED, "--workdir=/proc/runs/x"], ["cannot write to /proc"], {}),
  }  # fmt: skip


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
  """Runs all error cases; name -> (CompletedProcess, expected parts)."""
  root = tmp_path_factory.mktemp("errors")
  cases, jobs = error_cases(root), []
  for name, (args, _, env) in cases.items():
    given = any(a.startswith("--workdir") for a in args)
    more = [] if given else [f"--workdir={root / name.replace(' ', '_') / 'run'}"]
    jobs.append(("train", [*args, *more], env))
  found = zip(cases, launch_all(jobs, root / "mistakes"), strict=True)
  return {name: (done, cases[name][1]) for name, done in found}


@pytest.mark.slow
def test_every_error_is_one_clear_message_with_exit_code_1(failures):
  for name, (done, parts) in failures.items():
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, (name, done.stdout, done.stderr)
    assert len(lines) == 1, (name, done.stderr)
    assert "Traceback" not in done.stderr, (name, done.stderr)
    for part in parts:
      assert part in lines[0], (name, part, lines[0])


@pytest.mark.slow
def test_a_full_folder_is_reported_and_the_last_good_checkpoint_stays(tmp_path):
  """Trains on a file system of 6 MB, which its checkpoints outgrow."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip("mounting a small file system needs privileges that are missing here")
  try:
    # A constant rate, so that the run may be prolonged.
    fits = ["--config.model.widths=(4,8)", "--config.schedule.name=constant",
            f"--workdir={disk / 'run'}"]  # fmt: skip
    done = launch("train", *EMBEDDED, *fits)
    assert done.returncode == 0, done.stderr
    (disk / "filler").write_bytes(bytes(5_000_000))
    with (disk / "filler").open("ab") as filler, contextlib.suppress(OSError):
      filler.write(bytes(3_000_000))
    done = launch("train", *EMBEDDED, *fits, "--config.total_steps=20")
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    (disk / "filler").unlink()
    done = launch("train", *EMBEDDED, *fits, "--config.total_steps=8")
    assert done.returncode == 0, done.stderr
    assert "from the checkpoint of step 6" in done.stdout
  finally:
    subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.slow
def test_evaluate_and_predict_name_what_is_missing(tmp_path, trained):
  cases = [
    ("evaluate", [f"--workdir={tmp_path}"], "config.json"),
    ("evaluate", [f"--workdir={trained}", "--split=tests"], "splits: train, val, test"),
    ("evaluate", [f"--workdir={trained}", "--checkpoint=99"], "no checkpoint '99'"),
    ("predict", [f"--workdir={trained}", "--input=/no/where", f"--output={tmp_path}"], "/no/where"),
    ("predict", [f"--workdir={trained}", f"--output={tmp_path}"], "--input is required"),
  ]
  found = launch_all([(name, args, {}) for name, args, _ in cases], tmp_path / "mistakes")
  for done, (*_, part) in zip(found, cases, strict=True):
    assert done.returncode == 1
    assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_without_a_workdir_makes_a_new_one(tmp_path):
  done = subprocess.run(
    [sys.executable, str(ROOT / "launch" / "train.py"),
     f"--config={ROOT / 'configs' / 'encoder_decoder_road.py'}:smoke", "--config.writers=()"],
    cwd=tmp_path, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  (workdir,) = (tmp_path / "runs").iterdir()
  assert workdir.name.startswith("encoder_decoder_road-")


@pytest.mark.slow
def test_kitti_folder_from_the_environment(tmp_path):
  write_kitti(tmp_path / "kitti_road", count=10)
  done = launch(
    "train",
    "--config=configs/encoder_decoder_road.py:data=kitti_road,smoke",
    f"--workdir={tmp_path / 'run'}",
    "--config.writers=()",
    "--config.data.source.train_fraction=0.6",
    env=dict(SEGJAX_DATA=str(tmp_path)),
  )
  assert done.returncode == 0, done.stderr
  assert "6 train and 4 val examples" in done.stdout


def test_compilations_are_kept_in_the_users_cache(tmp_path, monkeypatch):
  from segjax import startup

  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  startup.keep_compilations()
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "segjax")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
  startup.keep_compilations()
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  startup.keep_compilations()
  assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_convolutions_take_all_cores_where_jaxlib_knows_the_flag(monkeypatch):
  from segjax import startup

  flag = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
  monkeypatch.setattr(metadata, "version", lambda name: "0.11.0")
  startup.use_all_cores()
  assert os.environ["XLA_FLAGS"] == "--xla_force_host_platform_device_count=8"
  monkeypatch.setattr(metadata, "version", lambda name: "0.10.2")
  startup.use_all_cores()
  assert os.environ["XLA_FLAGS"] == f"{flag} --xla_force_host_platform_device_count=8"
  startup.use_all_cores()
  assert os.environ["XLA_FLAGS"].count(flag) == 1
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
  startup.use_all_cores()
  assert os.environ["XLA_FLAGS"] == "--xla_cpu_experimental_ynn_fusion_type="


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
@pytest.mark.parametrize("theirs", [None, "glibc.malloc.check=0", ""])
def test_the_heap_is_ours_alone_and_a_users_own_stays(theirs):
  # glibc ends each of its settings by a zero in the environment that Linux shows.
  code = """
import json, os
from pathlib import Path
from segjax import startup
startup.keep_heap()
begun = Path("/proc/self/environ").read_text().split("\\0")
print(json.dumps([begun, os.environ.get("GLIBC_TUNABLES")]))
"""
  env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  if theirs is not None:
    env["GLIBC_TUNABLES"] = theirs
  done = subprocess.run(
    [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True
  )
  begun, seen_by_children = json.loads(done.stdout)
  assert ("glibc.malloc.arena_max=1" in begun) == (theirs is None)
  assert seen_by_children == theirs
