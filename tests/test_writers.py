"""Where the numbers and pictures of a run go: TensorBoard's tabs, and Weights & Biases."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from segjax.errors import UserError
from segjax.training import wandb_writer, writers
from segjax.training.writers import Writers, read_metrics

SHEET, ONE = (np.full((4, 6, 3), n, np.uint8) for n in (50, 200))
VALUES = {"data.batch_size": 4, "freeze": "a|b", "widths": (1, 2), "init_from": "", "x": "\udcfc"}
SHOWN = VALUES | dict(x="\\xfc")  # not in UTF-8


def write_all(to):
  """What a training gives its writers."""
  to.hparams(VALUES, ("val/mean_iou", "val/loss"))
  to.scalars(0, {"info/parameters": 7.0})
  to.scalars(3, {"val/loss": 0.5, "val/mean_iou": float("nan")})
  to.images(3, sheets={"val/examples": SHEET}, single={"examples/0_a": ONE})
  to.close()


def test_tensorboard_has_what_its_tabs_need(tmp_path):
  """And files stay as they are: one sheet per evaluation, constants in metrics.jsonl."""
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
  from tensorboard.plugins.hparams import plugin_data_pb2

  both = Writers(("clu", "pictures"), tmp_path)
  assert both.takes("sheets") and both.takes("single")
  write_all(both)
  events = EventAccumulator(str(tmp_path), size_guidance=dict(tensors=0)).Reload()
  tags = set(events.Tags()["tensors"])
  assert {"val/loss", "val/mean_iou", "examples/0_a", "config"} <= tags
  assert not tags & {"info/parameters", "val/examples"}
  (event,) = events.Tensors("examples/0_a")
  width, height, png = event.tensor_proto.string_val
  assert (event.step, int(width), int(height)) == (3, 6, 4)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), ONE)
  text = events.Tensors("config")[0].tensor_proto.string_val[0].decode()
  assert text.splitlines() == [
    "| field | value |", "|---|---|", "| data.batch_size | `4` |", "| freeze | `a\\|b` |",
    "| widths | `(1, 2)` |", "| init_from |  |", "| x | `\\xfc` |",
  ]  # fmt: skip
  content = events.PluginTagToContent("hparams")["_hparams_/experiment"]
  experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
  assert [m.name.tag for m in experiment.metric_infos] == ["val/mean_iou", "val/loss"]
  assert [h.name for h in experiment.hparam_infos] == sorted(VALUES)
  assert [p.name for p in (tmp_path / "images").iterdir()] == ["val_examples_step000003.png"]
  with Image.open(tmp_path / "images" / "val_examples_step000003.png") as image:
    np.testing.assert_array_equal(np.asarray(image), SHEET)
  assert read_metrics(tmp_path / "metrics.jsonl")[0] == {"step": 0, "info/parameters": 7.0}


class Run:
  """Stands in for a run of wandb."""

  def __init__(self):
    self.rows, self.metrics, self.config, self.finished = [], [], {}, False
    self.config = SimpleNamespace(update=self.update)

  def update(self, values, allow_val_change):
    self.values = values

  def define_metric(self, name, step_metric=None):
    self.metrics.append((name, step_metric))

  def log(self, row):
    self.rows.append(row)

  def finish(self):
    self.finished = True


@pytest.fixture
def wandb(monkeypatch):
  """(runs, arguments of `wandb.init` for each) of a stand-in for the module."""
  runs, given = [], []

  def init(**how):
    given.append(how)
    runs.append(Run())
    return runs[-1]

  monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=np.asarray))
  for name in ("WANDB_MODE", "WANDB_PROJECT"):
    monkeypatch.delenv(name, raising=False)
  return runs, given


def test_weights_and_biases_gets_numbers_pictures_and_the_config(wandb, tmp_path):
  write_all(Writers(("wandb",), tmp_path))
  (run,), (given,) = wandb
  assert run.values == SHOWN and run.finished
  assert run.metrics == [("step", None), ("*", "step")]
  numbers, pictures = run.rows
  assert (numbers["step"], numbers["val/loss"]) == (3, 0.5) and np.isnan(numbers["val/mean_iou"])
  assert pictures["step"] == 3 and pictures.keys() == {"step", "examples/0_a"}
  np.testing.assert_array_equal(pictures["examples/0_a"], ONE)
  assert (given["project"], given["name"], given["mode"]) == ("segjax", tmp_path.name, "offline")
  assert (given["dir"], given["resume"]) == (str(tmp_path), "allow")


def test_a_resumed_run_is_the_same_run_of_weights_and_biases(wandb, tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_MODE", "online")
  for first_step in (0, 3, 0):
    Writers(("wandb",), tmp_path, first_step=first_step).close()
  first, resumed, new = wandb[1]
  assert first["id"] == resumed["id"] != new["id"]
  assert first["mode"] == "online"


def test_without_wandb_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(UserError, match=r"'wandb'.*pip install 'segjax\[wandb\]'.*config\.writers"):
    writers.check(("pictures", "wandb"))
  with pytest.raises(UserError, match=r"'wandb'.*pip install 'segjax\[wandb\]'"):
    Writers(("wandb",), tmp_path)
  with pytest.raises(UserError, match=r"unknown writer 'wandbb'; did you mean 'wandb'"):
    writers.check(("wandbb",))
  assert not (tmp_path / wandb_writer.RUN_ID).exists()
