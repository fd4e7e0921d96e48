"""Writes a set as TFDS files for random access, or an annotation tool's export as masks.

  python launch/prepare_data.py --name=kitti_road --source=data/kitti_road --data_dir=data/tfds
  python launch/prepare_data.py --name=camvid --source=data/camvid --data_dir=data/tfds
  python launch/prepare_data.py --name=folder --source=mine --data_dir=data/mine --shards=64
  python launch/prepare_data.py --from=coco --source=export --output=my_data

--name: sharded ArrayRecord files; pixels and labels are kept exactly, KITTI's black as ignored. A
set that is there already is left alone; remove its folder to write it anew.
--from: the export of an annotation tool, with its images (or those in --images), becomes a folder
of images/, masks/ and classes.txt for configs/segmentation_folder.py. coco: JSON files; yolo:
data.yaml, images/, labels/ with polygons; labelme: a JSON file beside each image; cvat: "CVAT for
images"; label_studio: JSON. The smaller of two shapes that overlap is on top, CVAT's layers first.
Exit code: 0 done, 1 an error that the message explains; then nothing is written.
"""

from pathlib import Path

from absl import flags

from segjax import cli
from segjax.errors import UserError

NAME = flags.DEFINE_string("name", None, "Set: kitti_road, camvid or folder, your own.")
TOOL = flags.DEFINE_string("from", None, "Tool: coco, yolo, labelme, cvat or label_studio.")
SOURCE = flags.DEFINE_string("source", None, "Folder of the set's own files, or the export.",
                             required=True)  # fmt: skip
DATA_DIR = flags.DEFINE_string("data_dir", None, "With --name: folder for TFDS sets.")
SHARDS = flags.DEFINE_integer("shards", 4, "With --name: files per split.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "With --from: folder to be made.")
IMAGES = flags.DEFINE_string("images", None, "With --from: folder of the images.")
UNLABELLED = flags.DEFINE_string("unlabelled", "background", "With --from: pixels without a shape "
                                 "are background, or ignore: not scored.")  # fmt: skip


def main():
  if bool(NAME.value) == bool(TOOL.value):
    raise UserError("expected one of --name (a set of TFDS) and --from (an annotation tool)")
  needed = OUTPUT if TOOL.value else DATA_DIR
  if not needed.value:
    raise UserError(f"expected --{needed.name}, the folder to write to")
  source = Path(SOURCE.value).absolute()
  if TOOL.value:
    from segjax.data.annotations.convert import convert

    images = Path(IMAGES.value).absolute() if IMAGES.value else None
    output = Path(OUTPUT.value).absolute()
    convert(TOOL.value, source, output, images=images, unlabelled=UNLABELLED.value)
  else:
    from segjax.data.tfds_builders.prepare import prepare

    prepare(NAME.value, source, Path(DATA_DIR.value).absolute(), SHARDS.value)


if __name__ == "__main__":
  cli.run(main)
