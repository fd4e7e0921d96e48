"""TFDS: sets really prepared as ArrayRecord and read back, every pixel equal to the source's."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import DATA, launch, write_kitti, write_pairs
from PIL import Image

from segjax.data import contents, pipeline, sources, tfds_builders
from segjax.data.checks import Subset
from segjax.data.datasets.tfds import TfdsSource, tfds_source
from segjax.data.labels import default_table
from segjax.data.tfds_builders import prepare
from segjax.errors import UserError


class Pets(tfds.core.GeneratorBasedBuilder):
  """A foreign set: values 1 to 3 under another key, a palette PNG, a plain class number too."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos = {}

  def _info(self):
    features = dict(
      image=tfds.features.Image(),
      label=tfds.features.ClassLabel(names=("cat", "dog")),
      segmentation_mask=tfds.features.Image(shape=(None, None, 1)),
      named=tfds.features.LabeledImage(labels=["a", "b", "c", "d"], shape=(None, None, 1)),
      numbers=tfds.features.Tensor(shape=(8, 10), dtype=np.int32),
      binary=tfds.features.Image(shape=(None, None, 1)),
      mixed=tfds.features.Tensor(shape=(8, 10), dtype=np.uint8),
    )
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return dict(train=self._generate_examples(6), test=self._generate_examples(2))

  def _generate_examples(self, count):
    for i in range(count):
      mask = (np.arange(80).reshape(8, 10) % 3 + 1).astype(np.uint8)
      picture = Image.fromarray(mask, "P")
      picture.putpalette([7, 9, 11] * 256)
      file = io.BytesIO()
      picture.save(file, "PNG")
      file.seek(0)
      image = np.full((8, 10, 3), i, np.uint8)
      masks = dict(segmentation_mask=file, named=mask[..., None], numbers=mask.astype(np.int32))
      white = np.where(mask == 1, 255, 0).astype(np.uint8)
      mixed = np.where(mask == 2, 1, white).astype(np.uint8) if count == 2 else white
      masks |= dict(binary=white[..., None], mixed=mixed)
      yield str(i), dict(image=image, label=0, **masks)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pets")
  Pets(data_dir=folder).download_and_prepare(file_format="array_record")
  return dict(dataset="pets", data_dir=str(folder))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """(folder of files, TFDS folder, launcher's result) of a small KITTI set of JPEG images."""
  folder, data_dir = tmp_path_factory.mktemp("kitti"), tmp_path_factory.mktemp("tfds")
  write_kitti(folder, count=9, ending="jpg")
  done = launch("prepare_data", "--name=kitti_road", f"--source={folder}", f"--data_dir={data_dir}")
  assert done.returncode == 0, done.stderr
  return folder, data_dir, done


def assert_same(stored, source, indices=None):
  assert len(stored) == len(source)
  assert stored.labels == source.labels
  for i in range(len(source)) if indices is None else indices:
    for key in ("image", "label"):
      assert stored[i][key].dtype == np.uint8
      np.testing.assert_array_equal(stored[i][key], source[i][key])


@pytest.mark.parametrize("split", sources.SPLITS)
def test_prepared_set_is_the_source(prepared, split):
  folder, data_dir, _ = prepared
  source = sources.make("kitti_road", split, folder=str(folder))
  stored = tfds_source(split, dataset="kitti_road", data_dir=str(data_dir))
  assert_same(stored, source)
  assert tuple(stored.names) == tuple(f"kitti_road/{split}/{i}" for i in range(len(source)))
  assert 255 in stored[0]["label"]
  builder = tfds.builder("kitti_road", data_dir=data_dir)
  assert [e["name"].decode() for e in builder.as_data_source(split)] == list(source.names)


def test_threads_read_the_same_batches_as_from_files(prepared):
  folder, data_dir, _ = prepared
  stored = tfds_source("train", dataset="kitti_road", data_dir=str(data_dir))
  batches = []
  for source in (sources.make("kitti_road", "train", folder=str(folder)), stored):
    resized = pipeline.Resized(source, (16, 24), 0)
    steps = pipeline.train_iterator(resized, batch_size=3, seed=1, num_threads=4)
    batches.append([next(steps) for _ in range(6)])
  for ours, theirs in zip(*batches, strict=True):
    for key in ("image", "label"):
      np.testing.assert_array_equal(ours[key], theirs[key])


def test_launcher_prints_its_files_and_writes_once(prepared):
  folder, data_dir, done = prepared
  assert "8 train, 1 val" in done.stdout and " MB" in done.stdout and "written in" in done.stdout
  assert "launch/train.py" in done.stdout and f"data_dir={data_dir}" in done.stdout
  shards = {f: f.stat().st_mtime_ns for f in data_dir.rglob("*.array_record*")}
  assert len(shards) == 2  # one per split: val has one example
  again = launch(
    "prepare_data", "--name=kitti_road", f"--source={folder}", f"--data_dir={data_dir}"
  )
  assert again.returncode == 0 and "there already" in again.stdout
  assert shards == {f: f.stat().st_mtime_ns for f in data_dir.rglob("*.array_record*")}


def test_jpeg_keeps_its_bytes(prepared):
  folder, data_dir, _ = prepared
  builder = tfds.builder("kitti_road", data_dir=data_dir)
  data = builder.as_data_source("train", decoders=dict(image=tfds.decode.SkipDecoding()))
  file = folder / "training" / "image_2" / f"{data[0]['name'].decode()}.jpg"
  assert data[0]["image"] == file.read_bytes()


def test_other_images_become_png_without_loss(tmp_path):
  write_kitti(tmp_path / "files", count=9, ending="bmp")
  builder = tfds_builders.KittiRoad(data_dir=tmp_path)
  config = tfds.download.DownloadConfig(manual_dir=tmp_path / "files")
  builder.download_and_prepare(file_format="array_record", download_config=config)
  stored = tfds_source("train", dataset="kitti_road", data_dir=str(tmp_path))
  assert stored.data[0]["image"].startswith(b"\x89PNG")  # TFDS's own decoders know few formats
  assert_same(stored, sources.make("kitti_road", "train", folder=str(tmp_path / "files")))


def break_image(folder):
  file = folder / "training" / "image_2" / "um_000000.png"
  file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize(
  ("name", "spoil", "says"),
  [
    ("kitti_rod", None, "did you mean 'kitti_road'"),
    ("kitti_road", lambda f: f.rename(f.with_name("gone")), "no such folder"),
    ("kitti_road", break_image, "um_000000.png"),
  ],
)
def test_launcher_errors_are_one_line(tmp_path, name, spoil, says):
  folder = tmp_path / "files"
  write_kitti(folder, count=2)
  (folder / "train.txt").write_text("um_000000\n")
  (folder / "val.txt").write_text("umm_000001\n")
  if spoil:
    spoil(folder)
  data_dir = tmp_path / "out"
  done = launch("prepare_data", f"--name={name}", f"--source={folder}", f"--data_dir={data_dir}")
  assert done.returncode == 1
  assert done.stderr.startswith("error: ") and len(done.stderr.strip().splitlines()) == 1
  assert says in done.stderr
  assert not list(data_dir.rglob("*array_record*"))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("fields", "names"),
  [
    (dict(label_key="segmentation_mask", classes=("x", "y", "z"), shift=-1), ("x", "y", "z")),
    (dict(label_key="numbers", classes=("x", "y", "z"), shift=-1), ("x", "y", "z")),
    (dict(label_key="named"), ("a", "b", "c", "d")),
  ],
)
def test_foreign_set(pets, fields, names):
  source = tfds_source("val", val_split="test", **pets, **fields)
  assert len(source) == 2 and source.labels.names == names
  expected = np.arange(80).reshape(8, 10) % 3 + 1 + fields.get("shift", 0)
  np.testing.assert_array_equal(source[1]["label"], expected)
  assert source[1]["image"].shape == (8, 10, 3) and len(np.unique(source[1]["image"])) == 1


def test_masks_of_black_and_white(pets):
  how = dict(classes=("sky", "pet"), val_split="test", **pets)
  white = np.arange(80).reshape(8, 10) % 3 == 0
  for split in sources.SPLITS:
    source = tfds_source(split, label_key="binary", **how)
    np.testing.assert_array_equal(source[0]["label"], white)
    assert contents.notes_of(source) == ["'binary' holds 0 and 255 alone: 255 is 'pet'"]
  for other in (dict(ignore_value=254), dict(classes=("a", "b", "c"))):
    source = tfds_source("train", label_key="binary", **(how | other))
    assert not source.binary and not contents.notes_of(source)
  for split, values in (("train", [0, 255]), ("val", [0, 1, 255])):  # val alone has a 1
    source = tfds_source(split, label_key="mixed", **how)
    assert not source.binary
    np.testing.assert_array_equal(np.unique(source[0]["label"]), values)
  how |= dict(train_split="train[:4]", val_split="train[4:]")
  source = tfds_source("test", label_key="mixed", **how)  # the test split alone has one
  with pytest.raises(
    UserError, match="label value 1, and the masks of train and val hold 0 and 255"
  ):
    source[0]
  how |= dict(train_split="none", val_split="test")  # a set for evaluations alone
  np.testing.assert_array_equal(tfds_source("val", label_key="binary", **how)[0]["label"], white)


def test_slices_and_ignored_values(pets):
  how = dict(label_key="segmentation_mask", classes=("x", "y"), shift=-1, ignore_value=3)
  split = dict(train_split="train[:4]", val_split="train[4:]")
  train, val = (tfds_source(s, **split, **how, **pets) for s in sources.SPLITS)
  assert (len(train), len(val)) == (4, 2)
  assert not set(train.names) & set(val.names)
  seen = {int(s[i]["image"][0, 0, 0]) for s in (train, val) for i in range(len(s))}
  assert seen == set(range(6))
  expected = np.array((0, 1, 255))[np.arange(80).reshape(8, 10) % 3]
  np.testing.assert_array_equal(train[0]["label"], expected)


@pytest.mark.parametrize(
  ("fields", "says"),
  [
    (dict(dataset=""), "dataset=NAME"),
    (dict(dataset="kitti_road"), "launch/prepare_data.py --name=kitti_road"),
    (dict(dataset="oxford_iiit_pet"), "tfds build oxford_iiit_pet --file_format=array_record"),
    (dict(dataset="no_such_set_at_all"), "not found"),
    (dict(dataset="odd name!"), "odd name!"),
    (dict(dataset="pets:9.9.9"), "9.9.9"),
    (dict(label_key="mask"), "keys: "),
    (dict(image_key="picture"), "segmentation_mask"),
    (dict(label_key="segmentation_mask"), "config.data.source.classes"),
    (dict(label_key="named", train_split="traim"), "splits: "),
  ],
)
def test_errors(pets, fields, says):
  with pytest.raises(UserError) as error:
    tfds_source("train", **(pets | fields))
  assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("fields", "says"),
  [
    (dict(label_key="segmentation_mask", classes=("x", "y", "z")), "label value 3"),
    (dict(label_key="segmentation_mask", classes=("x", "y"), shift=-1), "expected 1 to 2"),
    (dict(label_key="label"), "one value per pixel"),
    (dict(label_key="named", image_key="label"), "uint8"),
  ],
)
def test_errors_of_an_example(pets, fields, says):
  source = tfds_source("train", **pets, **fields)
  with pytest.raises(UserError, match=says):
    source[0]


def stored_image(array):
  """A source of one example, whose image is a PNG file of these pixels."""
  file = io.BytesIO()
  Image.fromarray(array).save(file, "PNG")
  data = [dict(image=file.getvalue(), label=np.zeros(array.shape[:2], np.uint8))]
  return TfdsSource(default_table(("a",)), ("set/train/0",), data, "image", "label", 0, 255)


def test_images_that_pillow_cannot_turn_to_8_bits_are_named(monkeypatch):
  with pytest.raises(UserError, match=r"set/train/0: an image of mode I;16, expected 8 bits"):
    stored_image(np.full((8, 10), 30000, np.uint16))[0]
  source = stored_image(np.zeros((8, 10, 3), np.uint8))
  assert source[0]["image"].shape == (8, 10, 3)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
  with pytest.raises(UserError, match=r"set/train/0: too large .*decompression bomb"):
    source[0]


def test_set_without_random_access(tmp_path):
  Pets(data_dir=tmp_path).download_and_prepare(file_format="tfrecord")
  with pytest.raises(UserError, match="convert_format"):
    tfds_source("train", dataset="pets", data_dir=str(tmp_path), label_key="named")


def test_reading_does_not_load_tensorflow(prepared):
  """Seconds of start and hundreds of MB in every reading process."""
  code = (
    "import sys; from segjax.data.datasets.tfds import tfds_source\n"
    f"s = tfds_source('train', dataset='kitti_road', data_dir={str(prepared[1])!r}); s[0]\n"
    "assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kitti_road", "camvid"])
def test_real_photographs(name, tmp_path):
  """Writes thirty of each split, compares every other one."""
  if not (DATA / name).is_dir():
    pytest.skip(f"SEGJAX_DATA names no folder with {name}/: no real photographs here")
  builder = tfds_builders.BUILDERS[name](data_dir=tmp_path)
  how = dict(manual_dir=DATA / name, max_examples_per_split=30, num_shards=3)
  config = tfds.download.DownloadConfig(**how)
  builder.download_and_prepare(file_format="array_record", download_config=config)
  for split in ("val", "train"):
    source = sources.make(name, split, folder=str(DATA / name))
    stored = tfds_source(split, dataset=name, data_dir=str(tmp_path))
    assert_same(stored, Subset(source, tuple(range(30))), range(0, 30, 2))


def test_a_folder_of_ones_own_as_shards(tmp_path, capsys):
  """Its examples, its classes, and a digest that changes when a mended mask is written anew."""
  folder, digests = write_pairs(tmp_path / "mine", count=5, classes=("a", "b", "c")), []
  mask = folder / "masks" / "x001.png"
  for i in range(2):
    prepare.prepare("folder", folder, tmp_path / f"out{i}", 2)
    assert "--config.data.source.dataset=folder" in capsys.readouterr().out
    for split in sources.SPLITS:
      how = dict(dataset="folder", data_dir=str(tmp_path / f"out{i}"))
      stored = tfds_source(split, **how)
      assert_same(stored, sources.make("folder", split, folder=str(folder)))
    digests += [stored.digest(), tfds_source("val", **how).digest()]
    label = np.array(Image.open(mask))
    label[0, 0] = 2
    Image.fromarray(label).save(mask)
  assert len(digests[0]) == 16
  assert digests[0] == digests[1] != digests[2] == digests[3]


@pytest.mark.parametrize("value", [0.9, None, "road", np.nan])
def test_labels_that_are_no_whole_numbers_are_named(value):
  data = [dict(image=np.zeros((2, 2, 3), np.uint8), label=np.full((2, 2), value))]
  source = TfdsSource(default_table(("a",)), ("set/train/0",), data, "image", "label", 0, 255)
  with pytest.raises(UserError, match=r"set/train/0: 'label' is .*expected whole numbers"):
    source[0]
