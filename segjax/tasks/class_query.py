"""Segmentation by asking for one class at a time, of a net such as `models.AttentionSegmenter`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from segjax import losses, metrics
from segjax.data.labels import IGNORE
from segjax.errors import UserError
from segjax.metrics.counting import number_of
from segjax.pictures import blend
from segjax.tasks.segmentation import RED, Segmentation, count
from segjax.tasks.task import Task, mean


@dataclasses.dataclass(frozen=True)
class ClassQuery(Segmentation):
  """Training asks for one class per image and gets its mask; an evaluation asks for all in turn.

  The first class is the background, which is not asked for. The masks of an evaluation are merged
  into one label map: the class of the largest logit, or the background where all are below 0, so
  that it scores as every other segmentation does.

  A net may learn to look at everything but the asked class, which names it too. A loss of the
  attention itself, -log of its share on the asked class, makes it look there (Liu et
  al., AAAI 2017).

  Attributes:
    present: probability that a class is asked for that the image has; else any class.
    attention: factor of the loss of the attention, a mean over the images that have the class.
  """

  present: float = 0.75
  attention: float = 0.0

  loss_terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "attention")
  train_metrics: ClassVar[tuple[str, ...]] = (*Segmentation.train_metrics, "asked_iou")

  def __post_init__(self):
    super().__post_init__()
    if len(self.classes) < 2:
      raise UserError("class_query needs a background and at least one class")
    own = {"cross_entropy", *(f.name for f in dataclasses.fields(Task))}
    others = [f for f in dataclasses.fields(Segmentation) if f.name not in own]
    if switched := [f.name for f in others if getattr(self, f.name) != f.default]:
      raise UserError(
        "class_query has the binary cross-entropy and the loss of the attention alone; switch off "
        f"{', '.join(switched)}"
      )
    if self.attention < 0:
      raise UserError(f"loss.attention is {self.attention}, expected 0 or more")
    if not 0 <= self.present <= 1:
      raise UserError(f"task.present is {self.present}, expected one in [0, 1]")

  @property
  def num_outputs(self):
    """Classes that can be asked for."""
    return len(self.classes) - 1

  def prepare(self, key, image, label, *, train, augment=None):
    """In training the asked classes go with the images, and labels become 1 there and 0 else.

    Labels that are no class, ignored pixels among them, stay as they are.
    """
    image, label = super().prepare(key, image, label, train=train, augment=augment)
    if not train:
      return (image, None), label
    asked = self.draw(jax.random.fold_in(key, 2**31 + 1), label)
    return (image, asked), self._mask(label, asked[:, None, None] + 1)

  def _mask(self, label, number):
    """1 where the label is a class's number and 0 where it is another class's, else the label."""
    return jnp.where(label < len(self.classes), label == number, label)

  def draw(self, key, label):
    """Classes to ask for, i32[B], 0 being the first after the background."""
    keys = jax.random.split(key)
    number = jnp.arange(1, len(self.classes))
    has = (label[:, None] == number[:, None, None]).any((2, 3))
    wanted = jax.random.bernoulli(keys[0], self.present, (len(label), 1))
    possible = jnp.where(wanted & has.any(1, keepdims=True), has, True)
    return jax.random.categorical(keys[1], jnp.where(possible, 0.0, -jnp.inf))

  def outputs(self, net, inputs):
    """Logits, f32[B,H,W,1] of the asked classes or [B,H,W,C-1] of all, and where the net looked."""
    logits = net(*inputs)
    return dict(logits=logits, attention=net.sown["attention"][0])

  def predict(self, outputs):
    """Of all classes -> i32[B,H,W]: the merged masks, 0 where no mask is."""
    logits = outputs["logits"]
    return jnp.where(logits.max(-1) >= 0, logits.argmax(-1) + 1, 0)

  def statistics(self, outputs, label, valid, *, evaluating):
    """Sums over a batch.

    Args:
      outputs: result of `outputs`.
      label: i32[B,H,W]; in training 1 for the asked class.
      valid: bool[B], False for examples that do not count.
      evaluating: whether this is an evaluation, of all classes.

    Returns:
      dict of sums: `pixels`, `examples`, `cross_entropy` (nats, the mean over asked classes),
      with a loss of the attention `attention` (nats) and `asked`, the images that have the class;
      `matrix`, of two classes in training, and in an evaluation `inside` and `outside`, f32[C-1,2]:
      attention (1 where uniform) and positions on and off the class.
    """
    logits, scored = outputs["logits"], (label != IGNORE) & valid[:, None, None]
    sums = dict(pixels=number_of(scored), examples=valid.sum())
    asked = (
      [label] if not evaluating else [self._mask(label, c) for c in range(1, len(self.classes))]
    )
    if self.attention:
      on = jnp.stack([(mine == 1) & scored for mine in asked], 1)
      sums |= _missed(outputs["attention"], on)
    loss = [
      losses.cross_entropy(logits[..., i : i + 1], mine, valid=scored).sum()
      for i, mine in enumerate(asked)
    ]
    sums["cross_entropy"] = sum(loss) / len(loss)
    if not evaluating:
      pred, classes = (logits[..., 0] >= 0).astype(jnp.int32), 2
    else:
      pred, classes = self.predict(outputs), len(self.classes)
      sums |= _where_it_looked(outputs["attention"], label, scored, classes)
    return sums | count(pred, label, scored, classes, each=evaluating)

  def terms(self, sums):
    """See `Segmentation.terms`, and that of the attention."""
    out = super().terms(sums)
    if self.attention:
      out["attention"] = mean(self.attention * sums["attention"], sums["asked"])
    return out

  def summary(self, sums):
    """See `Segmentation.summary`; of training `loss` and `asked_iou`, of the asked classes.

    An evaluation has `attention_ratio` too, the attention on the asked class over that off it,
    means over positions, and `attention_ratio/<class>`.
    """
    if len(sums["matrix"]) != len(self.classes):
      asked = metrics.summarize(sums["matrix"])
      return self.losses_of(sums) | dict(asked_iou=float(asked["iou"][1]))
    out = super().summary(sums)
    if "inside" in sums:
      (a, n), (b, m) = np.transpose(sums["inside"]), np.transpose(sums["outside"])
      with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (a / n) / (b / m)
      seen = ratio[np.isfinite(ratio)]
      out["attention_ratio"] = float(seen.mean()) if len(seen) else float("nan")
      names = zip(self.classes[1:], ratio, strict=True)
      out |= {f"attention_ratio/{c}": float(r) if np.isfinite(r) else np.nan for c, r in names}
    return out

  def table(self, sums):
    """Text table of an evaluation."""
    s = self.summary(sums)
    ratios = [
      f"{c} {s[f'attention_ratio/{c}']:.2f}" for c in self.classes[1:] if "attention_ratio" in s
    ]
    text = super().table(sums)
    if not ratios:
      return text
    return f"{text}\n  attention on over off the asked class: {', '.join(ratios)}\n"

  def pictures(self, image, outputs, label):
    """Panels for one example: image, attention to the class that covers most, truth, prediction.

    Args:
      image: u8[H,W,3].
      outputs: {"logits": f32[1,H,W,C-1], "attention": f32[1,C-1,h,w]}.
      label: i32[H,W].

    Returns:
      list of (title, u8[H,W,3]).
    """
    counts = np.bincount(label[(label != IGNORE) & (label > 0)], minlength=len(self.classes))
    asked = int(counts.argmax()) or 1
    weights = np.asarray(outputs["attention"])[0, asked - 1]
    rows, columns = (
      (np.arange(n) * m // n) for n, m in zip(label.shape, weights.shape, strict=True)
    )
    heat = (weights / max(weights.max(), 1e-12))[rows[:, None], columns]
    shown = blend(image // 2, RED, True, alpha=heat[..., None])
    panels = super().pictures(image, outputs, label)
    return [panels[0], (f"attention to {self.classes[asked]}", shown), panels[2], panels[3]]


def _missed(attention, on):
  """Sum of -log of the attention's share on the asked class, over the images that have it.

  Args:
    attention: f32[B,Q,h,w], adds up to 1 over the positions.
    on: bool[B,Q,H,W], the pixels of the asked classes; a position counts by its share of them.
  """
  has = on.any((2, 3))
  rows, columns = map(_cells, attention.shape[2:], on.shape[2:])
  covered = on.astype(jnp.float32)
  share = jnp.einsum("hy,bqyx,wx->bqhw", rows, covered, columns, precision="highest")
  seen = jnp.where(has, (attention * share).sum((2, 3)), 1.0)
  # A select, as the gradient of `jnp.maximum` asks whether two roundings of one value are equal.
  seen = jnp.where(seen < 1e-30, 1e-30, seen)
  return dict(attention=-jnp.log(seen).sum(), asked=has.sum())


def _cells(cells, pixels):
  """Means over the pixels of each cell, f32[cells,pixels]."""
  inside = jnp.arange(pixels) * cells // pixels == jnp.arange(cells)[:, None]
  return inside / inside.sum(1, keepdims=True)


def _where_it_looked(attention, label, valid, classes):
  """Sums of attention times positions, and of positions, on and off each class."""
  _, _, h, w = attention.shape
  rows, columns = (
    ((jnp.arange(n) + 0.5) * m / n).astype(int)
    for n, m in zip((h, w), label.shape[1:], strict=True)
  )
  small, seen = (x[:, rows[:, None], columns] for x in (label, valid))
  on = jnp.stack([(small == c) & seen for c in range(1, classes)], 1)
  has = on.any((2, 3), keepdims=True)  # elsewhere there is nothing to look at
  off = ~on & seen[:, None] & has
  scaled = attention * (h * w)
  return {
    name: jnp.stack([(scaled * where).sum((0, 2, 3)), where.sum((0, 2, 3)).astype(jnp.float32)], -1)
    for name, where in (("inside", on), ("outside", off))
  }
