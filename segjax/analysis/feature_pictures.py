"""Pictures of features: their PCA and t-SNE, and the nearest neighbours of examples.

PCA, t-SNE and nearest neighbours are scikit-learn's.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from segjax.analysis.charts import COLORS, MARKERS
from segjax.analysis.figures import write
from segjax.analysis.separation import check_metric
from segjax.data.labels import default_table
from segjax.errors import UserError
from segjax.pictures import displayed, panel

CLASS_COLORS = (*COLORS, "#000000", "#8C510A")  # ten, as many data sets have classes


def embed(stages, *, perplexity=30.0, seed=0):
  """PCA and t-SNE of the same examples' features at several stages, aligned from one to the next.

  Each is turned or mirrored to lie as the one before it; a t-SNE (van der Maaten, Hinton, JMLR
  2008) starts from the one before, the first from its PCA.

  Args:
    stages: list of f32[N,D].
    perplexity: perplexity of t-SNE; less where there are few examples.
    seed: random seed of t-SNE.

  Returns:
    (list of PCA f64[N,2], list of t-SNE f64[N,2]).

  Raises:
    UserError: fewer than 3 examples.
  """
  if len(stages[0]) < 3:
    raise UserError(f"features of {len(stages[0])} examples, expected 3 at least to draw them")
  linear, neighbor = [], []
  perplexity = min(perplexity, (len(stages[0]) - 1) / 3)
  for vectors in stages:
    flat = PCA(2, random_state=seed).fit_transform(vectors)
    linear.append(_turned(flat, linear[-1] if linear else None))
    if neighbor:  # as large as it was, and with little exaggeration, or it would fold anew
      start, exaggeration = neighbor[-1], 2.0
    else:
      start, exaggeration = linear[-1] / max(linear[-1][:, 0].std(), 1e-12) * 1e-4, 12.0
    tsne = TSNE(
      2, perplexity=perplexity, init=start.astype(np.float32), early_exaggeration=exaggeration,
      random_state=seed,
    )  # fmt: skip
    neighbor.append(_turned(tsne.fit_transform(vectors), neighbor[-1] if neighbor else None))
  return linear, neighbor


def _turned(points, like):
  """Points about their mean, turned or mirrored to lie as `like`."""
  points = points - points.mean(0)
  return points if like is None else points @ orthogonal_procrustes(points, like)[0]


def scatter(embedded, labels, table, titles, captions, file):
  """A row of PCA panels over a row of t-SNE panels, one per stage, coloured by class.

  Args:
    embedded: result of `embed`.
    labels: i64[N].
    table: LabelTable.
    titles: titles of the stages.
    captions: under each t-SNE panel.
    file: path of the PNG; a PDF is written beside it.
  """
  count = len(titles)
  figure, axes = plt.subplots(
    2, count, figsize=(3.6 * count + 1.2, 7.6), layout="constrained", squeeze=False
  )
  looks = class_looks(table)
  for row, (kind, points) in enumerate(zip(("PCA", "t-SNE"), embedded, strict=True)):
    for axis, title, caption, xy in zip(axes[row], titles, captions, points, strict=True):
      for c in np.unique(labels):
        mine = xy[labels == c]
        axis.scatter(*mine.T, s=9, alpha=0.7, lw=0, label=table.names[c], **looks[c])
      # Scale and turn of both mean nothing, so there are no numbers on the axes.
      axis.set(title=f"{kind}, {title}", xticks=[], yticks=[], ylabel=f"{kind} 2")
      axis.set_xlabel(f"{kind} 1" + (f"\n{caption}" if row else ""), fontsize=9)
  handles, names = axes[0][0].get_legend_handles_labels()
  figure.legend(handles, names, loc="outside right upper", markerscale=2, fontsize=8)
  return write(figure, file)


def class_looks(table):
  """Marker and colour of each class: the data set's colours, or a palette where it has none.

  Args:
    table: LabelTable.

  Returns:
    list of dicts; no two of up to 80 classes look alike, for colour-blind people too.
  """
  own = table != default_table(table.names)
  return [
    dict(
      color=np.array(color) / 255 if own else CLASS_COLORS[c % len(CLASS_COLORS)],
      marker=MARKERS[(c + c // len(CLASS_COLORS)) % len(MARKERS)],
    )
    for c, (_, color) in enumerate(table.classes)
  ]


def neighbor_picture(train, val, train_source, val_source, *, queries=6, wanted=5,
                     metric="cosine", seed=0):  # fmt: skip
  """Rows of a query of the validation set and its nearest neighbours in the train set.

  Args:
    train: Features.
    val: Features.
    train_source: whose examples `train` is of.
    val_source: whose examples `val` is of.
    queries: how many, drawn at random, or a list of indices of `val_source`.
    wanted: neighbours of each.
    metric: "cosine" or "euclidean"; distances stand above the pictures.
    seed: random seed of the draw.

  Returns:
    u8[height,width,3].

  Raises:
    UserError: an index that `val` does not have, or an unknown metric.
  """
  check_metric(metric)
  if isinstance(queries, int):
    chosen = np.random.default_rng(seed).permutation(len(val.labels))[:queries]
  else:
    lost = [q for q in queries if q not in val.examples]
    if lost:
      raise UserError(f"query {lost[0]}: the features have no such example of the val split")
    chosen = [int(np.flatnonzero(val.examples == q)[0]) for q in queries]
  search = NearestNeighbors(n_neighbors=min(wanted, len(train.labels)), metric=metric)
  distances, indices = search.fit(train.vectors).kneighbors(val.vectors[chosen])
  names, rows = val_source.source.labels.names, []
  for q, near, far in zip(chosen, indices, distances, strict=True):
    row = [(f"query: {names[val.labels[q]]}", _view(val, val_source, q))]
    for i, distance in zip(near, far, strict=True):
      title = f"{names[train.labels[i]]}, distance {distance:.3f}"
      row.append((title, _view(train, train_source, i)))
    rows.append(row)
  return panel(rows, most=160)


def _view(features, source, i, side=48):
  """The image of an example, or the surroundings of its pixel, marked by a cross."""
  image = displayed(source[int(features.examples[i])]["image"])
  if features.places is None:
    return image
  row, column = features.places[i]
  padded = np.pad(image, ((side, side), (side, side), (0, 0)), mode="edge")
  view = padded[row : row + 2 * side, column : column + 2 * side].copy()
  view[side, side - 4 : side + 5] = view[side - 4 : side + 5, side] = (255, 0, 255)
  return view
