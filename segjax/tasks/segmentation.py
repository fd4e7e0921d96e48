"""Semantic segmentation: binary with one logit (sigmoid) or multi-class (softmax)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from segjax import losses, metrics, ops
from segjax.data.labels import IGNORE
from segjax.errors import UserError
from segjax.metrics.counting import number_of, sum_of
from segjax.pictures import BLUE, ORANGE, blend, overlay, stripes
from segjax.tasks import own_loss
from segjax.tasks.task import ROWS, Task, mean

FALSE_POSITIVE, MISSED = ORANGE, BLUE
RED = (255, 0, 0)
COUNTS = f"{ROWS}counts"  # rows of an evaluation, from which the mean IoUs of images follow
# Losses, and the count that the mean of each is taken over.
MEANS = dict(
  cross_entropy="pixels", focal="pixels", dice="examples", ohem="ohem_pixels", boundary="pixels",
  jaccard="examples", tversky="examples", lovasz="examples",
)  # fmt: skip
# Terms of a loss, for axes; one in nats alone is `loss_label`.
TERMS = dict(
  cross_entropy="cross-entropy (nats)", focal="focal loss (nats)", ohem="hardest pixels (nats)",
  dice="Dice loss", jaccard="Jaccard loss", tversky="Tversky loss", lovasz="Lovasz loss",
  boundary="boundary loss (pixels)", attention="loss of the attention (nats)",
  mask="loss of masks (nats)", own="own loss",
)  # fmt: skip


def count(pred, label, scored, classes, *, each):
  """The confusion matrix of a batch, and perhaps counts of each image.

  Args:
    pred: i32[B,H,W], class indices.
    label: i32[B,H,W], likewise; any value where `scored` is False.
    scored: bool[B,H,W].
    classes: number of classes C.
    each: whether each image is counted too.

  Returns:
    dict of `matrix` i32[C,C], and with `each` the rows `COUNTS`, i32[B,C,3], see
    `metrics.image_counts`.
  """
  how = dict(num_classes=classes, valid=scored)
  if not each:
    return dict(matrix=metrics.confusion_matrix(pred, label, **how))
  matrices = metrics.image_matrices(pred, label, **how)
  counts = metrics.class_counts(matrices.astype(jnp.int32))  # of an image, which int32 can hold
  return {"matrix": sum_of(matrices), COUNTS: counts}


def check_weights(weights, classes):
  """Raises a UserError for `loss.class_weights` of another number than there are classes."""
  if weights and len(weights) != len(classes):
    raise UserError(
      f"loss.class_weights has {len(weights)} values, the data has {len(classes)} classes: "
      f"{', '.join(classes)}"
    )


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
  """Loss, statistics, summary and pictures of a segmentation batch.

  Attributes:
    sigmoid: one logit for two classes; else a softmax over all classes.
    cross_entropy: weight of the cross-entropy in the loss.
    label_smoothing: share of the cross-entropy's target that is spread over all classes, in [0,1).
    class_weights: empty, or a weight per class for the cross-entropy, whose mean is then taken over
      the weights, as PyTorch does. In a config also the name of a rule, `("median_frequency",)`,
      `("root_median_frequency",)`, `("fourth_root_median_frequency",)`, `("inverse_log",)` or
      `("inverse",)`: weights from the labels of the train split, see `losses.class_weights`.
    focal: weight of the focal loss.
    focal_gamma: exponent of the focal loss.
    ohem: weight of the cross-entropy of each image's hardest pixels.
    ohem_share: which share of the scored pixels that is, in (0,1].
    dice: weight of the Dice loss.
    dice_weighted: whether `class_weights` weigh the classes of Dice too; needs a softmax.
    jaccard: weight of the Jaccard loss.
    tversky: weight of the Tversky loss.
    tversky_alpha: factor of false positives in it.
    tversky_beta: factor of missed pixels in it.
    tversky_gamma: exponent of each class's Tversky loss; 0.75 is the focal Tversky loss.
    lovasz: weight of the Lovasz loss, softmax or hinge.
    boundary: weight of the boundary loss, which is in pixels: 0.01, beside another loss.
    own: empty, or a loss of your own that is added, "package.module:function" of (logits, label,
      valid); further fields of `loss` are its arguments.
  """

  sigmoid: bool = False
  cross_entropy: float = 1.0
  label_smoothing: float = 0.0
  class_weights: tuple[float, ...] = ()
  focal: float = 0.0
  focal_gamma: float = 2.0
  ohem: float = 0.0
  ohem_share: float = 0.25
  dice: float = 0.0
  dice_weighted: bool = False
  jaccard: float = 0.0
  tversky: float = 0.0
  tversky_alpha: float = 0.3
  tversky_beta: float = 0.7
  tversky_gamma: float = 1.0
  lovasz: float = 0.0
  boundary: float = 0.0
  own: Any = ""

  loss_terms: ClassVar[tuple[str, ...]] = tuple(MEANS)
  train_metrics: ClassVar[tuple[str, ...]] = ("loss", "pixel_accuracy", "mean_iou")
  class_colors: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    n = len(self.classes)
    if self.sigmoid and n != 2:
      raise UserError(
        f"task.sigmoid needs 2 classes, the data has {n}: {', '.join(self.classes)}; set "
        "--config.task.sigmoid=False, a softmax over all classes"
      )
    check_weights(self.class_weights, self.classes)
    if self.dice_weighted and (self.sigmoid or not self.class_weights):
      raise UserError(
        "loss.dice_weighted needs loss.class_weights and a softmax (task.sigmoid=False); set it to "
        "False"
      )
    if not (self.own or any(getattr(self, name) for name in self.loss_terms)):
      raise UserError(f"the loss is empty: one of {', '.join(self.loss_terms)} must be above 0")

  @classmethod
  def loss_label_of(cls, fields):
    """The loss and its unit; of several terms, which is a number without one, their names."""
    terms = [text for name, text in TERMS.items() if fields.get(name)]
    if len(terms) == 1:
      return cls.loss_label if "nats" in terms[0] else terms[0]
    return f"loss: {' + '.join(terms)}" if terms else cls.loss_label

  @property
  def num_outputs(self):
    """Channels of the logits."""
    return 1 if self.sigmoid else len(self.classes)

  def predict(self, logits):
    """f32[B,H,W,K] -> i32[B,H,W], the most likely class."""
    return (logits[..., 0] >= 0).astype(jnp.int32) if self.sigmoid else logits.argmax(-1)

  def probabilities(self, logits):
    """f32[...,K] -> f32[...,C], which sum to 1 over the classes."""
    return losses.class_probabilities(logits)

  def statistics(self, logits, label, valid, *, evaluating):
    """Sums over a batch, from which loss and metrics follow; add them up over batches.

    Args:
      logits: f32[B,H,W,K].
      label: i32[B,H,W], class indices or 255.
      valid: bool[B], False for examples that do not count.
      evaluating: whether this is an evaluation, which with a sigmoid also counts scores for MaxF.

    Returns:
      dict of sums: losses (weight times nats), `pixels`, `examples`, `matrix` i32[C,C] ...; in an
      evaluation also rows of the images, see `count`.
    """
    scored = (label != IGNORE) & valid[:, None, None]
    sums = dict(examples=valid.sum(), pixels=number_of(scored))
    classes = len(self.classes)
    sums |= count(self.predict(logits), label, scored, classes, each=evaluating)
    sums |= self._losses(logits, label, valid, scored)
    if self.own:
      sums |= own_loss.sums(self.own, logits, label, valid, scored)
    if evaluating and self.sigmoid:
      positive = self.probabilities(logits)[..., 1]
      sums["histogram"] = metrics.score_histogram(positive, label, valid=scored)
    return sums

  def _losses(self, logits, label, valid, scored):
    """Sums of the losses that have a weight, and the divisors of their means."""
    sums, weights = {}, jnp.array(self.class_weights) if self.class_weights else None
    if self.cross_entropy:
      how = dict(class_weights=weights, label_smoothing=self.label_smoothing)
      sums["cross_entropy"] = losses.cross_entropy(logits, label, valid=scored, **how).sum()
      if self.class_weights:
        sums["weight"] = jnp.where(
          scored, ops.of_class(weights, jnp.where(scored, label, 0)), 0.0
        ).sum()
    if self.focal:
      sums["focal"] = losses.focal(logits, label, valid=scored, gamma=self.focal_gamma).sum()
    if self.ohem:
      loss = losses.cross_entropy(logits, label, valid=scored)
      hardest = losses.hardest(loss, valid=scored, share=self.ohem_share)
      sums["ohem"], sums["ohem_pixels"] = jnp.where(hardest, loss, 0.0).sum(), number_of(hardest)
    if self.boundary:
      sums["boundary"] = losses.boundary(logits, label, valid=scored).sum()
    tversky, factors = losses.tversky, dict(alpha=self.tversky_alpha, beta=self.tversky_beta)
    if self.tversky_gamma != 1:
      tversky, factors = losses.focal_tversky, factors | dict(gamma=self.tversky_gamma)
    of_images = dict(
      dice=(losses.dice, dict(class_weights=weights if self.dice_weighted else None)),
      jaccard=(losses.jaccard, {}),
      tversky=(tversky, factors),
      lovasz=(losses.lovasz, {}),
    )
    for name, (loss, how) in of_images.items():
      if getattr(self, name):
        sums[name] = jnp.where(valid, loss(logits, label, valid=scored, **how), 0.0).sum()
    return sums

  def terms(self, sums):
    """The terms of the loss, times their weights: name -> value; see `loss`."""
    means = MEANS | (dict(cross_entropy="weight") if self.class_weights else {})
    out = {
      name: mean(factor * sums[name], sums[count], 1e-12 if count == "weight" else 1)
      for name, count in means.items()
      if (factor := getattr(self, name))
    }
    return out | ({"own": own_loss.value(sums)} if self.own else {})

  def loss(self, sums):
    """The loss from summed statistics: means over pixels or over examples, see `MEANS`.

    Works on device scalars inside the step and on the host's sums alike. The loss of no pixel
    at all is 0.
    """
    return sum(self.terms(sums).values(), 0.0)

  def losses_of(self, sums):
    """`loss`, and where it has several terms `loss/<term>`, each without its weight."""
    out, terms = dict(loss=float(self.loss(sums))), self.terms(sums)
    if len(terms) > 1:
      for name, value in terms.items():
        out[f"loss/{name}"] = float(value / (1.0 if name == "own" else getattr(self, name)))
    return out

  def summary(self, sums):
    """Scalars from summed statistics, named as in `val/<name>`.

    Args:
      sums: dict of numpy sums over a whole split.

    Returns:
      dict of floats: `loss` and perhaps `loss/<term>`, see `losses_of`, `pixel_accuracy`,
      `constant_accuracy` (of the constant answer that is right most often), `mean_iou`,
      `mean_class_recall`, the other mean IoUs of `metrics.mean_ious` where images were counted,
      `iou/<class>` ..., and with a sigmoid `max_f1` and `max_f1_threshold`.
    """
    family = metrics.summarize(sums["matrix"])
    out = self.losses_of(sums)
    for name in ("pixel_accuracy", "constant_accuracy", "mean_iou", "mean_class_recall"):
      out[name] = family[name]
    if COUNTS in sums:
      out = metrics.mean_ious(sums[COUNTS]) | out
    for name in ("iou", "precision", "recall", "f1"):
      out |= {f"{name}/{c}": float(v) for c, v in zip(self.classes, family[name], strict=True)}
    if "histogram" in sums:
      out["max_f1"], out["max_f1_threshold"] = metrics.max_f1(sums["histogram"])
    return out

  def constant_answer(self, sums):
    """Name of the class that is right most often as a constant answer."""
    return self.classes[int(np.asarray(sums["matrix"]).sum(1).argmax())]

  def row(self, summary):
    """See `Task.row`; also terms of the loss, and with a sigmoid the F1 of the positive class."""
    positive = f"f1/{self.classes[-1]}"
    terms = {k: v for k, v in summary.items() if k.startswith("loss/")}
    return super().row(summary) | terms | ({positive: summary[positive]} if self.sigmoid else {})

  def line(self, summary):
    """The line of an evaluation, with the constant answer's accuracy beside the net's."""
    return super().line(summary) | dict(constant_accuracy=summary["constant_accuracy"])

  def table(self, sums):
    """Text table of an evaluation: scalars, then a row per class."""
    s = self.summary(sums)
    lines = [
      "",
      f"  {'loss':<32}{s['loss']:.4f}",
      f"  {'pixel accuracy':<32}{s['pixel_accuracy']:.4f}",
    ]
    constant = f"accuracy of always {self.constant_answer(sums)!r}"
    lines.append(f"  {constant:<32}{s['constant_accuracy']:.4f}")
    lines.append(f"  {'mean IoU':<32}{s['mean_iou']:.4f}")
    lines.append(f"  {'mean class recall':<32}{s['mean_class_recall']:.4f}")
    if "max_f1" in s:
      threshold = f" (at probability {s['max_f1_threshold']:.3f})"
      lines.append(f"  {'MaxF over thresholds':<32}{s['max_f1']:.4f}{threshold}")
    lines += ["", f"  {'class':<16}{'IoU':>8}{'precision':>11}{'recall':>8}{'F1':>8}"]
    for c in self.classes:
      iou, precision, recall, f1 = (s[f"{k}/{c}"] for k in ("iou", "precision", "recall", "f1"))
      lines.append(f"  {c:<16}{iou:>8.4f}{precision:>11.4f}{recall:>8.4f}{f1:>8.4f}")
    return "\n".join([*lines, ""])

  def answer(self, image, outputs):
    """See `Task.answer`: class indices, class colours, and the colours over the image."""
    pred = np.asarray(self.predict(outputs))[0].astype(np.uint8)
    colors = self.palette[pred]
    shares = np.bincount(pred.ravel(), minlength=len(self.classes)) / pred.size
    pictures = dict(index=pred, color=colors, overlay=overlay(image, colors))
    return pictures, dict(zip(self.classes, shares, strict=True))

  def pictures(self, image, logits, label):
    """Panels for one example: image, overlay, truth, prediction, errors.

    Args:
      image: u8[H,W,3].
      logits: f32[1,H,W,K].
      label: i32[H,W].

    Returns:
      list of (title, u8[H,W,3]).
    """
    pred, scored = np.asarray(self.predict(logits))[0], label != IGNORE
    striped = stripes(*label.shape)
    truth_colors = np.where(scored[..., None], self.palette[label], striped).astype(np.uint8)
    errors = np.repeat(image.mean(-1, keepdims=True) * 0.6, 3, -1)
    wrong = scored & (pred != label)
    if self.sigmoid:
      name = self.classes[1]
      errors[wrong & (pred == 1)], errors[wrong & (pred == 0)] = FALSE_POSITIVE, MISSED
      over, legend = blend(image, RED, pred == 1), "orange: false, blue: missed"
      first = f"predicted {name} in red"
    else:
      errors[wrong] = FALSE_POSITIVE
      over, legend, first = (
        overlay(image, self.palette[pred]),
        "orange: wrong",
        "prediction over image",
      )
    over, errors = blend(over, striped, ~scored, 0.6), blend(errors, striped, ~scored, 0.6)
    return [
      ("image", image),
      (first, over),
      ("truth (striped: not scored)" if not scored.all() else "truth", truth_colors),
      ("prediction", self.palette[pred]),
      (f"errors ({legend})", errors),
    ]
