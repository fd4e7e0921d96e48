"""The interface of a task for the steps, the loop and the launchers."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from segjax.data.labels import default_table
from segjax.errors import UserError

ROWS = "images/"  # begins the names of statistics that have a row for each image; the rest are sums
INDEX = f"{ROWS}index"  # of the example that a row is of; -1 for a copy that fills up a batch


def mean(total, count, least=1):
  """total / count, count being at least `least`; of device scalars in a step, or the host's."""
  if isinstance(count, jnp.ndarray) and count.dtype == jnp.int64 and not jax.config.jax_enable_x64:
    count = count.astype(jnp.float32)  # see `metrics.counting.number_of`
  return total / (jnp if isinstance(count, jnp.ndarray) else np).maximum(count, least)


@dataclasses.dataclass(frozen=True)
class Task:
  """Base of the tasks: an image goes into the net as it is, augmented in training.

  A task also has `num_outputs`, channels of the net's outputs; `statistics(outputs, label, valid,
  *, evaluating)`, sums over a batch, and in an evaluation perhaps rows, a row per image, under
  names that begin with `ROWS`; `loss(sums)`; `summary(sums)`, scalars named as in
  `val/<name>`, `loss` among them; and `pictures(image, outputs, label)`, panels of one example.

  Attributes:
    classes: class names in label order; empty where there are none.
    palette: u8[256,3], display colour of each label value; None for `labels.default_table`'s.
    label_kind: the label of each image that a source must have: "mask", "masks" (of classes that
      overlap), "class", "target" or "nothing".
    train_metrics: scalars of a summary that stand in the rows of training, where it has them.
    forbids_padding: whether every pixel of an image is scored, so that none may be padding.
    of_photographs: whether images are photographs, red, green and blue.
    uses_ema_teacher: whether `outputs` also calls the net with the averaged parameters.
    self_supervised: whether a net is trained for its features, not for its predictions.
    loss_label: the loss and its unit, for axes and tables.
    class_colors: whether its pictures and answers show classes in the colours of the palette; such
      a task has `predict(outputs)`, the class or the classes of each pixel.
  """

  classes: tuple[str, ...]
  palette: np.ndarray | None = dataclasses.field(
    default=None, repr=False, hash=False, compare=False
  )

  label_kind: ClassVar[str] = "mask"
  train_metrics: ClassVar[tuple[str, ...]] = ("loss",)
  forbids_padding: ClassVar[bool] = False
  of_photographs: ClassVar[bool] = False
  uses_ema_teacher: ClassVar[bool] = False
  self_supervised: ClassVar[bool] = False
  loss_label: ClassVar[str] = "loss (nats)"
  class_colors: ClassVar[bool] = False

  def __post_init__(self):
    if self.palette is None:
      object.__setattr__(self, "palette", default_table(self.classes[:256]).palette)

  @classmethod
  def label_kind_of(cls, fields):
    """`label_kind` of a task with these fields, dict."""
    del fields
    return cls.label_kind

  @classmethod
  def loss_label_of(cls, fields):
    """`loss_label` of a task with these fields of `config.loss`, dict."""
    del fields
    return cls.loss_label

  def prepare(self, key, image, label, *, train, augment=None):
    """Inputs of the net and labels of the statistics.

    Args:
      key: PRNG key; None in prediction. An evaluation prepares each example by itself, B = 1, with
        a key that follows from the example's index in its split.
      image: f32[B,H,W,3] in [0,1].
      label: i32[B,H,W], i32[B], f32[B,H,W,3] in [0,1] by `label_kind`, or None in prediction.
      train: whether this is a train step.
      augment: (key, image, label) -> (image, label), of a batch, or None in prediction.

    Returns:
      (inputs, label).
    """
    return augment(key, image, label) if train and augment else (image, label)

  def outputs(self, net, inputs):
    """Outputs of the net for the inputs; `net(image)` normalises and applies the model."""
    return net(inputs)

  def batch_stats(self, batch_stats, outputs):
    """The batch statistics after a train step, to which a task may add its own.

    Args:
      batch_stats: as the net's last call left them.
      outputs: result of `outputs`.
    """
    del outputs
    return batch_stats

  def row(self, summary):
    """Scalars of a row of training: name -> value."""
    return {k: summary[k] for k in self.train_metrics if k in summary}

  def line(self, summary):
    """The line of an evaluation: name -> value."""
    return self.row(summary)

  def table(self, sums):
    """Text table of an evaluation, a row per scalar."""
    rows = self.summary(sums).items()
    return "\n".join(["", *(f"  {k.replace('_', ' '):<32}{v:.4f}" for k, v in rows), ""])

  def classes_seen(self, outputs, label):
    """Values in the pictures of an example, 255 for what is not scored; for their legend.

    Args:
      outputs: of the net for this example alone.
      label: as the task needs it.

    Returns:
      set of ints, empty where the task shows no classes in colours.
    """
    if not self.class_colors:
      return set()
    pred = np.asarray(self.predict(outputs))
    return {*np.unique(pred).tolist(), *np.unique(label).tolist()}

  def for_prediction(self):
    """The task for images that come from a user, as they are."""
    return self

  def answer(self, image, outputs):
    """The files and the row of a predicted image.

    Args:
      image: u8[H,W,3].
      outputs: result of `outputs`, the batch being this image; pictures among them at its size.

    Returns:
      (pictures, shares): dicts of suffix -> u8[H,W] or u8[H,W,3], and of class -> share or
      probability, empty where there are no classes.

    Raises:
      UserError: the task learns features and predicts nothing.
    """
    raise UserError(
      f"a run of {type(self).__name__} learns features and predicts nothing; see "
      "launch/analyze.py features"
    )

  def warning(self, summary):
    """A warning about an evaluation, a sentence, or nothing."""
    del summary
    return ""
