"""Grain pipelines: indices, then decoded and resized examples, then batches.

A batch is {"image": u8[B,H,W,3], "label": u8[B,H,W], "mask": bool[B]}; `mask` is False for the
copies that fill up the last batch of an evaluation. Labels become int32 on the device, which
keeps the transfer small.
"""

from __future__ import annotations

import grain
import numpy as np
from PIL import Image

from segjax.data.labels import IGNORE
from segjax.errors import UserError


def resize(example, size):
  """Resizes image (bilinear, antialiased when shrinking) and label (nearest) to (height, width)."""
  shape = (size[1], size[0])
  image, label = Image.fromarray(example["image"]), Image.fromarray(example["label"])
  if image.size != shape:
    image = image.resize(shape, Image.Resampling.BILINEAR)
    label = label.resize(shape, Image.Resampling.NEAREST)
  return dict(image=np.asarray(image), label=np.asarray(label))


class Resized:
  """A source at one size, kept in memory after its first reading where that fits.

  Attributes:
    source: see `segjax.data.sources`.
    size: (height, width), pixels.
    cached: whether decoded examples stay in memory.
  """

  def __init__(self, source, size, cache_mb):
    self.source, self.size = source, tuple(size)
    self.cached = len(source) * size[0] * size[1] * 4 <= cache_mb * 2**20
    self._memory = {}

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    if i in self._memory:
      return self._memory[i]
    example = resize(self.source[i], self.size)
    if self.cached:
      self._memory[i] = example
    return example


def _local(batch_size, process_index, process_count):
  """This process's examples of each global batch."""
  if batch_size % process_count:
    raise UserError(
      f"batch size {batch_size} is not divisible by the {process_count} processes; "
      f"use a multiple of {process_count}"
    )
  local = batch_size // process_count
  return slice(process_index * local, (process_index + 1) * local), local


def train_iterator(
  source, *, batch_size, seed, num_threads=2, prefetch=16, process_index=0, process_count=1
):
  """Endless shuffled batches; the order is a pure function of (seed, step).

  Each epoch is a new permutation of which the last `len(source) % batch_size` examples are
  left out. Processes see disjoint parts of the same global batches.

  Args:
    source: from `Resized`.
    batch_size: global, examples.
    seed: of the order.
    num_threads: that decode.
    prefetch: examples decoded ahead.
    process_index: of this process.
    process_count: of all.

  Returns:
    A grain DatasetIterator of batches; its state (`get_state`, orbax) is the next step's number.

  Raises:
    UserError: fewer examples than a batch, or processes that do not divide the batch.
  """
  _, local = _local(batch_size, process_index, process_count)
  steps = len(source) // batch_size
  if not steps:
    raise UserError(
      f"the train split has {len(source)} examples, fewer than batch_size={batch_size}; "
      "use a smaller batch or more data"
    )

  def load(i):
    return source[int(i)] | dict(mask=np.bool_(True))

  indices = grain.MapDataset.range(len(source)).seed(seed).shuffle()[: steps * batch_size]
  batches = indices[process_index::process_count].map(load).batch(local, drop_remainder=True)
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=-(-prefetch // local))
  return iter(batches.repeat().to_iter_dataset(options))


def eval_batches(
  source, *, batch_size, num_threads=2, prefetch=16, process_index=0, process_count=1
):
  """Iterates once over every example in order; the last batch is filled with masked copies.

  Args: see `train_iterator`.

  Returns:
    An iterator of batches. A copy has mask False and all its labels 255.
  """
  part, local = _local(batch_size, process_index, process_count)
  count = len(source)

  def load(i):
    example = source[min(int(i), count - 1)]
    label = example["label"] if i < count else np.full_like(example["label"], IGNORE)
    return dict(image=example["image"], label=label, mask=np.bool_(i < count))

  starts = range(0, count, batch_size)
  mine = [i for start in starts for i in range(start, start + batch_size)[part]]
  batches = grain.MapDataset.source(mine).map(load).batch(local)
  options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=-(-prefetch // local))
  return iter(batches.to_iter_dataset(options))
