"""Grain pipelines: indices, then decoded and resized examples, then batches.

A batch is {"image": u8[B,H,W,3], "label": u8[B,H,W], "valid": bool[B]}; `valid` is False for the
copies that fill up the last batch of an evaluation. In an evaluation it also has "index": i32[B],
of the examples, -1 for copies, and with images at their own sizes "size": i32[B,2], height and
width before they were extended. Labels become int32 on the device, which
keeps the transfer small. The label may be one class per image too, u8[B], or a target image as
large as the image, u8[B,H,W,3]. Images that are no photographs are f32[B,H,W,C].
"""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial

import grain
import numpy as np
from absl import flags
from PIL import Image

from segjax.data import sizes
from segjax.data.labels import IGNORE
from segjax.errors import UserError


def resize(example, size):
  """Resizes to (height, width): images bilinearly, antialiased when shrinking, masks nearest."""
  how = {2: _resize_mask, 3: sizes.resize_image}
  return {k: how[v.ndim](v, size) if v.ndim >= 2 else v for k, v in example.items()}


def _resize_mask(mask, size):
  if mask.shape == tuple(size):
    return mask
  how = Image.Resampling.NEAREST
  return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), how))


def extend_all(example, size, extend_image=None):
  """Extends an example at the bottom and right to at least `size` = (height, width).

  Args:
    example: {"image": u8[H,W,3], "label": u8[H,W], u8[H,W,3] or u8[]}.
    size: (height, width), pixels.
    extend_image: function of an image and the size; None: the edge is repeated, as for crops of a
      training. Masks become 255, ignore.
  """
  extend_image = extend_image or partial(sizes.extend, mode="edge")
  how = {2: partial(sizes.extend, constant_values=IGNORE), 3: extend_image}
  return {k: how[v.ndim](v, size) if v.ndim >= 2 else v for k, v in example.items()}


def cut(example, top, left, size):
  """The part of an example of `size` = (height, width) whose corner is at (top, left), as views."""
  part = slice(top, top + size[0]), slice(left, left + size[1])
  return {k: v[part] if v.ndim >= 2 else v for k, v in example.items()}


def random_crop(example, size, rng):
  """Cuts a random part of `size` = (height, width) out; a smaller example is first extended.

  Args:
    example: {"image": u8[H,W,3], "label": u8[H,W], u8[H,W,3] or u8[]}.
    size: (height, width), pixels.
    rng: numpy Generator.
  """
  example = extend_all(example, size)
  shape = example["image"].shape[:2]
  top, left = (int(rng.integers(m - n + 1)) for n, m in zip(size, shape, strict=True))
  return cut(example, top, left, size)


class _Cached:
  """A source whose examples are made to fit, kept in memory while there is room."""

  def __init__(self, source, cache_mb):
    self.source = source
    self._room, self._memory = cache_mb * 2**20, {}

  def __len__(self):
    return len(self.source)

  def __getitem__(self, i):
    if i in self._memory:
      return self._memory[i]
    example = self._fit(self.source[i])
    size = sum(x.nbytes for x in example.values())
    if size <= self._room:
      self._room -= size
      self._memory[i] = example
    return example


class Resized(_Cached):
  """A source at one size.

  Attributes:
    source: see `segjax.data.sources`.
    size: (height, width), pixels.
  """

  def __init__(self, source, size, cache_mb):
    super().__init__(source, cache_mb)
    self.size = tuple(size)

  def _fit(self, example):
    return resize(example, self.size)


class CenterCrop(_Cached):
  """The middle of a source's examples, which random crops of a training are like.

  Attributes:
    source: see `segjax.data.sources`.
    size: (height, width), pixels; smaller examples are extended.
  """

  def __init__(self, source, size, cache_mb):
    super().__init__(source, cache_mb)
    self.size = tuple(size)

  def _fit(self, example):
    example = extend_all(example, self.size, sizes.extend_image)
    shape = example["image"].shape[:2]
    top, left = ((m - n) // 2 for m, n in zip(shape, self.size, strict=True))
    # Copies, or a kept view would keep the whole image.
    return {k: np.array(v) for k, v in cut(example, top, left, self.size).items()}


class FullSize(_Cached):
  """A source at its examples' own sizes, extended to multiples of `multiple` pixels.

  They are extended as prediction does it, see `sizes.extend_image`. Examples that may have been
  extended have their own "size" too, i32[2], height and width.
  """

  def __init__(self, source, multiple, cache_mb):
    super().__init__(source, cache_mb)
    self.multiple = multiple

  def _fit(self, example):
    size = np.array(example["image"].shape[:2], np.int32)
    extended = extend_all(example, sizes.multiples(size, self.multiple), sizes.extend_image)
    return extended | (dict(size=size) if self.multiple > 1 else {})


def _local(batch_size, process_index, process_count):
  """This process's examples of each global batch."""
  if batch_size % process_count:
    raise UserError(
      f"batch size {batch_size} is not divisible by the {process_count} processes; "
      f"use a multiple of {process_count}"
    )
  local = batch_size // process_count
  return slice(process_index * local, (process_index + 1) * local), local


class _Share(grain.MapDataset):
  """A process's part of each batch, in the batch's order."""

  def __init__(self, parent, part, batch_size):
    """Takes the places `part`, a slice, of each `batch_size` elements of the parent."""
    super().__init__(parent)
    self._part, self._batch_size = part, batch_size
    self._count = part.stop - part.start

  def __len__(self):
    return len(self._parent) // self._batch_size * self._count

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    batch, place = divmod(index, self._count)  # of all epochs, which have whole batches
    return self._parent[batch * self._batch_size + self._part.start + place]


def train_iterator(
  source,
  *,
  batch_size,
  seed,
  crop=None,
  indices_only=False,
  num_threads=2,
  num_workers=0,
  prefetch=16,
  process_index=0,
  process_count=1,
):
  """Endless shuffled batches; the order is a pure function of (seed, step).

  Each epoch is a new permutation of which the last `len(source) % batch_size` examples are
  left out. Each process decodes its part alone of the batches that one process would see, so that
  the devices of all get what those of one process would.

  Args:
    source: a `Resized`, or a `FullSize` with `crop`.
    batch_size: global, examples.
    seed: random seed of the order and the crops.
    crop: (height, width) of a random part cut out of each example, or None.
    indices_only: batches are {"index": i32[B]}, for data that lie on the device.
    num_threads: number of threads that decode, a batch each, in each worker if there are some.
    num_workers: processes that decode; 0: this one. The batches are the same.
    prefetch: examples decoded ahead, at least a batch per thread.
    process_index: index of this process.
    process_count: number of processes.

  Returns:
    A grain DatasetIterator of batches; its state (`get_state`, orbax) is the next step's number.

  Raises:
    UserError: fewer examples than a batch, or processes that do not divide the batch.
  """
  part, local = _local(batch_size, process_index, process_count)
  steps = len(source) // batch_size
  if not steps:
    raise UserError(
      f"the train split has {len(source)} examples, fewer than batch_size={batch_size}; "
      "use a smaller batch or more data"
    )

  def load(i, rng=None):
    example = source[int(i)]
    return (random_crop(example, crop, rng) if crop else example) | dict(valid=np.bool_(True))

  indices = grain.MapDataset.range(len(source)).seed(seed).shuffle()[: steps * batch_size]
  if indices_only:
    examples = indices.map(lambda i: dict(index=np.int32(i)))
  elif crop:
    # As grain derives it from `seed` four steps on; given, or another step would change all crops.
    crops = int(np.random.SeedSequence((seed, 4)).generate_state(1)[0])
    examples = indices.random_map(load, seed=crops)
  else:
    examples = indices.map(load)
  # Here, not before the crops: each follows from its place among those of all processes.
  if process_count > 1:
    examples = _Share(examples, part, batch_size)
  batches = examples.batch(local, drop_remainder=True)
  ahead = -(-prefetch // local)
  dataset = batches.repeat().to_iter_dataset(_threads(num_threads, ahead))
  if num_workers:
    if not flags.FLAGS.is_parsed():  # grain's processes read its flags, absl or not
      flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers, ahead)
    dataset = dataset.mp_prefetch(options, worker_init_fn=_end_with_parent)
  return iter(dataset)


def _end_with_parent(index, count):
  """Ends a process that reads data soon after its parent, which may have been killed.

  Ctrl-C in a terminal goes to all processes; the parent still needs this one for its last steps.
  """
  del index, count
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = os.getppid()

  def watch():
    while os.getppid() == parent:
      time.sleep(1)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _threads(count, ahead):
  """Grain's options; it never has more threads at work than it reads ahead."""
  return grain.ReadOptions(num_threads=count, prefetch_buffer_size=max(ahead, count))


def eval_batches(
  source, *, batch_size, num_threads=2, prefetch=16, process_index=0, process_count=1
):
  """Iterates once over every example in order; the last batch is filled with masked copies.

  Args: see `train_iterator`.

  Returns:
    An iterator of batches. A copy has valid False and all its labels 255.
  """
  part, local = _local(batch_size, process_index, process_count)
  count = len(source)

  def load(i):
    example = source[min(int(i), count - 1)]
    label = example["label"] if i < count else np.full_like(example["label"], IGNORE)
    index = np.int32(i if i < count else -1)
    return dict(image=example["image"], label=label, valid=np.bool_(i < count), index=index)

  starts = range(0, count, batch_size)
  mine = [i for start in starts for i in range(start, start + batch_size)[part]]
  batches = grain.MapDataset.source(mine).map(load).batch(local)
  return iter(batches.to_iter_dataset(_threads(num_threads, -(-prefetch // local))))


def full_size_batches(
  source,
  *,
  batch_size,
  devices=1,
  num_threads=2,
  prefetch=16,
  process_index=0,
  process_count=1,
):
  """Iterates once over every example of a `FullSize` source, batched with those of equal size.

  As many shapes as there are sizes come out, so the evaluation step compiles that often. The
  rest of a size at the end is filled with masked copies: to a whole batch where the size had one
  before, which needs no other shape, or else to no more than the devices need. Holds at most a
  batch per size in memory. Of several processes each has a part of the examples, and so batches and
  shapes of its own.

  Args: see `train_iterator`.
    devices: number of devices that share a batch.
  """
  ends = [len(source) * i // process_count for i in (process_index, process_index + 1)]
  examples = grain.MapDataset.range(*ends).map(lambda i: source[int(i)] | dict(index=np.int32(i)))
  waiting, whole = {}, set()
  for example in examples.to_iter_dataset(_threads(num_threads, prefetch)):
    shape = example["image"].shape
    group = waiting.setdefault(shape, [])
    group.append(example)
    if len(group) == batch_size:
      yield _stack(group, batch_size)
      group.clear()
      whole.add(shape)
  for shape, group in waiting.items():
    if group:
      yield _stack(group, batch_size if shape in whole else -(-len(group) // devices) * devices)


def _stack(group, batch_size):
  count = len(group)
  fill = batch_size - count
  last = group[-1]
  copy = last | dict(label=np.full_like(last["label"], IGNORE), index=np.int32(-1))
  batch = {k: np.stack([e[k] for e in [*group, *[copy] * fill]]) for k in last}
  return batch | dict(valid=np.arange(batch_size) < count)
