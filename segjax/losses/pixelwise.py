"""Losses of each pixel: cross-entropy, focal, and the cross-entropy of the hardest pixels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.class_index import counted
from segjax.losses import arguments
from segjax.ops import by_platform, of_class, own_channel, undivided, wide


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
  return _log_likelihood(*arguments.read(logits, label, valid))


def _log_likelihood(logits, label, valid, factor):
  """`log_likelihood` of what `arguments.read` returns."""
  if logits.shape[-1] == 1:
    z = logits[..., 0]
    out = jax.nn.log_sigmoid(jnp.where(label == 1, z, -z))
  else:
    values = jax.nn.log_softmax(logits)
    out = by_platform(values, label, cpu=_gathered, default=own_channel)
  return jnp.where(valid, out * factor, 0.0)


def _gathered(values, label):
  """[...,C] at the class i32[...] of each pixel, in [0, C): [...]."""
  return jnp.take_along_axis(values, label[..., None], -1)[..., 0]


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
      -(1 - e) log p(y) - e mean log p (Szegedy et al., CVPR 2016); one logit has two classes.

  Returns:
    f32[B,H,W], 0 where not `valid`; for logits [B,K] and labels [B] f32[B]. A label that counts and
    is none of the classes gives nan.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.

  >>> round(float(cross_entropy(jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1), int))[0, 0, 0]), 4)
  0.6931
  """
  logits, label, valid, factor = arguments.read(logits, label, valid)
  loss = -_log_likelihood(logits, label, valid, factor)
  if label_smoothing:
    if logits.shape[-1] == 1:
      z = logits[..., 0]
      log_p = (jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)) / 2
    else:
      log_p = jax.nn.log_softmax(logits).mean(-1)
    loss = (1 - label_smoothing) * loss + label_smoothing * jnp.where(valid, -log_p, 0.0)
  if class_weights is not None:
    count = max(logits.shape[-1], 2)
    loss = loss * of_class(arguments.read_weights(class_weights, count, loss.dtype), label)
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

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  log_p = log_likelihood(logits, label, valid=valid)
  missed = -jnp.expm1(log_p)  # 1 - p without cancellation
  # The floor keeps the gradient of a power below 1 finite. It is a select because the gradient of
  # `jnp.maximum` compares a value with its rounding elsewhere.
  missed = jnp.where(missed < 1e-12, 1e-12, missed)
  return -(missed**gamma) * log_p


def hardest(loss: ArrayLike, *, valid: ArrayLike | None = None, share: float = 0.25) -> jax.Array:
  """Which pixels of each image have the largest losses.

  Of an image with n scored pixels k = max(1, round(share n)) are chosen, exactly so many: of equal
  losses the first in the order of rows. Nothing of the other images counts.

  Args:
    loss: [B,H,W]; nan counts as the largest.
    valid: bool[B,H,W], or None for all pixels.
    share: share of the scored pixels, in (0,1].

  Returns:
    bool[B,H,W], False everywhere in an image without a scored pixel.

  Raises:
    ValueError: `valid` of another shape.

  >>> hardest(jnp.array([[[0.1, 3.0, 2.0, 2.0]]]), share=0.5).tolist()
  [[[False, True, True, False]]]
  """
  loss = jax.lax.stop_gradient(wide(loss))
  valid = counted(valid, loss.shape)
  shape, loss = loss.shape, jnp.where(jnp.isnan(loss), jnp.inf, loss)
  loss, valid = (undivided(x).reshape(x.shape[0], -1) for x in (loss, valid))
  scored = valid.sum(-1, keepdims=True)
  count = jnp.clip(
    jnp.round(share * scored.astype(jnp.float32)).astype(jnp.int32), 1, jnp.maximum(scored, 1)
  )
  order = jnp.sort(jnp.where(valid, loss, -jnp.inf), descending=True)
  least = jnp.take_along_axis(order, count - 1, -1)
  above, equal = valid & (loss > least), valid & (loss == least)
  left = count - above.sum(-1, keepdims=True)
  chosen = above | (equal & (jnp.cumsum(equal, -1) <= left))
  return chosen.reshape(shape)


def ohem(
  logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None, share: float = 0.25
) -> jax.Array:
  """Cross-entropy of each image's hardest pixels, in nats; 0 at the others.

  Online hard example mining (Shrivastava, Gupta, Girshick, CVPR 2016), for pixels: the share of
  the scored pixels with the largest cross-entropy counts, see `hardest`. There is no threshold of
  the probability. Divide the sum by the number of chosen pixels, `hardest(...).sum()`.

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.
    share: share of the scored pixels of an image, in (0,1]; 1 gives the cross-entropy.

  Returns:
    f32[B,H,W]. A label that counts and is none of the classes gives nan.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  loss = cross_entropy(logits, label, valid=valid)
  return jnp.where(hardest(loss, valid=valid, share=share), loss, 0.0)
