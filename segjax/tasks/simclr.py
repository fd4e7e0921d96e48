"""SimCLR: two views of an image are matched among the views of all others, without labels."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from segjax import metrics
from segjax.errors import UserError
from segjax.pictures import bars, enlarge
from segjax.tasks.task import Task, mean


@dataclasses.dataclass(frozen=True)
class SimCLR(Task):
  """Normalised temperature-scaled cross-entropy of two augmented views (Chen et al., ICML 2020).

  Both views are made by `config.augment`, in an evaluation too, there by the same draws for an
  example each time.
  The loss of an evaluation is that of its batches, so it depends on their size.

  Attributes:
    temperature: temperature of the softmax over cosine similarities.
    width: number of channels of the projection that the loss compares.
  """

  temperature: float = 0.5
  width: int = 128

  label_kind: ClassVar[str] = "nothing"
  self_supervised: ClassVar[bool] = True
  train_metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "feature_deviation")

  def __post_init__(self):
    super().__post_init__()
    if not 0 < self.temperature <= 10:
      raise UserError(f"task.temperature is {self.temperature}, expected one in (0, 10]")

  @property
  def num_outputs(self):
    """Width of the projection."""
    return self.width

  def prepare(self, key, image, label, *, train, augment=None):
    """Two views of each image, [2B,H,W,3]: first all of the first kind."""
    del label, train
    label = jnp.zeros(len(image), jnp.int32)
    if key is None:
      return image, None
    views = [augment(k, image, label)[0] for k in jax.random.split(key)]
    return jnp.concatenate(views), label

  def statistics(self, outputs, label, valid, *, evaluating):
    """Sums over a batch.

    Args:
      outputs: f32[2B,D], projections of both views.
      label: not used.
      valid: bool[B], False for examples that do not count; they are nobody's others.
      evaluating: not used.

    Returns:
      dict of sums over views: `views`, `loss`, `hits` (the other view is the nearest), and for
      the noticing of collapse `moments`, see `metrics.unit_moments`.
    """
    del label, evaluating
    count, valid = len(outputs), jnp.tile(valid, 2)
    length = jnp.linalg.norm(outputs, axis=-1, keepdims=True)
    # A select, as the gradient of `jnp.maximum` asks whether two roundings of one value are equal.
    z = outputs / jnp.where(length < 1e-12, 1e-12, length)
    similarity = jnp.matmul(z, z.T, precision="highest") / self.temperature
    others = valid[None] & ~jnp.eye(count, dtype=bool)
    similarity = jnp.where(others, similarity, -1e9)
    partner = jnp.roll(jnp.arange(count), count // 2)
    own = jnp.take_along_axis(similarity, partner[:, None], -1)[:, 0]
    loss = jax.nn.logsumexp(similarity, -1) - own
    return dict(
      views=valid.sum(),
      loss=jnp.where(valid, loss, 0.0).sum(),
      hits=(valid & (similarity.argmax(-1) == partner)).sum(),
      moments=metrics.unit_moments(outputs, valid),
    )

  def loss(self, sums):
    """Mean over views, nats."""
    return mean(sums["loss"], sums["views"])

  def summary(self, sums):
    """Scalars from summed statistics.

    Returns:
      dict of floats: `loss`, `accuracy` (the other view is the most similar one of the batch) and
      `feature_deviation` of the projections, see `metrics.unit_deviation`; 0 is collapse.
    """
    count = max(float(sums["views"]), 1.0)
    return dict(
      loss=float(self.loss(sums)),
      accuracy=float(sums["hits"]) / count,
      feature_deviation=metrics.unit_deviation(sums["moments"], count),
    )

  def warning(self, summary):
    """Says so where the projections collapse."""
    if summary["feature_deviation"] > 0.1:
      return ""
    return "the projections of all images are alike (collapse): lower the learning rate"

  def pictures(self, image, outputs, label):
    """Panels for one example: the image, and its largest projections as bars."""
    del label
    z = np.abs(outputs[0]) / max(float(np.abs(outputs[0]).max()), 1e-12)
    order = np.argsort(-z)[:5]
    rows = [(f"dimension {i}", float(z[i]), True) for i in order]
    return [("image", enlarge(image)), ("projection", bars(rows))]
