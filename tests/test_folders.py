"""Users' folders: meaning of masks, classes.txt, layouts, lists, and files that are not read."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_decoding import png

from segjax import config as config_lib
from segjax import textfiles
from segjax.data import checks, contents, meaning, sources
from segjax.data.labels import IGNORE, read_table
from segjax.errors import UserError
from segjax.training import coverage

TRUTH = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0]], np.uint8)
COLORS = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142), (70, 70, 70)], np.uint8)


def image(i=0):
  return np.full((3, 5, 3), 10 + i, np.uint8)


def write(file, array, **how):
  file.parent.mkdir(parents=True, exist_ok=True)
  (array if isinstance(array, Image.Image) else Image.fromarray(np.asarray(array))).save(
    file, **how
  )


def write_set(folder, masks, classes="background\nroad\n", ending="png"):
  """A set of as many images as masks; bytes are written as they are."""
  for i, mask in enumerate(masks):
    write(folder / "images" / f"x{i}.png", image(i))
    file = folder / "masks" / f"x{i}.{ending}"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(mask) if isinstance(mask, bytes) else write(file, mask)
  (folder / "classes.txt").write_text(classes)
  return folder


def make(folder, split="train", **fields):
  fields = dict(train_fraction=1.0) | fields
  return sources.make("folder", split, folder=str(folder), **fields)


def labels(folder, **fields):
  source = make(folder, **fields)
  return [source[i]["label"] for i in range(len(source))]


def palette(index, colors, **how):
  mask = Image.fromarray(np.asarray(index, np.uint8)).convert("P")
  mask.putpalette(np.asarray(colors).ravel().tolist())
  mask.info.update(how)
  return mask


def assert_labels(got, *want):
  assert len(got) == len(want)
  for one, other in zip(got, want, strict=True):
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------------- 0 and 255


@pytest.mark.parametrize("kind", ["grey", "rgb", "4 bits", "16 bits", "palette", "mixed"])
def test_masks_of_0_and_255_alone_are_binary(tmp_path, kind):
  white = TRUTH * np.uint8(255)
  rgb = np.repeat(white[..., None], 3, -1)
  mask = {
    "grey": white,
    "rgb": rgb,
    "4 bits": png(TRUTH * 15, 4, 0),
    "16 bits": png(TRUTH.astype(int) * 65535, 16, 0),
    "palette": palette(white, np.repeat(np.arange(256), 3)),
  }
  two = palette(TRUTH, [(0, 0, 0), (255, 255, 255)])
  chosen = [white, rgb, png(TRUTH, 1, 0), two] if kind == "mixed" else [mask[kind]]
  write_set(tmp_path, [np.zeros_like(TRUTH), *chosen])
  source = make(tmp_path)
  assert source.notes == (
    "masks in masks/ hold 0 and 255 alone: 255 is read as 1, 'road', not ignored",
  )
  assert_labels(labels(tmp_path), TRUTH * 0, *[TRUTH] * len(chosen))


@pytest.mark.parametrize("where", ["train", "val"])
@pytest.mark.parametrize("layout", ["folders", "seed"])
def test_one_mask_with_a_1_anywhere_makes_255_ignored(tmp_path, where, layout):
  void = np.where(TRUTH == 1, 255, 0).astype(np.uint8)
  both = np.where(TRUTH == 1, 255, 1).astype(np.uint8)
  for split in ("train", "val"):
    folder = tmp_path / split if layout == "folders" else tmp_path
    last = both if split == where else void
    for i in range(70):  # more than are looked at before the first decision
      write(folder / "images" / f"{split}{i:02d}.png", image())
      write(folder / "masks" / f"{split}{i:02d}.png", last if i == 66 else void)
  (tmp_path / "classes.txt").write_text("background\nroad\n")
  for split in ("train", "val"):
    source = make(tmp_path, split, train_fraction=0.5)
    want = np.where(TRUTH == 1, IGNORE, 0)
    i = next(i for i, name in enumerate(source.names) if not name.endswith("66"))
    np.testing.assert_array_equal(source[i]["label"], want)
    assert not [n for n in source.notes if "binary" in n or "255" in n]


def test_sets_that_are_not_binary(tmp_path):
  void = np.where(TRUTH == 1, 255, 0).astype(np.uint8)
  write_set(tmp_path / "three", [void], "a\nb\nc\n")
  assert_labels(labels(tmp_path / "three"), np.where(TRUTH == 1, IGNORE, 0))
  write_set(tmp_path / "zeros", [void * 0])
  assert make(tmp_path / "zeros").notes == ()
  assert_labels(labels(tmp_path / "zeros"), TRUTH * 0)
  for value in (254, 127):
    grey = void.copy()
    grey[0, 0] = value
    write_set(tmp_path / f"{value}", [void, grey])
    with pytest.raises(UserError, match=rf"label value {value} is outside .*give classes\.txt"):
      labels(tmp_path / f"{value}")
  write_set(tmp_path / "seven", [void], "a\nb\n")
  assert_labels(labels(tmp_path / "seven", ignore_value=7), TRUTH)
  with pytest.raises(UserError, match="label value 255 is outside"):
    labels(tmp_path / "seven", ignore_value=0)


def test_a_mask_that_was_changed_after_the_decision_is_an_error(tmp_path):
  write_set(tmp_path, [TRUTH * np.uint8(255)] * 2)
  source = make(tmp_path)
  write(tmp_path / "masks" / "x1.png", TRUTH)
  with pytest.raises(UserError, match=r"x1\.png: label value 1 .*held 0 and 255 alone"):
    source[1]
  assert_labels(labels(tmp_path), np.where(TRUTH == 1, IGNORE, 0), TRUTH)


# ---------------------------------------------------------------------------- colours


def test_grey_masks_hold_the_greys_of_classes_txt(tmp_path):
  table = "background 0 0 0\nroad 255 255 255\n"
  write_set(tmp_path / "a", [TRUTH * 255, TRUTH * 0], table)
  assert "0 is background, 255 is road" in make(tmp_path / "a").notes[0]
  assert_labels(labels(tmp_path / "a"), TRUTH, TRUTH * 0)
  write_set(tmp_path / "turned", [TRUTH * 255], "road 255 255 255\nbackground 0 0 0\n")
  assert_labels(labels(tmp_path / "turned"), 1 - TRUTH)
  write_set(tmp_path / "bits", [png(TRUTH * 3, 2, 0)], table)
  assert_labels(labels(tmp_path / "bits"), TRUTH)
  three = np.where(TRUTH == 1, 127, 254).astype(np.uint8)
  write_set(tmp_path / "c", [three], "a 0 0 0\nb 127 127 127\nc 254 254 254\n")
  assert_labels(labels(tmp_path / "c"), np.where(TRUTH == 1, 1, 2))
  void = np.where(TRUTH == 1, 127, 255).astype(np.uint8)
  write_set(tmp_path / "d", [void], "a 0 0 0\nb 127 127 127\n")
  assert_labels(labels(tmp_path / "d"), np.where(TRUTH == 1, 1, IGNORE))


def test_grey_masks_of_numbers_beside_greys_of_the_table(tmp_path):
  table = "background 0 0 0\nroad 255 255 255\n"
  write_set(tmp_path / "a", [TRUTH, TRUTH * 0], table)
  assert_labels(labels(tmp_path / "a"), TRUTH, TRUTH * 0)
  mixed = TRUTH.copy()
  mixed[0, 0] = 255
  write_set(tmp_path / "b", [TRUTH, mixed], table)
  with pytest.raises(
    UserError, match=r"x1\.png: the value 255 is ignore_value and the grey of .*road"
  ):
    labels(tmp_path / "b")
  assert_labels(labels(write_set(tmp_path / "c", [TRUTH], "a 9 9 9\nb 1 2 3\n")), TRUTH)
  write_set(tmp_path / "own", [TRUTH * 255], "background 0 0 0\nroad 250 10 20\n")
  assert_labels(labels(tmp_path / "own"), TRUTH)


def test_palettes_in_another_order_go_by_colour(tmp_path):
  table = "a 0 0 0\nb 128 64 128\nc 0 0 142\n"
  index = np.array([[0, 1, 2, 2, 1]] * 3, np.uint8)
  turned = palette(index, COLORS[[2, 0, 1]])
  assert_labels(labels(write_set(tmp_path / "a", [turned], table)), np.array([2, 0, 1])[index])
  same = palette(index, COLORS[:3], transparency=0)
  assert_labels(labels(write_set(tmp_path / "b", [same], table)), index)
  assert_labels(labels(write_set(tmp_path / "c", [turned], "a\nb\nc\n")), index)
  strange = palette(index, [(1, 1, 9), (2, 2, 9), (3, 3, 9)])
  assert_labels(labels(write_set(tmp_path / "d", [strange], table)), index)


def test_palettes_that_mean_two_things_are_refused(tmp_path):
  table = "a 0 0 0\nb 128 64 128\nc 0 0 142\n"
  index = np.array([[0, 1, 2, 2, 1]] * 3, np.uint8)
  partly = palette(index, [(128, 64, 128), (0, 0, 0), (7, 7, 9)])
  write_set(tmp_path / "a", [partly], table)
  with pytest.raises(
    UserError, match=r"colour \(128, 64, 128\) stands for 'b', its index 0 .*7, 7, 9"
  ):
    labels(tmp_path / "a")
  ignored = np.where(index == 2, IGNORE, 1 - np.minimum(index, 1))
  assert_labels(labels(tmp_path / "a", ignore_colors=((7, 7, 9),)), ignored)
  void = index.copy()
  void[0] = 255
  colors = np.zeros((256, 3), int) + 224
  colors[:3] = COLORS[[2, 0, 1]]
  write_set(tmp_path / "voc", [palette(void, colors)], table)
  want = np.array([2, 0, 1])[index]
  want[0] = IGNORE
  assert_labels(labels(tmp_path / "voc"), want)
  hidden = palette(index, COLORS[[2, 0, 1]], transparency=1)
  write_set(tmp_path / "hidden", [hidden], table)
  with pytest.raises(UserError, match="transparent"):
    labels(tmp_path / "hidden")


def test_palettes_of_greys_that_are_other_numbers_are_refused(tmp_path):
  names = "".join(f"c{i}\n" for i in range(8))
  grey = np.array([[0, 2, 7, 7, 2]] * 3, np.uint8)
  write_set(tmp_path / "a", [grey], names, ending="gif")  # Pillow numbers the greys anew
  with pytest.raises(UserError, match=r"x0\.gif: index 1 of the palette has the grey 2, and both"):
    labels(tmp_path / "a")
  write_set(tmp_path / "b", [grey % 7], names, ending="gif")
  shown = palette(TRUTH, [(0, 0, 0), (255, 255, 255)])
  assert_labels(labels(write_set(tmp_path / "c", [shown], ending="gif")), TRUTH)


def test_rgb_masks_go_by_colour_or_hold_numbers(tmp_path):
  table = "a 0 0 0\nb 128 64 128\nc 70 70 70\n"
  index = np.array([[0, 1, 2, 2, 1]] * 3, np.uint8)
  colors = COLORS[[0, 1, 3]]
  assert_labels(labels(write_set(tmp_path / "a", [colors[index]], table)), index)
  grey = np.repeat(index[..., None], 3, -1)
  assert_labels(labels(write_set(tmp_path / "b", [grey], "a\nb\nc\n")), index)
  write_set(tmp_path / "c", [grey], table)
  with pytest.raises(UserError, match=r"colour \(1, 1, 1\) .*save it as a grey image"):
    labels(tmp_path / "c")
  whole = np.dstack([colors[index], np.full(index.shape, 255, np.uint8)])
  assert_labels(labels(write_set(tmp_path / "d", [whole], table)), index)
  part = "a 0 0 0\nb 128 64 128\nc\n"
  write_set(tmp_path / "e", [COLORS[index]], part)
  with pytest.raises(UserError, match=r"colour \(0, 0, 142\) belongs to no class.*ignore_colors$"):
    labels(tmp_path / "e")
  void = (0, 0, 142)
  for given in ((void,), [list(void)], void):
    got = labels(tmp_path / "e", ignore_colors=given)
    assert_labels(got, np.where(index == 2, IGNORE, index))


@pytest.mark.parametrize("bad", [((1, 2),), ((1, 2, 300),), ("red",), ((1, 2, 0.5),)])
def test_ignored_colours_are_checked(tmp_path, bad):
  write_set(tmp_path, [TRUTH], "a 1 2 3\nb 4 5 6\n")
  with pytest.raises(UserError, match=r"ignore_colors has .*expected \(red, green, blue\)"):
    make(tmp_path, ignore_colors=bad)
  with pytest.raises(UserError, match=r"ignore_colors has \(4, 5, 6\), the colour of 'b'"):
    make(tmp_path, ignore_colors=((4, 5, 6),))


# ---------------------------------------------------------------------------- numbers


def test_shift_and_ignored_values(tmp_path):
  write_set(tmp_path / "a", [TRUTH + np.uint8(1)])
  with pytest.raises(UserError, match=r"label value 2 is outside .*count from 1 .*shift=-1"):
    labels(tmp_path / "a")
  assert_labels(labels(tmp_path / "a", shift=-1), TRUTH)
  from_1 = TRUTH + np.uint8(1)
  from_1[0, 0] = 0
  write_set(tmp_path / "b", [from_1])
  want = TRUTH.copy()
  want[0, 0] = IGNORE
  assert_labels(labels(tmp_path / "b", shift=-1, ignore_value=0), want)
  with pytest.raises(UserError, match=r"label value 0 is outside the table, expected 1 to 2"):
    labels(tmp_path / "b", shift=-1)
  large = TRUTH.astype(np.uint16)
  large[0, 0] = 65535
  write_set(tmp_path / "c", [large])
  assert_labels(labels(tmp_path / "c", ignore_value=65535), want)
  write_set(tmp_path / "d", [TRUTH])
  with pytest.raises(UserError, match=r"x0\.png: ignore_value is -1, but the file holds no neg"):
    labels(tmp_path / "d", ignore_value=-1)
  signed = want.astype(np.int32)
  signed[0, 0] = -1
  write_set(tmp_path / "e", [signed], ending="tif")
  assert_labels(labels(tmp_path / "e", ignore_value=-1), want)
  notes = make(tmp_path / "d", ignore_value=1).notes
  assert notes == ("ignore_value 1 is also the number of the class 'road'",)


# ---------------------------------------------------------------------------- classes.txt


def table(tmp_path, text, encoding="utf-8"):
  file = tmp_path / "classes.txt"
  file.write_bytes(text.encode(encoding))
  return read_table(file)


def test_classes_with_blanks_comments_and_other_separators(tmp_path):
  text = (
    "# the classes\n\ntraffic light 1 2 3\r\nroad, 4, 5, 6  # grey\n\tcar\t7\t8\t9\n"
    "door, double (10, 11, 12)\nwall\n7 1 1 1\n"
  )
  for encoding in ("utf-8", "utf-8-sig"):
    got = table(tmp_path, text, encoding)
    assert got.names == ("traffic light", "road", "car", "door, double", "wall", "7")
    assert [c for _, c in got.classes[:4]] == [(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)]
    assert got.own_colors == (0, 1, 2, 3, 5)
  assert table(tmp_path, "name,r,g,b\nroad,1,2,3\nstraße,4,5,6").names == ("road", "straße")


def test_colours_in_hexadecimal_digits_count_and_comments_do_not(tmp_path):
  text = "sky #FF0000\nroad,#804080\ncar: #00008eff # dark\ntree #1\n# 804080 a comment\n"
  got = table(tmp_path, text)
  assert got.names == ("sky", "road", "car", "tree")
  assert [c for _, c in got.classes[:3]] == [(255, 0, 0), (128, 64, 128), (0, 0, 142)]
  assert got.own_colors == (0, 1, 2)
  colors = "background #000000\nroad #804080\n"
  write_set(tmp_path / "set", [palette(1 - TRUTH, [COLORS[1], COLORS[0]])], colors)
  assert_labels(labels(tmp_path / "set"), TRUTH)


@pytest.mark.parametrize(
  "head",
  ["name,r,g,b", "class_name;r;g;b", "label,R,G,B", "class red green blue", "Class\tr\tg\tb"],
)
def test_a_head_of_columns_is_no_class(tmp_path, head):
  got = table(tmp_path, f"{head}\nsky,1,2,3\nroad,4,5,6\n")
  assert got.classes == (("sky", (1, 2, 3)), ("road", (4, 5, 6)))
  assert table(tmp_path, "red\ngreen\nblue\n").names == ("red", "green", "blue")


@pytest.mark.parametrize(
  "line",
  ["x 1 2", "x 1 2 3 4", "x ² 1 1", "x 1 2 300", "x -1 2 3", "x 1.5 2 3", "1 x", "0: x", "x 1",
   "1,x", "1 2 3", "x 0x01 0x02 0x03"],
)  # fmt: skip
def test_malformed_lines_of_classes_txt_are_named(tmp_path, line):
  with pytest.raises(
    UserError, match=r"classes\.txt, line 3: found .*expected 'name' or 'name red"
  ):
    table(tmp_path, f"a\n\n{line}\n")


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("a\n\nb\na\n", "lines 1 and 4: two classes of the name 'a'"),
    ("a 1 2 3\nb 4 5 6\nc 1 2 3\n", r"lines 1 and 3: two classes of the colour \(1, 2, 3\)"),
    ("background,road\n", "expected one class per line, without commas"),
    ("name\nroad\n", "line 1: found 'name', expected the name of class 0"),
    ('# ours\n"Label"\nroad\n', "line 2: found '\"Label\"', expected one name without"),
  ],
)
def test_classes_that_contradict_themselves_are_refused(tmp_path, text, says):
  with pytest.raises(UserError, match=rf"classes\.txt.*{says}"):
    table(tmp_path, text)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", ["classes.txt", "train.txt"])
def test_text_in_other_encodings_is_one_error(tmp_path, encoding, name):
  write_set(tmp_path, [TRUTH] * 2)
  (tmp_path / "val.txt").write_text("x1\n")
  (tmp_path / "train.txt").write_text("x0\n")
  (tmp_path / name).write_bytes("Straße\nx0\n".encode(encoding))
  with pytest.raises(UserError, match=rf"{name}: not text in UTF-8"):
    make(tmp_path)


def test_names_given_twice_are_refused(tmp_path):
  write_set(tmp_path, [TRUTH])
  for given in (("a,b",), ("", "b"), "a"):
    with pytest.raises(UserError, match=r"classes is .*, expected names such as"):
      make(tmp_path, classes=given)
  with pytest.raises(UserError, match="classes has 'a' more than once"):
    make(tmp_path, classes=("a", "b", "a"))


# ---------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
@pytest.mark.parametrize("order", ["split first", "split last"])
@pytest.mark.parametrize("test", [False, True])
def test_split_folders(tmp_path, val, order, test):
  for i, split in enumerate(("train", val, *(["test"] if test else []))):
    for kind, array in (("images", image(i)), ("masks", TRUTH)):
      parts = (split, kind) if order == "split first" else (kind, split)
      write(tmp_path.joinpath(*parts) / f"{split}.png", array)
  (tmp_path / "classes.txt").write_text("a\nb\n")
  for split, name in (("train", "train"), ("val", val)):
    source = make(tmp_path, split)
    assert source.names == (name,)
    np.testing.assert_array_equal(source[0]["label"], TRUTH)
    assert any("test/" in note for note in source.notes) == test
    assert all("that is not read: test/" in note for note in source.notes)


def test_test_is_val_only_with_a_note(tmp_path):
  for split in ("train", "test"):
    write(tmp_path / split / "images" / f"{split}.png", image(split == "test"))
    write(tmp_path / split / "masks" / f"{split}.png", TRUTH)
  (tmp_path / "classes.txt").write_text("a\nb\n")
  source = make(tmp_path, "val")
  assert source.names == ("test",)
  (note,) = source.notes
  assert "holds no folder val, valid or validation: test/ is taken for val" in note
  os.rename(tmp_path / "test", tmp_path / "other")
  with pytest.raises(UserError, match="expected a folder val, valid, validation or test in it"):
    make(tmp_path, "val")
  assert any("other/" in note for note in make(tmp_path).notes)


@pytest.mark.parametrize("suffix", ["_mask", "_label", "_gt", "-seg"])
@pytest.mark.parametrize("place", ["own", "images", "root", "train"])
def test_masks_with_an_ending_of_their_names(tmp_path, suffix, place):
  images, masks = {
    "own": ("images", "masks"), "images": ("images", "images"), "root": ("", ""),
    "train": ("train", "train"),
  }[place]  # fmt: skip
  for name in ("1", "10", "a", "a_b"):
    write(tmp_path / images / f"{name}.jpg", image())
    write(tmp_path / masks / f"{name}{suffix}.png", TRUTH)
  if place == "train":
    shutil.copytree(tmp_path / "train", tmp_path / "val")
  (tmp_path / "classes.txt").write_text("a\nb\n")
  for fields in ({}, dict(mask_suffix=suffix)):
    source = make(tmp_path, **fields)
    assert sorted(source.names) == ["1", "10", "a", "a_b"]
    np.testing.assert_array_equal(source[0]["label"], TRUTH)
    assert bool(fields) or f"the mask of the image x is x{suffix}" in source.notes[0]
  with pytest.raises(UserError, match=r"have no label|no such folder|is empty"):
    make(tmp_path, mask_suffix="_other")


def test_endings_that_are_not_clear_are_refused(tmp_path):
  for end in ("_mask", "_label"):
    write(tmp_path / "masks" / f"x{end}.png", TRUTH)
  write(tmp_path / "images" / "x.png", image())
  (tmp_path / "classes.txt").write_text("a\nb\n")
  with pytest.raises(UserError, match=r"with '_label' or '_mask' behind; set .*mask_suffix"):
    make(tmp_path)
  source = make(tmp_path, mask_suffix="_mask")
  assert source.pairs[0][1].name == "x_mask.png"
  assert source.notes == ("masks/ holds 1 image that is not read: x_label.png",)
  shutil.rmtree(tmp_path / "masks")
  with pytest.raises(UserError, match=r"no such folder: .*masks; .*x_mask\.png for x\.png"):
    make(tmp_path)
  write(tmp_path / "masks" / "y.png", TRUTH)
  with pytest.raises(
    UserError, match=r"no label: x\.png.*no image has a mask of its name: .* y\.png"
  ):
    make(tmp_path)


def test_subfolders_that_both_have_are_read(tmp_path):
  for name in ("a/x", "b/x", "b/c/y", "z"):
    write(tmp_path / "images" / f"{name}.jpg", image())
    write(tmp_path / "masks" / f"{name}.png", TRUTH)
  write(tmp_path / "images" / "thumbs" / "x.jpg", image())
  (tmp_path / "classes.txt").write_text("a\nb\n")
  source = make(tmp_path)
  assert sorted(source.names) == ["a/x", "b/c/y", "b/x", "z"]
  for image_file, label_file in source.pairs:
    relative = Path(image_file).relative_to(tmp_path / "images").with_suffix("")
    assert relative == Path(label_file).relative_to(tmp_path / "masks").with_suffix("")
  assert source.notes == ("images/ holds 1 folder that is not read: thumbs/",)
  (tmp_path / "train.txt").write_text("b/x.jpg\n./z\n")
  (tmp_path / "val.txt").write_text("a/x\n")
  assert make(tmp_path).names == ("b/x", "z")


def test_voc_folders_by_their_names(tmp_path):
  write(tmp_path / "JPEGImages" / "x.jpg", image())
  write(tmp_path / "SegmentationClass" / "x.png", TRUTH)
  (tmp_path / "classes.txt").write_text("a\nb\n")
  with pytest.raises(UserError, match=r"no such folder: .*images; .*source\.images=JPEGImages"):
    make(tmp_path)
  assert_labels(labels(tmp_path, images="JPEGImages", masks="SegmentationClass"), TRUTH)
  for name, other in (("JPEGImages", "Train"), ("SegmentationClass", "Val")):
    (tmp_path / name).rename(tmp_path / other)
  with pytest.raises(UserError, match=r"expected image files in it; there is Train/, Val/"):
    make(tmp_path)


# ---------------------------------------------------------------------------- lists


def with_lists(tmp_path, train, val):
  write_set(tmp_path, [TRUTH] * 5)
  for name, text in (("train", train), ("val", val)):
    if text is not None:
      (tmp_path / f"{name}.txt").write_text(text)
  return tmp_path


def test_lists_choose_and_what_they_leave_out_is_said(tmp_path):
  with_lists(tmp_path, "\ufeffx3.png\n\n x0 \n", "x1.PNG\n")
  assert make(tmp_path).names == ("x3", "x0")
  assert make(tmp_path, "val").names == ("x1",)
  note = "2 images in neither train.txt nor val.txt: x2, x4"
  assert make(tmp_path).notes == make(tmp_path, "val").notes[:1] == (note,)
  seeded = make(tmp_path, split_by="seed", train_fraction=0.6)
  assert len(seeded) == 3
  assert seeded.notes == ("train.txt and val.txt not read, as split_by is 'seed'",)
  (tmp_path / "test.txt").write_text("x4\n")
  (tmp_path / "README.txt").write_text("words\n")
  (tmp_path / "more.txt").write_text("x4\n")
  notes = make(tmp_path).notes
  assert [n for n in notes if "1 list that is not read: more.txt" in n]
  assert "1 image in neither train.txt nor val.txt: x2" in notes  # x4 is in test.txt
  assert make(tmp_path, "test").names == ("x4",)


@pytest.mark.parametrize(
  ("train", "val", "says"),
  [
    ("x0\n", None, r"found one of train\.txt and val\.txt, expected both or none"),
    (None, "x0\n", r"found one of train\.txt and val\.txt, expected both or none"),
    ("x0\nx1\nx0\n", "x2\n", r"train\.txt: x0 more than once"),
    ("x0\nx0.png\n", "x2\n", r"train\.txt: x0 more than once"),
    ("x0\nx1\n", "x2\nx1\n", r"x1 in train\.txt and in val\.txt"),
    ("x0\nx9.jpg\n", "x2\n", r"1 listed name\(s\) have no image, e\.g\. 'x9\.jpg'"),
  ],
)
def test_lists_that_contradict_themselves_are_refused(tmp_path, train, val, says):
  with_lists(tmp_path, train, val)
  with pytest.raises(UserError, match=says):
    make(tmp_path)


def test_lists_beside_split_folders_choose(tmp_path):
  for split in ("train", "val"):
    write_set(tmp_path / split, [TRUTH] * 3)
  (tmp_path / "classes.txt").write_text("a\nb\n")
  (tmp_path / "train.txt").write_text("x2\n")
  (tmp_path / "val.txt").write_text("x2\nx0\n")  # another file than x2 of train/
  assert make(tmp_path).names == ("x2",)
  source = make(tmp_path, "val")
  assert source.names == ("x2", "x0")
  assert Path(source.pairs[0][0]) == tmp_path / "val" / "images" / "x2.png"
  assert "val.txt leaves 1 image out: x1" in source.notes
  with pytest.raises(UserError, match="split_by is 'seed', but train and val have folders"):
    make(tmp_path, split_by="seed")
  (tmp_path / "val.txt").unlink()
  with pytest.raises(UserError, match="expected both or none"):
    make(tmp_path)


# ---------------------------------------------------------------------------- what is not read


@pytest.mark.parametrize("kind", ["segmentation", "pairs", "images", "classification"])
@pytest.mark.parametrize("layout", ["folders", "lists"])
def test_images_of_both_splits_are_said(tmp_path, kind, layout):
  for split in ("train", "val"):
    folder = tmp_path / split if layout == "folders" else tmp_path
    stems = [f"{split}{i}" if kind != "classification" else f"cat_{split}{i}" for i in range(3)]
    for i, stem in enumerate(stems):
      place = folder if kind == "classification" else folder / "images"
      write(place / f"{stem}.png", image(i + 99 * (i == 0 and split == "val")))
      if kind != "classification":
        write(folder / ("targets" if kind == "pairs" else "masks") / f"{stem}.png", TRUTH)
    if layout == "lists":
      (tmp_path / f"{split}.txt").write_text("\n".join(stems))
  if kind == "segmentation":
    (tmp_path / "classes.txt").write_text("a\nb\n")
  twins = lambda split: [n for n in make(tmp_path, split, kind=kind).notes if "byte" in n]  # noqa: E731
  assert twins("train") == []
  (note,) = twins("val")
  cat = "cat_" * (kind == "classification")
  assert note == (
    f"2 images in both splits, byte for byte: {cat}val1.png = {cat}train1.png, "
    f"{cat}val2.png = {cat}train2.png"
  )


@pytest.mark.parametrize("other", ["X\u00e9", "xe\u0301"])
@pytest.mark.parametrize("where", ["masks", "list"])
def test_names_that_look_alike_are_said(tmp_path, other, where):
  """Case, and accents as macOS stores them."""
  name = "x\u00e9"
  write_set(tmp_path, [TRUTH] * 2)
  for folder in ("images", "masks"):
    own = other if (folder, where) == ("masks", "masks") else name
    (tmp_path / folder / "x1.png").rename(tmp_path / folder / f"{own}.png")
  (tmp_path / "train.txt").write_text(f"{other if where == 'list' else name}\n")
  (tmp_path / "val.txt").write_text("x0\n")
  why = "case alone" if other[0] == "X" else "how their accents are stored"
  with pytest.raises(UserError, match=rf"1 (listed|of 1).* differ in {why}"):
    make(tmp_path)


def test_lists_of_other_endings_and_links_to_folders_above_are_not_read(tmp_path):
  write_set(tmp_path, [TRUTH] * 2)
  for folder in ("images", "masks"):
    (tmp_path / folder / "up").symlink_to("..")
    (tmp_path / folder / "self").symlink_to(".")
  for name in ("train.csv", "val.csv", "Train.txt", "README.json"):
    (tmp_path / name).write_text("x0\n")
  source = make(tmp_path)
  assert source.names == ("x0", "x1")
  assert set(source.notes) == {
    f"{tmp_path.name}/ holds 3 lists that are not read: Train.txt, train.csv, val.csv",
    "images/ holds 2 folders that are not read: self/, up/",
    "masks/ holds 2 folders that are not read: self/, up/",
  }


@pytest.mark.parametrize("count", [2, 3, 4])
def test_of_a_few_examples_each_split_has_one(tmp_path, count):
  write_set(tmp_path, [TRUTH] * count)
  sizes = [len(make(tmp_path, split, train_fraction=0.9)) for split in ("train", "val")]
  assert sizes == [count - 1, 1]


def test_a_mask_that_lies_on_its_side_is_said(tmp_path):
  write_set(tmp_path, [TRUTH])
  exif = Image.Exif()
  exif[274] = 6
  write(tmp_path / "images" / "x0.png", image(), exif=exif)
  with pytest.raises(UserError, match=r"5x3 pixels .* is 3x5; they must agree: one of them is t"):
    make(tmp_path)[0]
  write(tmp_path / "masks" / "x0.png", TRUTH[:, :4])
  with pytest.raises(UserError, match=r"they must agree$"):
    make(tmp_path)[0]


def test_nothing_is_left_out_without_a_word(tmp_path):
  write_set(tmp_path, [TRUTH] * 2)
  for name in ("images/a.jfif", "images/b.heic", "masks/x1.json", "images/.hidden"):
    (tmp_path / name).write_text("x")
  (tmp_path / "images" / "x1.png").unlink()
  write(tmp_path / "masks" / "lone.gif", TRUTH)
  write(tmp_path / "raw" / "x.png", image())
  assert set(make(tmp_path).notes) == {
    "images/ holds 1 .heic file that is not read: b.heic",
    "images/ holds 1 .jfif file that is not read: a.jfif",
    "masks/ holds 1 .json file that is not read: x1.json",
    "masks/ holds 2 labels without an image: lone.gif, x1.png",
    f"{tmp_path.name}/ holds 1 folder that is not read: raw/",
  }
  (tmp_path / "masks" / "x0.png").rename(tmp_path / "masks" / "x0.json")
  with pytest.raises(UserError, match=r"1 of 1 images have no label: x0\.png.*2 \.json files"):
    make(tmp_path)
  part = checks.Subset(make(tmp_path, complete=False), (0,))
  assert len(part.notes) == 6


def test_classes_in_folders_say_what_they_leave_out(tmp_path):
  for i, name in enumerate(("cat/a", "dog/b", "dog/deep/c", "stray")):
    write(tmp_path / f"{name}.png", image(i))
  (tmp_path / "cat" / "x.jfif").write_text("")
  source = make(tmp_path, kind="classification")
  assert sorted(source.names) == ["cat/a", "dog/b"]
  assert set(source.notes) == {
    f"{tmp_path.name}/ holds 1 image that is not read: stray.png",
    "cat/ holds 1 .jfif file that is not read: x.jfif",
    "dog/ holds 1 folder that is not read: deep/",
  }
  write(tmp_path / "set" / "train" / "animals" / "cat" / "a.png", image())
  with pytest.raises(UserError, match=r"is empty.*\. train/ holds 1 folder that is .*: animals/"):
    make(tmp_path / "set", kind="classification")
  write(tmp_path / "set" / "train" / "dog" / "a.png", image())
  assert make(tmp_path / "set", kind="classification").notes == (
    "train/ holds 1 folder that is not read: animals/",
  )


def test_an_image_of_two_classes_is_said(tmp_path, monkeypatch):
  for i, name in enumerate(("cat/a", "cat/b", "dog/b", "dog/c")):
    write(tmp_path / f"{name}.png", image(i))
  for name in ("cat/twin", "dog/same"):
    shutil.copy(tmp_path / "cat" / "a.png", tmp_path / f"{name}.png")
  note = "1 image under two classes, byte for byte: cat/a.png = dog/same.png"
  assert note in make(tmp_path, kind="classification").notes
  monkeypatch.setattr(contents, "_whole", None)  # images of one class are not read for it
  assert make(tmp_path / "cat", kind="images").notes == ()


def test_classes_that_look_alike_are_said(tmp_path):
  for name in ("train/cat", "train/dog", "train/Cat", "val/dog"):
    write(tmp_path / name / "a.png", image(len(name)))
  parts = [make(tmp_path, split, kind="classification") for split in sources.SPLITS]
  config = config_lib.default()
  config.data.source = config_lib.data_source("folder", kind="classification")
  found, _ = coverage.at_start(config, *parts, "class")
  assert found[0] == "two classes: 'cat' and 'Cat' differ in case alone"
  shutil.rmtree(tmp_path / "train" / "Cat")
  write(tmp_path / "val" / "Dog" / "b.png", image())
  with pytest.raises(UserError, match=r"class 'Dog' .*, dog\); 'Dog' and 'dog' differ in case"):
    make(tmp_path, "val", kind="classification")


def test_names_that_are_not_in_utf_8(tmp_path):
  """Those of files are read, and shown with digits; those of classes are refused."""
  name = os.fsdecode(b"\xfc")
  write(tmp_path / "a" / "images" / f"{name}.png", image())
  write(tmp_path / "a" / "masks" / f"{name}.png", TRUTH)
  source = make(tmp_path / "a", classes=("b", "c"))
  assert (source.names, len(source.digest())) == ((name,), 16)
  assert textfiles.shown(name) == "\\xfc" and textfiles.shown("\u00fc") == "\u00fc"
  write(tmp_path / "b" / name / "x.png", image())
  with pytest.raises(UserError, match=r"the class '\\udcfc' is not in UTF-8; rename its folder"):
    make(tmp_path / "b", kind="classification")


def test_folders_beside_those_of_the_splits_or_of_the_images_are_said(tmp_path):
  for name in ("train/cat/a", "val/cat/b", "more/cat/c", "one/images/a", "one/targets/a"):
    write(tmp_path / f"{name}.png", image(len(name)))
  root = tmp_path.name
  for split in sources.SPLITS:
    assert make(tmp_path, split, kind="classification").notes == (
      f"{root}/ holds 2 folders that are not read: more/, one/",
    )
  assert make(tmp_path / "one", kind="images").notes == (
    "one/ holds 1 folder that is not read: targets/",
  )


def test_masks_are_looked_at_once(tmp_path, monkeypatch):
  write_set(tmp_path, [TRUTH * np.uint8(255)] * 4)
  seen, numbers = [], meaning._numbers
  monkeypatch.setattr(meaning, "_numbers", lambda file: seen.append(file) or numbers(file))
  for split in ("train", "val", "train"):
    make(tmp_path, split, train_fraction=0.5)
  assert len(seen) == 4


def test_folders_elsewhere_are_read(tmp_path):
  write_set(tmp_path / "set", [TRUTH])
  os.rename(tmp_path / "set" / "images", tmp_path / "photos")
  (tmp_path / "photos" / "a.gif").write_text("")
  source = make(tmp_path / "set", images=str(tmp_path / "photos"))
  np.testing.assert_array_equal(source[0]["label"], TRUTH)
  assert source.notes == ("photos/ holds 1 .gif file that is not read: a.gif",)


@pytest.mark.parametrize("kind", ["segmentation", "images", "classification"])
def test_what_lies_among_images_without_a_folder_is_said(tmp_path, kind):
  write(tmp_path / "cat_1.png", image())
  write(tmp_path / "masks" / "cat_1.png", TRUTH)
  for name in ("a.jfif", "README.md", "classes.txt"):
    (tmp_path / name).write_text("cat\nb\n" if name == "classes.txt" else "")
  masks = (
    () if kind == "segmentation" else (f"{tmp_path.name}/ holds 1 folder that is not read: masks/",)
  )
  if kind == "classification":
    shutil.rmtree(tmp_path / "masks")
    masks = ()
  notes = make(tmp_path, kind=kind).notes
  assert notes == (f"{tmp_path.name}/ holds 1 .jfif file that is not read: a.jfif", *masks)
