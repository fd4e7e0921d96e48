"""Faults of each kind, a few: none is silent, none a stack. `campaign.py` makes thousands."""

import io
import json
import re
import shutil
import subprocess
import sys

import fault_world
import faults
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from segjax import config as config_lib
from segjax import study as study_lib
from segjax import textfiles, training
from segjax.analysis import report
from segjax.data import decoding, limits
from segjax.errors import UserError, explain
from segjax.training import array_files, restore
from segjax.training import experiment as experiment_lib
from segjax.training.evaluation import read_sums, write_sums
from segjax.training.writers import JsonLines, read_metrics


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  with fault_world.prepared():
    made = fault_world.World(tmp_path_factory.mktemp("faults"))
    made.make()
    yield made


@pytest.mark.parametrize("kind", faults.KINDS)
def test_a_fault_of_each_kind_is_a_clear_error_or_harms_nothing(kind, world):
  found = [faults.attempt(kind, number, world) for number in range(4)]
  assert [f for f in found if f[0] not in ("right", "clear error")] == []


@pytest.mark.parametrize(
  "kind", [k for k in faults.KINDS if k.startswith("fuzz") and "field" not in k]
)
def test_inputs_that_are_not_damaged_are_right(kind, world, monkeypatch):
  monkeypatch.setattr(faults, "mutate", lambda content, draw: content)
  monkeypatch.setattr(faults, "ENCODINGS", ("utf-8", "utf-8-sig"))
  found = [faults.attempt(kind, number, world) for number in range(6)]
  assert [f for f in found if f[0] != "right"] == []


@pytest.mark.slow
def test_a_short_campaign():
  command = [sys.executable, str(ROOT / "tests" / "campaign.py"), "--minutes=0.15"]
  done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  assert "| kill | " in done.stdout


def test_a_damaged_name_of_the_checksum_is_found(tmp_path):
  """Or the file would pass for one of an older version, which has none."""
  file = tmp_path / "a.json"
  textfiles.write_state(file, dict(step=6, names=["a"]))
  assert textfiles.read_state(file) == dict(step=6, names=["a"])
  file.write_text(file.read_text().replace("checksum", "chgcksum"))
  with pytest.raises(UserError, match="'chgcksum' in it stands in place of 'checksum'"):
    textfiles.read_state(file)


def test_every_bit_of_named_arrays_is_checked_but_unused_ones(tmp_path):
  file, arrays = tmp_path / "a.npz", dict(a=np.arange(3), b=np.float32(2), c=np.ones((2, 1)))
  array_files.write(file, arrays)
  content = file.read_bytes()
  for bit in range(8 * len(content)):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)
    try:
      found = array_files.read(file, "take another")
    except UserError as error:
      assert str(error).endswith("take another")
    else:
      assert found.keys() == arrays.keys()
      for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_a_state_file_that_is_edited_is_taken_without_its_checksum(world):
  run = world.copy("whole")
  config, labels, data = (run / f"{name}.json" for name in ("config", "labels", "data"))
  whole = config_lib.load(config)
  config.write_text(config.read_text().replace('"batch_size": 2', '"batch_size": 1'))
  with pytest.raises(UserError, match=r"edited: its content does not fit its 'checksum'. If you"):
    config_lib.load(config)
  first, checksum, *rest = config.read_text().splitlines()
  assert checksum.startswith('  "checksum": ')
  config.write_text("\n".join([first, *rest]))
  assert config_lib.load(config).data.batch_size == 1
  config.unlink()
  training.train(world.config(), run)  # as the messages say
  assert config_lib.load(config) == whole
  names = experiment_lib.load_labels(labels).names
  labels.write_text(labels.read_text().replace("thing", "other"))
  with pytest.raises(UserError, match=r"labels\.json: damaged or edited"):
    restore.run(run)
  labels.write_text(json.dumps([["other", [0, 0, 0]], ["b", [1, 2, 3]]]))  # an older version's
  assert experiment_lib.load_labels(labels).names == ("other", "b") != names
  data.write_text(data.read_text().replace('"train": [7,', '"train": [8,'))
  with pytest.raises(UserError, match=r"data\.json: damaged or edited"):
    training.train(world.config(), run)
  textfiles.write_state(data, dict(clases=[]))
  with pytest.raises(UserError, match=r"data\.json: unknown 'clases' in it"):
    training.train(world.config(), run)


def test_a_changed_row_is_named_and_others_stay(tmp_path, capsys):
  file, rows = tmp_path / "metrics.jsonl", [dict(step=i, loss=0.125 * i) for i in (1, 2, 3)]
  writer = JsonLines(tmp_path, 0)
  for row in rows:
    writer.scalars(row["step"], dict(loss=row["loss"]))
  writer.close()
  whole = file.read_bytes()
  assert read_metrics(file) == rows and json.loads(whole.splitlines()[0])["crc"] == "24bd758a"
  for old, new, kept, line in (
    (b"0.25", b"0.35", [0, 2], 2),
    (b'"crc"', b'"srd"', [1, 2], 1),
    (b"}\n", b"}J", [2], 1),
  ):
    file.write_bytes(whole.replace(old, new, 1))
    assert read_metrics(file) == [rows[i] for i in kept]
    assert f"damaged, skipped: line {line}\n" in capsys.readouterr().err
  file.write_bytes(whole[:-1] + b"J")
  assert read_metrics(file) == rows[:2] and "line 3" in capsys.readouterr().err
  file.write_bytes(whole[:-9])
  assert read_metrics(file) == rows[:2] and capsys.readouterr().err == ""


def test_sums_of_another_shape_than_was_written(tmp_path):
  write_sums(tmp_path, 3, dict(matrix=np.arange(16).reshape(4, 4)))
  file = tmp_path / "val_sums.npz"
  content = file.read_bytes()
  assert content.count(b"(4, 4)") == 1
  file.write_bytes(content.replace(b"(4, 4)", b"(4, 2)"))  # np.load reads half of it without a word
  with pytest.raises(UserError, match=r"val_sums\.npz: damaged .*matrix.npy is not what was"):
    read_sums(tmp_path)


def test_a_damaged_checkpoint_names_the_whole_ones_and_the_way_back(world):
  run = world.copy("half")
  latest = run / "checkpoints" / "4"
  file = max(latest.rglob("d/*"), key=lambda f: f.stat().st_size)
  file.write_bytes(file.read_bytes()[:-1] + b"~")
  move = f"move it away \\(mv {latest} {run}/damaged_4\\)"
  with pytest.raises(
    UserError, match=rf"4: .*damaged .*whole are those of steps 2: .*{move} .*from step 2"
  ):
    restore.run(run)
  shutil.move(latest, run / "damaged_4")
  found, expected = (fault_world.use_resume(world, r) for r in (run, world.root / "whole"))
  assert found[0] == expected[0] and found[1][1:] == expected[1][1:] and found[2] == [2, 6]
  first = run / "checkpoints" / "2" / "metrics" / "metrics"
  first.write_text(first.read_text().replace("0.", "1.", 1))
  with pytest.raises(UserError, match=r"metrics/metrics is not what was saved"):
    restore.run(run)


def test_the_limit_of_pixels_can_be_raised(monkeypatch):
  file = io.BytesIO()
  Image.new("RGB", (40, 30)).save(file, "PNG")
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
  limits._set.cache_clear()
  with pytest.raises(UserError, match=r"too large .* raise the limit, data.max_pixels or"):
    decoding.read_image(file.getvalue())
  monkeypatch.setenv("SEGJAX_MAX_PIXELS", "1200")
  assert decoding.read_image(file.getvalue()).shape == (30, 40, 3)
  monkeypatch.setenv("SEGJAX_MAX_PIXELS", "x")
  with pytest.raises(UserError, match="SEGJAX_MAX_PIXELS is 'x', expected a number of pixels"):
    decoding.read_image(file.getvalue())


@pytest.mark.parametrize("name, refused", [("huggingface:a/b", True), ("camvid:1.0.0", False)])
def test_a_runs_data_are_not_looked_for_in_the_network(name, refused, world, monkeypatch):
  run = world.copy("whole")
  config = config_lib.load(run / "config.json")
  config.data.source = config_lib.data_source("tfds", dataset=name)
  monkeypatch.setattr(restore.input_pipeline, "make_source", lambda *_, **__: 1 / 0)
  with pytest.raises(
    UserError if refused else ZeroDivisionError, match="network" if refused else ""
  ):
    restore.data_of_run(run, config, "val")


def test_names_in_results_csv_are_no_formulas():
  result = study_lib.Result("=cmd", 0, None, None, "-1: failed")
  text = report._csv(None, [result], {}, {})
  assert text.splitlines()[1] == "'=cmd,0,'-1: failed,"


@pytest.mark.parametrize(
  "field, value, message",
  [
    ("classes", (1, 2), r"data.source.classes is \(1, 2\), expected names"),
    ("shift", 2**31, r"data.source.shift is 2147483648, expected a number from -65536 to 65536"),
    (
      "shift",
      9,
      r"x\d+.png: label value 0 .* outside the table, expected -9 to -8 \(ground, thing",
    ),
    ("masks", "x" * 300, "xxx...: longer than the name of a file can be; shorten it"),
  ],
)
def test_fields_of_a_folder_without_a_sense(field, value, message, world, tmp_path):
  config = world.config()
  with config.ignore_type():
    config.data.source[field] = value
  with pytest.raises((UserError, OSError)) as caught:
    training.train(config, tmp_path)
  assert re.search(message, explain(caught.value))
