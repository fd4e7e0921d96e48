"""Segmentation by queries, each of a mask and a class, of a net such as `models.EoMT`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from segjax import losses
from segjax.data.labels import IGNORE
from segjax.errors import UserError
from segjax.tasks.segmentation import Segmentation
from segjax.tasks.task import Task, mean

SOWN = {"masks", "classes", "cell"}
OWN = ("cross_entropy", "dice", "mask", "no_object", "mask_steps")


@dataclasses.dataclass(frozen=True)
class MaskClassification(Segmentation):
  """Each class in an image is the target of one query, see `losses.mask_classification`.

  The net's logits are the logarithms of its semantic scores, so that it is evaluated and predicts
  as every other net of segmentation. The loss of a train step is the mean over the predictions of
  several blocks (their sum in EoMT), that of an evaluation is of the last one.

  Attributes:
    cross_entropy: weight of the cross-entropy of the queries' classes.
    mask: weight of the binary cross-entropy of the masks.
    dice: weight of their Dice loss.
    no_object: weight of a query without a target in the cross-entropy.
    mask_steps: steps in which the masks of the net's attention vanish, see `models.EoMT`; 0: the
      attention has none from the start. In a config also `mask_epochs`.
  """

  cross_entropy: float = 2.0
  dice: float = 5.0
  mask: float = 5.0
  no_object: float = 0.1
  mask_steps: int = 0

  loss_terms: ClassVar[tuple[str, ...]] = ("cross_entropy", "dice", "mask")

  def __post_init__(self):
    super().__post_init__()
    own = {*OWN, *(f.name for f in dataclasses.fields(Task))}
    others = [f for f in dataclasses.fields(Segmentation) if f.name not in own]
    if switched := [f.name for f in others if getattr(self, f.name) != f.default]:
      raise UserError(
        "mask_classification has a softmax and the losses cross_entropy, mask and dice alone; "
        f"switch off {', '.join(switched)}"
      )

  def outputs(self, net, inputs):
    """Logits f32[B,H,W,C], and of each prediction masks f32[B,h,w,Q] and classes f32[B,Q,C+1].

    Raises:
      UserError: the net gives no masks.
    """
    progress = [net.step / self.mask_steps] if net.train and self.mask_steps else []
    logits = net(inputs, *progress)
    if not net.sown.keys() >= SOWN:
      raise UserError(
        "the task mask_classification needs a net that gives masks and classes of queries; set "
        "model.name to 'eomt'"
      )
    return dict(logits=logits, **{k: net.sown[k] for k in SOWN})

  def predict(self, outputs):
    """Of a net's outputs or its logits -> i32[B,H,W], the class of the highest score."""
    return super().predict(outputs["logits"] if isinstance(outputs, dict) else outputs)

  def statistics(self, outputs, label, valid, *, evaluating):
    """Sums over a batch.

    Args:
      outputs: result of `outputs`.
      label: i32[B,H,W], class indices or 255.
      valid: bool[B], False for examples that do not count.
      evaluating: whether this is an evaluation.

    Returns:
      dict of sums: those of `Segmentation.statistics`; the losses, means over the predictions;
      `weight` of the queries and `targets`, by which they are divided.
    """
    sums = super().statistics(outputs["logits"], label, valid, evaluating=evaluating)
    scored = (label != IGNORE) & valid[:, None, None]
    fields = dict(
      valid=scored,
      cell=outputs["cell"][0],
      weights=(self.cross_entropy, self.mask, self.dice),
      no_object=self.no_object,
    )
    pairs = zip(outputs["masks"], outputs["classes"], strict=True)
    found = [losses.mask_classification(m, c, label, **fields) for m, c in pairs]
    for name in found[0]:
      value = sum(each[name] for each in found) / len(found)
      sums[name] = jnp.where(valid, value, 0.0).sum()
    return sums

  def _losses(self, logits, label, valid, scored):
    """None of the losses of pixels."""
    del logits, label, valid, scored
    return {}

  def terms(self, sums):
    """See `Segmentation.terms`."""
    counts = dict(cross_entropy="weight", mask="targets", dice="targets")
    return {
      name: mean(weight * sums[name], sums[count], 1e-12 if count == "weight" else 1)
      for name, count in counts.items()
      if (weight := getattr(self, name))
    }
