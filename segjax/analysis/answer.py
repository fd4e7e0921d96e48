"""The answer of a study in a sentence, which stands on top of its report."""

from __future__ import annotations

import numpy as np

from segjax.analysis.intervals import mean_and_deviation, paired_by_seed
from segjax.analysis.names import text_of
from segjax.analysis.variants import common_score, loss_of, sign_of
from segjax.errors import did_you_mean


def score_of(study, done, knn):
  """What the answer compares: (text, 1 where high values are good or -1, {variant: {seed: value}}).

  That is the study's metric after the last step where all variants have it, else what they are all
  ranked by; None where they have nothing in common.
  """
  kinds = {loss_of(runs) for runs in done.values()} if "loss" in study.metric else ()
  if not knn and len(kinds) < 2:
    values = {v: {r.seed: r.final().get(study.metric, np.nan) for r in runs}
              for v, runs in done.items()}  # fmt: skip
    if all(np.isfinite(_mean(by_seed)) for by_seed in values.values()):
      config = next(iter(done.values()))[0].config
      return text_of(study.metric), sign_of(config, study.metric), values
  judged = common_score(done, knn)
  if judged is None:
    return None
  text, sign, values = judged
  seeds = {v: [r.seed for r in runs] for v, runs in done.items()}
  return text, sign, {v: dict(zip(seeds[v], values[v], strict=True)) for v in done}


def unmeasured(study, done):
  """A sentence where no run has measured the study's metric, else ""."""
  known = dict.fromkeys(name for runs in done.values() for r in runs for name in r.final())
  if study.metric in known:
    return ""
  hint = did_you_mean(study.metric, known) or "."
  return f"The study's metric {study.metric!r} is none that a run has measured{hint}"


def sentence(score):
  """Which variant is best, by how much, and whether the seeds tell it from the others.

  Args:
    score: from `score_of`.
  """
  if score is None:
    return "The variants have no score in common, so none of them is best."
  text, sign, values = score
  means = {v: _mean(by_seed) for v, by_seed in values.items()}
  means = {v: m for v, m in means.items() if np.isfinite(m)}
  if not means:
    return f"No variant has a number for {text}."
  best, *others = sorted(means, key=lambda v: -sign * means[v])
  extreme = "highest" if sign > 0 else "lowest"
  start = f"'{best}' has {'the ' + extreme if others else 'a'} {text}, {_value(values[best])}"
  if not others:
    return f"{start}."
  parts, alike, single = [], [], []
  for other in others:
    d = paired_by_seed(values[best], values[other])
    if d.pairs < 2:
      single.append(f"'{other}' ({mean_and_deviation(list(values[other].values()))})")
    elif d.verdict == "not distinguishable":
      alike.append(f"'{other}' (difference {d})")
    else:
      parts.append(f"'{other}' is {d.verdict} by {d.size}")
  if alike:
    parts.append(f"not distinguishable from it by these seeds: {_listed(alike)}")
  if single:
    parts.append(f"ahead of {_listed(single)}, perhaps by chance: fewer than two seeds in common")
  brackets = " (95 % intervals in brackets)" if len(single) < len(others) else ""
  return f"{start}; {'; '.join(parts)}{brackets}."


def _mean(by_seed):
  known = [x for x in by_seed.values() if np.isfinite(x)]
  return float(np.mean(known)) if known else np.nan


def _value(by_seed):
  """Text of the mean with its deviation and the number of seeds."""
  count = sum(np.isfinite(x) for x in by_seed.values())
  seeds = "one seed" if count == 1 else f"{count} seeds"
  return f"{mean_and_deviation(list(by_seed.values()))} ({seeds})"


def _listed(texts):
  return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
