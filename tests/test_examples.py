"""`analyze.py examples`: scores of single examples, and wrong labels at the top of the ranking."""

import csv
import math

import jax
import numpy as np
import optax
import pytest
from conftest import write_pairs
from PIL import Image
from test_training import tiny_config

from segjax import textfiles, training
from segjax.analysis import commands, examples
from segjax.analysis.examples import Scored
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.training import experiment as experiment_lib


def scored(name, loss, differ=math.nan):
  return Scored("train", int(name), name, loss, 2 * loss, differ)


def test_a_ranking_its_table_and_its_captions_by_hand():
  found = [scored("0", 0.5, 0.25), scored("1", 2.0, 0.0), scored("2", math.nan, 0.5)]
  assert [s.name for s in examples.rank(found, "loss")] == ["2", "1", "0"]
  ranked = examples.rank(found, "disagreement")
  assert [s.name for s in ranked] == ["2", "0", "1"]
  assert textfiles.csv_text(examples.rows(ranked)).splitlines() == [
    "rank,split,name,loss,grad_norm,disagreement",
    "1,train,2,,,0.5",
    "2,train,0,0.5,1,0.25",
    "3,train,1,2,4,0",
  ]
  assert examples.caption(2, scored("7", 0.5)) == "2. train/7: loss 0.5, gradient norm 1"
  assert examples.caption(1, found[0]).endswith("differ 0.25")


def test_disagreement_leaves_out_pixels_that_are_not_scored():
  label = np.array([[0, 255], [1, 1]])
  runs = [np.array([[0, 0], [1, 1]]), np.array([[1, 1], [1, 0]])]
  assert examples.disagreement(runs, label) == pytest.approx(2 / 3)
  assert math.isnan(examples.disagreement(runs[:1], label))
  assert math.isnan(examples.disagreement(runs, np.full((2, 2), 255)))
  assert examples.disagreement([np.int32(2), np.int32(1), np.int32(2)], np.int32(0)) == 2 / 3


@pytest.mark.slow
def test_scores_are_the_loss_and_the_gradient_of_each_example_alone(tmp_path, stand_in_nets):
  config = tiny_config(tmp_path)
  experiment = experiment_lib.build(config, default_table(("no", "yes")))
  state, _ = experiment.init()
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
  labels = rng.choice([0, 1, 255], (2, 16, 24)).astype(np.uint8)
  losses, norms, classes = examples.score_step(experiment)(state, images, labels)
  variables = state.eval_variables()
  for i in range(2):

    def loss_fn(params, i=i):
      image = images[i : i + 1] / np.float32(255)
      logits = experiment.model.apply(variables | dict(params=params), image, train=False)[
        0, ..., 0
      ]
      valid = labels[i] != 255
      loss = optax.sigmoid_binary_cross_entropy(logits, (labels[i] == 1).astype("f4"))
      return (loss * valid).sum() / valid.sum(), logits

    both = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (want, logits), grads = both(variables["params"])
    assert float(losses[i]) == pytest.approx(float(want), rel=1e-5)
    assert float(norms[i]) == pytest.approx(float(optax.global_norm(grads)), rel=1e-4)
    np.testing.assert_array_equal(classes[i], logits >= 0)


def given(workdir, **changes):
  return dict(
    workdir=workdir, workdirs=[], output=None, checkpoint="latest", folder="", samples=0, by="loss"
  ) | changes  # fmt: skip


@pytest.mark.weekly
def test_swapped_labels_are_found_at_the_top(tmp_path, capsys):
  data = write_pairs(tmp_path / "data", count=40)
  swapped = ("x007", "x023")  # 5 %
  for name in swapped:
    file = data / "masks" / f"{name}.png"
    Image.fromarray(1 - np.array(Image.open(file))).save(file)
  config = tiny_config(data, total_steps=60, eval_steps=60, log_steps=60)
  config.batch_augment.cutmix, config.model.dropout, config.pictures = 0.0, 0.0, 0
  config.schedule.learning_rate, config.data.batch_size = 1e-2, 6
  run = tmp_path / "run"
  training.train(config, run)
  for by in ("loss", "grad_norm"):
    commands.run("examples", given(run, by=by, samples=3))
    with (run / "figures" / "examples.csv").open() as file:
      rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows[:2]} == set(swapped)
    assert len(rows) == 40 and {row["split"] for row in rows} == {"train", "val"}
    assert {row["disagreement"] for row in rows} == {""}
  assert (run / "figures" / "examples.png").is_file()
  assert "1. " in capsys.readouterr().out
  commands.run("examples", given(run, by="disagreement", workdirs=[str(run)]))
  rows = (run / "figures" / "examples.csv").read_text().splitlines()[1:]
  assert all(row.endswith(",0") for row in rows)  # of a run and itself
  with pytest.raises(UserError, match="--by=disagreement needs further runs"):
    commands.run("examples", given(run, by="disagreement"))
  with pytest.raises(UserError, match="unknown score 'lost'"):
    commands.run("examples", given(run, by="lost"))
