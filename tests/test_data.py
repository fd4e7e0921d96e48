"""Sources and pipelines: layouts, label values, alignment, shuffling, shards, tails, errors."""

import inspect
import threading

import numpy as np
import pytest
from conftest import write_kitti, write_pairs
from PIL import Image

from segjax import config as config_lib
from segjax.data import pipeline, sources
from segjax.data.labels import IGNORE, LabelTable, default_table
from segjax.errors import UserError
from segjax.training import coverage, input_pipeline, steps


class Numbered:
  """Example i is an image whose pixels are i, and a label that says i % 2."""

  labels = default_table(("even", "odd"))

  def __init__(self, count):
    self.count = count
    self.names = tuple(map(str, range(count)))

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    return dict(image=np.full((4, 4, 3), i, np.uint8), label=np.full((4, 4), i % 2, np.uint8))


def numbers(batch):
  return batch["image"][:, 0, 0, 0].tolist()


def numbered(count):
  return pipeline.Resized(Numbered(count), (4, 4), 1)


# ---------------------------------------------------------------------------- sources


@pytest.mark.parametrize("name", sources.SOURCES)
def test_config_lists_exactly_the_fields_of_each_source(name):
  fields = inspect.signature(sources.SOURCES[name]).parameters
  defaults = {k: p.default for k, p in fields.items() if p.default is not inspect.Parameter.empty}
  assert config_lib.DATA_SOURCES[name] == defaults


def test_road_scenes_is_pure_and_its_splits_differ():
  fields = dict(height=48, width=96, num_train=3, num_val=2)
  train = sources.make("road_scenes", "train", **fields)
  again = sources.make("road_scenes", "train", **fields)
  val = sources.make("road_scenes", "val", **fields)
  assert (len(train), len(val)) == (3, 2)
  for i in range(3):
    np.testing.assert_array_equal(train[i]["image"], again[i]["image"])
    assert set(np.unique(train[i]["label"])) <= {0, 1}
  assert not set(train.names) & set(val.names)
  assert not np.array_equal(train[0]["image"], val[0]["image"])
  every = sources.make("road_scenes", "train", classes="all", **fields)
  road = np.isin(every[0]["label"], [every.labels.names.index(n) for n in ("road", "lane_marking")])
  np.testing.assert_array_equal(road, train[0]["label"] == 1)


def test_drawn_sources_end_and_their_splits_share_no_scene():
  fields = dict(height=32, width=32, num_val=2)
  val = sources.make("aerial_scenes", "val", num_train=3, **fields)
  assert len(list(val)) == 2
  np.testing.assert_array_equal(val[-1]["image"], val[1]["image"])
  with pytest.raises(UserError, match=r"num_train is 1000001, expected at most 1000000"):
    sources.make("aerial_scenes", "val", num_train=1_000_001, **fields)


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("black", ["ignore", "not_road"])
def test_kitti_road_layout_and_colors(tmp_path, ending, black):
  roads = write_kitti(tmp_path, ending=ending)
  fields = dict(folder=str(tmp_path), black=black, train_fraction=0.5)
  parts = [sources.make("kitti_road", s, **fields) for s in ("train", "val")]
  assert sorted(parts[0].names + parts[1].names) == sorted(roads)
  for part in parts:
    for i, name in enumerate(part.names):
      label = part[i]["label"]
      if black == "ignore":
        assert (label[:3] == IGNORE).all()
        assert (label[-1, :2] == IGNORE).all()
      else:
        assert (label[:3] == 0).all()
        assert (label[-1, :2] == 1).all()
      np.testing.assert_array_equal(label[3:-1], roads[name][3:-1])


def test_kitti_road_splits_by_files_or_by_seed(tmp_path):
  roads = sorted(write_kitti(tmp_path))
  (tmp_path / "train.txt").write_text("\n".join(roads[:4]))
  (tmp_path / "val.txt").write_text("\n".join(roads[4:]) + "\n\n")
  make = lambda split, **kw: sources.make("kitti_road", split, folder=str(tmp_path), **kw)  # noqa: E731
  assert make("train").names == tuple(roads[:4])
  assert make("val").names == tuple(roads[4:])
  seeded = [
    make("train", split_by="seed", train_fraction=0.5, split_seed=s).names for s in (1, 1, 2)
  ]
  assert seeded[0] == seeded[1] != seeded[2]
  (tmp_path / "val.txt").write_text("um_999999\n")
  with pytest.raises(UserError, match=r"no image.*um_999999"):
    make("val")


def test_real_kitti_road(kitti):
  train = sources.make("kitti_road", "train", folder=str(kitti))
  val = sources.make("kitti_road", "val", folder=str(kitti), black="not_road")
  assert (len(train), len(val)) == (193, 37)
  label = np.concatenate([val[i]["label"].ravel() for i in range(0, 37, 6)])
  assert set(np.unique(label)) == {0, 1}
  assert 0.1 < label.mean() < 0.3
  # The original PNGs hold the same label, and nearly the same image as the JPEG.
  png = sources.make(
    "kitti_road", "train", folder=str(kitti / "original_png"), split_by="seed", train_fraction=1.0
  )
  i = train.names.index(png.names[0])
  np.testing.assert_array_equal(png[0]["label"], train[i]["label"])
  assert np.abs(png[0]["image"].astype(int) - train[i]["image"]).mean() < 8


def test_folder_reads_index_palette_and_color_masks_alike(tmp_path):
  write_pairs(tmp_path / "index", classes=("ground 0 0 0", "thing 250 10 20"))
  make = lambda name: sources.make("folder", "train", folder=str(tmp_path / name))  # noqa: E731
  index = make("index")
  assert index.labels.classes == (("ground", (0, 0, 0)), ("thing", (250, 10, 20)))
  for kind in ("palette", "color"):
    write_pairs(tmp_path / kind, classes=("ground 0 0 0", "thing 250 10 20"))
    for file in (tmp_path / kind / "masks").iterdir():
      label = np.array(Image.open(file))
      mask = Image.fromarray(label).convert("P")
      mask.putpalette(index.labels.palette.ravel().tolist())
      (mask if kind == "palette" else mask.convert("RGB")).save(file)
    other = make(kind)
    for i in range(len(index)):
      np.testing.assert_array_equal(index[i]["label"], other[i]["label"])


def test_folder_ignore_value_and_split_folders(tmp_path):
  for split in ("train", "val"):
    write_pairs(tmp_path / split, count=2 if split == "val" else 3)
  (tmp_path / "classes.txt").write_text("ground\nthing\n")
  file = tmp_path / "val" / "masks" / "x000.png"
  label = np.array(Image.open(file))
  label[:5] = 7
  Image.fromarray(label).save(file)
  val = sources.make("folder", "val", folder=str(tmp_path), ignore_value=7)
  assert len(val) == 2
  assert len(sources.make("folder", "train", folder=str(tmp_path))) == 3
  got = val[0]["label"]
  assert (got[:5] == IGNORE).all()
  np.testing.assert_array_equal(got[5:], label[5:])


# ---------------------------------------------------------------------------- errors


def folder_source(tmp_path, split="train", **fields):
  return sources.make("folder", split, folder=str(tmp_path), **{"train_fraction": 1.0} | fields)


def test_errors_of_construction_name_the_culprit(tmp_path, monkeypatch):
  monkeypatch.delenv("SEGJAX_DATA", raising=False)
  with pytest.raises(UserError, match=r"no such folder: .*nowhere"):
    sources.make("folder", "train", folder=str(tmp_path / "nowhere"))
  with pytest.raises(UserError, match=r"config.data.source.folder"):
    sources.make("kitti_road", "train")
  with pytest.raises(UserError, match="did you mean 'kitti_road'"):
    sources.make("kitti_raod", "train")
  with pytest.raises(UserError, match="did you mean 'black'"):
    sources.make("kitti_road", "train", blac="ignore")
  with pytest.raises(UserError, match="splits: train, val, test"):
    sources.make("road_scenes", "tests")
  write_pairs(tmp_path)
  with pytest.raises(UserError, match="'val' is empty"):
    folder_source(tmp_path, "val")
  (tmp_path / "masks" / "x002.png").unlink()
  with pytest.raises(UserError, match=r"1 of 6 images have no label: x002\.png"):
    folder_source(tmp_path)
  (tmp_path / "classes.txt").write_text("ground\nthing 300 0 0\n")
  with pytest.raises(UserError, match=r"classes\.txt, line 2: found 'thing 300 0 0'"):
    folder_source(tmp_path)
  (tmp_path / "classes.txt").unlink()
  with pytest.raises(UserError, match="write one class per line"):
    folder_source(tmp_path)


def test_another_folder_than_that_of_the_set_is_named_before_a_missing_table(tmp_path, monkeypatch):
  data = write_pairs(tmp_path / "set")
  with pytest.raises(UserError, match=r"images; expected image files in it; there is set/"):
    folder_source(tmp_path)
  with pytest.raises(UserError, match=r"no such folder: .*/images/masks"):
    folder_source(data / "images")
  monkeypatch.setenv("SEGJAX_DATA", str(tmp_path))
  with pytest.raises(UserError, match=r"/folder, of SEGJAX_DATA; give --config\.data\.source\."):
    sources.make("folder", "train")


def test_masks_beside_their_images_with_the_same_names_are_to_be_moved(tmp_path):
  write_pairs(tmp_path)
  for file in (tmp_path / "images").iterdir():
    Image.open(file).convert("RGB").save(tmp_path / f"{file.stem}.jpg")
    (tmp_path / "masks" / file.name).rename(tmp_path / file.name)
    file.unlink()
  (tmp_path / "images").rmdir()
  (tmp_path / "masks").rmdir()
  with pytest.raises(UserError, match=r"remove one of them, or move the masks to masks/"):
    folder_source(tmp_path)


def test_numbers_outside_their_limits_are_reported(tmp_path):
  write_pairs(tmp_path)
  with pytest.raises(UserError, match=r"train_fraction is 1\.5, expected a number from 0 to 1"):
    folder_source(tmp_path, train_fraction=1.5)
  with pytest.raises(UserError, match=r"split_seed is -1, expected 0 or more"):
    folder_source(tmp_path, split_seed=-1)
  with pytest.raises(UserError, match=r"data\.source\.seed is -1, expected 0 or more"):
    sources.make("road_scenes", "train", seed=-1)
  config = config_lib.default()
  config.seed = -1
  with pytest.raises(UserError, match=r"^seed is -1, expected 0 or more"):
    input_pipeline.make_source(config, "train", training=True)


@pytest.mark.parametrize("count", [0, 1, 255, 256])
def test_a_label_table_has_from_1_to_255_classes(tmp_path, count):
  write_pairs(tmp_path, classes=[f"c{i}" for i in range(count)])
  if count in (1, 255):
    assert len(folder_source(tmp_path).labels) == count
    return
  with pytest.raises(UserError, match=rf"'folder' has {count} classes, expected 1 to 255"):
    folder_source(tmp_path)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_files_that_differ_in_their_ending_alone_are_reported(tmp_path, part):
  write_pairs(tmp_path)
  file = tmp_path / part / "x002.png"
  Image.open(file).convert("RGB").save(file.with_suffix(".jpg"))
  with pytest.raises(UserError, match=rf"{part}/x002\.jpg and x002\.png differ in their ending"):
    folder_source(tmp_path)


@pytest.mark.parametrize(
  ("dtype", "ending"), [(np.uint16, "png"), (np.int32, "tif"), (np.float32, "tif")]
)
def test_images_of_more_than_8_bits_are_reported(tmp_path, dtype, ending):
  write_pairs(tmp_path)
  (tmp_path / "images" / "x001.png").unlink()
  file = tmp_path / "images" / f"x001.{ending}"
  Image.fromarray(np.full((40, 60), 30000, dtype)).save(file)
  ((name, fault),) = sources.check(folder_source(tmp_path))
  assert name == "x001"
  assert f"{file}: an image of mode {Image.open(file).mode}, expected 8 bits per channel" in fault


@pytest.mark.parametrize("task", ["colorization", "image_to_image"])
def test_padding_is_not_scored_as_a_part_of_a_picture(task):
  config = config_lib.default()
  config_lib.set_task(config, task)
  config.data.eval_fit = "full"
  with pytest.raises(UserError, match=rf"'full'.* the task '{task}' scores every pixel"):
    input_pipeline.make_source(config, "val")


def test_a_crop_of_a_task_that_scores_every_pixel_is_never_extended(tmp_path):
  config = config_lib.default()
  own = dict(folder=str(write_pairs(tmp_path)), train_fraction=0.5)  # images of 40x60
  config.data.source = config_lib.data_source("folder", **own)
  config_lib.set_task(config, "colorization")
  config.data.update(size=(40, 64), eval_fit="crop")
  val = input_pipeline.make_source(config, "val")
  words = r": the image is 60x40 pixels .* crops of 64x40, which the task 'colorization' scores"
  for read in (lambda: val[0], lambda: coverage.crops(config, val.source, val.source)):
    with pytest.raises(UserError, match=words):
      read()
  config.data.update(fit="crop", eval_fit="full", eval_multiple=1)
  train = input_pipeline.make_source(config, "train", training=True)
  with pytest.raises(UserError, match=words):
    train[0]
  assert input_pipeline.make_source(config, "val")[0]["image"].shape == (40, 60, 3)
  config.data.update(eval_fit="crop", size=(40, 60))
  assert input_pipeline.make_source(config, "val")[0]["image"].shape == (40, 60, 3)


def test_errors_of_reading_name_the_file(tmp_path):
  write_pairs(tmp_path)
  source = folder_source(tmp_path)
  masks, images = tmp_path / "masks", tmp_path / "images"
  Image.fromarray(np.zeros((40, 50), np.uint8)).save(masks / "x000.png")
  with pytest.raises(UserError, match=r"x000\.png: label is 50x40 .*60x40"):
    source[0]
  Image.fromarray(np.full((40, 60), 2, np.uint8)).save(masks / "x001.png")
  with pytest.raises(
    UserError, match=r"x001\.png: label value 2 .*0 to 1 \(ground, thing\) or 255"
  ):
    source[1]
  whole = (images / "x002.png").read_bytes()
  (images / "x002.png").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match=r"x002\.png: cannot be read"):
    source[2]
  (images / "x003.png").write_text("not an image")
  with pytest.raises(UserError, match=r"x003\.png: not an image"):
    source[3]
  Image.fromarray(np.full((40, 60, 3), (9, 9, 7), np.uint8)).save(masks / "x004.png")
  with pytest.raises(UserError, match=r"x004\.png: colour \(9, 9, 7\) belongs to no class"):
    source[4]


def test_truncated_jpeg_is_named(tmp_path):
  write_kitti(tmp_path, ending="jpg", size=(100, 300))
  file = tmp_path / "training" / "image_2" / "um_000000.jpg"
  file.write_bytes(file.read_bytes()[:3000])
  source = sources.make("kitti_road", "train", folder=str(tmp_path), train_fraction=1.0)
  with pytest.raises(UserError, match=r"um_000000\.jpg: cannot be read"):
    source[source.names.index("um_000000")]


# ---------------------------------------------------------------------------- pipelines


def test_every_epoch_is_another_permutation_without_its_tail():
  it = pipeline.train_iterator(numbered(10), batch_size=4, seed=0)
  epochs = [[n for _ in range(2) for n in numbers(next(it))] for _ in range(4)]
  assert all(len(set(e)) == 8 for e in epochs)
  assert len({tuple(e) for e in epochs}) == 4
  again = pipeline.train_iterator(numbered(10), batch_size=4, seed=0, num_threads=0)
  assert [numbers(next(again)) for _ in range(2)] == [epochs[0][:4], epochs[0][4:]]
  other = pipeline.train_iterator(numbered(10), batch_size=4, seed=1)
  assert [n for _ in range(2) for n in numbers(next(other))] != epochs[0]


def test_the_iterators_state_is_exact_in_spite_of_prefetching():
  it = pipeline.train_iterator(numbered(10), batch_size=4, seed=0, prefetch=8)
  for _ in range(3):
    next(it)
  state, want = it.get_state(), [numbers(next(it)) for _ in range(5)]
  it = pipeline.train_iterator(numbered(10), batch_size=4, seed=0, prefetch=8)
  it.set_state(state)
  assert [numbers(next(it)) for _ in range(5)] == want


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_split_the_same_global_batches(processes):
  whole = pipeline.train_iterator(numbered(11), batch_size=4, seed=3)
  parts = [
    pipeline.train_iterator(
      numbered(11), batch_size=4, seed=3, process_index=i, process_count=processes
    )
    for i in range(processes)
  ]
  for _ in range(6):
    mine = [numbers(next(p)) for p in parts]
    assert np.concatenate(mine).tolist() == numbers(next(whole))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_cut_the_crops_that_one_would(processes):
  images = np.random.default_rng(0).integers(0, 256, (9, 12, 15, 3)).astype(np.uint8)
  source = pipeline.FullSize([dict(image=i, label=i[..., 0]) for i in images], 1, 1)

  def stream(index, count):
    how = dict(batch_size=4, seed=3, crop=(5, 6), process_index=index, process_count=count)
    return pipeline.train_iterator(source, **how)

  whole, parts = stream(0, 1), [stream(i, processes) for i in range(processes)]
  for _ in range(6):
    mine = [image.tobytes() for part in parts for image in next(part)["image"]]
    assert mine == [image.tobytes() for image in next(whole)["image"]]


def test_all_threads_decode_though_a_batch_is_large():
  def meeting():
    barrier, known = threading.Barrier(3), threading.local()

    class Meeting(Numbered):
      def __getitem__(self, i):
        if not hasattr(known, "met"):
          known.met = barrier.wait(60)  # seconds; of all threads, or this fails
        return super().__getitem__(i)

    return pipeline.Resized(Meeting(200), (4, 4), 1)

  next(pipeline.train_iterator(meeting(), batch_size=20, seed=0, num_threads=3))
  next(pipeline.eval_batches(meeting(), batch_size=20, num_threads=3))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("count", [7, 8, 1])
def test_evaluation_sees_every_example_once(count, processes):
  seen = []
  for i in range(processes):
    batches = pipeline.eval_batches(
      numbered(count), batch_size=4, process_index=i, process_count=processes
    )
    for batch in batches:
      assert len(batch["valid"]) == 4 // processes
      seen += [n for n, real in zip(numbers(batch), batch["valid"], strict=True) if real]
      assert (batch["label"][~batch["valid"]] == IGNORE).all()
  assert sorted(seen) == list(range(count))


def test_batches_that_do_not_fit_are_refused():
  with pytest.raises(UserError, match="3 examples, fewer than batch_size=4"):
    pipeline.train_iterator(numbered(3), batch_size=4, seed=0)
  with pytest.raises(UserError, match="not divisible by the 3 processes"):
    pipeline.train_iterator(numbered(9), batch_size=4, seed=0, process_count=3)


@pytest.mark.parametrize("size", [(40, 60), (20, 30), (64, 64), (13, 29)])
def test_image_and_label_stay_aligned_through_the_pipeline(tmp_path, size):
  """The label is painted into the image: after resizing, bright pixels are the labelled ones."""
  source = pipeline.Resized(folder_source(write_pairs(tmp_path)), size, 10)
  batch = next(pipeline.eval_batches(source, batch_size=6))
  assert batch["image"].shape == (6, *size, 3)
  assert batch["label"].shape == (6, *size)
  bright = batch["image"].mean(-1) > 105
  assert (bright == (batch["label"] == 1)).mean() > 0.95
  assert set(np.unique(batch["label"])) == {0, 1}


def test_labels_are_never_mixed_by_resizing():
  label = np.zeros((9, 9), np.uint8)
  label[3:6, 3:6], label[:, :2] = 200, IGNORE
  example = dict(image=np.zeros((9, 9, 3), np.uint8), label=label)
  for size in ((4, 4), (23, 17), (9, 5)):
    assert set(np.unique(pipeline.resize(example, size)["label"])) == {0, 200, IGNORE}


def test_cached_and_uncached_examples_are_equal(tmp_path):
  source = folder_source(write_pairs(tmp_path))
  warm, cold = (pipeline.Resized(source, (20, 30), mb) for mb in (10, 0))
  half = pipeline.Resized(source, (512, 640), 2)  # room for one example of 1.25 MiB
  for i in (0, 0, 3):
    for key in ("image", "label"):
      np.testing.assert_array_equal(warm[i][key], cold[i][key])
  assert warm[0] is warm[0]
  assert cold[0] is not cold[0]
  assert [half[i] is half[i] for i in range(3)] == [True, False, False]


def test_a_split_on_the_device_is_not_kept_on_the_host():
  source = numbered(5)
  arrays = input_pipeline.put_split(source, steps.make_mesh(), 2)
  assert numbers(arrays) == [0, 1, 2, 3, 4]
  assert source[0] is source[0]  # there was room
  assert len(source._memory) == 1


@pytest.mark.parametrize(("devices", "filled"), [(1, 7), (2, 8)])
def test_full_size_batches_see_every_example_once_by_size(devices, filled):
  sizes = [(5, 9), (8, 12), (5, 9), (6, 10), (8, 12), (3, 3), (8, 11)]

  class Sizes:
    def __len__(self):
      return len(sizes)

    def __getitem__(self, i):
      image = np.full((*sizes[i], 3), i, np.uint8)
      return dict(image=image, label=np.full(sizes[i], i, np.uint8))

  source = pipeline.FullSize(Sizes(), 4, 1)
  batches = list(pipeline.full_size_batches(source, batch_size=2, devices=devices))
  assert {b["label"].shape[1:] for b in batches} == {(8, 12), (4, 4)}
  seen = []
  for batch in batches:
    assert batch["image"].shape == (*batch["label"].shape, 3)
    for image, label, valid in zip(batch["image"], batch["label"], batch["valid"], strict=True):
      if not valid:
        assert (label == IGNORE).all()
        continue
      i = int(image[0, 0, 0])
      seen.append(i)
      height, width = sizes[i]
      assert (label[:height, :width] == i).all()
      assert (label == i).sum() == height * width
      assert (image == i).all()  # of one value, so whatever is mirrored
  assert sorted(seen) == list(range(len(sizes)))
  assert sum(len(b["valid"]) for b in batches) == filled


def test_full_size_batches_of_a_size_have_one_shape():
  examples = [dict(image=np.zeros((8, 8, 3), "u1"), label=np.zeros((8, 8), "u1"))] * 7
  for batch_size, devices, want in ((4, 1, [4, 4]), (16, 1, [7]), (16, 4, [8]), (16, 8, [8])):
    source = pipeline.FullSize(examples, 1, 1)
    batches = list(pipeline.full_size_batches(source, batch_size=batch_size, devices=devices))
    assert [len(b["image"]) for b in batches] == want
    assert sum(b["valid"].sum() for b in batches) == 7


def test_random_crops_follow_from_seed_and_step():
  label = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)

  class Ramp:
    def __len__(self):
      return 5

    def __getitem__(self, i):
      image = np.stack([label // 30, label % 30, np.full_like(label, i)], -1).astype(np.uint8)
      return dict(image=image, label=(label // 30).astype(np.uint8))

  def stream(seed, **more):
    source = pipeline.FullSize(Ramp(), 1, 1)
    return pipeline.train_iterator(source, batch_size=2, seed=seed, crop=(8, 6), **more)

  first, again, other = stream(0), stream(0, num_threads=0), stream(1)
  tops, batches = set(), []
  for _ in range(12):
    batch = next(first)
    batches.append(batch)
    np.testing.assert_array_equal(batch["image"], next(again)["image"])
    assert batch["image"].shape == (2, 8, 6, 3)
    np.testing.assert_array_equal(batch["image"][..., 0], batch["label"])  # aligned
    assert (np.diff(batch["image"][..., 0].astype(int), axis=1) == 1).all()
    assert (np.diff(batch["image"][..., 1].astype(int), axis=2) == 1).all()
    tops |= set(batch["image"][:, 0, 0, 0].tolist())
  assert not np.array_equal(batches[0]["image"], next(other)["image"])
  assert len(tops) > 6  # of 13 places
  resumed = stream(0)
  for _ in range(4):
    next(resumed)
  state, fresh = resumed.get_state(), stream(0)
  fresh.set_state(state)
  np.testing.assert_array_equal(next(fresh)["image"], batches[4]["image"])


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_resume(tmp_path):
  source = sources.make("folder", "train", folder=str(write_pairs(tmp_path)))

  def stream(workers):
    fitted = pipeline.FullSize(source, 1, 0)
    how = dict(batch_size=2, seed=0, crop=(24, 32), num_workers=workers)
    return pipeline.train_iterator(fitted, **how)

  here, there = stream(0), stream(2)
  for step in range(7):  # several epochs
    state = there.get_state()
    want, got = next(here), next(there)
    assert all(np.array_equal(want[k], got[k]) for k in want), step
  resumed = stream(2)
  resumed.set_state(state)
  np.testing.assert_array_equal(next(resumed)["image"], want["image"])


@pytest.mark.slow
def test_worker_processes_name_a_broken_file(tmp_path):
  folder = write_pairs(tmp_path)
  for name in ("x001", "x002", "x003", "x004"):
    (folder / "images" / f"{name}.png").write_bytes(b"no image")
  source = pipeline.Resized(sources.make("folder", "train", folder=str(folder)), (8, 8), 0)
  it = pipeline.train_iterator(source, batch_size=2, seed=0, num_workers=1)
  with pytest.raises(UserError, match=r"x00\d\.png: (not an image|cannot be read)"):
    for _ in range(4):
      next(it)


def test_crops_of_smaller_images_are_extended_and_ignored():
  example = dict(image=np.ones((3, 9, 3), np.uint8), label=np.ones((3, 9), np.uint8))
  out = pipeline.random_crop(example, (5, 4), np.random.default_rng(0))
  assert out["image"].shape == (5, 4, 3)
  assert (out["label"][:3] == 1).all()
  assert (out["label"][3:] == IGNORE).all()


def test_indices_come_in_the_order_of_the_examples():
  examples = pipeline.train_iterator(numbered(10), batch_size=4, seed=3)
  indices = pipeline.train_iterator(numbered(10), batch_size=4, seed=3, indices_only=True)
  for _ in range(6):
    want = [int(x[0, 0, 0]) for x in next(examples)["image"]]
    assert next(indices)["index"].tolist() == want


def test_label_table():
  table = LabelTable((("a", (0, 0, 0)), ("b", (1, 2, 3))))
  assert table.names == ("a", "b")
  assert len(table) == 2
  np.testing.assert_array_equal(
    table.colorize(np.array([[0, 1, 255]])), [[[0, 0, 0], [1, 2, 3], [0, 0, 0]]]
  )
  many = default_table(tuple(map(str, range(12))))
  assert len({color for _, color in many.classes}) == 12


def test_the_middle_is_that_of_the_image_and_small_ones_are_extended():
  image = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
  label = np.arange(63, dtype=np.uint8).reshape(7, 9)
  source = pipeline.CenterCrop([dict(image=image, label=label)], (3, 5), 0)
  np.testing.assert_array_equal(source[0]["image"], image[2:5, 2:7])
  np.testing.assert_array_equal(source[0]["label"], label[2:5, 2:7])
  small = pipeline.CenterCrop([dict(image=image, label=label)], (8, 5), 0)[0]
  assert small["image"].shape == (8, 5, 3)
  np.testing.assert_array_equal(small["label"][7], np.full(5, 255))
  np.testing.assert_array_equal(small["image"][7], image[5, 2:7])  # mirrored
