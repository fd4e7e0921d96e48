"""TFDS builders of the sets that have a source of files in `segjax.data.sources`.

Importing this module registers them with TFDS: `tfds.builder("kitti_road", data_dir=...)`.
"""

import io

import tensorflow_datasets as tfds
from PIL import Image

from segjax.data import sources

STORED_AS_IS = (".jpg", ".jpeg", ".png")  # formats that TFDS can decode


class Paired(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Copies the source of the builder's own name, in its order, without loss.

  An example is {"image": u8[H,W,3], "label": u8[H,W,1] in [0, classes) or 255, "name": string}.
  JPEG and PNG images keep their bytes; others and all labels are stored as PNG. The metadata
  holds "labels", the label table. The manual folder is the source's `folder`.
  """

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = "Set manual_dir to the folder of the set, see segjax.data.sources."
  url_infos = {}  # none; to look for them TFDS needs importlib_resources, which it does not ask for

  def _info(self):
    features = dict(
      image=tfds.features.Image(shape=(None, None, 3)),
      label=tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
      name=tfds.features.Text(),
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description=" ".join(self.__doc__.split()),
      features=tfds.features.FeaturesDict(features),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,  # example i is the source's, so that training is the same from both
    )

  def _split_generators(self, dl_manager):
    folder = str(dl_manager.manual_dir)
    splits = {s: sources.make(self.name, s, folder=folder) for s in sources.SPLITS}
    self.info.metadata["labels"] = [[n, list(c)] for n, c in splits["train"].labels.classes]
    return {split: self._generate_examples(source) for split, source in splits.items()}

  def _generate_examples(self, source):
    for i, name in enumerate(source.names):
      example = source[i]  # reads both files, so that a broken one is found now
      file = source.pairs[i][0]
      kept = file.suffix.lower() in STORED_AS_IS
      image = io.BytesIO(file.read_bytes()) if kept else _png(example["image"])
      yield i, dict(image=image, label=_png(example["label"]), name=name)


class KittiRoad(Paired):
  """KITTI road: Fritsch, Kuehnl, Geiger, ITSC 2013; road or not, 255 outside the evaluated area."""


class Camvid(Paired):
  """CamVid: Brostow et al., 2009, in SegNet's version; 11 classes, 255 for void."""


class Folder(Paired):
  """A folder of one's own, as the source `folder` reads it; 255 for what is not scored."""


def _png(array):
  file = io.BytesIO()
  Image.fromarray(array).save(file, "PNG")
  file.seek(0)
  return file


BUILDERS = {"kitti_road": KittiRoad, "camvid": Camvid, "folder": Folder}
