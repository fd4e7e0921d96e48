"""The Lovasz loss: a convex extension of the Jaccard loss of whole images."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from segjax.losses import arguments
from segjax.ops import undivided


def lovasz(logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None) -> jax.Array:
  """Lovasz loss of each example: Lovasz-softmax, of one logit the Lovasz hinge.

  Berman, Rannen Triki, Blaschko, "The Lovasz-Softmax loss: A tractable surrogate for the
  optimization of the intersection-over-union measure in neural networks", CVPR 2018; Yu, Blaschko,
  "Learning Submodular Losses with the Lovasz Hinge", ICML 2015. Of several logits the mean over the
  classes that the example's scored pixels have. Of one logit z the errors are the hinges
  max(0, 1 - z) and max(0, 1 + z); an example without a positive pixel loses its largest one.

  Args:
    logits: [B,H,W,K], see `log_likelihood`.
    label: [B,H,W], see `log_likelihood`.
    valid: bool[B,H,W], or None for all pixels.

  Returns:
    f32[B], 0 or more, with softmax at most 1. An example without a valid pixel has loss 0, and one
    with a label that counts and is none of the classes nan.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.

  >>> logits = jnp.array([[[[2.0], [-0.5]]]])  # hinges 3 (false) and 1.5 (missed): 3 / 2 + 1.5 / 2
  >>> lovasz(logits, jnp.array([[[0, 1]]])).tolist()
  [2.25]
  """
  logits, label, valid, factor = arguments.read(logits, label, valid)
  label, valid = label[:, None], valid[:, None]
  if logits.shape[-1] == 1:
    positive = label == 1
    errors = 1 - jnp.where(positive, 1.0, -1.0) * logits[:, None, ..., 0]
  else:
    p = jnp.moveaxis(jax.nn.softmax(logits), -1, 1)
    positive = label == jnp.arange(p.shape[1])[None, :, None, None]
    errors = jnp.abs(positive.astype(p.dtype) - p)
  positive &= valid
  weights = _derivatives(errors, positive, valid)
  errors = jax.nn.relu(errors) if logits.shape[-1] == 1 else errors
  loss = (errors * weights * jnp.where(valid, factor[:, None], 0.0)).sum((2, 3))
  if logits.shape[-1] == 1:
    return loss[:, 0]
  present = positive.any((2, 3))
  count = present.sum(1).astype(loss.dtype)
  return (jnp.where(present, 1.0, 0.0) * loss).sum(1) / jnp.maximum(count, 1)


def _derivatives(errors, positive, valid):
  """The loss's derivative by the error of each pixel, a constant of the gradient.

  Pixels enter in the order of their errors, the largest first. Each counts by how much it lowers
  the Jaccard index I / U: a positive pixel by 1 / U, a negative one by I / (U (U - 1)). These forms
  lose no digits, as differences of the index would.

  Args:
    errors: f32[B,C,H,W].
    positive: bool[B,C,H,W], False where not valid.
    valid: bool[B,1,H,W].

  Returns:
    f32[B,C,H,W], 0 where not valid.
  """
  shape = errors.shape
  valid = jnp.broadcast_to(valid, shape)
  flat = lambda x: undivided(x).reshape(*shape[:2], -1)  # noqa: E731
  errors, positive, valid = map(flat, (jax.lax.stop_gradient(errors), positive, valid))
  order = jnp.argsort(jnp.where(valid, -errors, jnp.inf), axis=-1)
  hit, scored = (jnp.take_along_axis(x, order, -1) for x in (positive, valid))
  truth = positive.sum(-1, keepdims=True)
  negatives = jnp.cumsum(scored & ~hit, -1)
  union, left = truth + negatives, truth - jnp.cumsum(hit, -1)
  union, left = union.astype(errors.dtype), left.astype(errors.dtype)
  change = jnp.where(hit, 1 / jnp.maximum(union, 1), left / union / jnp.maximum(union - 1, 1))
  # Without a positive pixel the first false one loses all.
  change = jnp.where(truth == 0, (negatives == 1).astype(errors.dtype), change)
  change = jnp.where(scored, change, 0.0)
  image, of = (jnp.arange(n) for n in shape[:2])
  change = jnp.zeros_like(errors).at[image[:, None, None], of[None, :, None], order].set(change)
  return change.reshape(shape)
