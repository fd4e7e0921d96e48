"""Each source against its data set: counts, values, colours, splits; and the search for faults."""

import os
import shutil

import numpy as np
import pytest
from conftest import DATA, write_kitti, write_pairs
from PIL import Image

from segjax.data import checks, masks, sources
from segjax.data.datasets.dubai_aerial import DUBAI
from segjax.data.datasets.landcover import LANDCOVER
from segjax.data.labels import IGNORE, default_table
from segjax.data.shared_tables import FLOODNET
from segjax.errors import UserError

README_SHARES = {  # per cent of all pixels, from the data's README
  "camvid": {
    "train": [16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3, 4.0],
    "val": [9.2, 26.0, 0.6, 29.0, 8.7, 16.3, 0.9, 3.1, 1.8, 0.7, 2.2, 1.7],
  },
  "dubai_aerial": {
    "val": [17.2, 43.9, 8.4, 16.3, 13.7, 0.5, 0.0],
  },
}


def real(name):
  """Folder of a real data set."""
  if not (DATA / name).is_dir():
    pytest.skip(f"SEGJAX_DATA names no folder with {name}/: no real photographs here")
  return str(DATA / name)


def shares(source):
  """Per cent of all pixels, of each class and of ignored ones; labels are read by threads."""
  read = lambda i: np.bincount(source[i]["label"].ravel(), minlength=256)  # noqa: E731
  counts = np.sum(checks.map_threads(read, len(source)), 0)
  classes = len(source.labels)
  assert not counts[classes:IGNORE].any()
  return 100 * np.array([*counts[:classes], counts[IGNORE]]) / counts.sum()


def write(file, array, **kwargs):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.asarray(array, np.uint8)).save(file, **kwargs)


def picture(size=(4, 10)):
  return np.full((*size, 3), 90, np.uint8)


# ---------------------------------------------------------------------------- real data


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_real_camvid_counts_and_shares(split, count):
  source = sources.make("camvid", split, folder=real("camvid"))
  assert len(source) == len(set(source.names)) == count
  assert source[0]["image"].shape == (360, 480, 3)
  np.testing.assert_allclose(shares(source), README_SHARES["camvid"][split], atol=0.1)


def test_real_dubai_sizes_and_shares_of_val():
  folder = real("dubai_aerial")
  train, val = (sources.make("dubai_aerial", s, folder=folder) for s in ("train", "val"))
  assert (len(train), len(val)) == (56, 16)
  assert not set(train.names) & set(val.names)
  whole = sources.make("dubai_aerial", "val", folder=folder, unlabeled="class")
  assert whole.labels.names == (*train.labels.names, "Unlabeled")
  want = README_SHARES["dubai_aerial"]["val"]
  np.testing.assert_allclose(shares(whole), want, atol=0.1)
  ignored = [*want[:5], want[5] + want[6]]
  np.testing.assert_allclose(shares(val), ignored, atol=0.1)
  # Tiles 2 and 4 have palette masks; sizes as in the README, width x height.
  for tile, size in ((1, (644, 797)), (2, (544, 509)), (4, (846, 1099)), (8, (1479, 2149))):
    example = train[train.names.index(f"tile_{tile}_image_part_001")]
    assert np.abs(np.subtract(example["label"].shape, size)).max() <= 1
    assert example["image"].shape == (*example["label"].shape, 3)
    assert set(np.unique(example["label"])) - {IGNORE} <= set(range(5))


def test_real_ade20k_values_names_and_sample_split():
  folder = real("ade20k_sample")
  train, val = (sources.make("ade20k", s, folder=folder) for s in ("train", "val"))
  assert train.names == val.names
  assert len(val) == 3
  seeded = dict(folder=folder, all_below=0, train_fraction=2 / 3)
  parts = [sources.make("ade20k", s, **seeded).names for s in ("train", "val")]
  assert [len(p) for p in parts] == [2, 1]
  assert len(set(val.labels.names)) == len({c for _, c in val.labels.classes}) == 150
  assert val.labels.names[:4] == ("wall", "building", "sky", "floor")
  assert [val.labels.names[i - 1] for i in (45, 59, 131)] == [
    "chest of drawers", "screen door", "screen",
  ]  # fmt: skip
  found = set()
  for i, (_, file) in enumerate(val.pairs):
    raw, label = np.asarray(Image.open(file)), val[i]["label"]
    assert (label[raw == 0] == IGNORE).all()
    np.testing.assert_array_equal(label[raw > 0], raw[raw > 0] - 1)
    found |= set(np.unique(raw).tolist())
  assert found == {0, 1, 2, 3, 5, 7, 10, 12, 14, 18, 21, 44, 81, 88, 97, 103}


def test_real_classes_in_folders():
  train, val = (
    sources.make("folder", s, kind="classification", folder=real("cifar10_subset"))
    for s in ("train", "val")
  )
  assert (len(train), len(val)) == (5000, 1000)
  assert train.labels.names == val.labels.names
  assert train.labels.names[::9] == ("airplane", "truck")
  assert np.bincount([train[i]["label"] for i in range(0, 5000, 50)]).tolist() == [10] * 10
  assert train[4999]["image"].shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["kitti_road", "ade20k_sample"])
def test_real_files_have_no_fault(name):
  source = sources.make(name.removesuffix("_sample"), "val", folder=real(name), complete=False)
  assert sources.check(source) == []


# ---------------------------------------------------------------------------- tiny sets


def test_camvid_void_lists_and_colors(tmp_path):
  label = np.arange(12).repeat(10).reshape(12, 10)
  for name in ("b", "a", "c"):
    write(tmp_path / "train" / f"{name}.png", picture(label.shape))
    write(tmp_path / "trainannot" / f"{name}.png", label)
  source = sources.make("camvid", "train", folder=str(tmp_path))
  assert source.names == ("a", "b", "c")
  want = np.where(label == 11, IGNORE, label)
  np.testing.assert_array_equal(source[0]["label"], want)
  (tmp_path / "train.txt").write_text("/X/train/c.png /X/trainannot/c.png\n/X/train/a.png y\n")
  source = sources.make("camvid", "train", folder=str(tmp_path))
  assert source.names == ("c", "a")
  write(tmp_path / "trainannot" / "a.png", source.labels.colorize(want))
  np.testing.assert_array_equal(source[1]["label"], want)


@pytest.mark.parametrize("val", ["val", "test"])
def test_floodnet_own_layout(tmp_path, val):
  label = np.arange(8).repeat(5).reshape(4, 10)
  for phase in ("train", val):
    write(tmp_path / phase / "image" / "x.jpg", picture())
    write(tmp_path / phase / "mask" / "x.png", label)
    write(tmp_path / phase / "image" / "y.jpg", picture())
    write(tmp_path / phase / "mask" / "y.png", FLOODNET.colorize(label))
  for split in ("train", "val"):
    source = sources.make("floodnet", split, folder=str(tmp_path))
    assert source.names == ("x", "y")
    for i in range(2):
      np.testing.assert_array_equal(source[i]["label"], label)
  write(tmp_path / val / "mask" / "x.png", label + 1)
  with pytest.raises(UserError, match=r"x\.png: label value 8 is outside .* 0 to 7 .* 5 pixels"):
    sources.make("floodnet", "val", folder=str(tmp_path))[0]


def test_floodnet_public_layout_merged_and_whole(tmp_path):
  label = np.arange(10).repeat(4).reshape(4, 10)
  write(tmp_path / "train" / "train-org-img" / "7301.jpg", picture())
  write(tmp_path / "train" / "train-label-img" / "7301_lab.png", label)
  source = sources.make("floodnet", "train", folder=str(tmp_path))
  got = [source.labels.names[v] for v in source[0]["label"].ravel()[::4]]
  assert ",".join(got) == ("Background,Building,Building,Road,Road,Water,Tree,Vehicle,Pool,Grass")
  source = sources.make("floodnet", "train", folder=str(tmp_path), merge_public=False)
  np.testing.assert_array_equal(source[0]["label"], label)
  assert source.labels.names[3] == "Road-flooded"
  with pytest.raises(UserError, match="expected a folder val or test"):
    sources.make("floodnet", "val", folder=str(tmp_path))


@pytest.mark.parametrize("layout", ["one", "split", "published"])
def test_landcover_layouts_and_colors_a_few_units_off(tmp_path, layout):
  colors = np.array([c for _, c in LANDCOVER.classes] + [(0, 0, 0)])
  mask = colors.repeat(4, 0).reshape(7, 4, 3)
  off = np.where(mask > 0, mask - 9, 7)
  for i in range(10):
    base = tmp_path if layout == "one" else tmp_path / ("val" if i > 6 else "train")
    write(base / f"{i:04d}_sat.jpg", picture((7, 4)))
    if layout != "published" or i <= 6:
      write(base / f"{i:04d}_mask.png", off if i % 2 else mask)
  fields = dict(folder=str(tmp_path), train_fraction=0.7)
  train, val = (sources.make("landcover", s, **fields) for s in ("train", "val"))
  assert not set(train.names) & set(val.names)
  assert (len(train), len(val)) == ((5, 2) if layout == "published" else (7, 3))
  for i in range(len(train)):
    assert train[i]["label"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, IGNORE]


def test_landcover_refuses_red_and_masks_of_numbers(tmp_path):
  write(tmp_path / "0001_sat.jpg", picture())
  write(tmp_path / "0001_mask.png", np.full((4, 10, 3), (250, 3, 3)))
  source = sources.make("landcover", "train", folder=str(tmp_path), train_fraction=1.0)
  with pytest.raises(UserError, match=r"0001_mask\.png: colour \(255, 0, 0\) belongs to no class"):
    source[0]
  write(tmp_path / "0001_mask.png", np.full((4, 10), 3))
  with pytest.raises(UserError, match=r"colour \(3, 3, 3\) belongs to no class"):
    source[0]


def test_dubai_without_lists_holds_two_parts_of_each_tile_for_val(tmp_path):
  mask = np.array([c for _, c in DUBAI.classes] + [(155, 155, 155), (0, 0, 0)])
  for tile in (1, 2):
    for part in range(1, 10):
      name = f"image_part_{part:03d}"
      write(tmp_path / f"Tile {tile}" / "images" / f"{name}.jpg", picture((7, 1)))
      file = tmp_path / f"Tile {tile}" / "masks" / f"{name}.png"
      write(file, mask[:, None])
      if tile == 2:
        Image.open(file).quantize(8).save(file)
  train, val = (sources.make("dubai_aerial", s, folder=str(tmp_path)) for s in ("train", "val"))
  assert (len(train), len(val)) == (14, 4)
  assert val.names[0] == "tile_1_image_part_004"
  for i in range(4):
    assert val[i]["label"][:, 0].tolist() == [0, 1, 2, 3, 4, IGNORE, IGNORE]
  val = sources.make("dubai_aerial", "val", folder=str(tmp_path), unlabeled="class")
  assert val[3]["label"][:, 0].tolist() == [0, 1, 2, 3, 4, 5, IGNORE]
  (tmp_path / "train.txt").write_text("Tile 1/images/image_part_004.jpg\tx\n")
  for split in ("train", "val"):  # or both would hold tile 1, part 4
    with pytest.raises(UserError, match=r"one of train\.txt and val\.txt, expected both or none"):
      sources.make("dubai_aerial", split, folder=str(tmp_path))


def test_ade20k_split_folders_and_names_without_a_list(tmp_path):
  for part in ("training", "validation"):
    write(tmp_path / "images" / part / f"{part}.jpg", picture((1, 2)))
    write(tmp_path / "annotations" / part / f"{part}.png", [[0, 150]])
  val = sources.make("ade20k", "val", folder=str(tmp_path))
  assert val.names == ("validation",)
  assert val[0]["label"].tolist() == [[IGNORE, 149]]
  assert val.labels.names[::149] == ("class_001", "class_150")


@pytest.mark.parametrize(
  "text",
  ["", "Idx,Name\n1,wall\n", "Idx;Name\n" + "".join(f"{i};x\n" for i in range(1, 151)),
   "idx,name\n" + "".join(f"{i},x\n" for i in range(1, 151)),
   "Idx,Name\n" + "".join(f"{i},x\n" for i in range(1, 150)) + "last,x\n",
   "Idx,Name\n" + "".join(f"{i},x\n" for i in range(1, 150)) + "150\n"],
)  # fmt: skip
def test_another_table_of_ade20k_is_one_error(text, tmp_path):
  write(tmp_path / "images" / "training" / "a.jpg", picture((1, 2)))
  write(tmp_path / "annotations" / "training" / "a.png", [[0, 150]])
  (tmp_path / "objectInfo150.csv").write_text(text)
  with pytest.raises(UserError, match=r"objectInfo150\.csv: found \d+ rows .*, expected a table"):
    sources.make("ade20k", "train", folder=str(tmp_path))


@pytest.mark.parametrize("size", [8, 32])
def test_digits(size):
  train, val = (sources.make("digits", s, size=size) for s in ("train", "val"))
  assert (len(train), len(val)) == (1438, 359)
  assert not set(train.names) & set(val.names)
  assert train.labels.names == tuple("0123456789")
  example = train[5]
  assert example["image"].shape == (size, size, 3)
  assert example["image"].dtype == example["label"].dtype == np.uint8
  assert example["label"].shape == ()
  assert train.images.max() == 255
  zeros, ones = (train.images[train.classes == c].mean(0)[..., 0] for c in (0, 1))
  middle = (slice(3 * size // 8, 5 * size // 8),) * 2
  assert zeros[middle].mean() < 100 < ones[middle].mean()  # a zero has a hole
  other = sources.make("digits", "val", size=size, split_seed=1)
  assert other.names != val.names


@pytest.mark.parametrize("layout", ["folders", "names", "one_folder", "one_folder_of_names"])
def test_folder_of_classes(tmp_path, layout):
  for split in ("train", "test"):
    base = tmp_path / split if layout in ("folders", "names") else tmp_path
    for c, name in enumerate(("cat_small", "dog")):
      for i in range(4 if split == "train" else 2):
        stem = f"{split}{i}"
        file = f"{name}/{stem}" if "folders" in layout or layout == "one_folder" else (
          f"{name}_{stem}"
        )  # fmt: skip
        write(base / f"{file}.png", np.full((3, 5, 3), 100 * c + i))
  fields = dict(folder=str(tmp_path), kind="classification", train_fraction=8 / 12)
  parts = {s: sources.make("folder", s, **fields) for s in ("train", "val")}
  assert [len(p) for p in parts.values()] == [8, 4]
  for part in parts.values():
    assert part.labels.names == ("cat_small", "dog")
    for i in range(len(part)):
      example = part[i]
      assert example["label"] == (example["image"][0, 0, 0] >= 100)
      assert (example["label"].dtype, example["label"].shape) == (np.uint8, ())
  with pytest.raises(UserError, match=r"class 'dog' is not one of the 1 classes \(cat_small\)"):
    sources.make("folder", "train", classes=("cat_small",), **fields)


def test_a_name_without_its_class_is_reported(tmp_path):
  for name in ("cat_1", "dog_1", "dog2"):
    write(tmp_path / f"{name}.png", picture())
  fields = dict(folder=str(tmp_path), kind="classification", train_fraction=1.0)
  with pytest.raises(UserError, match=r"dog2\.png: class '' is not one of the 2 .*\(cat, dog\)"):
    sources.make("folder", "train", **fields)


def test_a_listed_name_without_its_image_is_a_fault(tmp_path):
  for name in ("cat_1", "dog_1", "dog_2"):
    write(tmp_path / f"{name}.png", picture())
  (tmp_path / "train.txt").write_text("cat_1\ncat_9\ndog_1\n")
  (tmp_path / "val.txt").write_text("dog_2\n")
  fields = dict(folder=str(tmp_path), kind="classification")
  with pytest.raises(UserError, match=r"1 listed name\(s\) have no image, e\.g\. 'cat_9'"):
    sources.make("folder", "train", **fields)
  good, faults = sources.without_broken(sources.make("folder", "train", complete=False, **fields))
  assert faults == [("cat_9", f"{tmp_path}: 'cat_9' has no image")]
  assert [int(good[i]["label"]) for i in range(len(good))] == [0, 1]


@pytest.mark.parametrize("place", ["", "images"])
def test_images_alone_need_no_labels(tmp_path, place):
  folder = tmp_path / "set"
  (folder / place).mkdir(parents=True)
  pictures = np.random.default_rng(0).integers(0, 255, (5, 7, 9, 3)).astype(np.uint8)
  for i, picture in enumerate(pictures):
    Image.fromarray(picture).save(folder / place / f"{i}.png")
  how = dict(folder=str(folder), kind="images", train_fraction=0.6)
  train, val = (sources.make("folder", split, **how) for split in ("train", "val"))
  assert (len(train), len(val)) == (3, 2)
  for source in (train, val):
    for i, name in enumerate(source.names):
      np.testing.assert_array_equal(source[i]["image"], pictures[int(name)])
  with pytest.raises(UserError, match="one class per image, the net needs a label image"):
    sources.labelled(train, "mask", "it", "the net")
  with pytest.raises(UserError, match=r"classes is 'four', expected names such as"):
    sources.make("folder", "train", folder=str(folder), classes="four")


def test_folder_of_pairs(tmp_path):
  write_pairs(tmp_path)
  os.rename(tmp_path / "masks", tmp_path / "targets")
  fields = dict(folder=str(tmp_path), kind="pairs", train_fraction=1.0)
  source = sources.make("folder", "train", **fields)
  example = source[0]
  assert sorted(example) == ["image", "target"]
  assert example["target"].shape == example["image"].shape
  assert len(source.labels) == 0
  write(tmp_path / "targets" / "x001.png", picture())
  with pytest.raises(UserError, match=r"x001\.png: target is 10x4 pixels"):
    source[1]
  with pytest.raises(UserError, match="kind is 'pair', expected one of segmentation"):
    sources.make("folder", "train", folder=str(tmp_path), kind="pair")
  assert sources.labelled(source, "target", "it", "the task 'x'").notes == source.notes
  (*_, note) = sources.labelled(source, "nothing", "it", "the task 'x'").notes
  assert note == "the task 'x' does not look at the target images"
  for target in list((tmp_path / "targets").iterdir()):
    shutil.copy(target, target.with_stem(f"{target.stem}_a"))
    target.rename(target.with_stem(f"{target.stem}_b"))
  with pytest.raises(UserError, match=r"'_a' or '_b' behind; set .*\.source\.mask_suffix"):
    sources.make("folder", "train", **fields)
  source = sources.make("folder", "train", mask_suffix="_a", **fields)
  assert {str(target)[-6:] for _, target in source.pairs} == {"_a.png"}
  os.rename(tmp_path / "targets", tmp_path / "clean")
  with pytest.raises(UserError, match=r"expected targets in it.* clean/: set .*source\.targets"):
    sources.make("folder", "train", **fields)


def test_kitti_road_refuses_colors_of_its_own(tmp_path):
  write_kitti(tmp_path)
  file = tmp_path / "training" / "gt_image_2" / "um_road_000000.png"
  write(file, np.full((40, 120, 3), (128, 64, 128)))
  source = sources.make("kitti_road", "train", folder=str(tmp_path), train_fraction=1.0)
  with pytest.raises(UserError, match=r"um_road_000000\.png: colour \(128, 64, 128\)"):
    source[source.names.index("um_000000")]


# ---------------------------------------------------------------------------- broken files


def break_one_percent(folder, count=600):
  """Writes pairs of which six are broken, each in a way of its own; {name: words of its fault}."""
  write_pairs(folder, count=count, size=(10, 12))
  images, masks = folder / "images", folder / "masks"
  whole = (images / "x100.png").read_bytes()
  (images / "x100.png").write_bytes(whole[: len(whole) // 2])
  (masks / "x200.png").write_text("not an image")
  write(masks / "x300.png", np.zeros((10, 11)))
  write(masks / "x400.png", np.full((10, 12), 9))
  (masks / "x500.png").unlink()
  write(masks / "x555.png", np.full((4, 4, 3), (200, 200, 90)))
  return {
    "x100": ["images/x100.png: cannot be read"],
    "x200": ["masks/x200.png: not an image"],
    "x300": ["masks/x300.png: label is 11x10"],
    "x400": ["masks/x400.png: label value 9 is outside the table"],
    "x500": ["images/x500.png: 'x500' has no label"],
    "x555": ["masks/x555.png: colour (200, 200, 90) belongs to no class", "label is 4x4"],
  }


def test_all_broken_files_are_found_in_one_pass_and_left_out(tmp_path):
  want = break_one_percent(tmp_path)
  fields = dict(folder=str(tmp_path), train_fraction=1.0)
  with pytest.raises(UserError, match=r"1 of 600 images have no label: x500\.png"):
    sources.make("folder", "train", **fields)
  source = sources.make("folder", "train", complete=False, **fields)
  faults = sources.check(source)
  assert [name for name, _ in faults] == [n for n, texts in want.items() for _ in texts]
  for (_, fault), words in zip(faults, [w for t in want.values() for w in t], strict=True):
    assert words in fault
  message = checks.report(faults, len(source))
  assert message.startswith("6 of 600 examples are broken, 7 faults:")
  for words in want.values():
    assert all(w in message for w in words)
  good, again = sources.without_broken(source)
  assert again == faults
  assert len(good) == 594
  assert not set(good.names) & set(want)
  assert good.labels is source.labels
  example = good[good.names.index("x599")]
  np.testing.assert_array_equal(example["image"], source[599]["image"])
  assert sources.check(good) == []


def test_labels_without_an_image_and_lists_without_a_file_are_faults(tmp_path):
  write_pairs(tmp_path)
  (tmp_path / "images" / "x003.png").unlink()
  fields = dict(folder=str(tmp_path), complete=False)
  source = sources.make("folder", "train", train_fraction=1.0, **fields)
  lone = f"{tmp_path / 'masks' / 'x003.png'}: belongs to no image"
  assert sources.check(source) == [("", lone)]
  assert checks.report([("", lone)], 5) == f"labels without an image, 1:\n  {lone}"
  good, faults = sources.without_broken(source)
  assert good is source
  assert faults == []
  (tmp_path / "train.txt").write_text("x001\nx003\n")
  (tmp_path / "val.txt").write_text("x000\n")
  ((name, fault),) = sources.check(sources.make("folder", "train", **fields))
  assert name == "x003"
  assert "'x003' has no image" in fault
  assert sources.check(sources.make("folder", "val", **fields)) == []


def test_contents_of_what_is_left_do_not_read_the_others(tmp_path):
  write_pairs(tmp_path, count=4)
  fields = dict(folder=str(tmp_path), train_fraction=1.0, complete=False)
  (tmp_path / "images" / "x001.png").unlink()
  (tmp_path / "images" / "x001.png").symlink_to(tmp_path / "not_fetched")
  good, faults = sources.without_broken(sources.make("folder", "train", **fields))
  assert good.names == ("x000", "x002", "x003") and len(faults) == 1
  (tmp_path / "images" / "x001.png").unlink()
  (tmp_path / "masks" / "x001.png").unlink()
  assert good.digest() == sources.make("folder", "train", **fields).digest()


def test_a_report_is_cut_after_twenty_faults():
  lines = checks.report([(f"n{i}", f"n{i}.png: gone") for i in range(33)], 90).splitlines()
  assert lines[0] == "33 of 90 examples are broken, 33 faults:"
  assert (len(lines), lines[20], lines[21]) == (22, "  n19.png: gone", "  ... and 13 more")


def test_nothing_but_broken_files_is_an_error(tmp_path):
  write_pairs(tmp_path, count=3)
  for file in (tmp_path / "masks").iterdir():
    file.write_text("")
  source = sources.make("folder", "train", folder=str(tmp_path), train_fraction=1.0)
  with pytest.raises(UserError, match="3 of 3 examples are broken"):
    sources.without_broken(source)


def test_damaged_files_of_every_kind_end_in_one_kind_of_error(tmp_path):
  rng, table = np.random.default_rng(0), default_table(("a",))
  whole = Image.fromarray(rng.integers(0, 255, (20, 30, 3)).astype(np.uint8))
  failed = 0
  for ending in ("png", "jpg", "bmp", "webp"):
    file = tmp_path / f"x.{ending}"
    whole.save(file)
    data = file.read_bytes()
    for _ in range(60):
      damaged = bytearray(data[: rng.integers(len(data))])
      for place in rng.integers(0, max(min(len(damaged), 60), 1), 3 if damaged else 0):
        damaged[place] = rng.integers(256)
      file.write_bytes(damaged)
      try:
        masks.read_mask(file, table, {0: 0})
      except UserError as error:
        failed += 1
        assert str(file) in str(error)
  assert failed == 240


def test_each_set_has_a_file_of_its_name():
  for name, function in sources.SOURCES.items():
    room, _, file = function.__module__.removeprefix("segjax.data.").partition(".")
    assert room == ("synthetic" if name.endswith("_scenes") else "datasets")
    assert file == "sources" if room == "synthetic" else name.startswith(file)
