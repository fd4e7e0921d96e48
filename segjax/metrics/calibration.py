"""Calibration: how often a net is right where it is so sure, and the temperature that mends it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from segjax.class_index import class_index, counted
from segjax.metrics.counting import counts_of, ratio
from segjax.ops import own_channel, undivided, wide

BINS = 15  # of equal width; bin k holds k/15 <= probability < (k+1)/15, the last one also 1
SHARPNESS = 2.0 ** np.linspace(-4, 4, 33)  # 1 / temperature, at which `temperature_sums` looks


def calibration_sums(
  logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None
) -> dict[str, jax.Array]:
  """Sums of a batch for calibration errors and the reliability diagram; add over batches.

  Args:
    logits: [B,H,W,K] of any float dtype, one logit (sigmoid) or one per class (softmax).
    label: [B,H,W], class indices of any integer dtype or bool; any value where `valid` is False.
    valid: bool[B,H,W], True where the pixel is scored; None for all pixels.

  Returns:
    dict of `confidence_bins` i32[2,15]: pixels and right ones by the probability of the predicted
    class; `class_bins` i32[2,C,15]: pixels and those of the class by its probability; and
    `confidence_offset` f32[15], `class_offset` f32[C,15]: sums of the probabilities less the middle
    of their bins, which keeps float32 exact enough. A pixel whose label is none of the classes is
    counted nowhere.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  z, label, inside = _read(logits, label, valid)
  p = jax.nn.softmax(z)
  classes = p.shape[-1]
  best = p.max(-1)
  right = p.argmax(-1) == label
  flat = lambda x: undivided(x).ravel()  # noqa: E731
  pixels, hits, offset = _binned(flat(best), flat(right), flat(inside))
  rows = [undivided(p)[..., c].ravel() for c in range(classes)]
  own = [_binned(r, flat(label == c), flat(inside)) for c, r in enumerate(rows)]
  return dict(
    confidence_bins=jnp.stack([pixels, hits]),
    confidence_offset=offset,
    class_bins=jnp.stack([jnp.stack([x[i] for x in own]) for i in (0, 1)]),
    class_offset=jnp.stack([x[2] for x in own]),
  )


def _read(logits, label, valid):
  """Logits of at least two classes f32[B,H,W,C], labels and counted pixels."""
  z = _of_classes(logits)
  label = class_index(label, z.shape[-1])
  inside = counted(valid, label.shape) & (label >= 0) & ~jnp.isnan(z).any(-1)
  return z, label, inside


def _of_classes(logits):
  """Logits of at least two classes; one logit is that of the second against 0."""
  logits = wide(logits)
  if logits.shape[-1] > 1:
    return logits
  most = jnp.finfo(logits.dtype).max  # the softmax of inf is nan, its sigmoid 1
  return jnp.concatenate([jnp.zeros_like(logits), jnp.clip(logits, -most, most)], -1)


def _binned(p, right, inside):
  """By bins of p: how many, how many right, the sum of p less the middle of its bin."""
  index = jnp.clip((jnp.where(inside, p, 0) * BINS).astype(jnp.int32), 0, BINS - 1)
  pixels = counts_of(jnp.where(inside, index, BINS), BINS + 1)[:-1]
  hits = counts_of(jnp.where(inside & right, index, BINS), BINS + 1)[:-1]
  offset = jnp.where(inside, p - (index.astype(p.dtype) + 0.5) / BINS, 0.0)
  own = index[:, None] == jnp.arange(BINS)[None]
  return pixels, hits, jnp.where(own, offset[:, None], 0.0).sum(0)


def calibration(sums: dict[str, ArrayLike]) -> dict[str, float | np.ndarray]:
  """Calibration errors and the reliability diagram from summed `calibration_sums`.

  Args:
    sums: dict of arrays, added over batches; counts best in int64, the rest in float64.

  Returns:
    dict of `ece`, the expected calibration error of the predicted class (Guo et al., ICML 2017):
    the mean over pixels of |accuracy - confidence| of their bin; `class_ece` f64[C], that of each
    class's probability; `classwise_ece`, the mean of these (Kull et al., NeurIPS 2019), all in
    [0,1] or nan; and for the diagram, nan where a bin is empty, `pixels` i64[15], `confidence`
    f64[15], `accuracy` f64[15].
  """
  pixels, hits = (np.asarray(x, np.int64) for x in sums["confidence_bins"])
  confidence, gap = _gap(pixels, hits, sums["confidence_offset"])
  own, hits_own = (np.asarray(x, np.int64) for x in sums["class_bins"])
  _, gaps = _gap(own, hits_own, sums["class_offset"])
  class_ece = ratio(gaps.sum(-1), own.sum(-1))
  return dict(
    ece=float(ratio(gap.sum(), pixels.sum())),
    class_ece=class_ece,
    classwise_ece=float(class_ece.mean()),
    pixels=pixels,
    confidence=ratio(confidence, pixels),
    accuracy=ratio(hits, pixels),
  )


def _gap(pixels, hits, offset):
  """Sums of the probabilities of each bin, and how far they are from the right pixels."""
  confidence = pixels * (np.arange(BINS) + 0.5) / BINS + np.asarray(offset, np.float64)
  return confidence, np.abs(hits - confidence)


def temperature_sums(
  logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None
) -> jax.Array:
  """Sums of a batch for `fit_temperature`, to be added over batches in float64.

  Args:
    logits: [B,H,W,K], see `calibration_sums`.
    label: [B,H,W], likewise.
    valid: bool[B,H,W], or None for all pixels.

  Returns:
    f32[33,2]: first and second derivative of the summed cross-entropy by the factor 1 / T of the
    logits, at each of 33 factors from 1/16 to 16.

  Raises:
    TypeError: labels that are not integers.
    ValueError: shapes that do not fit.
  """
  z, label, inside = _read(logits, label, valid)
  z = jnp.where(inside[..., None], z - z.max(-1, keepdims=True), 0.0)
  own = own_channel(z, label)

  def at(factor):
    p = jax.nn.softmax(factor * z)
    some = jnp.where(p > 0, z, 0.0)  # of a class that a logit of -inf leaves out 0 * inf is nan
    mean = (p * some).sum(-1)
    variance = (p * jnp.square(some - mean[..., None])).sum(-1)
    return jnp.stack([jnp.where(inside, x, 0.0).sum() for x in (mean - own, variance)])

  return jax.lax.map(at, jnp.asarray(SHARPNESS, z.dtype))


def fit_temperature(sums: ArrayLike) -> float:
  """The temperature T that minimises the cross-entropy of logits / T.

  Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. The cross-entropy is convex in
  1 / T, so its derivative is 0 once; between two of the factors it is a cubic that has its values
  and slopes at both.

  Args:
    sums: float[33,2] from `temperature_sums`, added over batches.

  Returns:
    T in [1/16,16], an end of it where the derivative is 0 nowhere between; nan where nothing is
    scored or no factor changes anything.
  """
  from scipy import interpolate, optimize

  slope, curvature = np.asarray(sums, np.float64).T
  if not np.isfinite(slope).all() or not slope.any():
    return float("nan")
  if slope[0] >= 0 or slope[-1] <= 0:
    return float(1 / SHARPNESS[0 if slope[0] >= 0 else -1])
  # In the logarithm of the factor the curve is smoother and its nodes are evenly spread.
  nodes = np.log(SHARPNESS)
  curve = interpolate.CubicHermiteSpline(nodes, slope, curvature * SHARPNESS)
  i = int(np.flatnonzero(slope > 0)[0])
  return float(np.exp(-optimize.brentq(curve, nodes[i - 1], nodes[i], xtol=1e-12)))
