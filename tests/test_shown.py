"""What a person sees of a run and of a study: curves, legends, notes, and the answer on top."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from segjax import legends, pictures
from segjax.analysis import answer, charts, document, figures
from segjax.analysis.intervals import Difference, decimals, mean_and_deviation
from segjax.data import files
from segjax.data.labels import LabelTable, default_table
from segjax.errors import UserError
from segjax.tasks import TASKS
from segjax.tasks.segmentation import MEANS, TERMS, Segmentation
from segjax.training import evaluator, progress
from segjax.training.evaluation import classes_seen

# ---------------------------------------------------------------------------- loss by its terms


def of_images(task, rng):
  """The task's sums of two random images, of which a part is not scored."""
  logits = rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
  label = rng.integers(0, 3, (2, 6, 8))
  label[:, :2] = 255
  sums = task.statistics(logits, label, np.ones(2, bool), evaluating=True)
  return jax.device_get(sums)


def test_terms_of_a_loss_are_reported_apart_and_add_up():
  rng = np.random.default_rng(0)
  task = Segmentation(classes=("a", "b", "c"), cross_entropy=0.5, dice=2.0)
  summary = task.summary(of_images(task, rng))
  alone = {
    name: Segmentation(classes=task.classes, **{"cross_entropy": 0.0, name: 1.0})
    for name in ("cross_entropy", "dice")
  }
  for name, one in alone.items():
    own = one.summary(of_images(one, np.random.default_rng(0)))
    assert summary[f"loss/{name}"] == pytest.approx(own["loss"], rel=1e-6)
    assert not any(k.startswith("loss/") for k in own)
  total = 0.5 * summary["loss/cross_entropy"] + 2 * summary["loss/dice"]
  assert summary["loss"] == pytest.approx(total, rel=1e-6)
  assert {"loss/cross_entropy", "loss/dice"} <= task.row(summary).keys()


def test_every_term_of_a_loss_has_a_label():
  assert {*MEANS, "own", "attention", "mask"} == set(TERMS)


@pytest.mark.parametrize(
  ("task", "fields", "text"),
  [
    ("segmentation", dict(cross_entropy=1.0, dice=0.0, focal=0.0), "loss (nats)"),
    ("segmentation", dict(cross_entropy=0.0, dice=1.0), "Dice loss"),
    ("segmentation", dict(cross_entropy=1.0, dice=1.0), "loss: cross-entropy (nats) + Dice loss"),
    ("segmentation", dict(cross_entropy=0.0, lovasz=1.0), "Lovasz loss"),
    ("segmentation", dict(cross_entropy=0.0, ohem=1.0), "loss (nats)"),
    ("colorization", dict(norm="l1"), "loss"),
  ],
)
def test_only_a_loss_in_nats_is_labelled_so(task, fields, text):
  assert TASKS[task].loss_label_of(fields) == text


# ---------------------------------------------------------------------------- curves

ROWS = [
  {"step": 0, "info/steps_per_epoch": 2.0},
  {"step": 2, "train/loss": 3.0, "train/loss/dice": 0.9, "train/mean_iou": 0.1},
  {"step": 2, "val/loss": 90.0, "val/loss/dice": 0.8, "val/mean_iou": 0.2, "val/max_f1": 0.3},
  {"step": 4, "val/loss": 2.0, "val/loss/dice": 0.6, "val/mean_iou": 0.6, "val/max_f1": 0.3},
  {"step": 6, "val/loss": 1.5, "val/loss/dice": 0.5, "val/mean_iou": 0.6, "val/max_f1": None},
  {"step": 8, "val/loss": 1.0, "val/loss/dice": 0.4, "val/mean_iou": 0.4, "val/max_f1": 0.1},
]


def test_curves_show_the_metric_that_picks_the_best_first_and_dice_by_itself():
  shown = lambda rows, best: figures.shown_scalars(rows, best, "loss (nats)")  # noqa: E731
  assert shown(ROWS, "val/mean_iou") == {"mean_iou": "mean IoU", "loss/dice": "Dice loss"}
  assert list(shown(ROWS, "val/max_f1")) == ["max_f1", "loss/dice"]
  plain = [{k: v for k, v in row.items() if not k.endswith("dice")} for row in ROWS]
  assert shown(plain, "val/mean_iou") == {"mean_iou": "mean IoU", "loss": "loss (nats)"}
  assert list(shown(plain, "val/loss")) == ["loss", "mean_iou"]


@pytest.mark.parametrize(
  ("metric", "mode", "best"),
  [
    ("val/mean_iou", "max", (6, 0.6)),  # of equal ones the last, as the checkpoints keep it
    ("val/loss", "min", (8, 1.0)),
    ("val/max_f1", "max", (4, 0.3)),
    ("val/nothing", "max", None),
  ],
)
def test_the_best_step_of_curves_is_that_of_the_checkpoints(metric, mode, best):
  assert figures.best_step(ROWS, metric, mode) == best


def test_a_star_marks_the_best_and_large_losses_are_logarithmic(tmp_path, monkeypatch):
  kept = []
  monkeypatch.setattr(charts, "write", lambda figure, file: kept.append(figure))
  shown = [("mean_iou", "mean IoU"), ("loss", "loss (nats)"), ("loss/dice", "Dice loss")]
  charts.curves(dict(a=[ROWS]), shown, tmp_path / "a.png", best=("mean_iou", "max"))
  score, loss, dice = kept[0].axes
  stars = [line for line in score.lines if line.get_marker() == "*"]
  assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [(2, 0.6)]
  assert not [line for line in dice.lines if line.get_marker() == "*"]
  assert (loss.get_yscale(), loss.get_ylabel()) == ("log", "loss (nats), logarithmic")
  kept[0].canvas.draw()
  ticks = [
    t.get_text() for t in loss.get_yticklabels(minor=False) + loss.get_yticklabels(minor=True)
  ]
  assert any(ticks) and not any("$" in t for t in ticks)
  assert (dice.get_yscale(), dice.get_ylim()[0]) == ("linear", 0)


# ---------------------------------------------------------------------------- pictures


def test_what_is_not_scored_is_striped_in_truth_overlay_and_errors():
  task = Segmentation(classes=("a", "b", "c"))
  image = np.full((40, 60, 3), 90, np.uint8)
  label = np.zeros((40, 60), np.int32)
  label[30:] = 255
  logits = np.zeros((1, 40, 60, 3), np.float32)
  logits[..., 1] = 1
  (_, over), (title, truth), _, (_, errors) = task.pictures(image, logits, label)[1:]
  assert title == "truth (striped: not scored)"
  striped = pictures.stripes(40, 60)
  np.testing.assert_array_equal(truth[30:], striped[30:])
  for panel in (over, errors):
    light = (
      panel[30:][striped[30:, :, 0] == 225].mean() - panel[30:][striped[30:, :, 0] == 130].mean()
    )
    assert light == pytest.approx(0.6 * (225 - 130), abs=1)
  assert (errors[:30] == pictures.ORANGE).all()
  assert classes_seen(task, logits, label) == {0, 1, 255}
  assert classes_seen(TASKS["classification"](classes=("a", "b")), logits, label) == set()


def test_a_legend_marks_what_an_overlay_does_not_tint():
  table = LabelTable((("ground", (0, 0, 0)), ("road", (9, 99, 200))))
  texts = [legends._text(table, v, untinted=True) for v in (0, 1, 255)]
  assert texts == ["ground (not tinted in overlays)", "road", "not scored"]
  assert legends._text(table, 0, untinted=False) == "ground"


def test_a_confusion_matrix_is_drawn_by_rows():
  picture = pictures.confusion(np.array([[30, 10], [0, 0]]), ("a", "b")).astype(int)
  at = lambda share: tuple(int(255 + share * (d - 255)) for d in pictures.DARKEST)  # noqa: E731
  counts = [int((picture == at(share)).all(-1).sum()) for share in (0.75, 0.25)]
  assert all(count > 64 * 64 * 0.7 for count in counts)  # the rest is the number in the cell
  rows = [np.argwhere((picture == at(share)).all(-1)).mean(0)[0] for share in (0.75, 0.25)]
  assert abs(rows[0] - rows[1]) < 2  # truth a: one row
  assert pictures.confusion(np.eye(150), default_table(range(150)).names).shape[1] < 700


# ---------------------------------------------------------------------------- notes


@pytest.mark.parametrize(
  ("loss", "step", "norm", "ema", "noted"),
  [
    (50.0, 20, True, 0.0, "batch norm's running averages, which"),
    (50.0, 20, False, 0.999, "the averaged parameters (ema_decay), which"),
    (50.0, 20, False, 0.0, ""),  # nothing lags
    (3.0, 20, True, 0.0, ""),
    (50.0, 5000, True, 0.0, ""),  # that is overfitting
  ],
)
def test_a_loss_far_above_the_trainings_is_explained_once(loss, step, norm, ema, noted):
  lines = []
  seen = SimpleNamespace(loss=2.0, print=lines.append)
  own = SimpleNamespace(
    _experiment=SimpleNamespace(config=ConfigDict(dict(ema_decay=ema, optimizer={}))),
    _progress=seen, _explained=False,
  )  # fmt: skip
  state = SimpleNamespace(batch_stats=dict(norm=dict(mean=np.zeros(3))) if norm else {})
  for _ in range(2):
    evaluator.Evaluator._explain(own, state, step, loss)
  assert len(lines) == bool(noted)
  assert noted in "".join(lines)


def test_memory_is_reported_where_the_device_has_figures(monkeypatch):
  assert progress.peak_memory() is None  # of a CPU
  device = SimpleNamespace(memory_stats=lambda: dict(peak_bytes_in_use=3e9, bytes_limit=80e9))
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  assert progress.peak_memory() == (3.0, 80.0)


def test_a_missing_photo_is_named(tmp_path):
  (tmp_path / "photo.jpg").write_bytes(b"")
  with pytest.raises(UserError, match=r"no such file or folder: .*foto\.jpg.*'photo\.jpg'"):
    files.list_images(tmp_path / "foto.jpg")


def test_a_sigmoid_for_several_classes_says_what_to_set():
  with pytest.raises(UserError, match=r"has 3: a, b, c; set --config\.task\.sigmoid=False"):
    Segmentation(classes=("a", "b", "c"), sigmoid=True)


# ---------------------------------------------------------------------------- reports


def score(**values):
  """A score that is good where it is high: {variant: {seed: value}}."""
  return "mean IoU", 1, {v: dict(enumerate(x)) for v, x in values.items()}


@pytest.mark.parametrize(
  ("given", "text"),
  [
    (score(a=(0.50, 0.52, 0.54), b=(0.70, 0.71, 0.75)),
     "'b' has the highest mean IoU, 0.720 ± 0.026 (3 seeds); 'a' is lower by 0.200 "
     "[0.175, 0.225] (95 % intervals in brackets)."),
    (score(a=(0.5, 0.6), b=(0.6, 0.5), c=(0.1, 0.2)),
     "'a' has the highest mean IoU, 0.55 ± 0.07 (2 seeds); 'c' is lower by 0.4000 "
     "[0.4000, 0.4000]; not distinguishable from it by these seeds: 'b' (difference +0.0 "
     "[-1.3, +1.3]) (95 % intervals in brackets)."),
    (score(a=(0.5,), b=(0.6,)),
     "'b' has the highest mean IoU, 0.6000 (one seed); ahead of 'a' (0.5000), perhaps by "
     "chance: fewer than two seeds in common."),
    (score(a=(0.5, 0.6)), "'a' has a mean IoU, 0.55 ± 0.07 (2 seeds)."),
    (score(a=(np.nan,)), "No variant has a number for mean IoU."),
    (None, "The variants have no score in common, so none of them is best."),
    (("loss", -1, dict(a={0: 2.0, 1: 2.2}, b={0: 1.0, 1: 1.1})),
     "'b' has the lowest loss, 1.05 ± 0.07 (2 seeds); 'a' is higher by 1.1 [0.4, 1.7] "
     "(95 % intervals in brackets)."),
  ],
)  # fmt: skip
def test_the_answer_of_a_study_in_a_sentence(given, text):
  assert answer.sentence(given) == text


def runs_of(values, metric):
  """Stand-ins for the runs of a variant, one per value of a scalar."""
  task = SimpleNamespace(name="segmentation")
  config = SimpleNamespace(best_metric="val/mean_iou", best_mode="max", task=task)
  final = lambda x: lambda: {metric: x, "val/mean_iou": 0.5}  # noqa: E731
  return [
    SimpleNamespace(seed=i, config=config, final=final(x), best=lambda: 0.5)
    for i, x in enumerate(values)
  ]


@pytest.mark.parametrize(("metric", "sign"), [("val/f1/road", 1), ("val/color_error", -1)])
def test_the_answer_is_of_the_metric_of_the_study(metric, sign):
  study = SimpleNamespace(metric=metric)
  done = dict(a=runs_of([0.1, 0.2], metric), b=runs_of([0.3, 0.5], metric))
  found = answer.score_of(study, done, {})
  assert found[1:] == (sign, dict(a={0: 0.1, 1: 0.2}, b={0: 0.3, 1: 0.5}))
  lost = done | dict(b=runs_of([np.nan, np.nan], metric))  # not measured: what all have in common
  assert answer.score_of(study, lost, {})[0] == "best mean IoU"


def test_the_answer_stands_on_top_of_both_forms(tmp_path):
  page = document.Document("t")
  page.text("question?")
  page.answer("b is best & <proved>")
  assert page.markdown(tmp_path).splitlines()[4] == "**b is best & &lt;proved>**"
  assert "<p class='answer'>b is best &amp; &lt;proved&gt;</p>" in page.html()


def test_digits_are_those_that_the_spread_justifies():
  assert mean_and_deviation([0.71234, 0.74567]) == "0.729 ± 0.024"
  assert mean_and_deviation([0.5, 0.5]) == "0.5000 ± 0"
  assert mean_and_deviation([100.0, 237.0]) == "168 ± 97"
  assert mean_and_deviation([1.21, 1.26], 1) == "1.2 ± 0.0"
  assert decimals(np.nan) == 4
  assert str(Difference(0.01234, -0.0312, 0.0558, 3)) == "+0.01 [-0.03, +0.06]"
  assert str(Difference(-0.01, -0.9, 0.9, 2)) == "+0.0 [-0.9, +0.9]"  # no negative zero
  assert Difference(-0.0512, -0.0623, -0.0401, 3).size == "0.051 [0.040, 0.062]"
