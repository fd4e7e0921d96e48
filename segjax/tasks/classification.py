"""Classification of whole images by softmax."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from segjax import losses, metrics, ops
from segjax.augment import Mixed
from segjax.errors import UserError
from segjax.pictures import bars, enlarge
from segjax.tasks.task import Task, mean


@dataclasses.dataclass(frozen=True)
class Classification(Task):
  """Loss, statistics, summary and pictures of a batch of images with a class each.

  Attributes:
    label_smoothing: share of the target that is spread over all classes (Szegedy et al., CVPR
      2016), in [0,1).
    top_k: an answer counts for `top<k>_accuracy` if the truth is among the k likeliest classes; of
      fewer classes, among all but one.
    class_weights: empty, or a weight per class; the mean loss is then taken over the weights. In a
      config also the name of a rule, see `Segmentation`.
  """

  label_smoothing: float = 0.0
  top_k: int = 5
  class_weights: tuple[float, ...] = ()

  label_kind: ClassVar[str] = "class"
  train_metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

  def __post_init__(self):
    super().__post_init__()
    n = len(self.classes)
    if n < 2:
      raise UserError(f"classification needs at least 2 classes, the data has {n}")
    if self.class_weights and len(self.class_weights) != n:
      raise UserError(
        f"loss.class_weights has {len(self.class_weights)} values, the data has {n} classes"
      )
    if not 0 <= self.label_smoothing < 1:
      raise UserError(f"loss.label_smoothing is {self.label_smoothing}, expected one in [0,1)")
    if self.top_k < 1:
      raise UserError(f"task.top_k is {self.top_k}, expected 1 or more")

  @property
  def num_outputs(self):
    """Logits, one per class."""
    return len(self.classes)

  @property
  def k(self):
    """`top_k`, or one less than the classes where there are not so many."""
    return min(self.top_k, len(self.classes) - 1)

  def predict(self, logits):
    """f32[B,K] -> i32[B], the most likely class."""
    return logits.argmax(-1)

  def statistics(self, logits, label, valid, *, evaluating):
    """Sums over a batch; see `Segmentation.statistics`.

    Args:
      logits: f32[B,K].
      label: i32[B], class indices, or Mixed: the loss is then mixed alike, and the examples' own
        classes are counted.
      valid: bool[B], False for examples that do not count.
      evaluating: not used.

    Returns:
      dict of sums: `examples`, `cross_entropy`, `weight`, `top_k`, `matrix` i32[K,K].
    """
    del evaluating
    label, other, share = label if isinstance(label, Mixed) else (label, label, 1.0)
    weights = jnp.array(self.class_weights or (1.0,) * len(self.classes))

    def expected(of):
      return jnp.where(valid, share * of(label) + (1 - share) * of(other), 0.0).sum()

    known = valid & (label >= 0) & (label < len(self.classes))
    index = jnp.where(known, label, 0)[:, None]
    own = jnp.take_along_axis(logits, index, -1)
    # Of equal logits the first counts, as `predict` has it; none is larger than nan.
    ahead = ~(logits <= own) | ((logits == own) & (jnp.arange(len(self.classes)) < index))
    return dict(
      examples=valid.sum(),
      cross_entropy=expected(
        lambda y: losses.cross_entropy(
          logits, y, valid=valid, class_weights=weights, label_smoothing=self.label_smoothing
        )
      ),
      weight=expected(lambda y: ops.of_class(weights, jnp.where(valid, y, 0))),
      top_k=(known & (ahead.sum(-1) < self.k)).sum(),
      matrix=metrics.confusion_matrix(
        self.predict(logits), label, num_classes=len(self.classes), valid=valid
      ),
    )

  def loss(self, sums):
    """Mean cross-entropy from summed statistics, nats; 0 for no example at all."""
    return mean(sums["cross_entropy"], sums["weight"], 1e-12)

  def summary(self, sums):
    """Scalars from summed statistics.

    Returns:
      dict of floats: `loss`, `accuracy` (top-1), `top<k>_accuracy`, `mean_class_accuracy`,
      `constant_accuracy` (of the class that is most frequent), `accuracy/<class>` ...; nan where
      a class has no example.
    """
    family = metrics.summarize(sums["matrix"])
    out = dict(loss=float(self.loss(sums)), accuracy=family["pixel_accuracy"])
    if self.k > 1:
      out[f"top{self.k}_accuracy"] = float(sums["top_k"] / max(sums["examples"], 1))
    out["mean_class_accuracy"] = family["mean_class_recall"]
    out["constant_accuracy"] = family["constant_accuracy"]
    recalls = zip(self.classes, family["recall"], strict=True)
    return out | {f"accuracy/{c}": float(v) for c, v in recalls}

  def table(self, sums):
    """Text table of an evaluation: scalars, then a row per class."""
    s = self.summary(sums)
    scalars = [(k, v) for k, v in s.items() if "/" not in k]
    lines = ["", *(f"  {k.replace('_', ' '):<32}{v:.4f}" for k, v in scalars), ""]
    lines.append(f"  {'class':<16}{'examples':>9}{'accuracy':>10}")
    counts = np.asarray(sums["matrix"]).sum(1)
    lines += [
      f"  {c:<16}{n:>9}{s[f'accuracy/{c}']:>10.4f}"
      for c, n in zip(self.classes, counts, strict=True)
    ]
    return "\n".join([*lines, ""])

  def answer(self, image, outputs):
    """See `Task.answer`: no picture, and the probability of each class."""
    del image
    probabilities = np.asarray(losses.class_probabilities(jnp.asarray(outputs)))[0]
    return {}, dict(zip(self.classes, probabilities, strict=True))

  def pictures(self, image, logits, label):
    """Panels for one example: the image, enlarged if it is tiny, and the likeliest classes.

    Args:
      image: u8[H,W,3].
      logits: f32[1,K].
      label: i32[], the truth.

    Returns:
      list of (title, u8[H',W',3]).
    """
    p = np.asarray(losses.class_probabilities(jnp.asarray(logits)))[0]
    order = np.argsort(-p)[: max(self.k, 3)]
    truth = self.classes[int(label)]
    rows = [(self.classes[i], float(p[i]), i == label) for i in order]
    text = f"truth: {truth}, predicted: {self.classes[order[0]]}"
    return [("image", enlarge(image)), (text, bars(rows))]
