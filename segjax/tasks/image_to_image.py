"""Image to image: every pixel's colour from another picture of the same scene."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from segjax import losses, metrics, models, weights
from segjax.errors import UserError
from segjax.pictures import to_u8
from segjax.tasks.task import Task, mean

DEGRADE = ("", "noise", "low_resolution")
NOISE, SHRINK = 0.1, 4  # standard deviation of [0,1]; times
PARTS = ("l1", "l2", "content", "style")


@dataclasses.dataclass(frozen=True)
class ImageToImage(Task):
  """Loss, statistics, summary and pictures of a batch of images with target images.

  Attributes:
    degrade: "": the source has target images; "noise" (Gaussian, standard deviation 0.1, in every
      evaluation the same for an image) or "low_resolution" (a quarter, enlarged again): the net
      gets the image so and has to restore it.
    l1: weight of the mean absolute difference in the loss.
    l2: weight of the mean squared difference.
    content: weight of the difference of a frozen backbone's features.
    style: weight of the difference of their Gram matrices (Gatys et al., CVPR 2016; both as
      Johnson et al., ECCV 2016), a mean over all strides.
    features: weights of that backbone: "efficientnet_lite0" (a pip package's) or a file.
    backbone: its name, a key of `models.BACKBONES`.
  """

  degrade: str = ""
  l1: float = 1.0
  l2: float = 0.0
  content: float = 0.0
  style: float = 0.0
  features: str = "efficientnet_lite0"
  backbone: str = "efficientnet_lite0"

  label_kind: ClassVar[str] = "target"
  forbids_padding: ClassVar[bool] = True
  of_photographs: ClassVar[bool] = True
  train_metrics: ClassVar[tuple[str, ...]] = ("loss", "psnr", "ssim")
  loss_label: ClassVar[str] = "loss"
  num_outputs: ClassVar[int] = 3

  def __post_init__(self):
    super().__post_init__()
    if self.degrade not in DEGRADE:
      raise UserError(
        f"task.degrade is {self.degrade!r}, expected one of {', '.join(map(repr, DEGRADE))}"
      )
    if not any(getattr(self, part) for part in PARTS):
      raise UserError(f"the loss is empty: one of {', '.join(PARTS)} must be above 0")
    if self.perceptual:
      self.extractor  # noqa: B018 (reports missing weights at once)

  @classmethod
  def label_kind_of(cls, fields):
    """Target images, or any images where the task degrades them itself."""
    return "nothing" if fields.get("degrade") else cls.label_kind

  @property
  def perceptual(self):
    """Whether the loss compares features."""
    return bool(self.content or self.style)

  @functools.cached_property
  def extractor(self):
    """(module, variables) of the frozen backbone."""
    net = models.make_backbone(self.backbone)
    shapes = jax.eval_shape(
      lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    known = self.features in weights.PRETRAINED
    file = weights.find_pretrained(self.features) if known else self.features
    variables, report = weights.load_torch(file, empty)
    if report.missing:
      raise UserError(
        f"loss.features {self.features!r} lacks {len(report.missing)} entries of "
        f"{self.backbone!r}, e.g. {report.missing[0]}; is loss.backbone right?"
      )
    return net, variables

  def prepare(self, key, image, label, *, train, augment=None):
    """The image as it is, or degraded; then the image itself is the label."""
    image, label = super().prepare(key, image, label, train=train, augment=augment)
    if not self.degrade:
      return image, label
    if self.degrade == "noise":
      # Far from the numbers that augmentation folds into the key.
      key = jax.random.key(0) if key is None else jax.random.fold_in(key, 2**31 + 1)
      noise = NOISE * jax.random.normal(key, image.shape)
      return jnp.clip(image + noise, 0, 1), image
    b, h, w, c = image.shape
    small = (b, max(h // SHRINK, 1), max(w // SHRINK, 1), c)
    return jax.image.resize(jax.image.resize(image, small, "linear"), image.shape, "linear"), image

  def outputs(self, net, inputs):
    """The net says how the colours differ from its input's."""
    return inputs + net(inputs)

  def statistics(self, outputs, label, valid, *, evaluating):
    """Sums over a batch.

    Args:
      outputs: f32[B,H,W,3].
      label: f32[B,H,W,3] in [0,1], the target images.
      valid: bool[B], False for examples that do not count.
      evaluating: not used.

    Returns:
      dict of sums over images: `examples`, the parts of the loss, `psnr`, `ssim`.
    """
    del evaluating
    difference, shown = outputs - label, jnp.clip(outputs, 0, 1)
    sums = dict(
      l1=jnp.abs(difference).mean((1, 2, 3)),
      l2=jnp.square(difference).mean((1, 2, 3)),
      psnr=metrics.psnr(shown, label),
      ssim=metrics.ssim(shown, label),
    )
    if self.perceptual:
      net, variables = self.extractor
      mean, std = map(jnp.array, weights.normalization(self.backbone))
      both = jnp.concatenate([outputs, label])
      features = net.apply(variables, (both - mean) / std, train=False)
      pairs = [jnp.split(f, 2) for f in features[1:] if f is not None]
      sums["content"] = sum(losses.content(*p) for p in pairs) / len(pairs)
      sums["style"] = sum(losses.style(*p) for p in pairs) / len(pairs)
    out = {k: jnp.where(valid, v, 0.0).sum() for k, v in sums.items()}
    return out | dict(examples=valid.sum())

  def loss(self, sums):
    """The weighted parts, means over images."""
    weighted = sum(getattr(self, p) * sums[p] for p in PARTS if getattr(self, p))
    return mean(weighted, sums["examples"])

  def summary(self, sums):
    """Means over images.

    Returns:
      dict of floats: `loss`, `psnr` (dB), `ssim`, `l1`, `l2`, and with a perceptual loss `content`
      and `style`.
    """
    count = max(float(sums["examples"]), 1.0)
    names = ("psnr", "ssim", *(p for p in PARTS if p in sums))
    return dict(loss=float(self.loss(sums))) | {k: float(sums[k]) / count for k in names}

  def for_prediction(self):
    """See `Task.for_prediction`: given images are spoiled already."""
    return dataclasses.replace(self, degrade="")

  def answer(self, image, outputs):
    """See `Task.answer`: the picture that the net makes."""
    del image
    return dict(output=to_u8(outputs[0])), {}

  def pictures(self, image, outputs, label):
    """Panels for one example: input, prediction, truth.

    Args:
      image: u8[H,W,3].
      outputs: f32[1,H,W,3].
      label: u8[H,W,3], the target; not used where the task degrades the image.

    Returns:
      list of (title, u8[H,W,3]).
    """
    given, target = self.prepare(None, jnp.array(image[None]) / 255, None, train=False)
    truth = label if target is None else image
    return [("input", to_u8(given[0])), ("prediction", to_u8(outputs[0])), ("truth", truth)]
