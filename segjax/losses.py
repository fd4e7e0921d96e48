"""Losses: pure and unreduced; of segmentation from logits in nats, of images from features.

Logits may have any float dtype and labels any integer dtype; sums and results are float32, of
float64 logits float64. A label that counts and is none of the classes gives nan, the same on every
platform.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.class_index import class_index, counted
from segjax.ops import by_platform, wide

__all__ = [
  "class_probabilities",
  "content",
  "cross_entropy",
  "dice",
  "focal",
  "gram",
  "log_likelihood",
  "style",
]


def _arguments(logits, label, valid):
  """Wide logits; class indices that are safe to look up; bool valid; and a factor of the loss.

  Labels are 0 where the pixel does not count. The factor is 1, and nan where a pixel counts but its
  label is none of the classes.
  """
  logits = wide(logits)
  label = class_index(label, max(logits.shape[-1], 2))
  if label.shape != logits.shape[:-1]:
    raise ValueError(
      f"label has shape {label.shape}, logits {logits.shape}; expected labels {logits.shape[:-1]}"
    )
  valid = counted(valid, label.shape)
  factor = jnp.where(valid & (label < 0), jnp.nan, 1.0).astype(logits.dtype)
  return logits, jnp.where(valid & (label >= 0), label, 0), valid, factor


def class_probabilities(logits: ArrayLike) -> jax.Array:
  """Probabilities per class: sigmoid for one logit (not-class, class), softmax otherwise.

  Args:
    logits: [...,K]; K = 1 stands for two classes.

  Returns:
    f32[...,C] in [0,1], C = 2 if K = 1 else K.

  >>> class_probabilities(jnp.zeros((1, 1))).tolist()
  [[0.5, 0.5]]
  """
  logits = wide(logits)
  if logits.shape[-1] == 1:
    p = jax.nn.sigmoid(logits)
    return jnp.concatenate([1 - p, p], -1)
  return jax.nn.softmax(logits)


def log_likelihood(
  logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None
) -> jax.Array:
  """Log probability of each pixel's true class, in nats; 0 where not `valid`.

  Args:
    logits: [B,H,W,K] of any float dtype, one logit (sigmoid, label 1 positive) or one per class
      (softmax).
    label: [B,H,W], class indices of any integer dtype or bool; any value where `valid` is False.
    valid: bool[B,H,W], True where the pixel counts; None for all pixels.

  Returns:
    f32[B,H,W], at most 0. Where a pixel counts but its label is none of the classes (for one logit
    0 and 1) the value is nan, and so is the gradient, on every platform.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  return _log_likelihood(*_arguments(logits, label, valid))


def _log_likelihood(logits, label, valid, factor):
  """`log_likelihood` of what `_arguments` returns."""
  if logits.shape[-1] == 1:
    z = logits[..., 0]
    out = jax.nn.log_sigmoid(jnp.where(label == 1, z, -z))
  else:
    values = jax.nn.log_softmax(logits)
    out = by_platform(values, label, cpu=_gathered, default=_summed)
  return jnp.where(valid, out * factor, 0.0)


def _gathered(values, label):
  """[...,C] at the class i32[...] of each pixel, in [0, C): [...]."""
  return jnp.take_along_axis(values, label[..., None], -1)[..., 0]


def _summed(values, label):
  """`_gathered` as a sum, whose gradient is no scatter and fuses with what is around it."""
  own = label[..., None] == jnp.arange(values.shape[-1])
  return jnp.where(own, values, 0).sum(-1)


def cross_entropy(
  logits: ArrayLike,
  label: ArrayLike,
  *,
  valid: ArrayLike | None = None,
  class_weights: ArrayLike | None = None,
  label_smoothing: float = 0.0,
) -> jax.Array:
  """Cross-entropy of each pixel or image, in nats: -w[y] log p(y).

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.
    class_weights: [C] or None; multiplies the loss of pixels of class c, with label smoothing the
      smooth part too (PyTorch weighs that part class by class).
    label_smoothing: share e of the target that all classes have in equal parts:
      -(1 - e) log p(y) - e mean log p (Szegedy et al., CVPR 2016). Softmax alone.

  Returns:
    f32[B,H,W], 0 where not `valid`; for logits [B,K] and labels [B] f32[B]. A label that counts and
    is none of the classes gives nan.

  Raises:
    TypeError: labels that are not integers.
    ValueError: label smoothing of a single logit, or shapes that do not fit.

  >>> round(float(cross_entropy(jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1), int))[0, 0, 0]), 4)
  0.6931
  """
  logits, label, valid, factor = _arguments(logits, label, valid)
  loss = -_log_likelihood(logits, label, valid, factor)
  if label_smoothing:
    if logits.shape[-1] == 1:
      raise ValueError("label_smoothing needs one logit per class, found one logit (sigmoid)")
    spread = jnp.where(valid, -jax.nn.log_softmax(logits).mean(-1), 0.0)
    loss = (1 - label_smoothing) * loss + label_smoothing * spread
  if class_weights is not None:
    weights, count = jnp.asarray(class_weights, loss.dtype), max(logits.shape[-1], 2)
    if weights.shape != (count,):
      raise ValueError(f"class_weights has shape {weights.shape}, expected ({count},)")
    loss = loss * weights[label]
  return loss


def focal(
  logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None, gamma: float = 2.0
) -> jax.Array:
  """Focal loss of each pixel, in nats: -(1 - p(y))^gamma log p(y).

  Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, without the class weight alpha.

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.
    gamma: how strongly well-classified pixels are turned down; 0 gives the cross-entropy.

  Returns:
    f32[B,H,W], 0 where not `valid`. A label that counts and is none of the classes gives nan.
  """
  log_p = log_likelihood(logits, label, valid=valid)
  missed = -jnp.expm1(log_p)  # 1 - p without cancellation
  # The floor keeps the gradient of a power below 1 finite. It is a select because the gradient of
  # `jnp.maximum` compares a value with its rounding elsewhere.
  missed = jnp.where(missed < 1e-12, 1e-12, missed)
  return -(missed**gamma) * log_p


def dice(
  logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None, smooth: float = 1.0
) -> jax.Array:
  """Soft Dice loss of each example, in [0,1]: 1 - mean over classes of 2|P.Y| / (|P| + |Y|).

  Milletari, Navab, Ahmadi, "V-Net", 3DV 2016 (there with squares in the denominator). With one
  logit only the positive class counts. `smooth` (pixels) is added above and below, so an absent
  class that is not predicted scores loss 0.

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.
    smooth: pixels.

  Returns:
    f32[B]; an example without a valid pixel has loss 0, and one with a label that counts and is
    none of the classes nan.
  """
  logits, label, valid, factor = _arguments(logits, label, valid)
  p = class_probabilities(logits)
  y = jax.nn.one_hot(label, p.shape[-1], dtype=p.dtype)
  if logits.shape[-1] == 1:
    p, y = p[..., 1:], y[..., 1:]
  scored = jnp.where(valid, factor, 0.0)[..., None]
  p, y = p * scored, y * scored
  overlap, total = (p * y).sum((1, 2)), (p + y).sum((1, 2))
  return 1 - ((2 * overlap + smooth) / (total + smooth)).mean(-1)


def gram(features: ArrayLike) -> jax.Array:
  """Products of channels, the mean over positions: what is left of a texture without its place.

  Gatys, Ecker, Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016;
  divided by positions and channels as Johnson, Alahi, Fei-Fei (ECCV 2016) do.

  Args:
    features: f32[B,H,W,C].

  Returns:
    f32[B,C,C].

  >>> gram(jnp.array([[[[1.0, 2.0]], [[3.0, 0.0]]]])).tolist()
  [[[2.5, 0.5], [0.5, 1.0]]]
  """
  features = wide(features)
  _, h, w, c = features.shape
  return jnp.einsum("bhwc,bhwd->bcd", features, features) / (h * w * c)


def content(features: ArrayLike, wanted: ArrayLike) -> jax.Array:
  """Mean squared difference of features f32[B,H,W,C], f32[B]."""
  return jnp.square(wide(features) - wide(wanted)).mean((1, 2, 3))


def style(features: ArrayLike, wanted: ArrayLike) -> jax.Array:
  """Squared Frobenius distance of the Gram matrices of features f32[B,H,W,C], f32[B]."""
  return jnp.square(gram(features) - gram(wanted)).sum((1, 2))
