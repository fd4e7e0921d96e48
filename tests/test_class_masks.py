"""A folder with a mask for each class: how it is read, and what is wrong with it."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from segjax import config as config_lib
from segjax.analysis import class_statistics
from segjax.data import label_sets, sources
from segjax.errors import UserError
from segjax.inference.predict_files import mask_kinds
from segjax.training import coverage, input_pipeline, workdir

CLASSES = ("road", "shadow", "car")
SIZE = (24, 32)


def draw(i):
  """(image, masks of `CLASSES`) of an example; bright rectangles in red, green and blue."""
  rng = np.random.default_rng(i)
  planes = np.zeros((*SIZE, 3), bool)
  for k in range(3):
    top, left = rng.integers(0, 12), rng.integers(0, 16)
    planes[top : top + 12, left : left + 16, k] = True
  image = (rng.integers(0, 60, (*SIZE, 3)) + 180 * planes).astype(np.uint8)
  return image, planes


def write(folder, count=8, one=255, without=()):
  """Writes a set; `without` holds (class, example) without a mask."""
  for i in range(count):
    image, planes = draw(i)
    save(folder / "images" / f"x{i}.png", image)
    for k, c in enumerate(CLASSES):
      if (c, i) not in without:
        save(folder / "masks" / c / f"x{i}.png", np.uint8(one) * planes[..., k])
  return folder


def save(file, array):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(file)


def read(folder, split="val", **how):
  how = dict(train_fraction=0.5) | how
  return sources.make("folder", split, folder=str(folder), kind="multi_label", **how)


@pytest.mark.parametrize("one", [1, 255])
def test_masks_of_classes_are_read(one, tmp_path):
  """0 and 1, or 0 and 255; classes are folders, a missing mask is an absent class."""
  write(tmp_path, one=one, without=[("car", 0), ("shadow", 3)])
  pair = read(tmp_path, "train"), read(tmp_path, "val")
  assert pair[0].labels.names == ("car", "road", "shadow") and pair[0].labels.overlapping
  assert sorted((*pair[0].names, *pair[1].names)) == [f"x{i}" for i in range(8)]
  for source in pair:
    for i, name in enumerate(source.names):
      image, planes = draw(int(name[1:]))
      planes = planes[..., [2, 0, 1]]
      planes[..., 0] &= name != "x0"
      planes[..., 2] &= name != "x3"
      np.testing.assert_array_equal(source[i]["image"], image)
      assert source[i]["label"].dtype == np.uint8
      np.testing.assert_array_equal(label_sets.split(source[i]["label"], 3), planes)
  notes = " ".join((*pair[0].notes, *pair[1].notes))
  rule = "hold 0 and 255 alone: a pixel of 255 is of the class" if one == 255 else (
    "a pixel of 1 is of the class, and one that is 255 in any of its image's masks is not scored"
  )  # fmt: skip
  assert rule in notes and "a class without a mask is absent" in notes


def test_a_pixel_that_one_mask_ignores_is_scored_for_none(tmp_path):
  write(tmp_path, one=1)
  file = tmp_path / "masks" / "car" / "x2.png"
  mask = np.array(Image.open(file))
  mask[:2] = 255
  save(file, mask)
  source = read(tmp_path, "train" if "x2" in read(tmp_path, "train").names else "val")
  label = source[source.names.index("x2")]["label"]
  assert (label[:2] == 255).all() and not (label[2:] == 255).any()
  np.testing.assert_array_equal(label_sets.split(label, 3)[2:], draw(2)[1][2:][..., [2, 0, 1]])


def test_split_folders_and_lists_of_classes(tmp_path):
  """classes.txt gives the order and colours; a split may lack the folder of a class."""
  for part, count in (("train", 3), ("val", 2)):
    write(tmp_path / part, count)
  (tmp_path / "classes.txt").write_text("shadow 1 2 3\nroad\ncar\n")
  for file in (tmp_path / "val" / "masks" / "car").iterdir():
    file.unlink()
  (tmp_path / "val" / "masks" / "car").rmdir()
  val = read(tmp_path, "val", train_fraction=0.9)
  assert val.labels.names == ("shadow", "road", "car") and len(val) == 2
  assert val.labels.classes[0][1] == (1, 2, 3) and any(val.labels.classes[1][1])
  assert label_sets.split(val[0]["label"], 3).any((0, 1)).tolist() == [True, True, False]
  assert len(val.elsewhere) == 3


def test_more_than_seven_classes_keep_their_sets(tmp_path):
  names = [f"c{i:02d}" for i in range(12)]
  rng = np.random.default_rng(5)
  planes = rng.random((4, *SIZE, 12)) < 0.4
  for i in range(4):
    save(tmp_path / "images" / f"x{i}.png", draw(i)[0])
    for k, c in enumerate(names):
      save(tmp_path / "masks" / c / f"x{i}.png", np.uint8(255) * planes[i, ..., k])
  c = config_lib.default()
  own = dict(folder=str(tmp_path), kind="multi_label", train_fraction=0.5)
  c.data.source = config_lib.data_source("folder", **own)
  config_lib.set_task(c, "multi_label")
  c.data.update(size=(12, 16), batch_size=2)
  resized = input_pipeline.make_source(c, "val")
  example = resized[0]
  i = int(resized.source.names[0][1:])
  assert example["label"].dtype == np.int32
  near = planes[i][1::2, 1::2]
  np.testing.assert_array_equal(label_sets.split(example["label"], 12), near)
  c.data.eval_fit = "full"
  whole = input_pipeline.make_source(c, "val")[0]["label"]
  assert whole.shape == (32, 32) and (whole[SIZE[0] :] == 255).all()
  np.testing.assert_array_equal(label_sets.split(whole[: SIZE[0]], 12), planes[i])


def test_subfolders_of_images_that_a_class_has_are_read(tmp_path):
  for i, name in enumerate(("a/x", "b/x", "b/c/y", "z")):
    image, planes = draw(i)
    save(tmp_path / "images" / f"{name}.png", image)
    for k, c in enumerate(CLASSES):
      if (name, c) != ("b/c/y", "car"):
        save(tmp_path / "masks" / c / f"{name}_m.png", np.uint8(255) * planes[..., k])
  save(tmp_path / "images" / "thumbs" / "x.png", image)
  source = read(tmp_path, "train", classes=CLASSES, train_fraction=1.0, mask_suffix="_m")
  assert sorted(source.names) == ["a/x", "b/c/y", "b/x", "z"]
  for name, example in zip(source.names, source, strict=True):
    planes = draw(("a/x", "b/x", "b/c/y", "z").index(name))[1]
    planes[..., 2] &= name != "b/c/y"
    np.testing.assert_array_equal(label_sets.split(example["label"], 3), planes)
  assert "images/ holds 1 folder that is not read: thumbs/" in source.notes


def contents(folder):
  return read(folder, "train").digest(), read(folder, "val").digest()


def test_the_hash_of_the_contents_sees_every_mask(tmp_path):
  a, b = write(tmp_path / "a"), write(tmp_path / "b")
  first = contents(a)
  assert contents(b) == first
  road, car = (b / "masks" / c / "x1.png" for c in ("road", "car"))
  kept = road.read_bytes(), car.read_bytes()
  road.write_bytes(kept[1]), car.write_bytes(kept[0])  # swapped
  assert contents(b) != first
  road.write_bytes(kept[0]), car.unlink()
  assert contents(b) != first


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda f: (f / "masks" / "car" / "x1.png").write_bytes(b"no"), r"car/x1\.png: not an image"),
    (lambda f: save(f / "masks" / "car" / "x1.png", np.zeros((5, 6), np.uint8)),
     r"car/x1\.png: the mask is 6x5 pixels \(width x height\), its image .* is 32x24"),
    (lambda f: save(f / "masks" / "car" / "x1.png", np.full(SIZE, 7, np.uint8)),
     r"car/x1\.png: label value 7 is outside the table, expected 0 to 1"),
  ],
)  # fmt: skip
def test_a_broken_mask_is_named(change, words, tmp_path):
  write(tmp_path, one=1)
  change(tmp_path)
  found = [source for s in ("train", "val") if "x1" in (source := read(tmp_path, s)).names]
  i = found[0].names.index("x1")
  with pytest.raises(UserError, match=words):
    _ = found[0][i]
  assert len(found[0].faults(i)) == 1 and not found[0].faults(1 - min(i, 1))


@pytest.mark.parametrize(
  ("how", "words"),
  [
    (dict(classes=("road", "shadow", "Car")),
     r"a folder car/, and no class of this name .*; 'car' and 'Car' differ in case alone; name it"),
    (dict(classes=(*CLASSES, "tree")), r"no folder tree/ of the class 'tree'"),
    (dict(mask_suffix="_m"), r"no mask in the folders of its classes"),
    (dict(ignore_value=1), "ignore_value is 1"),
    (dict(shift=1), "without shift and colours"),
    (dict(masks="images"), "expected a folder for each class in it, images/CLASS"),
  ],
)  # fmt: skip
def test_folders_that_do_not_fit(how, words, tmp_path):
  with pytest.raises(UserError, match=words):
    read(write(tmp_path), **how)


def test_kinds_of_labels_do_not_mix(tmp_path):
  write(tmp_path)
  c = config_lib.default()
  c.data.source = config_lib.data_source("folder", folder=str(tmp_path), kind="multi_label")
  with pytest.raises(UserError, match="has a mask for each class, the task 'segmentation' needs"):
    input_pipeline.make_source(c, "val")
  c.data.source = config_lib.data_source("road_scenes", num_val=2)
  config_lib.set_task(c, "multi_label")
  with pytest.raises(UserError, match="'multi_label' needs a mask for each class"):
    input_pipeline.make_source(c, "val")


def test_shares_and_gaps_of_the_classes(tmp_path):
  write(tmp_path, without=[("car", i) for i in range(8)])
  save(tmp_path / "masks" / "car" / "x0.png", np.zeros(SIZE, np.uint8))
  source = read(tmp_path, "train", train_fraction=1.0)
  text = class_statistics.table_of_masks(source)
  assert "road" in text and "25.00%" in text and "8 (100%)" in text and "0 (0%)" in text
  c = config_lib.default()
  c.data.source.name = "folder"
  warnings, whole = coverage.count(c, "train", source, "masks")
  assert whole and len(warnings) == 1 and "nothing is labelled car" in warnings[0]


def test_a_run_of_other_labels_is_not_evaluated_on_them():
  plain = label_sets.overlapping_table(CLASSES)
  other = dataclasses.replace(plain, overlapping=False)
  workdir.check_classes("runs/x", plain, plain)
  with pytest.raises(UserError, match="the classes of the data overlap, a mask for each"):
    workdir.check_classes("runs/x", other, plain)
  with pytest.raises(UserError, match="the classes of the run overlap"):
    workdir.check_classes("runs/x", plain, other)


def test_names_of_classes_make_folders_within_the_output():
  assert mask_kinds(["lane_marking", "a/b*"]) == ["masks/lane_marking/*.png", "masks/a_b_/*.png"]
  assert mask_kinds([".."]) == ["masks/_./*.png"]
  with pytest.raises(
    UserError, match=r"classes 'a/b' and 'a_b' would lie in one folder, masks/a_b"
  ):
    mask_kinds(["a/b", "a_b"])


def test_masks_with_another_end_are_named(tmp_path):
  for i in range(4):
    save(tmp_path / "images" / f"x{i}.png", draw(i)[0])
    save(tmp_path / "masks" / "car" / f"x{i}_mask.png", np.uint8(255) * draw(i)[1][..., 2])
  with pytest.raises(UserError, match=r"in masks/CLASS/, such as masks/car/x\d_mask\.png; name"):
    read(tmp_path)
  assert len(read(tmp_path, mask_suffix="_mask").pairs[0][1]) == 1


def test_masks_that_lists_do_not_name_are_no_fault(tmp_path):
  write(tmp_path, count=4)
  save(tmp_path / "masks" / "car" / "other.png", np.zeros(SIZE, np.uint8))
  assert [f.name for f in read(tmp_path).orphans] == ["other.png"]
  for split, names in dict(train="x0\nx1\n", val="x2\nx3\n").items():
    (tmp_path / f"{split}.txt").write_text(names)
  source = read(tmp_path)
  assert source.names == ("x2", "x3") and source.orphans == ()
  assert any("holds 1 mask without an image: other.png" in note for note in source.notes)


def test_masks_of_two_forms_are_an_error(tmp_path):
  write(tmp_path, one=1)
  for file in (tmp_path / "masks" / "shadow").iterdir():
    save(file, np.asarray(Image.open(file)) * np.uint8(255))
  with pytest.raises(UserError, match="masks/shadow/ holds 0 and 255 alone, and masks of other"):
    read(tmp_path)
