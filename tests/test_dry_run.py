"""The dry run of a training: what it prints, what its sheet shows, and that it leaves no run."""

import re
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import write_pairs
from PIL import Image

from segjax import config as config_lib
from segjax import models, pictures, training
from segjax.analysis import dry_run as dry_run_lib
from segjax.analysis.dry_run import dry_run, sheet
from segjax.augment.mixing import Mixed
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.legends import colorize
from segjax.tasks.segmentation import Segmentation


class OneConv(nn.Module):
  """A net that compiles fast."""

  num_classes: int = 1
  dtype: type = np.float32

  @nn.compact
  def __call__(self, image, *, train):
    return nn.Conv(self.num_classes, (3, 3), name="conv")(image)


@pytest.fixture
def config(tmp_path, monkeypatch):
  monkeypatch.setitem(models.MODELS, "one_conv", OneConv)
  c = config_lib.default()
  folder = str(write_pairs(tmp_path / "data", count=10))
  c.data.source = config_lib.data_source("folder", folder=folder, train_fraction=0.7)
  c.data.update(size=(16, 24), batch_size=2)
  c.model = dict(name="one_conv", dtype="float32")
  c.augment.flip = 0.5
  c.augment.brightness = 0.4
  c.total_steps, c.total_epochs, c.eval_steps, c.eval_epochs = 1, 0.0, 1, 0.0
  c.writers, c.pictures = (), 0
  return c


def test_what_a_dry_run_prints(config, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  dry_run(config, tmp_path / "out" / "a-dry_run.png")
  lines = dict(re.findall(r"^  (\S+(?: \S+)*)  +(.*)$", capsys.readouterr().out, re.M))
  assert lines["net"] == "one_conv: 28 parameters"
  assert lines["data"] == "7 train and 3 val examples, 3 steps per epoch, 1 in all"
  assert lines["batch"] == "image uint8[2,16,24,3], label uint8[2,16,24], valid bool[2]"
  assert lines["net sees"] == "float32[2,16,24,3], augmented"
  assert lines["FLOPs"].startswith(f"{2 * 27 * 16 * 24 / 1e9:.2f} G per image")
  assert re.match(r"[\d.]+ MB of each cpu: state and batch 0.0 MB, temporaries", lines["memory"])
  assert "warning" not in lines
  assert {p.name for p in tmp_path.rglob("*") if "data" not in p.parts} >= {"a-dry_run.png"}
  assert not [p for p in tmp_path.rglob("*") if p.name in ("config.json", "checkpoints", "runs")]
  picture = np.asarray(Image.open(tmp_path / "out" / "a-dry_run.png"))
  assert picture.ndim == 3 and picture.shape[1] > 400
  config.data.update(feed="device", size=(160, 240))
  config.augment.flip = config.augment.brightness = 0.0
  config.steps_per_dispatch, config.log_steps, config.total_steps = 2, 2, 4
  monkeypatch.setattr(dry_run_lib, "_room", lambda device: 1000)
  dry_run(config, tmp_path / "out" / "a-dry_run.png")
  out = capsys.readouterr().out
  assert "net sees  " in out and "augmented" not in out
  assert f"train split {7 * 160 * 240 * 4 / 1e6:.1f} MB" in out
  assert "warning     the step does not fit; lower data.batch_size" in out
  config.best_metric = "val/nothing"
  with pytest.raises(UserError, match="best_metric 'val/nothing' is not measured"):
    dry_run(config, tmp_path / "b.png")
  assert not (tmp_path / "b.png").exists()


@pytest.mark.slow
def test_the_sheet_is_of_what_the_first_step_sees(config, tmp_path, monkeypatch):
  shown, seen, prepare = [], [], Segmentation.prepare
  monkeypatch.setattr(dry_run_lib, "sheet", lambda e, *x: shown.append(x) or sheet(e, *x))
  dry_run(config, tmp_path / "a.png")

  def recorded(self, key, image, label, *, train, augment=None):
    out = prepare(self, key, image, label, train=train, augment=augment)
    if train:
      jax.debug.callback(lambda *x: seen.append(jax.tree.map(np.asarray, x)), *out)
    return out

  monkeypatch.setattr(Segmentation, "prepare", recorded)
  config.total_steps = 2  # another program than that of the dry run
  training.train(config, tmp_path / "run")
  for mine, theirs in zip(shown[0], seen[0], strict=True):
    np.testing.assert_array_equal(mine, theirs)


NAMES = ("sky", "road", "tree")


def fake(kind):
  task = SimpleNamespace(label_kind_of=lambda fields: kind)
  config = SimpleNamespace(task={}, data=config_lib.default().data)
  return SimpleNamespace(labels=default_table(NAMES), task=task, config=config)


@pytest.fixture
def cells(monkeypatch):
  """Rows of (title, picture) that `sheet` lays out."""
  rows = []
  monkeypatch.setattr(dry_run_lib, "panel", lambda r: rows.extend(r) or pictures.panel(r))
  return rows


def test_a_sheet_of_masks_targets_classes_mixtures_and_asked_classes(cells):
  image = np.linspace(0, 1, 2 * 8 * 9 * 3).reshape(2, 8, 9, 3).astype(np.float32)
  mask = np.arange(2 * 8 * 9).reshape(2, 8, 9) % 3
  mask[0, 0, 0] = 255
  sheet(fake("mask"), image, mask)
  ((_, first), (title, over), *_), *_ = cells
  np.testing.assert_array_equal(first, np.round(image[0] * 255).astype(np.uint8))
  table = default_table(NAMES)
  want = pictures.overlay(first, colorize(table, mask[0].astype(np.uint8)))
  np.testing.assert_array_equal(over, want)
  assert title == "label over it"
  cells.clear()
  sheet(fake("target"), image, image[::-1])
  np.testing.assert_array_equal(cells[0][1][1], pictures.to_u8(image[1]))
  cells.clear()
  sheet(fake("class"), image, np.array([2, 0]))
  assert [title for title, _ in cells[0]] == ["image 0: tree", "image 1: sky"]
  cells.clear()
  sheet(fake("class"), image, Mixed(np.array([2, 0]), np.array([0, 1]), np.array([0.25, 1.0])))
  assert [title for title, _ in cells[0]] == ["tree 0.25, sky", "sky 1.00, road"]
  cells.clear()
  sheet(fake("mask"), (image, np.array([1, 0])), (mask == 2).astype(np.int32))
  assert cells[0][0][0] == "image 0, asked: tree"
  tinted = (cells[0][1][1] != cells[0][0][1]).any(-1)
  assert tinted[mask[0] == 2].all() and not tinted[mask[0] != 2].any()
  cells.clear()
  sheet(fake("nothing"), dict(large=np.tile(image, (9, 1, 1, 1)), small=None), np.zeros(2))
  assert sum(map(len, cells)) == dry_run_lib.SHOWN
