"""Colourisation: the lightness of an image in, its colour (of CIELAB) out."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from segjax import losses, metrics
from segjax.errors import UserError
from segjax.pictures import to_u8
from segjax.tasks.lab import lab_to_rgb, rgb_to_lab
from segjax.tasks.task import Task, mean

OUTPUTS = ("regression", "bins", "lab")
NORMS = {"l1": jnp.abs, "l2": jnp.square}
SCALE = 50.0  # an output of 1 stands for a or b = 50, or for L = 100
# Photographs are mostly grey: the density of a colour falls off as exp(-chroma / 12), roughly.
CHROMA = 12.0
LAB_MIDDLE = np.float32([1, 0, 0])  # outputs of 0 stand for middle grey


@dataclasses.dataclass(frozen=True)
class Colorization(Task):
  """Loss, statistics, summary and pictures of a batch of images without labels.

  Attributes:
    output: "regression" of a and b; "bins", a softmax over the cells of a grid of colours, as
      Zhang, Isola, Efros (ECCV 2016) do; or "lab", regression of the whole picture, lightness too,
      which the others take from the image.
    grid: side of a cell in units of a and b; cells that no sRGB colour falls into are left out.
    temperature: temperature of the mean that makes one colour of the cells' probabilities; towards
      0 it becomes the likeliest cell's.
    norm: "l1" or "l2", of the regressions.
    rebalance: weighting of "bins": a cell weighs 1 / ((1 - r) density + r / cells), so 1 is no
      weighting at all; densities from exp(-chroma / 12).
  """

  output: str = "regression"
  grid: float = 20.0
  temperature: float = 0.38
  norm: str = "l1"
  rebalance: float = 0.5

  label_kind: ClassVar[str] = "nothing"
  forbids_padding: ClassVar[bool] = True
  of_photographs: ClassVar[bool] = True
  train_metrics: ClassVar[tuple[str, ...]] = ("loss", "psnr", "ssim")
  loss_label: ClassVar[str] = "loss"

  def __post_init__(self):
    super().__post_init__()
    if self.output not in OUTPUTS:
      raise UserError(f"task.output is {self.output!r}, expected one of {', '.join(OUTPUTS)}")
    if self.norm not in NORMS:
      raise UserError(f"loss.norm is {self.norm!r}, expected one of {', '.join(NORMS)}")
    for field, low, high in (("grid", 4, 60), ("temperature", 0.01, 1), ("rebalance", 0.01, 1)):
      if not low <= getattr(self, field) <= high:
        raise UserError(f"{field} is {getattr(self, field)}, expected from {low} to {high}")

  @functools.cached_property
  def centers(self):
    """f32[K,2]: a and b of the middle of each cell that an sRGB colour falls into."""
    levels = np.linspace(0, 1, 33, dtype=np.float32)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    with jax.ensure_compile_time_eval():
      cells = np.round(np.asarray(rgb_to_lab(jnp.array(cube)))[:, 1:] / self.grid)
    return (np.unique(cells, axis=0) * self.grid).astype(np.float32)

  @functools.cached_property
  def weights(self):
    """f32[K]: of the cells in the loss; their mean over the assumed densities is 1."""
    density = np.exp(-np.hypot(*self.centers.T) / CHROMA)
    density /= density.sum()
    weight = 1 / ((1 - self.rebalance) * density + self.rebalance / len(density))
    return (weight / (weight * density).sum()).astype(np.float32)

  @property
  def num_outputs(self):
    """Channels of the outputs."""
    return {"regression": 2, "lab": 3}.get(self.output) or len(self.centers)

  def prepare(self, key, image, label, *, train, augment=None):
    """The lightness, in all three channels; the label is the image itself."""
    image, _ = super().prepare(key, image, label, train=train, augment=augment)
    lightness = rgb_to_lab(image)[..., :1] / 100
    return jnp.broadcast_to(lightness, image.shape), image

  def predict(self, outputs, lightness):
    """The picture that the net says.

    Args:
      outputs: f32[B,H,W,K].
      lightness: f32[B,H,W,1], L of the image.

    Returns:
      f32[B,H,W,3], L, a and b.
    """
    if self.output == "lab":
      return SCALE * (outputs + LAB_MIDDLE)
    if self.output == "regression":
      color = SCALE * outputs
    else:
      p = jax.nn.softmax(outputs / self.temperature)
      color = jnp.matmul(p, self.centers, precision="highest")
    return jnp.concatenate([lightness, color], -1)

  def statistics(self, outputs, label, valid, *, evaluating):
    """Sums over a batch.

    Args:
      outputs: f32[B,H,W,K].
      label: f32[B,H,W,3], the images in colour.
      valid: bool[B], False for examples that do not count.
      evaluating: whether this is an evaluation, which measures edges and colourfulness too.

    Returns:
      dict of sums over images: `examples`, `loss`, `weight`, `psnr` ...
    """
    truth = rgb_to_lab(label)
    found = self.predict(outputs, truth[..., :1])
    colored, color = lab_to_rgb(found), truth[..., 1:]
    if self.output == "bins":
      # |t - c|^2 less |t|^2, which all cells share.
      nearness = jnp.matmul(color, self.centers.T, precision="highest")
      distance = (self.centers**2).sum(-1) - 2 * nearness
      cell = distance.argmin(-1)
      weight = jnp.asarray(self.weights)[cell]
      loss = weight * losses.cross_entropy(outputs, cell, valid=jnp.ones(cell.shape, bool))
      sums = dict(loss=loss.mean((1, 2)), weight=weight.mean((1, 2)))
    else:
      target = truth / SCALE - LAB_MIDDLE if self.output == "lab" else color / SCALE
      error = NORMS[self.norm](outputs - target).mean((1, 2, 3))
      sums = dict(loss=error, weight=jnp.ones(len(label)))
    sums |= dict(
      color_error=jnp.linalg.norm(found[..., 1:] - color, axis=-1).mean((1, 2)),
      psnr=metrics.psnr(colored, label),
      ssim=metrics.ssim(colored, label),
    )
    if evaluating:
      sums |= dict(
        edge_error=_edge_error(found, truth),
        colorfulness=metrics.colorfulness(colored),
        true_colorfulness=metrics.colorfulness(label),
      )
    out = {k: jnp.where(valid, v, 0.0).sum() for k, v in sums.items()}
    return out | dict(examples=valid.sum())

  def loss(self, sums):
    """Mean absolute or squared error over 50 units, or the weighted cross-entropy in nats."""
    return mean(sums["loss"], sums["weight"], 1e-12)

  def summary(self, sums):
    """Means over images.

    Returns:
      dict of floats: `loss`, `psnr` (dB), `ssim`, `color_error` (distance in the plane of a and
      b), and of an evaluation `edge_error` (of the differences of neighbours, lightness
      included), `colorfulness` and `true_colorfulness`.
    """
    count = max(float(sums["examples"]), 1.0)
    names = ("psnr", "ssim", "color_error", "edge_error", "colorfulness", "true_colorfulness")
    out = {k: float(sums[k]) / count for k in names if k in sums}
    return dict(loss=float(self.loss(sums))) | out

  def answer(self, image, outputs):
    """See `Task.answer`: the picture that the net says."""
    lightness = rgb_to_lab(jnp.array(image[None], jnp.float32) / 255)[..., :1]
    picture = lab_to_rgb(self.predict(jnp.array(outputs), lightness))
    return dict(colorized=to_u8(picture[0])), {}

  def pictures(self, image, outputs, label):
    """Panels for one example: grey, prediction, truth.

    Args:
      image: u8[H,W,3].
      outputs: f32[1,H,W,K].
      label: not used.

    Returns:
      list of (title, u8[H,W,3]).
    """
    del label
    truth = jnp.array(image, jnp.float32)[None] / 255
    lightness = rgb_to_lab(truth)[..., :1]
    grey = lab_to_rgb(jnp.concatenate([lightness, jnp.zeros_like(truth[..., :2])], -1))
    colored = self.answer(image, outputs)[0]["colorized"]
    return [("grey", to_u8(grey[0])), ("prediction", colored), ("truth", image)]


def _edge_error(found, truth):
  """Mean distance between the steps of L, a, b from pixel to pixel, down and right, f32[B]."""
  steps = [jnp.diff(found - truth, axis=axis) for axis in (1, 2)]
  return sum(jnp.linalg.norm(step, axis=-1).mean((1, 2)) for step in steps) / 2
