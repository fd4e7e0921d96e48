"""Losses: pure and unreduced; of segmentation from logits in nats, of images from features."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _class_index(label, valid):
  """Labels with every unscored pixel set to class 0, so that no gather leaves the table."""
  return jnp.where(valid, label, 0)


def class_probabilities(logits):
  """Probabilities per class: sigmoid for one logit (not-class, class), softmax otherwise.

  Args:
    logits: f32[...,K]; K = 1 stands for two classes.

  Returns:
    f32[...,C] in [0,1], C = 2 if K = 1 else K.

  >>> class_probabilities(jnp.zeros((1, 1))).tolist()
  [[0.5, 0.5]]
  """
  if logits.shape[-1] == 1:
    p = jax.nn.sigmoid(logits)
    return jnp.concatenate([1 - p, p], -1)
  return jax.nn.softmax(logits)


def log_likelihood(logits, label, *, valid):
  """Log probability of each pixel's true class, in nats; 0 where not `valid`.

  Args:
    logits: f32[B,H,W,K], one logit (sigmoid, label 1 positive) or one a class (softmax).
    label: i32[B,H,W], class indices; any value where `valid` is False.
    valid: bool[B,H,W], True where the pixel counts.

  Returns:
    f32[B,H,W], at most 0.
  """
  label = _class_index(label, valid)
  if logits.shape[-1] == 1:
    z = logits[..., 0]
    out = jax.nn.log_sigmoid(jnp.where(label == 1, z, -z))
  else:
    out = _of_class(jax.nn.log_softmax(logits), label)
  return jnp.where(valid, out, 0.0)


def _of_class(values, label):
  """f32[...,C] at the class i32[...] of each pixel, f32[...]."""

  def gathered(values, label):
    return jnp.take_along_axis(values, label[..., None], -1)[..., 0]

  def summed(values, label):  # its gradient is no scatter, and fuses with what is around it
    own = label[..., None] == jnp.arange(values.shape[-1])
    return jnp.where(own, values, 0).sum(-1)

  return jax.lax.platform_dependent(values, label, cpu=gathered, default=summed)


def cross_entropy(logits, label, *, valid, class_weights=None, label_smoothing=0.0):
  """Cross-entropy of each pixel or image, in nats: -w[y] log p(y).

  Args:
    logits: f32[B,H,W,K], see `log_likelihood`.
    label: i32[B,H,W].
    valid: bool[B,H,W].
    class_weights: f32[C] or None; multiplies the loss of pixels of class c.
    label_smoothing: share e of the target that all classes have in equal parts:
      -(1 - e) log p(y) - e mean log p (Szegedy et al., CVPR 2016). Softmax alone.

  Returns:
    f32[B,H,W], 0 where not `valid`; for logits f32[B,K] and labels i32[B] f32[B].

  Raises:
    ValueError: label smoothing of a single logit.

  >>> label, valid = jnp.ones((1, 1, 1), int), jnp.ones((1, 1, 1), bool)
  >>> round(float(cross_entropy(jnp.zeros((1, 1, 1, 1)), label, valid=valid)[0, 0, 0]), 4)
  0.6931
  """
  loss = -log_likelihood(logits, label, valid=valid)
  if label_smoothing:
    if logits.shape[-1] == 1:
      raise ValueError("label_smoothing needs a logit a class, found one logit (sigmoid)")
    spread = jnp.where(valid, -jax.nn.log_softmax(logits).mean(-1), 0.0)
    loss = (1 - label_smoothing) * loss + label_smoothing * spread
  if class_weights is not None:
    loss = loss * jnp.asarray(class_weights)[_class_index(label, valid)]
  return loss


def focal(logits, label, *, valid, gamma=2.0):
  """Focal loss of each pixel, in nats: -(1 - p(y))^gamma log p(y).

  Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, without the class weight alpha.

  Args:
    logits: f32[B,H,W,K], see `log_likelihood`.
    label: i32[B,H,W].
    valid: bool[B,H,W].
    gamma: how strongly well-classified pixels are turned down; 0 gives the cross-entropy.

  Returns:
    f32[B,H,W], 0 where not `valid`.
  """
  log_p = log_likelihood(logits, label, valid=valid)
  # -expm1 is 1 - p without cancellation; its floor keeps the gradient of a power below 1 finite.
  return -(jnp.maximum(-jnp.expm1(log_p), 1e-12) ** gamma) * log_p


def dice(logits, label, *, valid, smooth=1.0):
  """Soft Dice loss of each example, in [0,1]: 1 - mean over classes of 2|P.Y| / (|P| + |Y|).

  Milletari, Navab, Ahmadi, "V-Net", 3DV 2016 (there with squares in the denominator). With one
  logit only the positive class counts. `smooth` (pixels) is added above and below, so an absent
  class that is not predicted scores loss 0.

  Args:
    logits: f32[B,H,W,K], see `log_likelihood`.
    label: i32[B,H,W].
    valid: bool[B,H,W].
    smooth: pixels.

  Returns:
    f32[B]; an example without a valid pixel has loss 0.
  """
  return dice_of_sums(*dice_sums(logits, label, valid=valid), smooth=smooth)


def dice_sums(logits, label, *, valid):
  """What the Dice loss of each example is made of, sums over its pixels; arguments as of `dice`.

  Returns:
    (f32[B,C] overlap of probabilities and truth, f32[B,C] size of both together).
  """
  p = class_probabilities(logits)
  y = jax.nn.one_hot(_class_index(label, valid), p.shape[-1], dtype=p.dtype)
  if logits.shape[-1] == 1:
    p, y = p[..., 1:], y[..., 1:]
  scored = valid[..., None].astype(p.dtype)
  p, y = p * scored, y * scored
  return (p * y).sum((1, 2)), (p + y).sum((1, 2))


def dice_of_sums(overlap, total, *, smooth=1.0):
  """The Dice loss, f32[B], of `dice_sums`."""
  return 1 - ((2 * overlap + smooth) / (total + smooth)).mean(-1)


def gram(features):
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
  _, h, w, c = features.shape
  return jnp.einsum("bhwc,bhwd->bcd", features, features) / (h * w * c)


def content(features, wanted):
  """Mean squared difference of features f32[B,H,W,C], f32[B]."""
  return jnp.square(features - wanted).mean((1, 2, 3))


def style(features, wanted):
  """Squared Frobenius distance of the Gram matrices of features f32[B,H,W,C], f32[B]."""
  return jnp.square(gram(features) - gram(wanted)).sum((1, 2))
