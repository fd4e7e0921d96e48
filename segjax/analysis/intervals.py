"""Seed noise: means with standard deviations, and paired differences with their intervals."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Difference:
  """The difference of two variants over the seeds that both have.

  Attributes:
    mean: mean of second minus first.
    low: lower end of the interval, nan with fewer than 2 pairs.
    high: upper end.
    pairs: seeds that count.
  """

  mean: float
  low: float
  high: float
  pairs: int

  @property
  def verdict(self):
    """The verdict: "higher", "lower", "not distinguishable", or that seeds are missing."""
    if self.pairs < 2:
      return "one seed: no interval" if self.pairs else "no seed in common"
    if self.low <= 0 <= self.high:
      return "not distinguishable"
    return "higher" if self.mean > 0 else "lower"

  def __str__(self):
    if not self.pairs:
      return "-"
    if self.pairs < 2:
      return f"{self.mean:+.4f}"
    return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def paired_difference(first, second, level=0.95):
  """Student's t interval of the mean paired difference.

  Pairs share the seed, and with it the order of the data and the augmentation, so that the part of
  the noise that both variants have in common cancels.

  Args:
    first: f[N], a value per seed; nan where a run has none.
    second: f[N], of the same seeds.
    level: level of confidence.

  Returns:
    Difference.

  >>> paired_difference([1.0, 2.0, 3.0], [2.0, 3.5, 3.5]).verdict
  'not distinguishable'
  """
  d = np.asarray(second, np.float64) - np.asarray(first, np.float64)
  d = d[~np.isnan(d)]
  if not d.size:
    return Difference(np.nan, np.nan, np.nan, 0)
  if d.size == 1:
    return Difference(float(d[0]), np.nan, np.nan, 1)
  half = stats.t.ppf((1 + level) / 2, d.size - 1) * d.std(ddof=1) / np.sqrt(d.size)
  return Difference(float(d.mean()), float(d.mean() - half), float(d.mean() + half), int(d.size))


def mean_and_deviation(values, digits=4):
  """Text "mean +- sample standard deviation" of the values that are not nan.

  >>> mean_and_deviation([0.5, 0.7])
  '0.6000 ± 0.1414'
  """
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  if not values.size:
    return "-"
  if values.size == 1:
    return f"{values[0]:.{digits}f}"
  return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"
