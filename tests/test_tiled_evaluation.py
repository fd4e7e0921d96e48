"""Evaluation by tiles: the numbers of the whole image, of `Predictor`, and of the file's labels."""

import json

import numpy as np
import pytest
from conftest import write_pairs
from jax.sharding import AbstractMesh

from segjax import config as config_lib
from segjax import training
from segjax.errors import UserError
from segjax.inference import Predictor, run_model
from segjax.training import devices, input_pipeline, restore, tiled
from segjax.training import experiment as experiment_lib
from segjax.training.evaluation import evaluate


def tiny_config(folder, **fields):
  """A net that sees 5 pixels, tiles of 16x24 that share 8 and 12, of images of 40x60."""
  c = config_lib.default()
  c.data.source = config_lib.data_source("folder", folder=str(folder), train_fraction=0.5)
  c.data.update(size=(16, 24), batch_size=2, threads=1, fit="crop", eval_multiple=1)
  c.data.update(eval_fit="tiles", eval_overlap=0.5)
  c.model = dict(name="unet", widths=(4,), dtype="float32")
  c.total_steps, c.total_epochs, c.eval_steps, c.eval_epochs = 2, 0.0, 2, 0.0
  c.writers, c.pictures = ("pictures",), 1
  c.update_from_flattened_dict(fields)
  return c


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_pairs(tmp_path_factory.mktemp("tiled") / "data", count=6)


def evaluated(config):
  """(experiment, state, source, sums) of a net that was not trained."""
  source = input_pipeline.make_source(config, "val")
  experiment = experiment_lib.build(config, source.source.labels)
  state = experiment.init()[0]
  batches = input_pipeline.eval_batches(config, source)
  return (
    experiment,
    state,
    source,
    evaluate(experiment.eval_step(), state, batches, experiment.mesh),
  )


@pytest.mark.parametrize("sigmoid", [True, False])
def test_tiles_give_the_numbers_of_the_whole_image_and_of_prediction(data, sigmoid):
  fields = {"task.sigmoid": sigmoid}
  experiment, state, source, sums = evaluated(tiny_config(data, **fields))
  *_, whole = evaluated(tiny_config(data, **fields, **{"data.eval_fit": "full"}))
  assert sums.keys() == whole.keys() and sums["examples"] == len(source) == 3
  np.testing.assert_array_equal(sums["matrix"], whole["matrix"])
  for name in sums.keys() - {"matrix"}:
    np.testing.assert_allclose(sums[name], whole[name], rtol=1e-4)
  predict, by_hand = Predictor(run_model.RunModel(experiment, state)), np.zeros((2, 2), int)
  assert predict.view == run_model.View("tiles", (16, 24), 0.5)
  for i in range(len(source)):
    example = source[i]
    np.add.at(by_hand, (example["label"], predict(example["image"]).label), 1)
  np.testing.assert_array_equal(sums["matrix"], by_hand)


def test_batches_of_own_sizes_are_divided_as_the_mesh_is(data, monkeypatch):
  config = tiny_config(data, **{"data.eval_fit": "full", "data.batch_size": 6})
  source = input_pipeline.make_source(config, "val")
  for parts, rows in ((1, 3), (2, 4), (6, 6)):  # of three images
    mesh = AbstractMesh((parts, 1), ("data", "space"))
    monkeypatch.setattr(devices, "mesh_of", lambda config, mesh=mesh: mesh)
    assert [len(b["image"]) for b in input_pipeline.eval_batches(config, source)] == [rows]
  config.data.eval_fit = "tiles"
  experiment = experiment_lib.build(config, source.source.labels)
  assert experiment.eval_mesh().devices.size == 1


def test_logits_of_probabilities_give_them_back():
  logits = np.random.default_rng(0).normal(0, 3, (5, 3)).astype(np.float32)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  found = tiled.logits_of(p, one=False)
  np.testing.assert_allclose(found - found[:, :1], logits - logits[:, :1], atol=1e-4)
  one = 1 / (1 + np.exp(-logits[:, :1]))
  np.testing.assert_allclose(
    tiled.logits_of(np.concatenate([1 - one, one], -1), one=True), logits[:, :1], atol=1e-3
  )
  assert np.isfinite(tiled.logits_of(np.array([[0.0, 1.0]]), one=True)).all()
  assert np.isfinite(tiled.logits_of(np.array([[0.0, 1.0]]), one=False)).all()


def test_a_run_is_evaluated_by_tiles_and_predicts_as_it_was(data, tmp_path, capsys):
  run = tmp_path / "run"
  training.train(tiny_config(data), run)
  assert "evaluated in tiles of 16x24" in capsys.readouterr().out
  assert list((run / "images").iterdir())
  last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
  experiment, state = restore.run(run)
  source = restore.data_of_run(run, experiment.config, "val").source
  batches = input_pipeline.eval_batches(experiment.config, source)
  sums = evaluate(experiment.eval_step(), state, batches, experiment.mesh)
  assert experiment.task.summary(sums)["mean_iou"] == last["val/mean_iou"]
  model = run_model.load(run, "latest")
  assert model.threshold_step == 2
  assert model.max_f1_threshold == experiment.task.summary(sums)["max_f1_threshold"]
  assert Predictor(model, threshold="max_f1").threshold == model.max_f1_threshold
  whole = Predictor(model, mode="native")(source[0]["image"]).probabilities
  by_net = experiment.predict_step()(state, source[0]["image"][None])
  np.testing.assert_allclose(whole[..., 1], 1 / (1 + np.exp(-by_net[0, ..., 0])), atol=1e-6)
  np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-6)
  (run / "val_sums.npz").write_bytes(b"damaged")
  with pytest.raises(UserError, match="'max_f1', which this net does not know"):
    Predictor(run, threshold="max_f1")


def test_tiles_are_for_segmentation(data):
  config = tiny_config(data)
  config_lib.set_task(config, "simclr")
  with pytest.raises(UserError, match=r"data\.eval_fit is 'tiles', which joins probabilities"):
    input_pipeline.make_source(config, "val")
