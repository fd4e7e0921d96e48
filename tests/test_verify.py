"""Receipts of runs, and `verify`: the same comes out again, or what differs is named."""

import math
import re
import shutil

import jax
import numpy as np
import pytest
from conftest import write_pairs
from PIL import Image
from test_training import tiny_config

from segjax import training
from segjax.analysis import verification
from segjax.analysis.verification import CLOSE, DIFFERENT, EQUAL
from segjax.errors import UserError
from segjax.training import receipt
from segjax.training.checkpoints import Checkpoints, Position

# ---------------------------------------------------------------------------- comparisons


def test_relative_differences_and_verdicts_by_hand():
  then = {(2, "train/loss"): 0.5, (4, "train/loss"): 0.25, (4, "val/loss"): None, (6, "a"): 1.0}
  same = verification.compare_rows("x", then, dict(then) | {(8, "b"): 1.0})
  assert (same.verdict, same.count, same.unequal) == (EQUAL, 4, ())
  close = verification.compare_rows("x", then, then | {(4, "train/loss"): 0.25 * (1 + 5e-4)})
  assert close.verdict == CLOSE
  assert [row[:2] for row in close.unequal] == [("train/loss", 4)]
  assert close.unequal[0][-1] == pytest.approx(5e-4 / (1 + 5e-4))
  far = verification.compare_rows("x", then, then | {(4, "val/loss"): 1.0, (2, "train/loss"): 0.51})
  assert far.verdict == DIFFERENT
  assert "first train/loss at step 2: 0.5 then, 0.51 now, relative difference 0.02" in far.text()
  assert "most val/loss at step 4: None then, 1.0 now, relative difference inf" in far.text()
  assert verification.compare_rows("x", then, {}).text() == "x: nothing to compare with"


def test_rows_of_other_windows_do_not_compare():
  row = {"step": 4, "train/steps": 2.0, "train/loss": 1.0, "time/minutes": 3.0}
  found = verification.scalars([row, {"step": 4, "val/loss": 2.0, "info/total_steps": 9.0}])
  assert found == {
    (4, "train/steps of 2 steps"): 2.0,
    (4, "train/loss of 2 steps"): 1.0,
    (4, "val/loss"): 2.0,
  }


def test_arrays_of_checkpoints_by_name():
  then = dict(params=dict(a=np.array([1.0, -2.0], "f4"), b=np.array([np.nan, 3], "f4")), step=3)
  changed = dict(params=dict(a=np.array([1.0, -1.5], "f4"), b=then["params"]["b"].copy()), step=3)
  assert verification.compare_arrays(3, then, jax.tree.map(np.copy, then)).verdict == EQUAL
  (row,) = verification.compare_arrays(3, then, changed).unequal
  assert row == ("params/a", 3, 1.5, 1.25, 0.25)
  (row,) = verification.compare_arrays(3, then, dict(params=then["params"])).unequal
  assert row == ("step", 3, [], None, math.inf)


def test_receipts_name_what_differs():
  now = dict(step=0, code="a", versions=dict(jax="1", numpy="2"), data=dict(start=None))
  assert receipt.differences(now, now | dict(step=5)) == []
  other = now | dict(code="b", versions=dict(jax="1.1"))
  assert receipt.differences(now, other) == [
    "code: a -> b", "versions.jax: 1 -> 1.1", "versions.numpy: 2 -> none"
  ]  # fmt: skip
  assert receipt.versions()["jax"] == jax.__version__
  assert {"platform", "kind", "count"} <= receipt.device().keys()


# ---------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(folder of data, workdir) of a run in two parts, the second with `nan_debug`."""
  root = tmp_path_factory.mktemp("trained")
  data = write_pairs(root / "data", count=10)
  training.train(tiny_config(data, total_steps=4), root / "run")
  training.train(tiny_config(data, nan_debug=True), root / "run")
  return data, root / "run"


@pytest.fixture
def run(trained, tmp_path):
  """A copy of the run."""
  return shutil.copytree(trained[1], tmp_path / "run")


@pytest.mark.slow
def test_a_run_comes_out_again_bit_for_bit(run, capsys, monkeypatch):
  starts = receipt.read(run)
  assert [s["step"] for s in starts] == [0, 4]
  assert starts[0]["data"]["contents"] == starts[1]["data"]["contents"]
  assert re.fullmatch("[0-9a-f]{16}", starts[0]["code"])
  assert starts[0]["config"] != starts[1]["config"]  # of another length
  assert verification.verify(run, steps=0) == EQUAL
  out = capsys.readouterr().out
  assert "evaluation of the checkpoint of step 6: bit for bit equal" in out
  assert "training again, 6 steps: bit for bit equal" in out
  assert "checkpoint of step 6: bit for bit equal" in out
  assert "resumed at step 4 with another config" in out

  versions = receipt.versions()
  monkeypatch.setattr(receipt, "versions", lambda: versions | dict(jax="0.99.0"))
  assert verification.verify(run, steps=1) == EQUAL
  out = capsys.readouterr().out
  assert f"differs from the run: versions.jax: {jax.__version__} -> 0.99.0" in out
  assert "training again, 2 steps: bit for bit equal" in out


@pytest.mark.slow
def test_a_changed_weight_is_named(run, capsys):
  folder = run / "checkpoints" / "6"
  (position,) = (folder / "data").glob("process_*.json")
  position = Position(position.read_bytes())
  best = dict(best_metric="val/mean_iou", best_mode="max")
  checkpoints = Checkpoints(run / "checkpoints", **best)
  state = jax.tree.map(np.array, checkpoints.restore_arrays(6))
  name, kernel = next(
    (n, x) for n, x in jax.tree_util.tree_leaves_with_path(state["ema_params"]) if x.ndim == 4
  )
  kernel[0, 0, 0, 0] += 0.25
  shutil.rmtree(folder)
  checkpoints.close()
  checkpoints = Checkpoints(run / "checkpoints", **best)
  checkpoints.save(6, state, position, {"val/mean_iou": 0.0})
  checkpoints.close()
  assert verification.verify(run, steps=0) == DIFFERENT
  out = capsys.readouterr().out
  assert "training again, 6 steps: bit for bit equal" in out
  assert "evaluation of the checkpoint of step 6: bit for bit equal" not in out
  found = re.search(r"checkpoint of step 6: different .*\n +1 differ; first (\S+) at step 6", out)
  assert found[1] == "ema_params/" + jax.tree_util.keystr(name, simple=True, separator="/")


@pytest.mark.slow
def test_a_changed_pixel_is_named_also_without_a_receipt(trained, run, tmp_path, capsys):
  data = shutil.copytree(trained[0], tmp_path / "data")
  for file in sorted((data / "images").iterdir()):
    pixels = np.array(Image.open(file))
    pixels[::2, ::2] ^= 1
    Image.fromarray(pixels).save(file)
  (run / "receipt.json").unlink()
  assert verification.verify(run, steps=2, folder=str(data)) != EQUAL
  out = capsys.readouterr().out
  assert "no receipt.json" in out
  assert re.search("differs from the run: data.contents.train: [0-9a-f]{16} -> [0-9a-f]{16}", out)
  assert re.search(r"training again, 2 steps: (different|equal within)", out)
  assert re.search(r"differ; first train/\S+ of 2 steps at step 2: ", out)


@pytest.mark.slow
def test_a_damaged_receipt_is_named(run):
  file = run / "receipt.json"
  file.write_text(file.read_text().replace('"code": "', '"code": "0'))
  with pytest.raises(UserError, match=r"receipt.json: damaged or edited"):
    receipt.read(run)
