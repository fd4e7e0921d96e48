"""Losses of each image from the overlap of prediction and truth: Dice, Jaccard, Tversky."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.losses import arguments
from segjax.losses.pixelwise import class_probabilities
from segjax.ops import per_channel


def _overlap(logits, label, valid):
  """Soft counts of pixels [B,C]: P and Y, the sum of P and Y, Y; of one logit C = 1.

  An image with a label that counts and is none of the classes has nan.
  """
  logits, label, valid, factor = arguments.read(logits, label, valid)
  p = class_probabilities(logits)
  y = jax.nn.one_hot(label, p.shape[-1], dtype=p.dtype)
  if logits.shape[-1] == 1:
    p, y = p[..., 1:], y[..., 1:]
  scored = jnp.where(valid, factor, 0.0)[..., None]
  p, y = p * scored, y * scored
  return (p * y).sum((1, 2)), (p + y).sum((1, 2)), y.sum((1, 2))


def _quotient(part, whole):
  """part / whole, and 1 where there is nothing: of a class that is neither there nor predicted."""
  none = whole == 0
  return jnp.where(none, 1.0, part / jnp.where(none, 1.0, whole))


def dice(
  logits: ArrayLike,
  label: ArrayLike,
  *,
  valid: ArrayLike | None = None,
  smooth: float = 1.0,
  class_weights: ArrayLike | None = None,
) -> jax.Array:
  """Soft Dice loss of each example, in [0,1]: 1 - mean over classes of 2|P.Y| / (|P| + |Y|).

  Milletari, Navab, Ahmadi, "V-Net", 3DV 2016 (there with squares in the denominator). With one
  logit only the positive class counts. `smooth` (pixels) is added above and below, so an absent
  class that is not predicted scores loss 0.

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.
    smooth: pixels, 0 or more.
    class_weights: [K] of which one is above 0, or None; the mean over classes is weighted by them.
      They need one logit per class.

  Returns:
    f32[B]; an example without a valid pixel has loss 0, and one with a label that counts and is
    none of the classes nan.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit, or class weights with one logit.
  """
  overlap, total, _ = _overlap(logits, label, valid)
  score = _quotient(2 * overlap + smooth, total + smooth)
  if class_weights is None:
    return 1 - score.mean(-1)
  classes = score.shape[-1]
  if classes == 1:
    raise ValueError("class_weights of dice need one logit per class, found one logit (sigmoid)")
  weights = arguments.read_weights(class_weights, classes, score.dtype)
  return 1 - (score * per_channel(weights, score)).sum(-1) / weights.sum()


def jaccard(
  logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None, smooth: float = 1.0
) -> jax.Array:
  """Soft Jaccard loss of each example, in [0,1]: 1 - mean over classes of |P.Y| / |P + Y - P.Y|.

  Rahman, Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image
  Segmentation", ISVC 2016. One logit and `smooth` as in `dice`.

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.
    smooth: pixels.

  Returns:
    f32[B]; 0 and nan as of `dice`.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.

  >>> two = jnp.zeros((1, 1, 2, 1))  # probabilities 0.5, one of two pixels positive
  >>> round(float(jaccard(two, jnp.array([[[0, 1]]]), smooth=0.0)[0]), 4)
  0.6667
  """
  overlap, total, _ = _overlap(logits, label, valid)
  return 1 - _quotient(overlap + smooth, total - overlap + smooth).mean(-1)


def _tversky_index(logits, label, valid, alpha, beta, smooth):
  """[B,C] in [0,1], see `tversky`."""
  overlap, total, truth = _overlap(logits, label, valid)
  false, missed = total - truth - overlap, truth - overlap
  return _quotient(overlap + smooth, overlap + alpha * false + beta * missed + smooth)


def tversky(
  logits: ArrayLike,
  label: ArrayLike,
  *,
  valid: ArrayLike | None = None,
  alpha: float = 0.3,
  beta: float = 0.7,
  smooth: float = 1.0,
) -> jax.Array:
  """Tversky loss of each example: 1 - mean over classes of TP / (TP + alpha FP + beta FN).

  Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D fully
  convolutional deep networks", MLMI 2017. 0.5 and 0.5 give Dice (with twice its `smooth`), 1 and 1
  Jaccard; a larger beta punishes missed pixels. One logit and `smooth` as in `dice`.

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.
    alpha: factor of false positives, 0 or more.
    beta: factor of missed pixels, 0 or more.
    smooth: pixels.

  Returns:
    f32[B] in [0,1]; 0 and nan as of `dice`.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  return 1 - _tversky_index(logits, label, valid, alpha, beta, smooth).mean(-1)


def focal_tversky(
  logits: ArrayLike,
  label: ArrayLike,
  *,
  valid: ArrayLike | None = None,
  alpha: float = 0.3,
  beta: float = 0.7,
  gamma: float = 0.75,
  smooth: float = 1.0,
) -> jax.Array:
  """Focal Tversky loss of each example: the mean over classes of (1 - Tversky index)^gamma.

  Abraham, Khan, "A novel focal Tversky loss function with improved attention U-Net for lesion
  segmentation", ISBI 2019 (there the exponent is 1/gamma, and gamma 4/3).

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.
    alpha: factor of false positives, 0 or more.
    beta: factor of missed pixels, 0 or more.
    gamma: exponent above 0; 1 gives `tversky`. Below 1 it raises the gradients of classes that are
      almost right, above 1 those of the others.
    smooth: pixels.

  Returns:
    f32[B] in [0,1]; nan as of `dice`. An example without a valid pixel has loss 0.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  lost = 1 - _tversky_index(logits, label, valid, alpha, beta, smooth)
  # The gradient of a power below 1 is infinite at 0, where nothing is lost.
  some = ~(lost <= 1e-6)
  return jnp.where(some, jnp.where(some, lost, 1.0) ** gamma, 0.0).mean(-1)
