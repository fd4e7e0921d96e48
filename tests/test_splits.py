"""The third split of the sources: test."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_kitti, write_pairs
from PIL import Image

from segjax.data import own_sources, sources
from segjax.data.labels import default_table
from segjax.errors import NoSplit, UserError


def test_drawn_test_scenes_are_a_third_range():
  how = dict(height=16, width=32, num_train=2, num_val=2, num_test=3)
  parts = {s: sources.make("road_scenes", s, **how) for s in ("train", "val", "test")}
  assert parts["test"].names == tuple(f"scene_{2_000_000 + i:07d}" for i in range(3))
  images = [parts[s][0]["image"].tobytes() for s in parts]
  assert len(set(images)) == 3
  with pytest.raises(UserError, match="num_test is 1000001, expected at most 1000000"):
    sources.make("aerial_scenes", "test", num_test=1_000_001)


def test_a_list_of_test_names_it(tmp_path):
  write_kitti(tmp_path)
  names = sources.make("kitti_road", "train", folder=str(tmp_path), train_fraction=1.0).names
  with pytest.raises(NoSplit, match=r"no split 'test' \(splits: train, val\): write test.txt"):
    sources.make("kitti_road", "test", folder=str(tmp_path))
  (tmp_path / "test.txt").write_text("\n".join(names[4:]))
  for split in ("train", "val"):
    with pytest.raises(UserError, match=r"test\.txt without train\.txt and val\.txt, so its"):
      sources.make("kitti_road", split, folder=str(tmp_path))
  with pytest.raises(NoSplit, match=r"write train\.txt and val\.txt beside test\.txt"):
    sources.make("kitti_road", "test", folder=str(tmp_path))
  seeded = sources.make("kitti_road", "train", folder=str(tmp_path), split_by="seed")
  assert any("test.txt not read, as split_by is 'seed'" in note for note in seeded.notes)
  for split, part in (("train", names[:2]), ("val", names[2:4]), ("test", names[4:])):
    (tmp_path / f"{split}.txt").write_text("\n".join(part))
  found = {s: sources.make("kitti_road", s, folder=str(tmp_path)) for s in ("train", "val", "test")}
  assert found["test"].names == names[4:] and found["train"].names == names[:2]
  assert not any("neither" in note for note in found["train"].notes)
  with pytest.raises(NoSplit, match="split_by='seed' reads no lists"):
    sources.make("kitti_road", "test", folder=str(tmp_path), split_by="seed")
  (tmp_path / "test.txt").write_text("\n".join(names[3:]))
  with pytest.raises(UserError, match=r"in val\.txt and in test\.txt"):
    sources.make("kitti_road", "test", folder=str(tmp_path))
  sources.make("kitti_road", "train", folder=str(tmp_path))  # a training does not need the list


def test_a_name_twice_in_a_list_or_in_two_is_an_error(tmp_path):
  for split in ("train", "val"):
    for part in (split, f"{split}annot"):
      (tmp_path / "camvid" / part).mkdir(parents=True)
      Image.new("L", (8, 6)).save(tmp_path / "camvid" / part / "a.png")
  (tmp_path / "camvid" / "val.txt").write_text("val/a.png valannot/a.png\n" * 2)
  with pytest.raises(UserError, match="'camvid': a more than once in split 'val'"):
    sources.make("camvid", "val", folder=str(tmp_path / "camvid"))
  rows = []
  for i in range(3):
    for part in ("images", "masks"):
      (tmp_path / "dubai" / "Tile 1" / part).mkdir(parents=True, exist_ok=True)
      Image.new("RGB", (8, 6)).save(tmp_path / f"dubai/Tile 1/{part}/{i}.png")
    rows.append(f"Tile 1/images/{i}.png\tTile 1/masks/{i}.png\n")
  (tmp_path / "dubai/train.txt").write_text(rows[0] + rows[1])
  (tmp_path / "dubai/val.txt").write_text(rows[1] + rows[2])
  for split in ("train", "val"):
    with pytest.raises(UserError, match=r"tile_1_1 in train\.txt and in val\.txt"):
      sources.make("dubai_aerial", split, folder=str(tmp_path / "dubai"))
  (tmp_path / "dubai/val.txt").write_text(rows[2] * 2)
  with pytest.raises(UserError, match="tile_1_2 more than once in split 'val'"):
    sources.make("dubai_aerial", "val", folder=str(tmp_path / "dubai"))
  (tmp_path / "dubai/train.txt").write_text(rows[0] * 2)  # rare ones more often
  train = sources.make("dubai_aerial", "train", folder=str(tmp_path / "dubai"))
  assert train.names == ("tile_1_0", "tile_1_0")


def test_a_few_images_of_ade20k_in_both_splits_are_noted(tmp_path):
  for part in ("images", "annotations"):
    (tmp_path / part).mkdir()
    for i in range(3):
      Image.new("RGB" if part == "images" else "L", (8, 6), 1).save(tmp_path / f"{part}/{i}.png")
  (note,) = sources.make("ade20k", "val", folder=str(tmp_path)).notes
  assert note.startswith("both splits hold all 3 images, fewer than all_below=10")


def test_folders_of_test(tmp_path):
  for split in ("train", "val", "test"):
    write_pairs(tmp_path / split, count=2, classes=("a", "b"))
    (tmp_path / split / "classes.txt").unlink()
  (tmp_path / "classes.txt").write_text("a\nb\n")
  for file in (tmp_path / "train" / "masks").iterdir():  # 0 and 255: two classes, by train and val
    Image.fromarray(np.asarray(Image.open(file)) * 255).save(file)
    other = tmp_path / "val" / "masks" / file.name
    Image.fromarray(np.asarray(Image.open(other)) * 255).save(other)
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "test/masks" / file.name)
  source = sources.make("folder", "test", folder=str(tmp_path))
  assert source.names == ("x000", "x001")
  assert Path(source.pairs[0][0]) == tmp_path / "test" / "images" / "x000.png"
  assert (source[0]["label"] == 1).all()
  assert any("2 images in both splits" in note for note in source.notes)  # test holds train's
  (tmp_path / "val").rename(tmp_path / "other")
  with pytest.raises(NoSplit, match="test/ is taken for val, as there is no val/"):
    sources.make("folder", "test", folder=str(tmp_path))


@pytest.mark.parametrize("name", ["camvid", "floodnet", "dubai_aerial", "cifar10_subset", "digits"])
def test_sets_without_a_test_split_say_so(tmp_path, name):
  fields = {} if name == "digits" else dict(folder=str(tmp_path))
  with pytest.raises(NoSplit, match=r"has no split 'test' \(splits: train, val\)"):
    sources.make(name, "test", **fields)


def test_camvids_own_folders(tmp_path):
  for split in ("train", "val", "test"):
    for folder in (split, f"{split}annot"):
      (tmp_path / folder).mkdir()
      Image.fromarray(np.full((4, 6), 3, np.uint8)).save(tmp_path / folder / f"{split}.png")
  assert sources.make("camvid", "test", folder=str(tmp_path)).names == ("test",)


def test_classes_of_a_test_folder_are_those_of_train(tmp_path):
  for split, names in (("train", "ab"), ("val", "ab"), ("test", "b")):
    for name in names:
      (tmp_path / split / name).mkdir(parents=True)
      Image.new("RGB", (4, 4)).save(tmp_path / split / name / "x.png")
  source = sources.make("folder", "test", folder=str(tmp_path), kind="classification")
  assert source.labels.names == ("a", "b") and source[0]["label"] == 1


def test_a_source_of_ones_own_may_have_no_test():
  class Own:
    labels, names = default_table(("a",)), ("x",)

    def __init__(self, split):
      self.names = dict(train=("x",), val=("y",), test=("z",))[split]

    def __len__(self):
      return 1

    def __getitem__(self, i):
      return dict(image=np.zeros((4, 4, 3), "u1"), label=np.zeros((4, 4), "u1"))

  def two(split):
    return Own({"train": "train"}.get(split, "val"))

  def strict(split):
    return Own({"train": "train", "val": "val"}[split])

  assert own_sources.test_of(Own, {}, "my:source").names == ("z",)
  with pytest.raises(NoSplit, match="its function gives the examples of val"):
    own_sources.test_of(two, {}, "my:source")
  with pytest.raises(NoSplit, match="KeyError"):
    own_sources.test_of(strict, {}, "my:source")
