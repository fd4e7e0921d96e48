"""Writes a set once as sharded ArrayRecord files of TFDS, for training by random access.

  python launch/prepare_data.py --name=kitti_road --source=data/kitti_road --data_dir=data/tfds
  python launch/prepare_data.py --name=camvid --source=data/camvid --data_dir=data/tfds

Pixels and labels are kept exactly, KITTI's black as ignored. A set that is there already is left
alone; remove its folder to write it anew. Exit code: 0 done, 1 an error that the message explains.
"""

from pathlib import Path

from absl import flags

from segjax import cli

NAME = flags.DEFINE_string("name", None, "Set: kitti_road or camvid.", required=True)
SOURCE = flags.DEFINE_string("source", None, "Folder of the set's own files.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder for TFDS sets.", required=True)
SHARDS = flags.DEFINE_integer("shards", 4, "Files per split.", lower_bound=1)


def main():
  from segjax.data.tfds_builders.prepare import prepare

  source, data_dir = Path(SOURCE.value).absolute(), Path(DATA_DIR.value).absolute()
  prepare(NAME.value, source, data_dir, SHARDS.value)


if __name__ == "__main__":
  cli.run(main)
