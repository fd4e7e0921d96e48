"""Any prepared TFDS set as a source, by random access; TensorFlow itself is not loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segjax.data import contents, decoding, lists
from segjax.data.labels import IGNORE, LabelTable, default_table, table_of
from segjax.errors import NoSplit, UserError

BINARY = {0, 255}  # values of masks of two classes
OURS = ("kitti_road", "camvid", "folder")  # sets that launch/prepare_data.py writes


@dataclasses.dataclass(frozen=True)
class Names(Sequence):
  """The names "set/split/0", "set/split/1", ..., made when they are asked for.

  Attributes:
    prefix: what stands before the index.
    count: number of names.
  """

  prefix: str
  count: int

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    return f"{self.prefix}{range(self.count)[i]}"

  def digest(self):
    """A short text that stands for all names."""
    return f"{self.count} names {self.prefix}0 ..."


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """A split of a TFDS set.

  Attributes:
    labels: label table.
    names: Names, "set/split/index".
    data: TFDS data source, images still encoded.
    image_key: key of the image in an example.
    label_key: key of the label.
    shift: added to the stored label values.
    ignore_value: stored label value that is not scored.
    shards: files of the set, of all splits, and those that describe it.
    binary: masks hold 0 and 255 alone, classes 0 and 1; nothing is ignored.
  """

  labels: LabelTable
  names: Names
  data: Sequence[dict[str, Any]]
  image_key: str
  label_key: str
  shift: int
  ignore_value: int
  shards: tuple[Path, ...] = ()
  binary: bool = False

  @property
  def notes(self):
    """Sentences about how the masks are read."""
    if not self.binary:
      return ()
    return (f"{self.label_key!r} holds 0 and 255 alone: 255 is {self.labels.names[1]!r}",)

  def digest(self):
    """16 hex digits over the files of the set, see `contents.of_shards`."""
    return contents.of_shards(self.shards)

  def __len__(self):
    return len(self.names)

  def __getitem__(self, i):
    example = self.data[i]
    image = self._decode(i, example[self.image_key], rgb=True)
    stored = self._decode(i, example[self.label_key])
    if stored.dtype.kind not in "buif" or (stored != np.floor(stored)).any():
      raise UserError(
        f"{self.names[i]}: {self.label_key!r} is {stored.dtype}{list(stored.shape)}, expected "
        "whole numbers of classes"
      )
    stored = stored.astype(np.int64)
    if image.dtype != np.uint8 or image.shape[2:] != (3,):
      raise UserError(
        f"{self.names[i]}: {self.image_key!r} is {image.dtype}{list(image.shape)}, expected "
        "uint8[H,W,3]"
      )
    if stored.shape[2:] == (1,):
      stored = stored[..., 0]
    if stored.shape != image.shape[:2]:
      raise UserError(
        f"{self.names[i]}: {self.label_key!r} has the shape {list(stored.shape)}, expected one "
        f"value per pixel of the image, {list(image.shape[:2])}"
      )
    if self.binary:
      stored = self._of_binary(i, stored)
    values = stored + self.shift
    bad = stored[((values < 0) | (values >= len(self.labels))) & (stored != self.ignore_value)]
    if bad.size:
      first, last = -self.shift, len(self.labels) - 1 - self.shift
      raise UserError(
        f"{self.names[i]}: label value {bad[0]} is outside the table, expected {first} to {last} "
        f"({', '.join(self.labels.names)}) or {self.ignore_value}, ignore; mend classes, shift "
        "or ignore_value"
      )
    return dict(
      image=image, label=np.where(stored == self.ignore_value, IGNORE, values).astype(np.uint8)
    )

  def _stored(self):
    """The label values of each mask, a set, one after the other."""
    for i in range(len(self)):
      yield set(np.unique(self._decode(i, self.data[i][self.label_key])).tolist())

  def _of_binary(self, i, stored):
    other = stored[~np.isin(stored, list(BINARY))]
    if other.size:
      raise UserError(
        f"{self.names[i]}: label value {other[0]}, and the masks of train and val hold 0 and 255 "
        f"alone, so that 255 was read as {self.labels.names[1]!r}; write one kind of masks"
      )
    return stored // 255

  def _decode(self, i, value, rgb=False):
    """Bytes of an image file, or an array, -> array, as the file sources read them."""
    if not isinstance(value, bytes):
      return np.asarray(value)
    if rgb:
      return decoding.read_image(value, self.names[i])
    return decoding.read_stored(value, self.names[i]).values


def tfds_source(
  split,
  *,
  dataset="",
  data_dir="",
  image_key="image",
  label_key="label",
  train_split="train",
  val_split="val",
  test_split="test",
  classes=(),
  shift=0,
  ignore_value=IGNORE,
):
  """A set that TFDS has prepared with file_format="array_record".

  The label table is `classes`, else that of the set's metadata (ours) or label feature. Ours need
  `dataset` and `data_dir` alone. For TFDS's own oxford_iiit_pet: label_key="segmentation_mask",
  val_split="test", classes=("pet", "background", "border"), shift=-1. Of two classes masks may also
  hold 0 and 255.

  Args:
    split: "train", "val" or "test".
    dataset: name for `tfds.builder`, with config and version where needed ("name/config:1.0.0").
    data_dir: folder that it was prepared in; empty for TFDS's default.
    image_key: key of the image, uint8[H,W,3].
    label_key: key of the label, integers [H,W] or [H,W,1].
    train_split: its TFDS split for "train"; slices such as "train[:90%]" too.
    val_split: its TFDS split for "val".
    test_split: its TFDS split for "test", which must not be one of the others.
    classes: class names in the order of their values.
    shift: added to the stored label values to count from 0.
    ignore_value: stored value that is not scored.

  Raises:
    UserError: set not prepared, or not for random access; unknown key or split; no class names;
      when read, a broken image or a label value outside the table.
  """
  import tensorflow_datasets as tfds

  builder = _prepared_builder(tfds, dataset, data_dir)
  features = builder.info.features
  for key in (image_key, label_key):
    if key not in features:
      raise UserError(
        f"TFDS set {dataset!r} has no key {key!r} (keys: {', '.join(features)}); set "
        "image_key and label_key"
      )
  labels = _label_table(builder, label_key, classes)
  encoded = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
  parts = dict(train=train_split, val=val_split, test=test_split)
  part = parts[split]
  taken = f"{test_split!r} is its {'val' if part == val_split else 'train'} split; set test_split"
  lists.require_test(split, part not in (train_split, val_split), f"TFDS set {dataset!r}", taken)
  decoders = {k: tfds.decode.SkipDecoding() for k in encoded}
  read = functools.partial(builder.as_data_source, decoders=decoders)
  try:
    data = read(part)
  except (ValueError, KeyError) as error:
    raise (NoSplit if split == lists.TEST else UserError)(
      f"TFDS set {dataset!r} has no split {part!r} (splits: {', '.join(builder.info.splits)}); "
      f"set {split}_split"
    ) from error
  except NotImplementedError:
    raise UserError(
      f"TFDS set {dataset!r} is prepared as {builder.info.file_format.value}, which has no random "
      f"access; convert it: tfds convert_format --dataset_version_dir={builder.data_dir} "
      "--out_file_format=array_record"
    ) from None
  names = Names(f"{dataset}/{split}/", len(data))
  shards = tuple(sorted(f for f in Path(builder.data_dir).iterdir() if f.is_file()))
  source = TfdsSource(labels, names, data, image_key, label_key, shift, ignore_value, shards)
  plain = len(labels) == 2 and shift == 0 and ignore_value == IGNORE
  if not plain or (builder.info.metadata or {}).get("labels"):  # ours say what they store
    return source
  both = []
  for other in (train_split, val_split):  # as `data.meaning` decides it for files
    with contextlib.suppress(ValueError, KeyError):  # it may lack one
      masks = read(other)
      names = Names(f"{dataset}/{other}/", len(masks))
      both.append(dataclasses.replace(source, names=names, data=masks))
  return dataclasses.replace(source, binary=_is_binary(both))


def _is_binary(found):
  """Whether the masks of some sources hold 0 and 255 alone; the first with another value says no.

  Where 255 is ignored, that is soon met.
  """
  seen = set()
  for values in itertools.chain.from_iterable(source._stored() for source in found):
    seen |= values
    if not seen <= BINARY:
      return False
  return seen == BINARY


def _prepared_builder(tfds, dataset, data_dir):
  """The builder of a prepared set; a UserError says how to prepare it."""
  if not dataset:
    raise UserError("data source 'tfds' needs --config.data.source.dataset=NAME, a TFDS set")
  try:
    builder = tfds.builder(dataset, data_dir=data_dir or None)
    if builder.is_prepared():
      return builder
    reason = f"TFDS set {dataset!r} is not prepared in {builder.data_dir}"
  except (ValueError, AssertionError) as error:  # not found, not a name, or another version
    where = data_dir or tfds.core.constants.DATA_DIR
    said = str(error).partition("\n")[0].rstrip(".")
    reason = f"no TFDS set {dataset!r} in {where}: {said}"
  to = f" --data_dir={data_dir}" if data_dir else ""
  if dataset.partition(":")[0] in OURS:
    command = f"python launch/prepare_data.py --name={dataset} --source=FOLDER"
  else:
    command = f"tfds build {dataset} --file_format=array_record"
  raise UserError(f"{reason}; prepare it: {command}{to}")


def _label_table(builder, label_key, classes):
  """Classes given, else the metadata's table, else the label feature's names."""
  if classes:
    return default_table(tuple(classes))
  stored = (builder.info.metadata or {}).get("labels")
  if stored:
    return table_of(stored)
  names = getattr(builder.info.features[label_key], "names", None)
  if not names:
    raise UserError(
      f"TFDS set {builder.info.name!r} does not name the values of {label_key!r}; list them in "
      "--config.data.source.classes"
    )
  return default_table(tuple(names))
