"""Multi-label segmentation: a sigmoid for each class, masks that may overlap."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from segjax import losses, metrics
from segjax.data import label_sets
from segjax.data.labels import IGNORE
from segjax.errors import UserError
from segjax.metrics.counting import mean_of_present, number_of, ratio
from segjax.ops import wide
from segjax.pictures import blend, mix, stripes
from segjax.tasks.segmentation import (
  COUNTS,
  FALSE_POSITIVE,
  MISSED,
  Segmentation,
  check_weights,
)
from segjax.tasks.task import Task

SCORES = ("iou", "precision", "recall", "f1", "average_precision", "max_f1")  # of a class
HALF = 0.5


@dataclasses.dataclass(frozen=True)
class MultiLabel(Task):
  """Segmentation into classes that may overlap: a pixel is of several of them, of one or of none.

  Each class of each image is a problem of two classes with one logit, so that all losses are those
  of `Segmentation` with a sigmoid: means over the pixels, or over the examples, of all classes. A
  label is a set of classes, see `segjax.data.label_sets`; a pixel of 255 counts for none of them.

  Attributes:
    thresholds: probabilities from which on a pixel is of a class: empty for 0.5, one number for all
      classes, or one for each, in (0,1).
    cross_entropy: weight of the binary cross-entropy in the loss.
    label_smoothing: share of its target that both answers have in equal parts, in [0,1).
    focal: weight of the focal loss.
    focal_gamma: exponent of the focal loss.
    ohem: weight of the cross-entropy of the hardest pixels of each class of an image.
    ohem_share: which share of the scored pixels that is, in (0,1].
    dice: weight of the Dice loss.
    jaccard: weight of the Jaccard loss.
    tversky: weight of the Tversky loss.
    tversky_alpha: factor of false positives in it.
    tversky_beta: factor of missed pixels in it.
    tversky_gamma: exponent of each class's Tversky loss; 0.75 is the focal Tversky loss.
    lovasz: weight of the Lovasz hinge.
    boundary: weight of the boundary loss, which is in pixels: 0.01, beside another loss.
    own: empty, or a loss of your own that is added, "package.module:function" of (logits, label,
      valid), f32[N,H,W,1], i32[N,H,W] of 0 and 1 and bool[N,H,W], an image and a class each;
      further fields of `loss` are its arguments.
    class_weights: empty, or a weight per class for its own pixels in the cross-entropy, whose mean
      is then taken over the weights; the pixels without the class weigh 1. In a config also the
      name of a rule, see `Segmentation`: then a class weighs as of two, itself and all else.
  """

  thresholds: tuple[float, ...] = ()
  cross_entropy: float = 1.0
  label_smoothing: float = 0.0
  focal: float = 0.0
  focal_gamma: float = 2.0
  ohem: float = 0.0
  ohem_share: float = 0.25
  dice: float = 0.0
  jaccard: float = 0.0
  tversky: float = 0.0
  tversky_alpha: float = 0.3
  tversky_beta: float = 0.7
  tversky_gamma: float = 1.0
  lovasz: float = 0.0
  boundary: float = 0.0
  own: Any = ""
  class_weights: tuple[float, ...] = ()

  label_kind: ClassVar[str] = "masks"
  train_metrics: ClassVar[tuple[str, ...]] = ("loss", "mean_iou", "mean_f1")
  class_colors: ClassVar[bool] = True

  def __post_init__(self):
    if self.palette is None:
      table = label_sets.overlapping_table(self.classes)
      object.__setattr__(self, "palette", table.palette)
    n = len(self.classes)
    if n < 1:
      raise UserError("multi_label needs at least 1 class, the data has none")
    numbers = all(isinstance(t, int | float) and 0 < t < 1 for t in self.thresholds)
    if len(self.thresholds) not in (0, 1, n) or not numbers:
      raise UserError(
        f"task.thresholds is {self.thresholds!r}, expected no number (0.5), one, or one for each "
        f"of the {n} classes {', '.join(self.classes)}, between 0 and 1"
      )
    check_weights(self.class_weights, self.classes)
    _ = self._binary  # which checks the loss

  @classmethod
  def loss_label_of(cls, fields):
    """See `Segmentation.loss_label_of`."""
    return Segmentation.loss_label_of(fields)

  @functools.cached_property
  def _binary(self):
    """The task of one class of an image."""
    own = {f.name for f in dataclasses.fields(Segmentation)} - {"classes", "palette"}
    given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name in own}
    given["class_weights"] = (1.0, 1.0) * bool(self.class_weights)  # see `_weighted`
    return Segmentation(("other", "class"), sigmoid=True, **given)

  @property
  def num_outputs(self):
    """Logits, one per class."""
    return len(self.classes)

  @property
  def limits(self):
    """Thresholds of the probabilities, one per class."""
    given = self.thresholds or (HALF,)
    return given if len(given) == len(self.classes) else given * len(self.classes)

  def predict(self, logits):
    """f32[...,C] -> bool[...,C], the masks: where the probability is at least the threshold."""
    return logits >= np.array([math.log(t / (1 - t)) for t in self.limits], np.float32)

  def probabilities(self, logits):
    """f32[...,C], of each class by itself."""
    return jax.nn.sigmoid(wide(logits))

  def classes_seen(self, outputs, label):
    """See `Task.classes_seen`."""
    there = self.predict(np.asarray(outputs)) | label_sets.split(label, len(self.classes))
    found = np.flatnonzero(there.any(tuple(range(there.ndim - 1))))
    return {*found.tolist()} | ({IGNORE} if (label == IGNORE).any() else set())

  def statistics(self, logits, label, valid, *, evaluating):
    """Sums over a batch, from which loss and metrics follow; add them up over batches.

    Args:
      logits: f32[B,H,W,C].
      label: i32[B,H,W], sets of classes or 255.
      valid: bool[B], False for examples that do not count.
      evaluating: whether this is an evaluation, which also counts scores by threshold, and rows.

    Returns:
      dict of sums: losses, `examples` and `pixels` of all classes, `counts` [C,3], pixels of each
      class in both, in the truth, in the prediction; in an evaluation also `histograms` [C,2,256],
      see `metrics.score_histogram`, and the rows `COUNTS`, i32[B,C,3].
    """
    count = len(self.classes)
    scored = (label != IGNORE) & valid[:, None, None]
    truth = label_sets.split(label, count)
    sums = self._of_losses(logits, truth, valid, scored)
    pred, there = self.predict(logits) & scored[..., None], truth & scored[..., None]
    pairs = (pred & there, there, pred)
    if not evaluating:
      each = [jnp.stack([number_of(x[..., c]) for x in pairs]) for c in range(count)]
      return sums | dict(counts=jnp.stack(each))
    p = self.probabilities(logits)
    found = [metrics.score_histogram(p[..., c], truth[..., c], valid=scored) for c in range(count)]
    rows = jnp.stack([x.sum((1, 2)) for x in pairs], -1)
    return sums | {"histograms": jnp.stack(found), COUNTS: rows}

  def _of_losses(self, logits, truth, valid, scored):
    """Sums of the losses, and the divisors of their means, over all classes of all images."""
    count, (batch, *size) = len(self.classes), truth.shape[:3]

    def planes(x):  # [B,H,W,C] -> [B*C,H,W]
      return jnp.moveaxis(x, -1, 1).reshape(batch * count, *size)

    sums = self._binary.statistics(
      planes(wide(logits))[..., None],
      jnp.where(jnp.repeat(scored, count, 0), planes(truth.astype(jnp.int32)), IGNORE),
      jnp.repeat(valid, count),
      evaluating=False,
    )
    del sums["matrix"]
    weighted = self.class_weights and self.cross_entropy
    return sums | (self._weighted(logits, truth, scored) if weighted else {})

  def _weighted(self, logits, truth, scored):
    """Sums of the cross-entropy by `class_weights`, and of the weights that its mean is over."""
    weights = jnp.where(truth, jnp.array(self.class_weights), 1.0)
    scored = jnp.broadcast_to(scored[..., None], truth.shape)
    how = dict(valid=scored, label_smoothing=self.label_smoothing)
    loss = weights * losses.cross_entropy(logits[..., None], truth, **how)
    return dict(cross_entropy=loss.sum(), weight=jnp.where(scored, weights, 0.0).sum())

  def terms(self, sums):
    """See `Segmentation.terms`."""
    return self._binary.terms(sums)

  def loss(self, sums):
    """See `Segmentation.loss`."""
    return self._binary.loss(sums)

  def summary(self, sums):
    """Scalars from summed statistics, named as in `val/<name>`.

    Returns:
      dict of floats: `loss` and perhaps `loss/<term>`; for each score s of `SCORES` the mean over
      the classes `mean_<s>` and `<s>/<class>`, the last two in evaluations alone, with
      `max_f1_threshold/<class>`; and the other mean IoUs of `metrics.mean_ious`. A class that
      neither truth nor prediction has is nan and left out of the means.
    """
    out = self._binary.losses_of(sums)
    counts = sums["counts"] if "counts" in sums else np.asarray(sums[COUNTS], np.int64).sum(0)
    hit, truth, pred = np.asarray(counts, np.int64).T
    each = dict(
      iou=ratio(hit, truth + pred - hit),
      precision=ratio(hit, pred),
      recall=ratio(hit, truth),
      f1=ratio(2 * hit, truth + pred),
    )
    if "histograms" in sums:
      out = metrics.mean_ious(sums[COUNTS]) | out
      each["average_precision"] = np.array([*map(metrics.average_precision, sums["histograms"])])
      best = np.array([*map(metrics.max_f1, sums["histograms"])])
      each["max_f1"] = best[:, 0]
      limits = zip(self.classes, best[:, 1], strict=True)
      out |= {f"max_f1_threshold/{c}": float(limit) for c, limit in limits}
    for name, values in each.items():
      out[f"mean_{name}"] = mean_of_present(values)
      out |= {f"{name}/{c}": float(v) for c, v in zip(self.classes, values, strict=True)}
    return out

  def row(self, summary):
    """See `Task.row`; also the terms of the loss."""
    return super().row(summary) | {k: v for k, v in summary.items() if k.startswith("loss/")}

  def table(self, sums):
    """Text table of an evaluation: scalars, then a row per class."""
    s = self.summary(sums)
    lines = ["", f"  {'loss':<32}{s['loss']:.4f}"]
    texts = dict(
      iou="mean IoU", f1="mean F1", average_precision="mean average precision",
      max_f1="mean F1 at its best thresholds",
    )  # fmt: skip
    lines += [f"  {text:<32}{s[f'mean_{name}']:.4f}" for name, text in texts.items()]
    heads = ("IoU", "precision", "recall", "F1", "AP", "best F1", "at", "threshold")
    lines += ["", f"  {'class':<16}" + "".join(f"{head:>10}" for head in heads)]
    for c, limit in zip(self.classes, self.limits, strict=True):
      values = [s[f"{name}/{c}"] for name in (*SCORES, "max_f1_threshold")]
      lines.append(f"  {c:<16}" + "".join(f"{v:>10.4f}" for v in (*values, limit)))
    return "\n".join([*lines, ""])

  def pictures(self, image, logits, label):
    """Panels for one example: image, overlay, truth, prediction, errors.

    Args:
      image: u8[H,W,3].
      logits: f32[1,H,W,C].
      label: int[H,W], sets of classes or 255.

    Returns:
      list of (title, u8[H,W,3]).
    """
    count, scored = len(self.classes), label != IGNORE
    pred, truth = self.predict(np.asarray(logits))[0], label_sets.split(label, count)
    striped, colors = stripes(*label.shape), self.palette[:count]
    missed, false = ((a & ~b).any(-1) & scored for a, b in ((truth, pred), (pred, truth)))
    errors = np.repeat(image.mean(-1, keepdims=True) * 0.6, 3, -1)
    errors[missed], errors[false] = MISSED, FALSE_POSITIVE
    shown = [blend(image, mix(pred, colors), pred.any(-1)), mix(truth, colors), errors]
    over, truth, errors = (
      blend(x, striped, ~scored, alpha) for x, alpha in zip(shown, (0.6, 1.0, 0.6), strict=True)
    )
    return [
      ("image", image),
      ("prediction over image", over),
      ("truth (striped: not scored)" if not scored.all() else "truth", truth),
      ("prediction", mix(pred, colors)),
      ("errors (orange: a class false, blue: one missed)", errors),
    ]
