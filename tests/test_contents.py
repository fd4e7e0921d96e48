"""The report of files that are not read, digests of contents, counts of labels."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_kitti, write_pairs
from PIL import Image

from segjax.data import checks, files, sources
from segjax.data.labels import default_table
from segjax.errors import UserError


def source_of(folder, **fields):
  return sources.make("folder", "train", folder=str(folder), **dict(train_fraction=1.0) | fields)


def test_what_is_not_read_is_said(tmp_path):
  write_pairs(tmp_path)
  source = source_of(tmp_path)
  assert source.notes == ()
  (tmp_path / "images" / "x003.png").rename(tmp_path / "images" / "x003.jfif")
  (tmp_path / "images" / "a.heic").write_text("")
  (tmp_path / "images" / ".hidden").write_text("")
  (tmp_path / "images" / "Thumbs.db").write_text("")
  assert files.skipped(tmp_path / "images" / "x001.png") == ()
  assert files.skipped(tmp_path / "images") == (
    "images/ holds 1 .heic file that is not read: a.heic",
    "images/ holds 1 .jfif file that is not read: x003.jfif",
  )
  assert source_of(tmp_path).notes == (
    *files.skipped(tmp_path / "images"),
    "masks/ holds 1 label without an image: x003.png",
  )


def test_the_folder_where_one_is_has_its_name(tmp_path, monkeypatch):
  (tmp_path / "a.heic").write_text("")
  monkeypatch.chdir(tmp_path)
  says = f"{tmp_path.name}/ holds 1 .heic file that is not read: a.heic"
  assert files.skipped(Path()) == (says,)
  with pytest.raises(UserError, match=f"no image in it, expected .png.*{says}"):
    files.list_images(Path())


def test_a_digest_changes_with_the_contents_alone(tmp_path):
  write_pairs(tmp_path / "a")
  first = source_of(tmp_path / "a").digest()
  assert len(first) == 16
  int(first, 16)
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  os.utime(tmp_path / "b" / "masks" / "x002.png", (1, 1))
  assert source_of(tmp_path / "b").digest() == first
  mask, image = (tmp_path / "b" / k / "x002.png" for k in ("masks", "images"))
  before = mask.read_bytes()
  label = np.array(Image.open(mask))
  label[0, 0] ^= 1
  Image.fromarray(label).save(mask)
  assert source_of(tmp_path / "b").digest() != first
  mask.write_bytes(before)
  assert source_of(tmp_path / "b").digest() == first
  image.write_bytes(image.read_bytes()[:-1] + b"\0")
  assert source_of(tmp_path / "b").digest() != first


def test_a_digest_of_a_part_and_of_targets(tmp_path):
  write_pairs(tmp_path)
  source = source_of(tmp_path)
  part = checks.Subset(source, (0, 2))
  assert part.digest() != source.digest()
  assert checks.Subset(source, tuple(range(len(source)))).digest() == source.digest()
  assert sources.labelled(source, "nothing", "it", "the net").digest() == source.digest()
  os.rename(tmp_path / "masks", tmp_path / "targets")
  assert len(source_of(tmp_path, kind="pairs").digest()) == 16
  drawn = sources.make("road_scenes", "val", num_val=2, height=32, width=32)
  for lacks in (drawn, checks.Subset(drawn, (0,)), sources.labelled(drawn, "nothing", "it", "net")):
    assert not hasattr(lacks, "digest")


def test_a_digest_of_classes(tmp_path):
  for name in ("cat_1", "dog_1"):
    Image.new("RGB", (3, 3)).save(tmp_path / f"{name}.png")
  fields = dict(kind="classification")
  first = source_of(tmp_path, **fields).digest()
  (tmp_path / "dog_1.png").rename(tmp_path / "cat_2.png")
  (tmp_path / "cat_1.png").rename(tmp_path / "dog_1.png")
  assert source_of(tmp_path, **fields).digest() != first


def test_label_counts_of_all_and_of_some(tmp_path):
  write_pairs(tmp_path)
  source = source_of(tmp_path)
  labels = [source[i]["label"] for i in range(len(source))]
  Image.fromarray(np.full((40, 60), 255, np.uint8)).save(tmp_path / "masks" / "x005.png")
  pixels, ignored, looked_at = checks.label_counts(source, 2)
  want = np.bincount(np.ravel(labels[:5]), minlength=2)
  np.testing.assert_array_equal(pixels, want)
  assert (pixels.dtype, ignored, looked_at) == (np.int64, 2400, 6)
  pixels, ignored, looked_at = checks.label_counts(source, 2, limit=2)
  np.testing.assert_array_equal(pixels, np.bincount(np.ravel([labels[0], labels[3]]), minlength=2))
  assert (ignored, looked_at) == (0, 2)
  for name in ("cat_1", "cat_2", "dog_1"):
    (tmp_path / "set").mkdir(exist_ok=True)
    Image.new("RGB", (3, 3)).save(tmp_path / "set" / f"{name}.png")
  classes = source_of(tmp_path / "set", kind="classification")
  pixels, ignored, looked_at = checks.label_counts(classes)
  assert (pixels.tolist(), ignored, looked_at) == ([2, 1], 0, 3)
  (tmp_path / "masks" / "x000.png").write_text("")
  with pytest.raises(UserError, match=r"masks/x000\.png"):
    checks.label_counts(source)


def test_a_label_outside_the_classes_is_not_counted_as_ignored():
  class Source:
    labels, names = default_table(("ground", "thing")), ("a", "b")

    def __len__(self):
      return 2

    def __getitem__(self, i):
      return dict(label=np.array([[0, 1, 255], [1, 1, (0, 7)[i]]], np.uint8))

  with pytest.raises(
    UserError, match=r"the label of 'b' has the value 7, expected 0 to 1, a class"
  ):
    checks.label_counts(Source())


def test_named_sets_say_what_they_do_not_read(tmp_path):
  write_kitti(tmp_path)  # its lane labels are not worth a word
  source = sources.make("kitti_road", "train", folder=str(tmp_path))
  assert source.notes == ()
  (tmp_path / "training" / "image_2" / "um_000000.png").unlink()
  Image.new("RGB", (3, 3)).save(tmp_path / "training" / "gt_image_2" / "um_odd_1.png")
  assert sources.make("kitti_road", "train", folder=str(tmp_path)).notes == (
    "training/gt_image_2/ holds 1 image that is not read: um_odd_1.png",
    "training/gt_image_2/ holds 1 label without an image: um_road_000000.png",
  )
