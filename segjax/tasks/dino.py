"""DINO: a student learns to predict its moving average on other crops, without labels."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from segjax import metrics
from segjax.augment import draw_crop, scale_and_crop
from segjax.augment.color import value_range
from segjax.errors import UserError
from segjax.pictures import bars, enlarge
from segjax.tasks.task import Task, mean

CENTERINGS = ("mean", "sinkhorn")


@dataclasses.dataclass(frozen=True)
class Dino(Task):
  """Self-distillation (Caron et al., ICCV 2021), of a net such as `models.Prototypes`.

  Two large views of each image go to student and teacher, small crops to the student alone; every
  view of the student is to agree with the teacher's other large views. The teacher is the moving
  average of the parameters (`config.ema_decay`); it is centred and sharpened against collapse. In
  place of the centre, `balance` can see to it that all prototypes are used alike in a batch, as
  DINOv2 does (Oquab et al., 2023): a short training on few images otherwise keeps but some of them.
  The loss of an evaluation then depends on the size of its batches, whose copies are left out.
  Large views are made by `config.augment`; a crop is a part of 20 to 60 % of the image, augmented
  likewise and shrunk to half the size.

  Attributes:
    prototypes: outputs of the net.
    crops: small crops of each image.
    temperature: temperature of the student's softmax.
    teacher_start: temperature of the teacher's softmax at first.
    teacher_end: the same from `teacher_steps` on; linear between.
    teacher_steps: steps from the first to the last temperature; in a config also `teacher_epochs`.
    center_momentum: momentum of the centre, the moving mean of the teacher's outputs.
    centering: "mean" subtracts the centre from the teacher's outputs, "sinkhorn" takes `balance`.
  """

  prototypes: int = 1024
  crops: int = 4
  temperature: float = 0.1
  teacher_start: float = 0.04
  teacher_end: float = 0.04
  teacher_steps: int = 0
  center_momentum: float = 0.9
  centering: str = "mean"

  label_kind: ClassVar[str] = "nothing"
  self_supervised: ClassVar[bool] = True
  train_metrics: ClassVar[tuple[str, ...]] = (
    "loss", "teacher_entropy", "mean_entropy", "feature_deviation",
  )  # fmt: skip
  uses_ema_teacher: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    for name in ("temperature", "teacher_start", "teacher_end"):
      if not 0 < getattr(self, name) <= 1:
        raise UserError(f"task.{name} is {getattr(self, name)}, expected one in (0, 1]")
    if not 0 <= self.center_momentum <= 1:
      raise UserError(f"task.center_momentum is {self.center_momentum}, expected one in [0, 1]")
    if self.centering not in CENTERINGS:
      raise UserError(f"task.centering is {self.centering!r}, expected {' or '.join(CENTERINGS)}")
    if self.crops < 0 or self.prototypes < 2:
      raise UserError("task.crops must be 0 or more, task.prototypes 2 or more")

  @property
  def num_outputs(self):
    """Prototypes."""
    return self.prototypes

  def teacher_temperature(self, step):
    """Of the teacher's softmax at a step."""
    share = jnp.clip(step / max(self.teacher_steps, 1), 0, 1) if self.teacher_steps else 1.0
    return self.teacher_start + share * (self.teacher_end - self.teacher_start)

  def prepare(self, key, image, label, *, train, augment=None):
    """Large views [2B,H,W,3] and small crops [crops*B,H/2,W/2,3]; in prediction the images."""
    del train
    if key is None:
      return image, None
    label = jnp.zeros(len(image), jnp.int32)
    keys = jax.random.split(key, 2 + self.crops)
    large = jnp.concatenate([augment(k, image, label)[0] for k in keys[:2]])
    small = []
    for k in keys[2:]:
      part, view = jax.random.split(k)
      cropped = jax.vmap(_crop)(jax.random.split(part, len(image)), image)
      cropped, _ = augment(view, cropped, label)
      b, h, w, c = cropped.shape
      small.append(jax.image.resize(cropped, (b, -(-h // 2), -(-w // 2), c), "linear"))
    return dict(large=large, small=jnp.concatenate(small) if small else None), label

  def outputs(self, net, inputs):
    """Outputs of student and teacher for the views; in prediction the net's outputs.

    Returns:
      dict of `student` and `teacher`, f32[views,B,K] each, log probabilities and logits over the
      temperature, these less the centre; `features`, f32[2,B,C], the teacher's before its head; and
      `center`, f32[K], after this batch.
    """
    if not isinstance(inputs, dict):
      return net(inputs)
    center = net.batch_stats["center"]
    teacher = jax.lax.stop_gradient(net.teacher(inputs["large"]))
    student = [net(inputs[k]) for k in ("large", "small") if inputs[k] is not None]
    student = jnp.concatenate(student) / self.temperature
    centered = teacher - center if self.centering == "mean" else teacher
    features = jax.lax.stop_gradient(net.teacher.sown["penultimate"][0])
    views = lambda x: x.reshape(-1, len(teacher) // 2, x.shape[-1])  # noqa: E731
    return dict(
      student=views(jax.nn.log_softmax(student)),
      teacher=views(centered / self.teacher_temperature(net.step)),
      features=views(features),
      center=self.center_momentum * center + (1 - self.center_momentum) * teacher.mean(0),
    )

  def batch_stats(self, batch_stats, outputs):
    """See `Task.batch_stats`: the centre of the teacher's answers is among them."""
    return batch_stats | dict(center=outputs["center"])

  def statistics(self, outputs, label, valid, *, evaluating):
    """Sums over a batch.

    Args:
      outputs: result of `outputs`.
      label: not used.
      valid: bool[B], False for examples that do not count.
      evaluating: not used.

    Returns:
      dict of sums over images: `examples`, `loss` (nats, the mean over pairs of views), `entropy`
      of the teacher's probabilities, `probability` f32[K], their mean over its views, and
      `moments` of its features over both, see `metrics.unit_moments`.
    """
    del label, evaluating
    student, teacher = outputs["student"], self._targets(outputs["teacher"], valid)
    pairs = jnp.einsum("tbk,sbk->tsb", teacher, -student, precision="highest")
    other = ~jnp.eye(len(teacher), len(student), dtype=bool)[..., None]
    loss = jnp.where(other, pairs, 0.0).sum((0, 1)) / other.sum()
    features = outputs["features"].reshape(-1, outputs["features"].shape[-1])
    entropy = -jnp.where(teacher > 0, teacher * jnp.log(jnp.maximum(teacher, 1e-30)), 0.0).sum(-1)
    return dict(
      examples=valid.sum(),
      loss=jnp.where(valid, loss, 0.0).sum(),
      entropy=jnp.where(valid, entropy.mean(0), 0.0).sum(),
      probability=jnp.where(valid[:, None], teacher.mean(0), 0.0).sum(0),
      moments=metrics.unit_moments(features, jnp.tile(valid, 2)),
    )

  def _targets(self, logits, valid):
    """The teacher's probabilities f32[2,B,K]; of examples that do not count they mean nothing."""
    if self.centering == "mean":
      return jax.nn.softmax(logits)
    views, batch, width = logits.shape
    flat = logits.reshape(views * batch, width)
    return balance(flat, valid=jnp.tile(valid, views)).reshape(logits.shape)

  def loss(self, sums):
    """Mean cross-entropy of student and teacher, nats."""
    return mean(sums["loss"], sums["examples"])

  def summary(self, sums):
    """Scalars from summed statistics.

    Returns:
      dict of floats: `loss`, `teacher_entropy` of single answers and `mean_entropy` of the mean
      answer, both as shares of the logarithm of the prototypes: in health the first is low (answers
      are sharp) and the second high (all prototypes are in use); `feature_deviation` of the
      teacher's features, see `metrics.unit_deviation`.
    """
    count, most = max(float(sums["examples"]), 1.0), np.log(self.prototypes)
    p = np.asarray(sums["probability"], np.float64) / count
    mean = -np.sum(p[p > 0] * np.log(p[p > 0]))
    return dict(
      loss=float(self.loss(sums)),
      teacher_entropy=float(sums["entropy"]) / count / most,
      mean_entropy=float(mean / most),
      feature_deviation=metrics.unit_deviation(sums["moments"], 2 * count),
    )

  def warning(self, summary):
    """Says so where the answers collapse."""
    if summary["teacher_entropy"] > 0.98:
      return "the teacher says all prototypes of every image (collapse): lower teacher_end"
    if summary["mean_entropy"] < 0.1:
      return "the teacher says the same prototype of every image (collapse): raise teacher_end"
    if summary["feature_deviation"] < 0.02:
      return "the features of all images are alike (collapse): lower the learning rate"
    return ""

  def pictures(self, image, outputs, label):
    """Panels for one example: the image, and the prototypes nearest to it."""
    del label
    order = np.argsort(-outputs[0])[:5]
    rows = [(f"prototype {i}", float(max(outputs[0, i], 0)), True) for i in order]
    return [("image", enlarge(image)), ("cosine", bars(rows))]


def balance(logits, rounds=3, valid=None):
  """Probabilities nearest to a softmax whose mean over a batch is nearly the same for all outputs.

  Sinkhorn and Knopp's scaling, of columns and rows in turn, as in SwAV (Caron et al., NeurIPS
  2020).

  Args:
    logits: f32[N,K].
    rounds: number of rounds of scaling; the more, the closer is the mean to 1/K.
    valid: bool[N], False for rows that do not count for the others; None: all count.

  Returns:
    f32[N,K], rows that sum to 1.
  """
  where = None if valid is None else valid[:, None]
  for _ in range(rounds):
    logits = logits - jax.nn.logsumexp(logits, 0, where=where)
    logits = jax.nn.log_softmax(logits)
  return jnp.exp(logits)


def _crop(key, image):
  """A random part of an image, at the image's size."""
  keys = jax.random.split(key)
  scale = 1 / draw_crop(keys[0], 0.2, 0.6, 0.288)
  mask = jnp.zeros(image.shape[:2], jnp.int32)
  cut = scale_and_crop(image, mask, scale, jax.random.uniform(keys[1], (2,)))[0]
  return jnp.clip(cut, *value_range(image))
