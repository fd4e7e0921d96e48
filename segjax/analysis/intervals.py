"""Seed noise: means with standard deviations, and paired differences with their intervals."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

DIGITS = 4  # decimals of a number without a spread, and of others at most


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
    return self._text("+", self.low, self.high)

  @property
  def size(self):
    """Text without signs, for an interval that does not contain 0: the verdict says the sign."""
    return self._text("", *sorted((abs(self.low), abs(self.high))))

  def _text(self, sign, low, high):
    if not self.pairs:
      return "-"
    mean = self.mean if sign else abs(self.mean)
    if self.pairs < 2:
      return f"{mean:{sign}z.{DIGITS}f}"
    digits = decimals((high - low) / 2)
    mean, low, high = (f"{x:{sign}z.{digits}f}" for x in (mean, low, high))
    return f"{mean} [{low}, {high}]"


def decimals(spread, most=DIGITS):
  """Decimals that a spread justifies: those of its first digit; one more if that is 1 or 2.

  Args:
    spread: a standard deviation or half an interval.
    most: decimals at most, and where there is no spread.

  >>> [decimals(s) for s in (12.0, 0.6, 0.14, 0.024, 0.035, 0.00004, 0.0)]
  [0, 1, 2, 3, 2, 4, 4]
  """
  if not (np.isfinite(spread) and spread > 0):
    return most
  exponent = int(np.floor(np.log10(spread)))
  first = round(spread / 10.0**exponent, 1)
  return int(np.clip(-exponent + (first < 3), 0, most))


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


def mean_and_deviation(values, digits=DIGITS):
  """Text "mean +- sample standard deviation" of the values that are not nan; see `decimals`.

  >>> mean_and_deviation([0.5, 0.7])
  '0.60 ± 0.14'
  """
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  if not values.size:
    return "-"
  if values.size == 1:
    return f"{values[0]:.{digits}f}"
  deviation = values.std(ddof=1)
  if not deviation:
    return f"{values.mean():.{digits}f} ± 0"
  digits = decimals(deviation, digits)
  return f"{values.mean():.{digits}f} ± {deviation:.{digits}f}"


def paired_by_seed(first, second):
  """`paired_difference` of {seed: value} over the seeds that both have."""
  shared = sorted(first.keys() & second.keys())
  return paired_difference([first[s] for s in shared], [second[s] for s in shared])
