"""Runs: what they share with their data, what stops them, what they save, what is damaged."""

import contextlib
import errno
import json
import os
import queue
import shutil
import signal
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import write_pairs
from PIL import Image
from test_training import same
from test_training import tiny_config as unet_config

from segjax import claims, models, pool, study, textfiles, training
from segjax import config as config_lib
from segjax.data import checks, contents, pipeline, sources
from segjax.data.labels import default_table
from segjax.errors import Stopped, UserError, explain
from segjax.stopping import STOP
from segjax.tasks import TASKS
from segjax.training import (
  array_files,
  checkpoint_files,
  coverage,
  evaluator,
  initial,
  input_pipeline,
  receipt,
  restore,
  temperature,
)
from segjax.training import checkpoints as checkpoints_lib
from segjax.training import workdir as workdir_lib
from segjax.training.checkpoints import Checkpoints, NotFinite, Position
from segjax.training.evaluation import evaluate
from segjax.training.writers import JsonLines, read_metrics
from segjax.weights import torch_files


class OneConv(nn.Module):
  """A net that compiles fast."""

  num_classes: int = 1
  norm: bool = True
  dtype: type = np.float32

  @nn.compact
  def __call__(self, image, *, train: bool):
    x = nn.Conv(self.num_classes, (3, 3), name="conv")(image)
    return nn.BatchNorm(use_running_average=not train, name="norm")(x) if self.norm else x


@pytest.fixture(scope="module", autouse=True)
def one_conv():
  models.MODELS["one_conv"] = OneConv
  yield
  del models.MODELS["one_conv"]


def tiny_config(data, **changes):
  """`unet_config` with that net and nothing else to compile."""
  config = unet_config(data, **{"augment.flip": 0.0, "batch_augment.cutmix": 0.0})
  config.model = dict(name="one_conv", dtype="float32")
  config.update_from_flattened_dict(changes)
  return config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A set with a mask too many, and a finished run on it."""
  root = tmp_path_factory.mktemp("made")
  data = write_pairs(root / "data", count=10)
  shutil.copy(data / "masks" / "x000.png", data / "masks" / "lone.png")
  training.train(tiny_config(data), root / "run")
  return root


@pytest.fixture
def own(made, tmp_path):
  """(config, run, data): copies that a test may damage."""
  shutil.copytree(made, tmp_path / "own")
  data = tmp_path / "own" / "data"
  return tiny_config(data), tmp_path / "own" / "run", data


def change_mask(data, name):
  file = data / "masks" / f"{name}.png"
  mask = np.array(Image.open(file))
  mask[0, 0] = 1 - mask[0, 0]
  Image.fromarray(mask).save(file)


def change_json(file, change):
  values = json.loads(file.read_text())
  values.pop("checksum", None)  # as one does who edits a file on purpose
  change(values)
  file.write_text(json.dumps(values))


# ---------------------------------------------------------------------------- run and data


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_mended_mask_is_other_data(own, split):
  config, run, data = own
  training.train(config, run)
  name = sources.make("folder", split, folder=str(data), train_fraction=0.7).names[0]
  change_mask(data, name)
  with pytest.raises(UserError, match=rf"other data: images or labels of the {split} split have"):
    training.train(config, run)


def test_a_run_of_before_contents_were_hashed_is_taken_and_then_has_them(own, capsys):
  config, run, data = own
  change_json(run / "data.json", lambda d: d.pop("contents"))
  training.train(config, run)
  out = capsys.readouterr().out
  assert "nothing left to train" in out
  assert "  note        masks/ holds 1 label without an image: lone.png\n" in out
  whole = sources.make("folder", "val", folder=str(data), train_fraction=0.7)
  assert json.loads((run / "data.json").read_text())["contents"]["val"] == whole.digest()


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\xff"])
def test_a_damaged_data_json_is_named(own, text):
  config, run, _ = own
  (run / "data.json").write_text(text, encoding="latin-1")
  with pytest.raises(UserError, match=r"data\.json.*start the same training again"):
    training.train(config, run)


def test_fields_that_are_newer_than_a_run_have_their_defaults(own):
  config, run, _ = own

  def older(c):
    for part, name in ((c["data"]["source"], "kind"), (c["loss"], "focal"), (c["task"], "sigmoid"),
                       (c["model"], "norm"), (c, "remat")):  # fmt: skip
      part.pop(name, None)

  change_json(run / "config.json", older)
  with pytest.raises(UserError, match=r"task.sigmoid: False -> True"):  # what its absence means
    training.train(config, run)
  change_json(run / "config.json", lambda c: c["task"].update(sigmoid=True))
  (run / "finished").touch()
  assert pool.train(study.Result("", 0, config, run)) == ""
  change_json(run / "config.json", lambda c: older(c) or c["task"].update(sigmoid=True))
  config.loss.focal = 0.5
  with pytest.raises(UserError, match=r"differs .* loss.focal: 0.0 -> 0.5\. "):
    training.train(config, run)


@pytest.mark.parametrize(
  "fields, why",
  [({"schedule.name": "cosine"}, "the schedule 'cosine'"),
   ({"ema_decay_end": 1.0}, "ema_decay_end"), ({}, "")],
)  # fmt: skip
def test_a_run_may_become_longer_unless_its_steps_depend_on_the_length(fields, why):
  old, new = (tiny_config("", total_steps=n, **fields) for n in (5, 6))
  expected = [f"total_steps: 5 -> 6 ({why} depends on it)"] if why else []
  assert workdir_lib.differences(old, new) == expected


def test_what_cannot_be_seen_any_more_stays_known(own):
  config, run, _ = own
  change_json(run / "data.json", lambda d: d.update(start="0" * 16))
  known = textfiles.read_state(run / "data.json")
  unknown = known | dict(start=None, contents=dict(train=None, val=None))
  prepare = lambda data, mb=0: workdir_lib.prepare(  # noqa: E731
    config, run, default_table(("ground", "thing")), data, mb
  )
  prepare(unknown)
  assert textfiles.read_state(run / "data.json") == known
  with pytest.raises(UserError, match="started from other weights"):
    prepare(known | dict(start="1" * 16))
  with pytest.raises(UserError, match=r"val was \[3, .*now \[4, 'a'\]"):
    prepare(known | dict(val=[4, "a"]))
  with pytest.raises(UserError, match=r"MB are free, .* need about 1000000000000 MB"):
    prepare(known, 10**12)


def test_how_a_split_elsewhere_differs(own):
  _, run, _ = own
  difference = lambda split, *rest: restore._difference(run, split, [1, "a"], "c", *rest)  # noqa: E731
  assert difference("test", True) == (
    "the test split lies in another folder than the data of the training"
  )
  assert difference("test", False) == ""
  (run / "data.json").unlink()
  assert "val split is that of the training is not known" in difference("val", True)
  assert difference("val", False) == ""


def test_without_a_best_checkpoint(own):
  _, run, _ = own
  change_json(run / "config.json", lambda c: c.update(best_metric="val/unknown"))
  with pytest.raises(UserError, match=r"no best checkpoint yet; .*'latest'"):
    restore.run(run, "best")
  (*_, step) = restore.checkpoint_steps(run)
  assert restore.checkpoint_text(run, step) == f"checkpoint of step {step}, the latest"


def test_labels_that_a_task_does_not_ask_for(own):
  config, run, _ = own
  config_lib.set_task(config, "colorization")
  label = lambda **how: restore.data_of_run(run, config, "val", **how).source[0]["label"]  # noqa: E731
  assert label().ndim == 0
  assert label(labelled=False).ndim == 2


def test_a_finished_run_without_its_last_checkpoint_is_not_complete(own, capsys):
  config, run, _ = own
  (run / "finished").touch()
  result = study.Result("", 0, config, run)
  before, (*_, last) = result.final(), restore.checkpoint_steps(run)
  assert result.complete()
  shutil.rmtree(run / "checkpoints" / str(last))  # moved away, as it was damaged
  assert not result.complete()
  assert pool.train(result) == ""
  assert "some results are lost" in capsys.readouterr().out
  assert restore.checkpoint_steps(run)[-1] == last and result.complete()
  times = [k for k in before if k.startswith("time/")]
  now = result.final()
  assert {k: v for k, v in before.items() if k not in times} == {
    k: v for k, v in now.items() if k not in times
  }


def test_a_restored_experiment_has_the_epochs_of_its_run(own):
  config, run, _ = own
  config.schedule.name, config.schedule.warmup_epochs = "cosine", 2.0
  config_lib.save(config, run / "config.json")
  (number, _), size = textfiles.read_state(run / "data.json")["train"], config.data.batch_size
  assert number // size > 1
  schedule = restore.build(run).schedule
  assert float(schedule(2 * (number // size))) == pytest.approx(config.schedule.learning_rate)
  assert float(schedule(number // size)) == pytest.approx(config.schedule.learning_rate / 2)


def test_a_training_that_starts_anew_leaves_nothing_of_the_net_before(own):
  config, run, _ = own
  temperature.keep(run, 2, 1.5)
  for name in ("finished", "evaluation_test_2.json", "evaluation_notes.md"):
    (run / name).touch()
  (run / "evaluation_of_mine_1").mkdir()
  shutil.rmtree(run / "checkpoints")
  training.train(config, run)
  assert temperature.temperature_of(run, 2) is None
  assert not (run / "finished").exists() and not (run / "evaluation_test_2.json").exists()
  assert (run / "evaluation_notes.md").exists() and (run / "evaluation_of_mine_1").is_dir()
  other = run.parent / "other"
  other.mkdir()
  (other / "finished").touch()  # somebody's own, in a folder that held no run
  training.train(config, other)
  assert (other / "finished").exists()


def test_a_studys_finished_run_is_of_these_data_and_complete(own, capsys):
  config, run, data = own
  (run / "finished").touch()
  before = read_metrics(run / "metrics.jsonl")
  assert pool.train(study.Result("", 0, config, run)) == ""
  assert "  finished before: " in capsys.readouterr().out
  (run / "val_sums.npz").write_bytes((run / "val_sums.npz").read_bytes()[:300])
  lines = [json.dumps(r) for r in before if "info/parameters" not in r]
  (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
  result = study.Result("", 0, config, run)
  with pytest.raises(UserError, match=r"val_sums\.npz"):
    result.sums()
  assert not result.complete()
  assert pool.train(study.Result("", 0, config, run)) == ""
  assert "some results are lost" in capsys.readouterr().out
  assert result.complete()
  assert result.final()["val/loss"] == before[-1]["val/loss"]
  change_mask(data, "x000")
  assert "split have changed since" in pool.train(study.Result("", 0, config, run))


@pytest.mark.parametrize(
  "names, found",
  [(("ground", "thing"), ""), (("road", "car"), "its head was trained for other classes"),
   (("thing", "ground"), UserError), (("a", "b", "c"), "")],
)  # fmt: skip
def test_the_classes_of_a_run_that_another_starts_from(made, names, found):
  table, task = default_table(names), TASKS["segmentation"]
  args = str(made / "run"), "all", table, task
  if found is UserError:
    with pytest.raises(UserError, match=r"another order: ground, thing; here .* thing, gr"):
      initial.compare_classes(*args)
  else:
    assert initial.compare_classes(*args).startswith(found)
    assert bool(initial.compare_classes(*args)) == bool(found)
  assert not initial.compare_classes(str(made / "run"), "backbone", table, task)
  assert not initial.compare_classes(str(made / "run"), "all", table, TASKS["classification"])
  assert not initial.compare_classes(str(made / "data"), "all", table, task)


def test_the_best_checkpoint_is_a_start_but_for_a_teachers(made, monkeypatch):
  """Whose loss is the lowest where it collapses."""
  read, state = [], dict(ema_params=None, params={}, batch_stats=None)
  monkeypatch.setattr(Checkpoints, "step_of", lambda self, which: dict(best=1, latest=2)[which])
  monkeypatch.setattr(Checkpoints, "restore_arrays", lambda self, step: read.append(step) or state)
  assert initial._read_run(made / "run") == dict(params={}, batch_stats={})
  monkeypatch.setattr(initial, "TASKS", dict(segmentation=TASKS["dino"]))
  initial._read_run(made / "run")
  assert read == [1, 2]


def test_classes_of_a_run_against_those_of_data():
  run, check = default_table(("a", "b")), workdir_lib.check_classes
  check("runs/x", run, default_table(("a", "b")))
  with pytest.raises(UserError, match=r"runs/x: .*same classes in another order.*: a, b; .*: b, a"):
    check("runs/x", run, default_table(("b", "a")))
  with pytest.raises(UserError, match=r"runs/x: .*other classes\. "):
    check("runs/x", run, default_table(("a", "b", "c")))
  with pytest.raises(UserError, match=r"other classes \('B' and 'b' differ in case alone\)\. "):
    check("runs/x", run, default_table(("a", "B")))


def test_classes_of_folders_against_those_of_a_run(tmp_path):
  for name in ("train/cat", "train/dog", "val/cat"):
    (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / name / "x.png")
  config = config_lib.default()
  config_lib.set_task(config, "classification")
  config.data.source = config_lib.data_source("folder", kind="classification", folder=str(tmp_path))
  for names in (("cat", "dog"), ("dog", "cat")):
    workdir_lib.experiment_lib.save_labels(default_table(names), tmp_path / "labels.json")
    if names == ("dog", "cat"):
      with pytest.raises(UserError, match="same classes in another order"):
        restore.data_of_run(tmp_path, config, "val")
    else:
      assert len(restore.data_of_run(tmp_path, config, "val").source) == 1


# ---------------------------------------------------------------------------- what is not scored


def test_classes_without_a_scored_pixel_and_the_share_that_is_ignored(tmp_path):
  data = write_pairs(tmp_path / "data", count=10, classes=("ground", "thing", "rare"))
  for i in range(10):  # of 40 x 60 pixels
    mask = np.full((40, 60), 255, np.uint8)
    mask[:10] = 0
    mask[:10, :6] = i % 2
    Image.fromarray(mask).save(data / "masks" / f"x{i:03d}.png")
  config = tiny_config(data)
  config.data.source.train_fraction = 1.0
  source = sources.make("folder", "train", folder=str(data), train_fraction=1.0)
  assert checks.label_counts(source)[0].tolist() == [5700, 300, 0]
  (text,), whole = coverage.count(config, "train", source, "mask")
  assert whole
  assert text.startswith("train: nothing is labelled rare; 75.0% of its labels are ignored")
  assert coverage.count(config, "train", source, "target") == ([], False)
  assert coverage.warnings("val", ("a", "b"), np.array([5, 1]), 0.6) == [
    "val: 60.0% of the labels are ignored"
  ]
  assert coverage.warnings("val", ("a", "b"), np.array([5, 1]), 0.5) == []


def test_of_a_large_split_a_part_is_looked_at(tmp_path, monkeypatch):
  data = write_pairs(tmp_path / "data", count=10)
  for i in range(10):  # class 1 is in the last alone, nothing is scored in the first nine
    value = 1 if i == 9 else 255
    Image.fromarray(np.full((40, 60), value, np.uint8)).save(data / "masks" / f"x{i:03d}.png")
  source = sources.make("folder", "train", folder=str(data), train_fraction=1.0)
  monkeypatch.setattr(coverage, "LOOKED_AT", 5)
  (text,), whole = coverage.count(tiny_config(data), "train", source, "mask")
  assert whole  # as nothing was scored in the part
  assert "nothing is labelled ground; 90.0%" in text
  Image.fromarray(np.zeros((40, 60), np.uint8)).save(data / "masks" / "x000.png")
  (text,), whole = coverage.count(tiny_config(data), "train", source, "mask")
  assert not whole
  assert "nothing is labelled thing in the 5 of 10 examples looked at; 80.0%" in text
  monkeypatch.setattr(coverage, "LOOKED_AT", 500)
  monkeypatch.setattr(coverage, "FEW", 2)
  (text,), whole = coverage.count(tiny_config(data), "train", source, "mask")
  assert (text, whole) == ("train: 80.0% of the labels are ignored", True)
  monkeypatch.setattr(coverage, "SECONDS", 0)
  (text,), whole = coverage.count(tiny_config(data), "train", source, "mask")
  assert "in the 2 of 10 examples looked at; 50.0%" in text and not whole


def test_nothing_scored_at_all_is_an_error(tmp_path):
  data = write_pairs(tmp_path / "data", count=10)
  for name in sources.make("folder", "val", folder=str(data), train_fraction=0.7).names:
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(data / "masks" / f"{name}.png")
  with pytest.raises(UserError, match=r"no label of the val split is scored"):
    training.train(tiny_config(data), tmp_path / "run")
  assert not (tmp_path / "run" / "checkpoints" / "1").exists()
  for mask in (data / "masks").iterdir():
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(mask)
  with pytest.raises(UserError, match=r"no label of the train split is scored"):
    training.train(tiny_config(data), tmp_path / "run")
  with pytest.raises(UserError, match=r"no label of the val split is scored"):
    coverage.of_sums("val", ("a", "b"), dict(matrix=np.zeros((2, 2))))


def test_an_evaluation_counts_the_classes_of_drawn_scenes():
  sums = dict(matrix=np.array([[3, 1], [0, 0]]))
  (text,) = coverage.of_sums("val", ("ground", "thing"), sums)
  assert text == "val: nothing is labelled thing; such a class is left out of the means"
  assert coverage.of_sums("val", (), dict(loss=1.0)) == []


def test_crops_that_evaluation_does_not_share(tmp_path):
  data = write_pairs(tmp_path / "data", count=10)
  Image.new("RGB", (20, 40)).save(data / "images" / "x000.png")
  Image.new("L", (20, 40)).save(data / "masks" / "x000.png")
  config = tiny_config(data, **{"data.fit": "crop", "data.size": (32, 32)})
  source = sources.make("folder", "train", folder=str(data), train_fraction=1.0)
  small, scale = coverage.crops(config, source, source)
  assert small.startswith("10% of the train images (1 of 10 looked at) are smaller than the crops")
  assert "squeezed" in scale and "data.eval_fit='full'" in scale
  for eval_fit in ("full", "crop"):
    config.data.eval_fit = eval_fit
    assert coverage.crops(config, source, source) == [small]
  config.data.fit = "resize"
  assert coverage.crops(config, source, source) == []
  same_size = tiny_config(data, **{"data.fit": "crop", "data.size": (40, 60)})
  one = checks.Subset(source, (1, 2, 3))
  assert coverage.crops(same_size, one, one) == []


def test_notes_stand_once_and_at_most_ten(capsys):
  class Source:
    notes = tuple(f"n{i}" for i in range(12))

  assert contents.notes_of(Source, Source, object()) == [f"n{i}" for i in range(12)]


# ---------------------------------------------------------------------------- one at a time


@pytest.mark.parametrize("part", ["", "images", "images/../images/"])
def test_a_run_among_its_data_is_refused(own, part):
  config, _, data = own
  before = sorted(data.rglob("*"))
  with pytest.raises(UserError, match=r"is a folder of the data, .*use another folder"):
    training.train(config, data / part)
  assert sorted(data.rglob("*")) == before
  alone = SimpleNamespace(root=data / "images", pairs=((data / "images" / "x.png", 0),))
  with pytest.raises(UserError, match=r"is a folder of the data, .*images; a run writes"):
    workdir_lib.check_apart(data / part, alone)


def test_a_metric_at_its_wrong_end_is_a_warning(made, tmp_path, monkeypatch, capsys):
  def stop(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(receipt, "write", stop)  # behind the header
  with pytest.raises(KeyboardInterrupt):
    training.train(tiny_config(made / "data", best_metric="val/loss"), tmp_path / "run")
  assert "best_metric is 'val/loss' and best_mode is 'max'" in capsys.readouterr().out


def test_a_run_in_use_is_refused(own):
  config, run, _ = own
  with (
    workdir_lib.locked(run),
    pytest.raises(UserError, match=rf"is in use: process {os.getpid()} on .* trains in it; wait"),
  ):
    training.train(config, run)


def test_a_run_that_was_taken_over_is_not_written_to(tmp_path):
  config = tiny_config(write_pairs(tmp_path / "data", count=10), total_steps=4, eval_steps=4)
  run = tmp_path / "run"
  with pytest.raises(claims.TakenOver, match="was taken over by process 7 on moon"):
    training.train(config, run, before_evaluation=lambda: take_over(run))
  assert not list((run / "checkpoints").glob("[0-9]*"))
  with pytest.raises(UserError, match=r"no latest checkpoint yet; train longer$"):
    restore.run(run)
  with pytest.raises(UserError, match=r"no best checkpoint yet; train longer, or take 'latest'$"):
    restore.run(run, "best")


def take_over(run):
  """As another machine does that takes this process for dead."""
  (run / "claim.2").write_text('{"pid": 7, "host": "moon", "machine": "m", "since": "1"}')


# ---------------------------------------------------------------------------- nothing lost


def failing(error):
  def fail(*args, **kwargs):
    raise error

  return fail


def losses(run):
  return [
    (r["step"], r["val/loss"]) for r in read_metrics(run / "metrics.jsonl") if "val/loss" in r
  ]


def test_an_evaluation_that_fails_costs_nothing(made, tmp_path, monkeypatch, capsys):
  config, run = tiny_config(made / "data"), tmp_path / "run"
  run.mkdir()  # a run died here before its first checkpoint
  (run / "metrics.jsonl").write_text('{"step": 0, "info/steps_per_epoch": 77}\n{"step": 2}\n')
  with monkeypatch.context() as patch:
    patch.setattr(evaluator, "evaluate", failing(UserError("bad.png")))
    with pytest.raises(UserError, match=r"^bad\.png$"):
      training.train(config, run)
    assert "the state of step 3; the same command resumes from it" in capsys.readouterr().out
    patch.setattr(evaluator, "evaluate", failing(RuntimeError("ours")))
    with pytest.raises(RuntimeError, match=r"^ours$"):
      training.train(config, run)
  assert restore.checkpoint_steps(run) == [3]
  resumed = training.train(config, run)
  _, state = restore.run(made / "run")
  assert same(resumed, state)
  assert losses(run) == losses(made / "run")
  rows = [r for r in read_metrics(run / "metrics.jsonl") if "info/steps_per_epoch" in r]
  assert [(r["step"], r["info/steps_per_epoch"]) for r in rows] == [(0, 3)]
  assert restore.run(run, "best")[1].step == restore.run(made / "run", "best")[1].step


@pytest.mark.slow
def test_data_that_vanish_cost_nothing(made, tmp_path):
  shutil.copytree(made / "data", tmp_path / "data")
  changes = dict(total_steps=40, eval_steps=10, pictures=0, **{"data.cache_mb": 0})
  config = tiny_config(tmp_path / "data", **changes)
  whole = training.train(config, tmp_path / "whole")
  names = sources.make(split="train", **config.data.source).names
  images = [tmp_path / "data" / "images" / f"{name}.png" for name in names]

  def vanish():
    for image in images:
      with contextlib.suppress(OSError):
        image.rename(image.with_suffix(".gone"))

  with pytest.raises(UserError, match=r"x0\d\d\.png: "):
    training.train(config, tmp_path / "run", before_evaluation=vanish)
  (*_, step) = restore.checkpoint_steps(tmp_path / "run")
  assert 10 <= step < 40
  for image in images:
    image.with_suffix(".gone").rename(image)
  assert same(whole, training.train(config, tmp_path / "run"))


def test_an_error_before_the_first_step_saves_nothing(made, tmp_path, monkeypatch):
  monkeypatch.setattr(input_pipeline, "_draw", failing(MemoryError()))
  with pytest.raises(MemoryError):
    training.train(tiny_config(made / "data"), tmp_path / "run")
  assert restore.checkpoint_steps(tmp_path / "run") == []  # so that the batch may be changed


def test_a_workdir_that_vanishes_ends_the_run_by_one_line(made, tmp_path):
  config, run = tiny_config(made / "data", writers=("pictures",)), tmp_path / "run"
  with pytest.raises(UserError, match=r"cannot write to .*run: .*No such file"):
    training.train(config, run, before_evaluation=lambda: shutil.rmtree(run))


def test_a_dropped_second_interrupt_ends_the_loop(own, monkeypatch):
  config, run, _ = own
  original = input_pipeline.next_batch

  def next_batch(*args):
    STOP.interrupted = True  # as if KeyboardInterrupt had been raised in a callback
    return original(*args)

  monkeypatch.setattr(input_pipeline, "next_batch", next_batch)
  config.total_steps = 9
  with pytest.raises(KeyboardInterrupt):
    training.train(config, run)
  monkeypatch.setattr(input_pipeline, "next_batch", failing(Stopped(2, 6)))
  with pytest.raises(Stopped):
    training.train(config, run)
  assert restore.checkpoint_steps(run)[-1] == 6


def test_processes_that_read_data_end_with_their_parent_and_not_by_ctrl_c(monkeypatch):
  old, codes = signal.getsignal(signal.SIGINT), queue.Queue()
  parents = iter([7, 7, 7, 1])
  monkeypatch.setattr(os, "getppid", lambda: next(parents))
  monkeypatch.setattr(os, "_exit", codes.put)
  monkeypatch.setattr(pipeline.time, "sleep", lambda seconds: codes.put("alive"))
  try:
    pipeline._end_with_parent(0, 2)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert [codes.get(timeout=10) for _ in range(3)] == ["alive", "alive", 1]
  finally:
    signal.signal(signal.SIGINT, old)


def test_a_process_that_reads_data_and_dies_is_said(own, monkeypatch):
  config, run, _ = own
  config.total_steps = 9
  dead = RuntimeError("Worker process was terminated unexpectedly with exit code -9.")
  monkeypatch.setattr(input_pipeline, "_draw", failing(dead))
  with pytest.raises(UserError, match=r"exit code -9.*/dev/shm.*lower data\.workers"):
    training.train(config, run)
  monkeypatch.setattr(input_pipeline, "_draw", failing(RuntimeError("ours")))
  with pytest.raises(RuntimeError, match=r"^ours$"):
    training.train(config, run)


def checkpoints(folder, **more):
  return contextlib.closing(Checkpoints(folder, **dict(best_metric="m", best_mode="max") | more))


def test_a_checkpoint_that_a_training_removes_meanwhile_is_not_called_damaged(tmp_path):
  with checkpoints(tmp_path) as c:
    c.save(1, dict(params=jnp.ones(2)), Position(b"{}"))
    c.wait()
  with checkpoints(tmp_path, read_only=True) as c:
    assert c.step_of("latest") == 1
    shutil.rmtree(tmp_path / "1")
    with pytest.raises(UserError, match=r"/1: the checkpoint is no longer there.*Start this again"):
      c.restore(1, dict(params=jnp.ones(2)))


def test_what_is_not_finite_replaces_no_checkpoint(tmp_path):
  start = Position(b"{}")
  good = dict(params=jnp.ones(2), opt_state=jnp.array(jnp.inf))
  with checkpoints(tmp_path) as c:
    c.save(1, good, start)
    c.wait()
    c.save(2, good | dict(params=jnp.array([1, jnp.nan])), start)
    with pytest.raises(NotFinite, match=r"not finite after step 2: params; .*learning_rate"):
      c.wait()
    assert c.steps() == [1]


def test_the_best_checkpoint_is_by_a_number(tmp_path):
  with checkpoints(tmp_path, keep=(1, 2, 3)) as c:
    for step, metrics in ((1, dict(m=float("nan"))), (2, dict(m=float("inf"))), (3, None)):
      c.save(step, dict(x=jnp.ones(2)), Position(b"{}"), metrics)
      assert c.step_of("best") is None
      assert c.step_of("latest") == step
    assert [c.evaluated(s) for s in (1, 2, 3)] == [True, True, False]
    c.add_metrics(3, dict(m=-2.0))
    assert c.step_of("best") == 3
    c.save(4, dict(x=jnp.ones(2)), Position(b"{}"), dict(m=-3.0))
    assert c.step_of("best") == 3
    c.save(5, dict(x=jnp.ones(2)), Position(b"{}"), dict(m=-2.0))
    assert c.step_of("best") == 5  # of equal ones the later
  with checkpoints(tmp_path, read_only=True) as c:
    assert c.step_of("best") == 5


# ---------------------------------------------------------------------------- damage


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "lost"])
def test_every_damaged_file_of_a_checkpoint_is_noticed(how, tmp_path):
  state = dict(params=dict(a=jnp.arange(600.0).reshape(20, 30), b=jnp.ones(())), step=jnp.int32(7))
  with checkpoints(tmp_path / "good", keep=(1, 2)) as c:
    for step in (1, 2):
      c.save(step, state, Position(b'{"next_index": 3}'), dict(m=1.0))
  folder = tmp_path / "good" / "2"
  found = (f for part in ("state", "data") for f in sorted((folder / part).rglob("*")))
  files = [f.relative_to(folder.parent) for f in found if f.is_file() and "commit" not in f.name]
  assert len(files) > 5
  for file in [*files, "2/metrics/metrics"]:
    bad = tmp_path / "bad"
    shutil.rmtree(bad, ignore_errors=True)
    shutil.copytree(tmp_path / "good", bad)
    content = bytearray((bad / file).read_bytes())
    if how == "lost":
      (bad / file).unlink()
    else:
      content[len(content) // 2] ^= 128
      (bad / file).write_bytes(dict(flip=content, cut=content[:9], empty=b"")[how])
    if how == "lost" and "metrics" in str(file):
      continue
    with (
      pytest.raises(
        UserError, match=r"bad/2: the checkpoint is damaged .*whole are those of steps 1: use one"
      ),
      checkpoints(bad, read_only=True) as c,
    ):
      c.restore_arrays(2)


def test_of_whole_checkpoints_the_last_is_resumed(tmp_path, monkeypatch):
  with checkpoints(tmp_path, keep=(2, 9, 10)) as c:
    for step in (2, 9, 10):
      c.save(step, dict(params=jnp.ones(3)), Position(b"{}"))
    c.wait()
    (tmp_path / "2" / "files.json").write_text("{")
    with pytest.raises(UserError, match=r"whole are .* 9, 10: .* then resumes from step 10$"):
      c.restore_arrays(2)
    monkeypatch.setattr(checkpoints_lib, "set_position", failing(ValueError("x")))
    with pytest.raises(UserError, match=r"/10: .* whole are those of steps 9: "):
      c.restore(10, dict(params=jnp.ones(3)), object())


@pytest.mark.parametrize("error", [MemoryError(), PermissionError(13, "Permission denied", "x")])
def test_a_fault_of_the_machine_is_no_damage_of_a_file(error, tmp_path, monkeypatch):
  with checkpoints(tmp_path) as c:
    c.save(1, dict(params=jnp.ones(3)), Position(b"{}"), dict(m=1.0))
    c.wait()
    again = lambda: Checkpoints(tmp_path, best_metric="m", best_mode="max", read_only=True)  # noqa: E731
    for owner, name, read in (
      (checkpoint_files, "_checksum", lambda: c.restore_arrays(1)),
      (checkpoint_files, "check_metrics", again),
      (ocp, "CheckpointManager", again),
    ):
      with monkeypatch.context() as patch, pytest.raises((UserError, type(error))) as found:
        patch.setattr(owner, name, failing(error))
        read()
      assert explain(found.value) == explain(error)
  file = tmp_path / "a.npz"
  array_files.write(file, dict(x=np.ones(2)))
  monkeypatch.setattr(np, "load", failing(error))
  monkeypatch.setattr(torch_files, "_read_zip", failing(error))
  for read in (lambda: array_files.read(file, ""), lambda: torch_files.read_tensors(file)):
    with pytest.raises((UserError, type(error))) as found:
      read()
    assert "damaged" not in explain(found.value)


def test_an_error_of_ours_in_restoring_keeps_its_stack(tmp_path, monkeypatch):
  state = dict(params=jnp.ones(3))
  with checkpoints(tmp_path) as c:
    c.save(1, state, Position(b"{}"))
    c.wait()
    assert c.restore(1, state)["params"].tolist() == [1, 1, 1]
    for other in (dict(params=jnp.ones(4)), dict(params=jnp.ones(3, jnp.int32)), dict(p=1.0)):
      with pytest.raises(UserError, match=r"does not fit the model: p"):
        c.restore(1, jax.tree.map(jnp.asarray, other))
    monkeypatch.setattr(ocp.CheckpointManager, "restore", failing(TypeError("ours")))
    with pytest.raises(TypeError, match=r"^ours$"):
      c.restore(1, state)
    monkeypatch.setattr(ocp.CheckpointManager, "save", failing(TypeError("ours")))
    c.save(2, state, Position(b"{}"))
    with pytest.raises(TypeError, match=r"^ours$"):
      c.wait()


def test_a_checkpoint_that_was_not_finished_is_no_damaged_one(tmp_path):
  state = dict(params=jnp.arange(6.0))
  with checkpoints(tmp_path) as c:
    c.save(1, state, Position(b"{}"))
  torn = tmp_path / "2.orbax-checkpoint-tmp" / "metrics"
  torn.mkdir(parents=True)
  (torn / "metrics").touch()
  with checkpoints(tmp_path) as c:
    assert same(c.restore(1, state), state)


def test_checkpoints_of_before_their_files_were_summed(tmp_path):
  state = dict(params=jnp.arange(600.0))
  with checkpoints(tmp_path) as c:
    c.save(1, state, Position(b"{}"))
  (tmp_path / "1" / "files.json").unlink()
  with checkpoints(tmp_path, read_only=True) as c:
    assert same(c.restore(1, state), state)
  largest = max((tmp_path / "1").rglob("d/*"), key=lambda f: f.stat().st_size)
  largest.unlink()
  with checkpoints(tmp_path, read_only=True) as c, pytest.raises(UserError, match=r"is damaged"):
    c.restore(1, state)


def test_a_damaged_line_is_skipped_and_said_and_a_torn_last_one_dropped(tmp_path, capsys):
  file = tmp_path / "metrics.jsonl"
  rows = [dict(step=i, loss=float(i)) for i in range(1, 6)]
  lines = [json.dumps(r).encode() for r in rows]
  lines[1] = b'{"step": 2, "l\xffss": 2.0}'
  lines[3] = b"[4]"
  file.write_bytes(b"\n".join(lines) + b'\n{"step": 6, "lo')
  assert read_metrics(file) == [rows[0], rows[2], rows[4]]
  assert "metrics.jsonl: damaged, skipped: line 2, 4\n" in capsys.readouterr().err
  writer = JsonLines(tmp_path, first_step=3)
  writer.scalars(4, dict(loss=float("nan")))
  writer.close()
  assert read_metrics(file) == [rows[0], rows[2], dict(step=4, loss=None)]
  assert capsys.readouterr().err == ""
  JsonLines(tmp_path, first_step=0).close()
  assert read_metrics(file) == []


def test_sums_are_written_whole_or_not_at_all(own, monkeypatch):
  config, run, _ = own
  old = (run / "val_sums.npz").read_bytes()
  config.total_steps, config.eval_steps = 7, 7

  def savez(file, **values):
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(np, "savez", savez)
  with pytest.raises(UserError, match=r"cannot write to .*No space left"):
    training.train(config, run)
  assert (run / "val_sums.npz").read_bytes() == old
  assert restore.checkpoint_steps(run)[-1] == 7
  assert evaluate is evaluator.evaluate and config_lib.load(run / "config.json").total_steps == 7
