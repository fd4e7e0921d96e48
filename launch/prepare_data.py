"""Writes a set once as sharded ArrayRecord files of TFDS, for training by random access.

  python launch/prepare_data.py --name=kitti_road --source=data/kitti_road --data_dir=data/tfds
  python launch/prepare_data.py --name=camvid --source=data/camvid --data_dir=data/tfds

Pixels and labels are kept exactly, KITTI's black as ignored. A set that is there already is left
alone; remove its folder to write it anew. Exit code: 0 done, 1 an error that the message explains.
"""

import contextlib
import io
import logging
import tempfile
import time
from pathlib import Path

from absl import flags

from segjax import cli

NAME = flags.DEFINE_string("name", None, "Set: kitti_road or camvid.", required=True)
SOURCE = flags.DEFINE_string("source", None, "Folder of the set's own files.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder for TFDS sets.", required=True)
SHARDS = flags.DEFINE_integer("shards", 4, "Files a split, at most one an example.", lower_bound=1)


def main():
  import tensorflow_datasets as tfds

  from segjax.data import sources
  from segjax.data.tfds_builders import BUILDERS
  from segjax.errors import choose

  logging.getLogger("absl").setLevel(logging.ERROR)
  make = choose(BUILDERS, NAME.value, "data set")
  source, data_dir = Path(SOURCE.value).absolute(), Path(DATA_DIR.value).absolute()
  cli.make_folder(data_dir)
  builder = make(data_dir=data_dir)
  if builder.is_prepared():
    print(f"{builder.data_dir} is there already; remove it to write it anew")
    return tell(builder, data_dir)
  splits = [sources.make(builder.name, split, folder=str(source)) for split in sources.SPLITS]
  shards = min(SHARDS.value, *map(len, splits))  # TFDS wants an example in each
  start = time.perf_counter()
  print(f"writing {builder.data_dir} ...", flush=True)
  tfds.disable_progress_bar()
  config = tfds.download.DownloadConfig(manual_dir=source, num_shards=shards)
  chatter = contextlib.redirect_stdout(io.StringIO())  # TFDS talks of downloads; there are none
  with tempfile.TemporaryDirectory() as unused, chatter:
    how = dict(download_dir=unused, download_config=config, file_format="array_record")
    cli.writing(lambda _: builder.download_and_prepare(**how), data_dir)
  print(f"  written in {time.perf_counter() - start:.1f} s")
  return tell(builder, data_dir)


def tell(builder, data_dir):
  """Prints what a prepared set holds and how to train from it."""
  splits = ", ".join(f"{s.num_examples} {name}" for name, s in builder.info.splits.items())
  print(f"  examples: {splits}; {builder.info.dataset_size / 1e6:.1f} MB")
  many = len(builder.info.metadata["labels"]) > 2
  print("train from it:")
  print(
    "  python launch/train.py --config=configs/unet_road.py:data=tfds"
    f" --config.data.source.dataset={builder.name} --config.data.source.data_dir={data_dir}"
    + " --config.task.sigmoid=False"
    * many
  )


if __name__ == "__main__":
  cli.run(main)
