"""Looks for broken files: every pair is read once, and every fault is listed."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from segjax.data import label_sets, limits
from segjax.data.contents import combine
from segjax.data.labels import IGNORE
from segjax.data.threads import map_threads
from segjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Subset:
  """Some examples of a source, itself a source.

  Attributes:
    source: see `segjax.data.sources`.
    indices: indices of the examples.
  """

  source: Any
  indices: tuple[int, ...]

  @property
  def labels(self):
    """The source's label table."""
    return self.source.labels

  @property
  def names(self):
    """Names of the chosen examples."""
    return tuple(self.source.names[i] for i in self.indices)

  @property
  def notes(self):
    """The source's sentences about files that are not read."""
    return getattr(self.source, "notes", ())

  @functools.cached_property
  def hashes(self):
    """Of the chosen examples; an AttributeError where the source reads no files."""
    pairs = tuple(self.source.pairs[i] for i in self.indices)  # others may be broken
    return dataclasses.replace(self.source, names=self.names, pairs=pairs).hashes

  @property
  def digest(self):
    """The method `digest` of the sources that read files; an AttributeError of the others."""
    return functools.partial(combine, self.hashes, self.labels)

  def __len__(self):
    return len(self.indices)

  def __getitem__(self, i):
    return self.source[self.indices[i]]


def label_histograms(source, threads=4, indices=None):
  """Counts the pixels of each label value.

  Args:
    source: source of masks, or of one class per image; see `segjax.data.sources`.
    threads: number of threads that read.
    indices: indices of the examples to look at; None: all.

  Returns:
    i64[N,256], a row per example; the last value is 255, ignore.

  Raises:
    UserError: a file is broken, or a source of one's own gives a value that is none of its classes.
  """
  indices = range(len(source)) if indices is None else indices
  classes = len(source.labels)

  def histogram(i):
    counts = np.bincount(np.ravel(source[indices[i]]["label"]), minlength=256)
    outside = [int(v) for v in np.flatnonzero(counts) if v >= classes and v != IGNORE]
    if outside:
      raise UserError(
        f"the label of {source.names[indices[i]]!r} has the value {outside[0]}, expected 0 to "
        f"{classes - 1}, a class, or {IGNORE}, ignore; mend the data source"
      )
    return counts

  return np.array(map_threads(histogram, len(indices), threads)).reshape(-1, 256)


def label_counts(source, threads=4, limit=None):
  """Counts the pixels of each class over a source, or over a part of it.

  Args:
    source: source of masks, or of one class per image, which then counts as one pixel.
    threads: number of threads that read.
    limit: look at so many examples at most, evenly spread; None: at all.

  Returns:
    (pixels i64[C] of each class, number of ignored pixels, number of examples looked at).

  Raises:
    UserError: a file is broken.
  """
  count = len(source) if limit is None else min(limit, len(source))
  indices = [i * len(source) // count for i in range(count)]
  pixels = label_histograms(source, threads, indices).sum(0)
  classes = len(source.labels)
  return pixels[:classes], int(pixels[classes:].sum()), count


def mask_counts(source, threads=4, limit=None):
  """Counts the pixels of each class of a source of overlapping classes, or of a part of it.

  Args: see `label_counts`.

  Returns:
    i64[N,C+2], a row per example that was looked at: pixels of each class, scored pixels, ignored
    ones.

  Raises:
    UserError: a file is broken.
  """
  count = len(source) if limit is None else min(limit, len(source))

  def of_example(k):
    label = source[k * len(source) // count]["label"]
    planes, ignored = label_sets.split(label, len(source.labels)), np.sum(label == IGNORE)
    return [*planes.sum((0, 1)), label.size - ignored, ignored]

  return np.array(map_threads(of_example, count, threads), np.int64)


def check(source, threads=4):
  """Reads every example and returns all faults.

  Found are missing, unreadable and truncated files, sizes that differ, values and colours outside
  the table, and label files without an image. Build the source by `make(..., complete=False)`,
  or a missing file ends the matter before this.

  Args:
    source: see `segjax.data.sources`.
    threads: number of threads that read.

  Returns:
    list of (name, fault), in the source's order; an example with two faults stands there twice.
    `orphans` come last.
  """
  faults = [(source.names[i], text) for i, text in _by_index(source, threads)]
  return faults + orphans(source)


def without_broken(source, threads=4):
  """Leaves out the examples in which `check` finds a fault.

  Args:
    source: see `check`.
    threads: number of threads that read.

  Returns:
    (source, faults): the source itself where nothing is broken, and the faults of the examples
    left out, as from `check`.

  Raises:
    UserError: every example is broken; or an image is too large, which may well be whole.
  """
  found = _by_index(source, threads)
  large = [text for _, text in found if f": {limits.TOO_LARGE} (" in text]
  if large:
    raise UserError(f"{len(large)} of {len(source)} images are no broken files: {large[0]}")
  faults = [(source.names[i], text) for i, text in found]
  broken = {i for i, _ in found}
  if not broken:
    return source, faults
  whole = tuple(i for i in range(len(source)) if i not in broken)
  if not whole:
    raise UserError(report(faults, len(source)))
  return Subset(source, whole), faults


def report(faults, total, limit=20):
  """One message for all faults: a count, then a line each, at most `limit`; `orphans` apart.

  >>> print(report([("a", "a.png: truncated"), ("", "b.png: belongs to no image")], 7))
  1 of 7 examples is broken, 1 fault:
    a.png: truncated
  labels without an image, 1:
    b.png: belongs to no image
  """
  count = len({name for name, _ in faults if name})
  lines = [text if name in text else f"{name}: {text}" for name, text in faults if name]
  lone = [text for name, text in faults if not name]
  out = []
  for head, part in (
    (
      f"{count} of {total} examples {'is' if count == 1 else 'are'} broken, {len(lines)} "
      f"fault{'s'[: len(lines) > 1]}:",
      lines,
    ),
    (f"labels without an image, {len(lone)}:", lone),
  ):
    more = [f"... and {len(part) - limit} more"] if len(part) > limit else []
    out += ["\n  ".join([head, *part[:limit], *more])] if part else []
  return "\n".join(out)


def _by_index(source, threads):
  """[(index, fault), ...] of the examples."""

  def read(i):
    try:
      source[i]
    except UserError as error:
      return [str(error)]
    return []

  found = map_threads(getattr(source, "faults", read), len(source), threads)
  return [(i, text) for i, texts in enumerate(found) for text in texts]


def orphans(source):
  """Label files without an image, as faults ("", text): no example is broken by them."""
  return [("", f"{f}: belongs to no image") for f in getattr(source, "orphans", ())]
