"""Studies: identity, resuming, failures, intervals, and a report that a person can use."""

import csv
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import ROOT, launch, launch_all, shows, write_pairs
from PIL import Image
from scipy import stats
from sklearn.metrics import jaccard_score

from segjax import config as config_lib
from segjax import study as study_lib
from segjax import training
from segjax.analysis import (
  answer,
  charts,
  document,
  figures,
  probes,
  regions,
  report,
  studies,
  variants,
)
from segjax.analysis.figures import at_steps
from segjax.analysis.intervals import mean_and_deviation, paired_difference
from segjax.analysis.predictions import Prediction
from segjax.data.checks import Subset
from segjax.data.datasets.digits import digits
from segjax.data.labels import default_table
from segjax.data.sources import SOURCES
from segjax.errors import UserError
from segjax.training import experiment as experiment_lib
from segjax.training.input_pipeline import make_source

STUDIES = sorted(p.stem for p in (ROOT / "configs" / "studies").glob("*.py"))


def write_study(root, more=""):
  """A study of seconds on the files of `write_pairs`: two widths, two variants that fail."""
  data = write_pairs(root / "data", count=10, size=(64, 64))
  (root / "tiny.py").write_text(f"""
from segjax import config as config_lib

def get_config(arg=""):
  a = config_lib.parse_arg(arg, width=2)
  c = config_lib.default()
  c.name = f"tiny{{a.width}}"
  c.data.source = config_lib.data_source("folder", folder={str(data)!r}, train_fraction=0.7)
  c.data.update(size=(16, 24), batch_size=2)
  c.model = dict(name="unet", widths=(a.width, 4), dtype="float32")
  c.total_steps, c.total_epochs, c.eval_steps, c.eval_epochs = 4, 0.0, 2, 0.0
  c.log_steps, c.pictures, c.writers = 1, 0, ()
  return c
""")
  (root / "study.py").write_text(f"""
from segjax.study import Study

def get_study(arg=""):
  spec = {str(root / "tiny.py")!r}
  return Study(
    title="Widths | narrow & wide",
    question="Does width matter?",
    variants={{"narrow": spec + ":width=2", "broken": spec, "misfit": spec,
              "wide": spec + ":width=3"}},
    changes={{"broken": {{"schedule.learning_rate": 1e30, "optimizer.name": "sgd"}},
             "misfit": {{"model.widht": 3}}}},
    seeds=(0, 1),
    {more}
  )
""")
  return root / "study.py"


def arguments(root):
  files = dict(study="study.py", runs="pool", output="report")
  return [f"--{flag}={root / name}" for flag, name in files.items()]


def run_study(root, *args):
  done = launch("study", *arguments(root), *args)
  assert done.returncode == 0, done.stderr
  return done


def table(file):
  """Rows of results.csv without the columns that may differ."""
  rows = list(csv.DictReader(file.open()))
  return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


# ---------------------------------------------------------------------------- running


@pytest.mark.slow
def test_a_study_by_its_launcher(tmp_path):
  """Killed and resumed it writes its report; then its runs are reused, others are trained."""
  write_study(tmp_path)
  kill_after_two(tmp_path)
  done = run_study(tmp_path)
  assert done.stdout.count("finished before") >= 2
  check_report(tmp_path / "report", done)
  check_reuse(tmp_path)


def check_report(report, done):
  assert "4 of 8 runs done" in done.stdout
  assert "misfit, seed 1: the config has no field 'model.widht'" in done.stdout
  assert "broken, seed 0: not finite at step" in done.stdout
  rows = table(report / "results.csv")
  assert [(r["variant"], r["seed"]) for r in rows] == [
    (v, s) for v in ("narrow", "broken", "misfit", "wide") for s in "01"
  ]
  good = [r for r in rows if r["status"] == "done"]
  assert len(good) == 4
  assert len({r["val/loss"] for r in good}) == 4
  assert len({r["identity"] for r in rows if r["variant"] != "misfit"}) == 6
  names = {p.name for p in (report / "figures").iterdir()}
  for stem in ("curves", "trade_training_minutes", "trade_size", "iou_by_class", "confusion_0",
               "confusion_1"):  # fmt: skip
    assert {f"{stem}.png", f"{stem}.pdf"} <= names, stem
  for stem in ("regions", "stages_0", "stages_1", "trade_latency_at_batch_1_cpu"):
    assert {f"{stem}.png", f"{stem}.pdf"} <= names, stem
  text = (report / "report.md").read_text()
  for figure in re.findall(r"\]\((figures/[^)]+)\)", text):
    assert Image.open(report / figure).size[0] > 400
  assert "schedule.learning_rate=1e+30, optimizer.name=sgd" in text
  assert "| wide | narrow | training minutes |" in text
  for part in ("mean IoU", "± ", "difference [95 % interval]", "not finite", "ranking",
               "random weights", "GFLOPs", "latency", "peak memory, MB", "compile time, s",
               "| precision | thing |", "not distinguishable",
               "95 % interval over images", "| wide | mean IoU of images |"):  # fmt: skip
    assert part in text, part
  page = (report / "report.html").read_text()
  assert page.count("data:image/png;base64,") == text.count("](figures/")
  assert "Widths | narrow &amp; wide" in page
  assert "src='figures" not in page


def check_reuse(root):
  before = table(root / "report" / "results.csv")
  again = run_study(root)
  assert again.stdout.count("finished before") == 4
  assert table(root / "report" / "results.csv") == before
  changed = ("--seeds=1,", "--config.total_steps=2", f"--output={root / 'one'}")
  one = run_study(root, *changed)
  assert "2 of 4 runs done" in one.stdout
  assert "finished before" not in one.stdout
  assert "overrides: total_steps=2" in (root / "one" / "report.md").read_text()
  assert [r["seed"] for r in table(root / "one" / "results.csv")] == ["1"] * 4
  assert "one seed: no interval" in (root / "one" / "report.md").read_text()


def kill_after_two(root):
  """Starts the study, and kills it when two of its runs have finished."""
  command = [sys.executable, ROOT / "launch" / "study.py", *arguments(root)]
  process = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
  )
  deadline = time.time() + 200
  while time.time() < deadline and len(list((root / "pool").glob("*/finished"))) < 2:
    time.sleep(0.05)
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  assert not (root / "report").exists()


def test_a_damaged_run_counts_as_failed(tmp_path, monkeypatch, capsys):
  config = config_lib.read("configs/unet_road.py:smoke")
  for name in "ab":
    (tmp_path / name).mkdir()
    config_lib.save(config, tmp_path / name / "config.json")
  (tmp_path / "b" / "labels.json").write_text("{")
  trained = [study_lib.Result(n, 0, config, tmp_path / n) for n in "ab"]
  written = []
  monkeypatch.setattr(study_lib, "run", lambda study, pool: trained)
  monkeypatch.setattr(report, "write", lambda study, results, folder: written.append(results))
  spec = "configs/studies/skip_connections.py:smoke"
  how = dict(overrides={}, runs=tmp_path, output=tmp_path / "report")
  with pytest.raises(UserError, match="every run failed"):  # neither has labels
    studies.run(spec, **how)
  assert "0 of 2 runs done" in capsys.readouterr().out
  check = studies.intact._check_files
  monkeypatch.setattr(studies.intact, "_check_files", lambda r: r.variant == "a" or check(r))
  monkeypatch.setattr(studies.intact.restore, "run", lambda workdir: None)
  studies.run(spec, **how)
  assert [bool(r.error) for r in written[-1]] == [False, True]
  out = capsys.readouterr().out
  assert "1 of 2 runs done" in out and "failed: b, seed 0: " in out and "labels.json" in out


@pytest.mark.slow
def test_errors_are_one_line(tmp_path):
  write_study(tmp_path)
  cases = [
    (
      "--config.total_stepz=2",
      "the config has no field 'total_stepz'; did you mean 'total_steps'?",
    ),
    ("--config.total_steps=many", "config.total_steps is 'many', expected a int"),
    ("--config.seed=3", "--config.seed: a study trains with several seeds"),
    ("--seeds=none", "--seeds is 'none', expected a count"),
    ("--study=configs/studies/asp.py", "configs/studies/aspp.py"),
  ]
  jobs = [("study", [*arguments(tmp_path), arg], {}) for arg, _ in cases]
  for done, (_, message) in zip(launch_all(jobs, tmp_path / "mistakes"), cases, strict=True):
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("name", STUDIES)
def test_studies_of_configs_parse(name):
  study = study_lib.read(f"configs/studies/{name}.py:smoke")
  configs = [study_lib.make_config(study, v, 0) for v in study.variants]
  assert all(6 <= c.total_steps <= 9 for c in configs)
  assert len({study_lib.identity(c) for c in configs}) == len(study.variants)
  whole = study_lib.read(f"configs/studies/{name}.py")
  assert len(whole.seeds) >= 3
  for label in whole.variants:
    config = study_lib.make_config(whole, label, 0)
    assert len(config.keep_epochs) == 2


@pytest.mark.weekly
@pytest.mark.parametrize("name", STUDIES)
def test_nets_of_a_study_have_the_outputs_of_their_tasks(name):
  """Of every variant, by shapes; the reports below are of stand-ins."""
  study = study_lib.read(f"configs/studies/{name}.py")
  configs = {v: study_lib.make_config(study, v, 0) for v in study.variants}
  for config in {str(c.model): c for c in configs.values()}.values():
    experiment = experiment_lib.build(config, make_source(config, "train").source.labels, 10)
    image = jax.ShapeDtypeStruct((2, *config.data.size, 3), np.uint8)
    state = experiment.abstract_state()
    out = jax.eval_shape(experiment.predict_step(), state, image)
    channels, size = experiment.task.num_outputs, tuple(config.data.size)
    shapes = {x.shape for x in jax.tree.leaves(out)}
    assert shapes & {(2, channels), (2, *size, channels)}


def test_stages_of_a_study_differ():
  for name in STUDIES:
    for arg in ("", "smoke"):
      study = study_lib.read(f"configs/studies/{name}.py:{arg}")
      config = study_lib.make_config(study, next(iter(study.variants)), 0)
      kept = (*config.keep_epochs, *config.keep_steps, config.total_epochs or config.total_steps)
      assert 0 < kept[0] < kept[1] < kept[2], name


def test_what_depends_on_the_length_follows_an_override():
  study = study_lib.read("configs/studies/optimizers.py")
  study = dataclasses.replace(study, overrides={"total_epochs": "3"})
  configs = {v: study_lib.make_config(study, v, 0) for v in study.variants}
  assert configs["SGD, step"].schedule.every_epochs == 1.0
  assert configs["Adam, multi-step"].schedule.milestone_epochs == (1.5, 2.25)
  assert len({study_lib.identity(c) for c in configs.values()}) == 6
  early = dataclasses.replace(study, overrides={"schedule.every_epochs": "2"})
  assert study_lib.make_config(early, "SGD, step", 0).schedule.every_epochs == 2.0
  rows = dict.fromkeys(study.variants, lambda c: {"log_steps": 7})
  study = dataclasses.replace(study, derived=rows, overrides={})
  assert study_lib.make_config(study, "SGD, step", 0).log_steps == 7
  study = dataclasses.replace(study, overrides={"log_steps": "3"})
  assert study_lib.make_config(study, "SGD, step", 0).log_steps == 3
  study = study_lib.read("configs/studies/attention_vs_pixelwise.py:additive=2,backbone=resnet18")
  study = dataclasses.replace(study, overrides={"total_epochs": "3"})
  longer = {k: study_lib.make_config(study, k, 0) for k in study.variants if "times" in k}
  assert {k: c.total_epochs for k, c in longer.items()} == {
    "softmax, 2 times as long": 6.0, "softmax, 1.5 times as long": 4.5
  }  # fmt: skip
  config = study_lib.make_config(study, "additive", 0)
  assert config.total_epochs == 3.0 and config.model.backbone == "resnet18"
  assert ("softmax, 2 times as long", "additive") in study.compare
  assert ("softmax, 1.5 times as long", "scaled dot product") in study.compare


@pytest.mark.parametrize("seeds, said", [((0, 3, 0), "0, 3, 0"), ((), "none")])
def test_seeds_are_each_one_run(seeds, said, tmp_path):
  study = dataclasses.replace(read_smoke("skip_connections"), seeds=seeds)
  with pytest.raises(UserError, match=f"seeds are {said}; expected one or more, each once"):
    study_lib.plan(study, tmp_path)


@pytest.mark.parametrize(
  ("fields", "said"),
  [
    (dict(seeds=3), r"seeds are 3, expected whole numbers"),
    (dict(seeds="012"), r"seeds are '012', expected whole numbers"),
    (dict(seeds=(0, -1)), r"seeds are \(0, -1\), expected whole numbers"),
    (dict(variants=["skips"]), r"variants are \['skips'\], expected a dict"),
    (dict(variants={}), r"variants are \{\}, expected a dict"),
  ],
)
def test_seeds_and_variants_of_another_kind(fields, said):
  with pytest.raises(UserError, match=said):
    dataclasses.replace(read_smoke("skip_connections"), **fields)


@pytest.mark.parametrize(
  ("field", "said"),
  [
    (
      "changes={'bb': {}}",
      "changes name the variant 'bb', which is none of a, b; did you mean 'b'",
    ),
    ("derived={'c': dict}", "derived name the variant 'c', which is none of a, b"),
    ("notes={'c': ''}", "notes name the variant 'c'"),
    ("compare=(('a', 'c'),)", "compare name the variant 'c'"),
  ],
)
def test_a_file_names_its_own_variants(field, said, tmp_path):
  (tmp_path / "x.py").write_text(
    "from segjax.study import Study\n\ndef get_study(arg=''):\n"
    f"  return Study('t', 'q', dict(a='a.py', b='b.py'), {field})\n"
  )
  with pytest.raises(UserError, match=said):
    study_lib.read(str(tmp_path / "x.py"))


def test_a_file_that_returns_no_study(tmp_path):
  (tmp_path / "x.py").write_text("def get_study(arg=''):\n  return {}\n")
  with pytest.raises(UserError, match=r"x.py: get_study returns a dict, expected a segjax.study"):
    study_lib.read(str(tmp_path / "x.py"))


def test_a_metric_that_no_run_has():
  runs = [SimpleNamespace(final=lambda: {"val/mean_iou": 0.5})]
  study = SimpleNamespace(metric="val/mean_iuo")
  found = answer.unmeasured(study, {"a": runs})
  assert found.endswith(
    "'val/mean_iuo' is none that a run has measured; did you mean 'val/mean_iou'?"
  )
  assert answer.unmeasured(SimpleNamespace(metric="val/mean_iou"), {"a": runs}) == ""


@pytest.mark.parametrize(
  "metric, sign",
  [("val/l1", -1), ("val/content", -1), ("val/loss/dice", -1), ("val/color_error", -1),
   ("val/ssim", 1), ("val/iou/road", 1)],
)  # fmt: skip
def test_which_end_of_a_metric_is_good(metric, sign):
  config = SimpleNamespace(best_metric="val/psnr", best_mode="max")
  assert variants.sign_of(config, metric) == sign


def test_losses_of_two_kinds_are_not_compared():
  def runs(value, **loss):
    config = config_lib.read("configs/unet_road.py")
    config.loss.update(loss)
    config.best_metric, config.best_mode = "val/loss", "min"
    final = lambda: {"val/loss": value, "val/f1/road": 1 - value}  # noqa: E731
    return [SimpleNamespace(seed=0, config=config, final=final, best=lambda: value)]

  study = SimpleNamespace(metric="val/loss")
  same = dict(a=runs(0.3), b=runs(0.2))
  assert answer.score_of(study, same, {})[1:] == (-1, dict(a={0: 0.3}, b={0: 0.2}))
  other = dict(a=runs(0.3), b=runs(0.2, focal=1.0))
  assert answer.score_of(study, other, {}) is None
  assert variants.common_score(other, {}) is None
  assert answer.score_of(SimpleNamespace(metric="val/f1/road"), other, {})[0] == "F1 of road"


def test_variants_that_an_override_makes_alike_are_an_error(tmp_path):
  study = study_lib.read("configs/studies/optimizers.py:smoke")
  alike = {"schedule.name": "constant"}
  with pytest.raises(UserError, match="'SGD, constant' and 'SGD, step' of the study have the same"):
    study_lib.run(dataclasses.replace(study, overrides=alike), tmp_path)


@pytest.mark.slow
def test_a_finished_run_of_other_data_or_defaults_is_not_reused(tmp_path, monkeypatch, capsys):
  study = study_lib.read(str(write_study(tmp_path)))
  variants = dict(list(study.variants.items())[:1])
  study = dataclasses.replace(study, variants=variants, seeds=(0,))
  assert study_lib.run(study, tmp_path / "pool")[0].error == ""
  assert study_lib.run(study, tmp_path / "pool")[0].error == ""
  assert "finished before" in capsys.readouterr().out
  other = write_pairs(tmp_path / "other", count=12, size=(64, 64))
  changed = dataclasses.replace(study, overrides={"data.source.folder": str(other)})
  (result,) = study_lib.run(changed, tmp_path / "pool")
  assert "holds a run on other data" in result.error
  original = config_lib.default

  def newer():
    config = original()
    config.schedule.power = 0.8
    return config

  monkeypatch.setattr(config_lib, "default", newer)
  (result,) = study_lib.run(study, tmp_path / "pool")
  assert "schedule.power: 0.9 -> 0.8" in result.error


@pytest.mark.slow
def test_a_finished_run_that_started_from_other_weights_is_not_reused(tmp_path):
  study = study_lib.read(str(write_study(tmp_path)))
  variants = dict(list(study.variants.items())[:1])
  study = dataclasses.replace(study, variants=variants, seeds=(0,))
  (first,) = study_lib.run(study, tmp_path / "pool")
  start = tmp_path / "start"
  shutil.copytree(first.workdir, start)
  study = dataclasses.replace(study, overrides={"init_from": str(start)})
  (result,) = study_lib.run(study, tmp_path / "pool")
  assert result.error == ""
  before = (result.workdir / "data.json").read_text()
  shutil.move(start, tmp_path / "away")  # what it started from need not be there any more
  assert study_lib.run(study, tmp_path / "pool")[0].error == ""
  training.train(result.config, result.workdir)
  assert (result.workdir / "data.json").read_text() == before
  shutil.copytree(result.workdir, start)
  (result,) = study_lib.run(study, tmp_path / "pool")
  assert f"started from other weights: {str(start)!r} has changed" in result.error


@pytest.mark.weekly
def test_a_report_of_data_that_moved(tmp_path):
  study = study_lib.read(str(write_study(tmp_path)))
  variants = dict(list(study.variants.items())[:1])
  study = dataclasses.replace(study, variants=variants, seeds=(0,))
  study_lib.run(study, tmp_path / "pool")
  moved = (tmp_path / "data").rename(tmp_path / "moved")
  study = dataclasses.replace(study, overrides={"data.source.folder": str(moved)})
  results = study_lib.run(study, tmp_path / "pool")
  own = tmp_path / "paper" / "figures" / "mine.png"
  own.parent.mkdir(parents=True)
  own.touch()
  (own.parent / "confusion_7.png").touch()
  assert report.write(study, results, tmp_path / "paper").exists()
  assert (own.parent / "regions.png").exists() and own.exists()
  assert not (own.parent / "confusion_7.png").exists()


def test_a_report_has_a_folder_of_its_own():
  for spec, name in (
    ("configs/studies/aspp.py", "aspp_total_steps=1"),
    ("configs/studies/aspp.py:data=x,weights=a/b.pth", "aspp_data=x_weights=a_b.pth_total_steps=1"),
  ):
    assert studies.folder_name(spec, {"total_steps": "1"}) == name
  long = {"data.source.folder": "x" * 150}
  names = {studies.folder_name("a.py", long | {"total_steps": n}) for n in ("100", "999")}
  assert len(names) == 2 and all(len(n) == 120 for n in names)


def test_identity_ignores_what_changes_no_number():
  config = config_lib.default()
  first = study_lib.identity(config)
  config.data.threads, config.name, config.data.source.seed = 7, "other", 0
  assert study_lib.identity(config) == first
  config.seed = 1
  assert study_lib.identity(config) != first


def test_a_field_that_is_new_changes_no_identity_and_is_filled_in(tmp_path):
  new = config_lib.default()
  new.seed = 3
  old = config_lib.default()
  old.seed = 3
  del old.ema_decay_end, old.data.workers
  assert study_lib.identity(old) == study_lib.identity(new)
  config_lib.save(old, tmp_path / "config.json")
  assert config_lib.load(tmp_path / "config.json").to_dict() == new.to_dict()
  new.ema_decay_end = 0.5
  assert study_lib.identity(old) != study_lib.identity(new)


@pytest.mark.parametrize(
  ("spec", "field", "value"),
  [("pretraining.py:method=dino", "task.center_momentum", 0.5),
   ("unet_camvid.py:data=camvid", "data.source.classes", "objects"),
   ("classification", "loss.label_smoothing", 0.1), ("unet_road.py", "model.dropout", 0.5)],
)  # fmt: skip
def test_new_fields_of_tasks_sources_and_nets_change_no_identity(spec, field, value):
  if spec == "classification":
    new = config_lib.default()
    config_lib.set_task(new, "classification")
  else:
    new = config_lib.call_file(f"{ROOT}/configs/{spec}", "get_config")
  old = new.copy_and_resolve_references()
  part, _, name = field.rpartition(".")
  node = old
  for key in part.split("."):
    node = node[key]
  del node[name]
  assert study_lib.identity(old) == study_lib.identity(new)
  new.update_from_flattened_dict({field: value})
  assert study_lib.identity(old) != study_lib.identity(new)


# ---------------------------------------------------------------------------- numbers


def test_interval_is_scipys_paired_t():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=6), rng.normal(size=6) + 0.3
  d = paired_difference(a, b)
  want = stats.ttest_rel(b, a).confidence_interval(0.95)
  np.testing.assert_allclose((d.low, d.high), (want.low, want.high), rtol=1e-12)
  np.testing.assert_allclose(d.mean, np.mean(b - a))
  assert d.verdict == "not distinguishable"
  assert paired_difference(a, a + 1 + 0.01 * b).verdict == "higher"
  assert paired_difference(a + 1, a + 0.01 * b).verdict == "lower"
  assert paired_difference([1.0, np.nan], [2.0, 3.0]).verdict == "one seed: no interval"
  assert mean_and_deviation([np.nan, 0.25]) == "0.2500"
  assert mean_and_deviation([np.nan]) == "-"


def test_what_was_not_defined_is_left_out(tmp_path):
  rows = [{"step": 0, "info/steps_per_epoch": 1.0}]
  for step, f1 in ((1, None), (2, 0.5), (3, 0.7)):
    rows.append({"step": step, "train/loss": 1.0, "train/steps": 1})
    rows.append({"step": step, "val/loss": 1.0, "val/f1": f1})
  other = [{k: None if k == "val/f1" else v for k, v in row.items()} for row in rows]
  file = charts.curves(dict(a=[rows, other], b=[other]), [("f1", "F1")], tmp_path / "curves.png")
  assert file.is_file()
  np.testing.assert_equal(at_steps(rows, "val/f1", [1, 2, 3]), [np.nan, 0.5, 0.7])
  assert charts.pareto([1, 2, 3], [np.nan, 0.4, 0.6]).tolist() == [False, True, True]


def test_pictures_keep_their_colors_in_the_pdf(tmp_path):
  picture = np.zeros((30, 50, 3), np.uint8)
  picture[:, ::2] = (60, 16, 152)
  figures.write_picture(picture, tmp_path / "regions.png")
  text = (tmp_path / "regions.pdf").read_bytes()
  assert b"DCTDecode" not in text  # a JPEG
  assert re.search(rb"/Subtype /Image", text) and b"/Width 50" in text and b"/Height 30" in text


def test_pareto_front_against_brute_force():
  rng = np.random.default_rng(1)
  cost, value = rng.integers(0, 6, 40), rng.integers(0, 6, 40)
  want = [
    not any(
      c <= cost[i] and v >= value[i] and (c < cost[i] or v > value[i])
      for c, v in zip(cost, value, strict=True)
    )
    for i in range(40)
  ]
  assert charts.pareto(cost, value).tolist() == want


def test_regions_are_the_best_and_the_worst_windows():
  rng = np.random.default_rng(2)
  examples = []
  for i in range(3):
    label = (rng.random((40, 56)) < 0.5).astype(np.uint8)
    pred = np.where(rng.random(label.shape) < np.linspace(0, 1, 56), label, 1 - label)
    label[:5] = 255
    image = rng.integers(0, 255, (*label.shape, 3)).astype(np.uint8)
    examples.append(Prediction(f"e{i}", image, label, pred.astype(np.uint8)))
  found = regions.best_and_worst(examples, 3, size=16, share=0.05)
  for c in range(2):
    scores = []
    for p in examples:
      for top in range(0, 40 - 16 + 1, 4):
        for left in range(0, 56 - 16 + 1, 4):
          part = slice(top, top + 16), slice(left, left + 16)
          truth, pred = p.label[part], p.pred[part]
          if (truth != 255).mean() >= 0.5 and (truth == c).mean() >= 0.05:
            valid = truth != 255
            scores.append(jaccard_score(truth[valid] == c, pred[valid] == c))
    best, worst = found[c]
    np.testing.assert_allclose((best.iou, worst.iou), (max(scores), min(scores)))
    assert best.image.shape == (16, 16, 3)
  assert found[2] == (None, None)  # a class that is nowhere
  table = default_table(("a", "b", "c"))
  legend = regions.picture(found, table)[-20:]
  assert [(legend == color).all(-1).sum() > 100 for _, color in table.classes] == [True] * 3
  right = [dataclasses.replace(p, pred=np.where(p.label == 255, 0, p.label)) for p in examples]
  assert [w for _, w in regions.best_and_worst(right, 2, size=16)] == [None, None]
  wrong = [dataclasses.replace(p, pred=1 - np.minimum(p.label, 1)) for p in examples]
  assert [b for b, _ in regions.best_and_worst(wrong, 2, size=16)] == [None, None]


CURVE = [
  {"step": 0, "info/steps_per_epoch": 10.0},
  *({"step": n, "train/steps": 10, "train/loss": 1.0, "val/loss": 2.0} for n in (10, 20)),
]
CHARTS = {
  "curves": lambda labels, file: charts.curves(
    {k: [CURVE, CURVE] for k in labels}, [("loss", "loss")], file
  ),
  "scatter": lambda labels, file: charts.scatter(
    {k: (i + 1, i, 0.1) for i, k in enumerate(labels)}, ("x", "y"), file
  ),
  "class_bars": lambda labels, file: charts.class_bars(
    {k: np.full((2, 3), 0.5) for k in labels}, ("a", "b", "c"), np.zeros((3, 3), np.uint8), file
  ),
}


def test_curves_of_seeds_that_stopped_early_or_measured_nothing(tmp_path, monkeypatch):
  kept = []
  monkeypatch.setattr(charts, "write", lambda figure, file: kept.append(figure))
  later = [*CURVE, {"step": 30, "train/steps": 10, "train/loss": 1.0, "val/loss": 5.0}]
  charts.curves(dict(a=[CURVE, later]), [("loss", "loss")], tmp_path / "a.png")
  (line,) = [x for x in kept[0].axes[0].lines if x.get_linestyle() == "-"]
  assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata().tolist() == [2, 2, 5]
  charts.curves(dict(a=[CURVE]), [("mIoU", "mIoU")], tmp_path / "a.png")
  assert not kept[1].axes[0].lines


def test_a_single_evaluation_is_seen(tmp_path, monkeypatch):
  kept = []
  monkeypatch.setattr(charts, "write", lambda figure, file: kept.append(figure))
  charts.curves(dict(a=[CURVE[:2]], b=[CURVE[:2]]), [("loss", "loss")], tmp_path / "a.png")
  axis = kept[0].axes[0]
  assert len(axis.lines) == 4 and all(x.get_marker() not in ("None", "") for x in axis.lines)
  assert axis.get_xlim()[0] == 0 and axis.get_xlim()[1] > 1


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("label", ["a", "a net over a backbone of some name (weights of a file)"])
def test_legend_of_a_chart_lies_within_the_figure(tmp_path, monkeypatch, chart, label):
  kept = []
  monkeypatch.setattr(charts, "write", lambda figure, file: kept.append(figure))
  CHARTS[chart]([f"{label} {i}" for i in range(5)], tmp_path / "a.png")
  kept[0].canvas.draw()
  box, figure = kept[0].legends[0].get_window_extent(), kept[0].bbox
  assert figure.x0 <= box.x0 < box.x1 <= figure.x1
  assert figure.y0 <= box.y0 < box.y1 <= figure.y1
  assert kept[0].axes[0].get_window_extent().height > 250


def test_document_in_both_forms(tmp_path):
  d = document.Document("A & B")
  d.table(("x|y", "z"), [("1", "<2>"), ("3", "4")])
  assert d.markdown(tmp_path).splitlines()[2:6] == ["| x\\|y | z |", "|---|---|", "| 1 | &lt;2> |",
                                                    "| 3 | 4 |"]  # fmt: skip
  assert "<td>&lt;2&gt;</td>" in d.html()
  d.table(("config", "parameters", "IoU"), [("a.py:b=1,c=2", "1,234", "0.5 ± 0.1")])
  assert "<td>a.py:b=1,<wbr>c=2</td><td>1,234</td><td>0.5&nbsp;±&nbsp;0.1</td>" in d.html()
  d.table([f"metric {i}" for i in range(13)], [["0.25 ± 0.01"] * 13])  # fits into 1280 pixels
  assert d.html().count("<td>0.25 ±&nbsp;0.01</td>") == 13
  assert "<title>A &amp; B</title>" in d.html()


# Studies with what their reports show beside what all show: the runs that studies before them in a
# group share with them, their variants, and figures or words.
SEGMENTED = ("regions.png", "iou_by_class.png", "stages_1.png", "confusion_1.png")
REPORTS = {
  "skip_connections": (0, 2, SEGMENTED),
  "simple_vs_unet": (2, 3, SEGMENTED),
  "attention_vs_pixelwise": (
    0, 2, ("regions.png", "examples.png", "attention ratio", "times as long")),
  "optimizers": (0, 2, ("confusion_1.png", "examples.png", "top5 accuracy")),
  "losses": (0, 2, (*SEGMENTED, "median_frequency")),
  "colorization_skips": (0, 2, ("SSIM", "edge error", "examples.png")),
}  # fmt: skip
# Of two segmentation nets, as skip_connections, or of classifiers, as optimizers: with stand-ins
# they would be the same again.
ALIKE = {
  "aspp", "augmentation", "backbones", "fcn_vs_deeplab", "fcn_vs_unet", "frozen_encoder",
  "small_cnn_vs_resnext101",
}  # fmt: skip
# Variants that are trained of a study with many; all of them are read.
SOME = {
  "attention_vs_pixelwise": ("dot product", "softmax, 1.5 times as long"),
  "losses": ("median-frequency weights", "with boundary"),
  "optimizers": ("SGD, step", "Adam, multi-step"),
}
GROUPS = [("skip_connections", "simple_vs_unet")]
GROUPS += [(name,) for name in REPORTS if not any(name in group for group in GROUPS)]


def read_smoke(name, more=""):
  """A study of the project at smoke size, from random weights."""
  study = study_lib.read(f"configs/studies/{name}.py:smoke{more}")
  variants = {label: study.variants[label] for label in SOME.get(name, study.variants)}
  changes = {label: study.changes.get(label, {}) | {"init_from": ""} for label in variants}
  writers = {"writers": "('pictures',)"}
  return dataclasses.replace(study, variants=variants, changes=changes, overrides=writers)


TRADES = ("trade_training_minutes.png", "trade_size.png")


def run_and_check(study, pool, output, trades=TRADES):
  """Runs a study in this process; its report has the runs' numbers, places and figures.

  Args:
    trades: figures of a score against costs; none where nothing is scored.

  Returns:
    (list of study.Result, text of the report, names of its figures).
  """
  results = study_lib.run(study, pool)
  assert [r.error for r in results] == [""] * len(study.variants) * len(study.seeds)
  report.write(study, results, output)
  text = (output / "report.md").read_text()
  for row, result in zip(table(output / "results.csv"), results, strict=True):
    assert (row["variant"], row["seed"]) == (result.variant, str(result.seed))
    wanted = {k: v for k, v in result.final().items() if k.startswith("val/")}
    np.testing.assert_equal({k: float(row[k]) for k in wanted}, wanted)
  runs = {label: [r for r in results if r.variant == label] for label in study.variants}
  for label, of_label in runs.items():
    score = mean_and_deviation([r.final()[study.metric] for r in of_label])
    assert f"| {label} | {len(of_label)} | {score} |" in text
  figures = re.findall(r"\]\(figures/([^)]+)\)", text)
  assert all(Image.open(output / "figures" / name).size[0] > 400 for name in figures)
  there = {p.name for p in (output / "figures").glob("*.png")}
  assert there == set(figures)
  assert {"curves.png", *trades} <= there
  return results, text, there


def places(study, results):
  """The line of a report that ranks variants by the study's metric at the end of their one seed."""
  sign = 1 if "loss" in study.metric else -1
  values = [sign * r.final()[study.metric] for r in results]
  return " | ".join(str(1 + sum(other < own for other in values)) for own in values)


@pytest.mark.parametrize(
  ("start", "text"),
  [("", "random weights"), ("efficientnet_lite0", "ImageNet weights"), ("a/b", "weights of a/b")],
)
def test_a_report_says_what_a_run_starts_from(start, text):
  config = config_lib.default()
  config.init_from = start
  assert variants.start_of([study_lib.Result("a", 0, config, None)]) == text


def test_every_study_has_a_report_that_is_tested():
  assert {*REPORTS, *ALIKE, "pretraining"} == set(STUDIES)
  for name in ALIKE:
    study = study_lib.read(f"configs/studies/{name}.py:smoke")
    kinds = {study_lib.make_config(study, v, 0).task.name for v in study.variants}
    assert kinds in ({"segmentation"}, {"classification"}) and len(study.variants) >= 2


@pytest.mark.parametrize(
  "names",
  [pytest.param(g, marks=pytest.mark.slow if g == ("optimizers",) else pytest.mark.weekly)
   for g in GROUPS],
  ids="-".join,
)  # fmt: skip
@pytest.mark.usefixtures("stand_in_nets", "no_pdf")
def test_studies_write_whole_reports(names, tmp_path, capsys):
  """At smoke size with stand-ins, from one pool: a run that two studies share is trained once."""
  for name in names:
    shared, count, parts = REPORTS[name]
    study = dataclasses.replace(read_smoke(name), seeds=(0,))
    results, text, there = run_and_check(study, tmp_path / "pool", tmp_path / name)
    assert len(results) == count
    assert capsys.readouterr().out.count("finished before") == shared
    assert re.search(rf"^\| [^|]+ \| {re.escape(places(study, results))} \|$", text, re.M)
    assert "one seed: no interval" in text
    for part in parts:
      assert part in there if part.endswith(".png") else part in text, part
    if "examples.png" in parts:
      picture = np.asarray(Image.open(tmp_path / name / "figures" / "examples.png").convert("RGB"))
      assert shows(picture, make_source(results[0].config, "val")[0]["image"])


def few_digits(split, *, size=8, train_fraction=0.8, split_seed=0):
  """The source `digits`, cut."""
  count = dict(train=300, val=200)[split]
  return Subset(digits(split, size=size, train_fraction=train_fraction, split_seed=split_seed),
                tuple(range(count)))  # fmt: skip


@pytest.mark.weekly
@pytest.mark.usefixtures("no_pdf")
def test_a_study_of_pretraining_scores_features(tmp_path, monkeypatch):
  monkeypatch.setitem(SOURCES, "digits", few_digits)
  study = read_smoke("pretraining", ",backbone=small_cnn,methods=rotation+dino")
  study = dataclasses.replace(study, seeds=(1,))
  results, text, there = run_and_check(study, tmp_path / "pool", tmp_path)
  assert {"features_0.png", "features_1.png", "trade_latency_at_batch_1_cpu.png"} <= there
  assert "kNN accuracy against training minutes" in text
  assert "best accuracy" not in text  # DINO has none
  rows = {(r["variant"], int(r["seed"])): r for r in table(tmp_path / "results.csv")}
  for r in results:
    row = rows[r.variant, r.seed]
    start, end = float(row["knn_accuracy_before"]), float(row["knn_accuracy"])
    assert start != end
    if r.variant == "DINO":
      assert probes.probe(r.workdir).accuracy[probes.LAST] == (start, end)
    numbers = " | ".join(mean_and_deviation([x]) for x in (start, end))
    assert f"| {r.variant} | last | 1 | {numbers} |" in text


@pytest.mark.weekly
def test_pretraining_of_images_without_classes_is_not_scored(tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / "images").mkdir()
  for i in range(10):
    image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
  study = read_smoke("pretraining", ",data=folder,backbone=small_cnn,methods=rotation+dino")
  overrides = {"data.source.folder": str(tmp_path), "data.batch_size": "4"}
  study = dataclasses.replace(study, seeds=(0,), overrides=overrides)
  _, text, there = run_and_check(study, tmp_path / "pool", tmp_path / "report", trades=())
  assert there.isdisjoint(TRADES)
  assert "The data have no classes" in text and "ranking (1 is best)" in text
  csv_text = (tmp_path / "report" / "results.csv").read_text()
  assert "knn" not in csv_text and "best accuracy" not in text
