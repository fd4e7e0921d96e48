"""How well features separate the classes.

Nearest neighbours, silhouettes and logistic regression are scikit-learn's.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from segjax.errors import UserError

METRICS = ("cosine", "euclidean")
NEIGHBORS = 20  # of the kNN accuracy


def knn_accuracy(train, val, *, metric="cosine"):
  """Share of `val` whose class most of their nearest neighbours in `train` have, see `scores`."""
  knn = KNeighborsClassifier(min(NEIGHBORS, len(train.labels)), metric=metric)
  return float(knn.fit(train.vectors, train.labels).score(val.vectors, val.labels))


def scores(train, val, *, metric="cosine"):
  """Scores how well features separate the classes.

  Args:
    train: Features that neighbours and the linear probe learn from.
    val: Features that are scored.
    metric: "cosine" or "euclidean".

  Returns:
    dict of floats: `knn_accuracy` (20 neighbours, or fewer examples), `linear_accuracy` (logistic
    regression on standardised features), `silhouette` in [-1,1]; nan where there is one class, the
    last also where each example has its own.
  """
  check_metric(metric)
  if len(np.unique(train.labels)) < 2 or len(np.unique(val.labels)) < 2:
    return dict(knn_accuracy=np.nan, linear_accuracy=np.nan, silhouette=np.nan)
  linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
  return dict(
    knn_accuracy=knn_accuracy(train, val, metric=metric),
    linear_accuracy=float(linear.fit(train.vectors, train.labels).score(val.vectors, val.labels)),
    silhouette=silhouette(val, metric),
  )


def silhouette(val, metric):
  """Mean silhouette, see `scores`."""
  if len(np.unique(val.labels)) == len(val.labels):
    return np.nan
  return float(silhouette_score(val.vectors, val.labels, metric=metric))


def check_metric(metric):
  """Raises a UserError for a metric that is not one of `METRICS`."""
  if metric not in METRICS:
    raise UserError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}")
