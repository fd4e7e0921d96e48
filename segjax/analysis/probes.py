"""Probes of a self-supervised run: kNN accuracy of its layers."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from segjax.analysis import features
from segjax.analysis.separation import knn_accuracy
from segjax.training import restore

CROPS = 300  # of each class, where labels are masks
LAST = "last"  # layer that a classifier's head would get


@dataclasses.dataclass(frozen=True)
class Probe:
  """Features of a run's validation examples with the weights that it began with, and trained.

  Attributes:
    accuracy: layer -> kNN accuracy of both; empty where the data have no classes.
    vectors: f32[N,D] of both, of the last layer.
    labels: i64[N].
    table: LabelTable of the data.
  """

  accuracy: dict
  vectors: tuple = ()
  labels: np.ndarray | None = None
  table: object = None


def probe(workdir, moved=()):
  """Scores a run's features: middle stages of its backbone and the last layer.

  Args:
    workdir: folder of a run of a net with a backbone that gives a vector per image.
    moved: present folder of the data, see `features.sources_of`.

  Returns:
    Probe.
  """
  sources = features.sources_of(workdir, moved)
  label = sources[0][0].get("label")
  if label is None or label.ndim > 2:
    return Probe({})
  how = dict(limit=CROPS, per_image=None) if label.ndim else {}
  experiment, trained = restore.run(workdir)
  image = jax.ShapeDtypeStruct(
    (1, *experiment.config.data.size, experiment.config.data.channels), np.float32
  )
  layers = {f"stage {i}": i for i in features.middle_stages(experiment.model, image)}
  layers[LAST] = None
  found = []
  for state in (experiment.init()[0], trained):
    by_split = [features.extract(experiment, state, s, stages=tuple(layers.values()), **how)
                for s in sources]  # fmt: skip
    found.append(dict(zip(layers, zip(*by_split, strict=True), strict=True)))
  if min(len(np.unique(f.labels)) for f in found[0][LAST]) < 2:
    return Probe({})
  accuracy = {k: tuple(knn_accuracy(*at[k]) for at in found) for k in layers}
  val = [at[LAST][1] for at in found]
  table = sources[1].source.labels
  return Probe(accuracy, tuple(v.vectors for v in val), val[0].labels, table)
