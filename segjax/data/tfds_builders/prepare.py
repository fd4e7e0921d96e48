"""Writes a set as sharded ArrayRecord files of TFDS, for launch/prepare_data.py."""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
import tempfile
import time

import tensorflow_datasets as tfds

from segjax import errors
from segjax.data import contents, sources
from segjax.data.tfds_builders import BUILDERS
from segjax.errors import choose


def prepare(name, source, data_dir, shards):
  """Writes a set, unless it is there already, and prints how to train from it.

  Args:
    name: name of the set, one of `BUILDERS`.
    source: absolute Path of the folder of the set's own files.
    data_dir: absolute Path of the folder of TFDS sets.
    shards: files per split, at most one per example.

  Raises:
    UserError: unknown set, no or broken files, or a folder that cannot be written to.
  """
  logging.getLogger("absl").setLevel(logging.ERROR)
  make = choose(BUILDERS, name, "data set")
  with errors.writing(data_dir):
    data_dir.mkdir(parents=True, exist_ok=True)
  builder = make(data_dir=data_dir)
  if builder.is_prepared():
    print(f"{builder.data_dir} is there already; remove it to write it anew")
    _describe(builder, data_dir)
    return
  splits = [sources.make(builder.name, split, folder=str(source)) for split in sources.SPLITS]
  for note in contents.notes_of(*splits):
    print(f"  note: {note}")
  shards = min(shards, *map(len, splits))  # TFDS wants an example in each
  start = time.perf_counter()
  print(f"writing {builder.data_dir} ...", flush=True)
  tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(manual_dir=source, num_shards=shards)
  chatter = contextlib.redirect_stdout(io.StringIO())  # TFDS talks of downloads; there are none
  with tempfile.TemporaryDirectory() as unused, chatter, errors.writing(data_dir):
    how = dict(download_dir=unused, download_config=config, file_format="array_record")
    builder.download_and_prepare(**how)
  print(f"  written in {time.perf_counter() - start:.1f} s")
  _describe(builder, data_dir)


def _describe(builder, data_dir):
  """Prints the contents of a prepared set and how to train from it."""
  splits = ", ".join(f"{s.num_examples} {name}" for name, s in builder.info.splits.items())
  print(f"  examples: {splits}; {builder.info.dataset_size / 1e6:.1f} MB")
  many = len(builder.info.metadata["labels"]) > 2
  print("train from it:")
  print(
    "  python launch/train.py --config=configs/unet_road.py:data=tfds"
    f" --config.data.source.dataset={builder.name}"
    f" --config.data.source.data_dir={shlex.quote(str(data_dir))}"
    + " --config.task.sigmoid=False"
    * many
  )
