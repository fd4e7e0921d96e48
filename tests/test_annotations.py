"""Exports of annotation tools, written by hand, against masks counted by hand."""

import base64
import io
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import launch_all
from PIL import Image
from skimage.draw import polygon2mask

from segjax.data import rasters
from segjax.data.annotations import coco, convert, drawing, label_studio, labelme, shapes, yolo
from segjax.data.sources import make
from segjax.errors import UserError

SIZE = (6, 8)
# Class a: a square of 4 x 4; class b: a smaller one that covers its lower right corner.
A, B = [(1, 1), (5, 1), (5, 5), (1, 5)], [(4, 3), (7, 3), (7, 5), (4, 5)]
WANTED = np.zeros(SIZE, np.uint8)
WANTED[1:5, 1:5] = 1
SQUARE = WANTED == 1
WANTED[3:5, 4:7] = 2
# What pycocotools.mask.encode writes of the mask of 40 x 50 in the test below.
PYCOCO = (
  r"[6k0=00000000\OM33MM33MM33MM33MM33MM33MM33MM33MM33MM33MM33MM33MM33MM33"
  r"MM33MM33MM33MM33MM33MM33a00000000000000000000000000000U6"
)


def photo(file, size=SIZE):
  file.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(file)


def flat(corners):
  return [v for corner in corners for v in corner]


def in_shares(corners, unit=1):
  return [(x * unit / SIZE[1], y * unit / SIZE[0]) for x, y in corners]


def as_runs(mask, order="C"):
  bits = mask.ravel(order=order)
  edges = np.flatnonzero(np.diff(np.concatenate([[0], bits, [0]])))
  counts = np.diff(np.concatenate([[0], edges])).tolist()
  return counts if sum(counts) == bits.size else [*counts, bits.size - sum(counts)]


def write_coco(root):
  segments = [[flat(A)], {"size": SIZE, "counts": as_runs(WANTED == 2, "F")}]
  value = dict(
    images=[dict(id=7, file_name="x.png", height=SIZE[0], width=SIZE[1])],
    categories=[dict(id=9, name="b"), dict(id=3, name="a")],
    annotations=[
      dict(id=1, image_id=7, category_id=9, segmentation=segments[1], iscrowd=1),
      dict(id=2, image_id=7, category_id=3, segmentation=segments[0]),
      dict(id=3, image_id=7, category_id=3, bbox=[0, 0, 1, 1]),
    ],
  )
  (root / "annotations").mkdir()
  (root / "annotations" / "instances.json").write_text(json.dumps(value))
  photo(root / "train2017" / "x.png")


def write_yolo(root):
  lines = [f"{i} " + " ".join(map(str, flat(in_shares(c)))) for i, c in enumerate((A, B))]
  (root / "data.yaml").write_text("path: /elsewhere\ntrain: ../images/train\nnames: {0: a, 1: b}\n")
  photo(root / "images" / "train" / "x.png")
  (root / "labels" / "train").mkdir(parents=True)
  (root / "labels" / "train" / "x.txt").write_text("\n".join(lines))


def write_labelme(root):
  png = io.BytesIO()
  Image.fromarray(np.full((2, 3), 255, np.uint8)).save(png, "PNG")
  value = dict(
    imagePath="x.png", imageHeight=SIZE[0], imageWidth=SIZE[1],
    shapes=[
      dict(label="b", shape_type="mask", points=[[4, 3], [6, 4]],
           mask=base64.b64encode(png.getvalue()).decode()),
      dict(label="a", shape_type="rectangle", points=[[5, 5], [1, 1]]),
      dict(label="a", shape_type="point", points=[[0, 0]]),
    ],
  )  # fmt: skip
  (root / "x.json").write_text(json.dumps(value))
  photo(root / "x.png")


def write_cvat(root):
  runs = ", ".join(map(str, as_runs(np.ones((2, 3), int))))
  square = ";".join(f"{x},{y}" for x, y in A)
  (root / "annotations.xml").write_text(f"""<annotations><meta><job><labels>
    <label><name>a</name></label><label><name>b</name></label></labels></job></meta>
    <image id="0" name="x.png" width="{SIZE[1]}" height="{SIZE[0]}">
    <mask label="b" rle="{runs}" left="4" top="3" width="3" height="2" z_order="1"/>
    <polygon label="a" points="{square}" z_order="0"/><polyline label="a" points="0,0;1,1"/>
    </image></annotations>""")
  photo(root / "images" / "x.png")


def brush(mask):
  """A brush in Label Studio's stream of bits: alpha of one pixel after the other."""
  values = np.zeros((mask.size, 4), int)
  values[:, 3] = 255 * mask.ravel()
  text = f"{4 * mask.size:032b}{7:05b}{0:04b}{0:04b}{0:04b}{7:04b}"
  for row in values:  # a run of four values each, of the kind of length with eight bits
    text += f"0{3:02b}{3:08b}" + "".join(f"{v:08b}" for v in row)
  text += "0" * (-len(text) % 8)
  return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def write_label_studio(root):
  common = dict(original_width=SIZE[1], original_height=SIZE[0])
  regions = [
    dict(type="polygonlabels", id="p", **common,
         value=dict(points=in_shares(A, 100), polygonlabels=["a"])),
    dict(type="brushlabels", id="q", **common,
         value=dict(format="rle", rle=brush(WANTED == 2), brushlabels=["b"])),
    dict(type="keypointlabels", **common, value=dict(x=1, y=1, keypointlabels=["a"])),
    dict(type="choices", value=dict(choices=["good"])),
  ]  # fmt: skip
  tasks = [
    dict(id=1, data=dict(image="/data/upload/1/0a1b2c3d-x.png"),
         annotations=[dict(was_cancelled=True, result=[]), dict(result=regions)]),
    dict(id=2, data=dict(image="/data/upload/1/y.png"), annotations=[]),
  ]  # fmt: skip
  (root / "export.json").write_text(json.dumps(tasks))
  photo(root / "x.png")


WRITERS = dict(coco=write_coco, yolo=write_yolo, labelme=write_labelme, cvat=write_cvat,
               label_studio=write_label_studio)  # fmt: skip
NOTES = dict(coco="without a segmentation", yolo="no train beside val", labelme="{'point': 1}",
             cvat="{'polyline': 1}", label_studio="{'keypointlabels': 1}")  # fmt: skip


def test_each_tool_is_tested():
  assert set(WRITERS) == set(convert.READERS)


@pytest.mark.parametrize("tool", WRITERS)
def test_an_export_becomes_a_set(tool, tmp_path, capsys):
  source = tmp_path / "export"
  source.mkdir()
  WRITERS[tool](source)
  convert.convert(tool, source, tmp_path / "set")
  out = capsys.readouterr().out
  assert NOTES[tool] in out and "1 images with masks" in out
  assert "overlap, the smaller one is on top" in out and f"{200 / 48:.2f} %" in out
  found = make("folder", "train", folder=str(tmp_path / "set"), train_fraction=1.0)
  assert found.labels.names == ("background", "a", "b") and len(found) == 1
  np.testing.assert_array_equal(found[0]["label"], WANTED)
  np.testing.assert_array_equal(found[0]["image"], np.full((*SIZE, 3), 90))
  assert {p.name for p in tmp_path.iterdir()} == {"export", "set"}


def test_unlabelled_pixels_may_be_ignored(tmp_path):
  write_yolo(tmp_path)
  convert.convert("yolo", tmp_path, tmp_path / "set", unlabelled="ignore")
  mask = np.asarray(Image.open(tmp_path / "set" / "masks" / "x.png"))
  np.testing.assert_array_equal(mask, np.where(WANTED == 0, 255, WANTED - 1))


@pytest.mark.parametrize("split, refused", [("train", True), ("test", True), ("val", False)])
def test_ignored_pixels_never_become_the_second_class(tmp_path, split, refused):
  """Where train and val hold the first class and ignored pixels alone: 0 and 255."""
  (tmp_path / "a").mkdir()
  write_yolo(tmp_path / "a")
  (tmp_path / "a/labels/train/x.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
  photo(tmp_path / "a" / "images" / split / "y.png")
  (tmp_path / "a" / "labels" / split).mkdir(parents=True, exist_ok=True)
  number = 0 if split == "train" else 1
  (tmp_path / f"a/labels/{split}/y.txt").write_text(f"{number} 0.1 0.1 0.9 0.1 0.9 0.9\n")
  folders = dict.fromkeys(("train", split))
  text = "".join(f"{s}: images/{s}\n" for s in folders)
  (tmp_path / "a/data.yaml").write_text(f"{text}names: [road, sidewalk]\n")
  how = dict(unlabelled="ignore")
  if not refused:
    convert.convert("yolo", tmp_path / "a", tmp_path / "set", **how)
    return
  with pytest.raises(UserError, match="no pixel of 'sidewalk', and masks of 0 and 255 alone"):
    convert.convert("yolo", tmp_path / "a", tmp_path / "set", **how)
  assert not (tmp_path / "set").exists()


def test_yolo_images_without_a_folder_of_labels_are_an_error_and_others_are_noted(tmp_path, capsys):
  write_yolo(tmp_path)
  photo(tmp_path / "images" / "train" / "sub" / "z.png")
  photo(tmp_path / "images" / "test" / "y.png")
  (tmp_path / "data.yaml").write_text("train: images/train\nnames: [a, b]\n")
  convert.convert("yolo", tmp_path, tmp_path / "set")
  assert "images/train/ holds 1 folder that is not read: sub/" in capsys.readouterr().out
  (tmp_path / "data.yaml").write_text("train: images/train\ntest: images/test\nnames: [a, b]\n")
  with pytest.raises(UserError, match=r"images/test: no text file in .*labels/test; .* leave test"):
    convert.convert("yolo", tmp_path, tmp_path / "other")


def test_images_are_written_as_training_reads_them(tmp_path):
  write_yolo(tmp_path)
  found = yolo.read(tmp_path)

  def converted(ending, image, name):
    image.save(tmp_path / f"images/train/x.{ending}", format=name)
    picture = shapes.Picture(Path(f"images/train/x.{ending}"), found.pictures[0].shapes)
    annotations = shapes.Annotations(found.names, (picture,))
    with mock.patch.dict(convert.READERS, yolo=lambda _: annotations):
      convert.convert("yolo", tmp_path, tmp_path / ending)
    return tmp_path / ending

  grey = Image.new("L", SIZE[::-1], 90)
  made = converted("jfif", grey.convert("RGB"), "JPEG")
  assert [p.name for p in (made / "images").iterdir()] == ["x.jpg"]
  with pytest.raises(UserError, match=r"x\.gif: an image of another ending, expected \.png"):
    converted("gif", grey, "GIF")
  deep = Image.fromarray(np.full(SIZE, 30000, np.uint16))
  made = converted("png", deep, "PNG")
  how = dict(folder=str(made), train_fraction=1.0, pixels=rasters.Pixels(1, "uint16"))
  assert make("folder", "train", **how)[0]["image"].max() == np.float32(30000 / 65535)


def test_splits_are_kept(tmp_path):
  write_yolo(tmp_path)
  photo(tmp_path / "images" / "val" / "y.png")
  (tmp_path / "labels" / "val").mkdir()
  (tmp_path / "labels" / "val" / "y.txt").touch()
  (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b]\n")
  convert.convert("yolo", tmp_path, tmp_path / "set")
  names = {s: make("folder", s, folder=str(tmp_path / "set")).names for s in ("train", "val")}
  assert names == {"train": ("x",), "val": ("y",)}
  assert not np.asarray(Image.open(tmp_path / "set" / "masks" / "val" / "y.png")).any()


def test_layers_go_before_sizes_and_later_before_earlier():
  small = shapes.Shape("a", (shapes.polygon(A, ""),), layer=0)
  large = shapes.Shape("b", (shapes.rectangle(0, 0, 8, 6),), layer=1)
  mask, twice, _ = drawing.draw([large, small], dict(a=1, b=2), SIZE, 0)
  assert (mask == 2).all() and twice == 16
  pair = [shapes.Shape(name, (shapes.polygon(A, ""),)) for name in "ab"]
  assert (drawing.draw(pair, dict(a=1, b=2), SIZE, 0)[0] == np.where(SQUARE, 2, 0)).all()


@pytest.mark.parametrize("seed", range(3))
def test_polygons_are_those_of_skimage(seed):
  """Which asks whether whole numbers lie inside, and has rows first."""
  corners = np.random.default_rng(seed).uniform(-4, 24, (9, 2))
  inside, where = drawing.covered(shapes.Shape("a", (corners,)), (20, 21))
  mask = np.zeros((20, 21), bool)
  mask[where] = inside
  np.testing.assert_array_equal(mask, polygon2mask((20, 21), corners[:, ::-1] - 0.5))


def test_turned_rectangles_and_ellipses():
  np.testing.assert_allclose(
    shapes.rectangle(2, 1, 4, 2, degrees=90), [(5, 0), (5, 4), (3, 4), (3, 0)], atol=1e-12
  )
  np.testing.assert_allclose(
    shapes.rectangle(2, 1, 4, 2, degrees=90, pivot="corner"), [(2, 1), (2, 5), (0, 5), (0, 1)],
    atol=1e-12)  # fmt: skip
  shape = shapes.Shape("a", (shapes.ellipse(50, 40, 30, 20),))
  assert abs(drawing.covered(shape, (80, 100))[0].sum() / (np.pi * 600) - 1) < 0.01


def test_compressed_runs_are_pycocotools():
  mask = np.zeros((40, 50), np.uint8)
  mask[3:30, 5:45] = 1
  mask[10:20, 10:30] = 0
  np.testing.assert_array_equal(
    shapes.runs(coco.unpack(PYCOCO), mask.shape, "", order="F"), mask.astype(bool)
  )


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda root: (root / "images/train/x.png").unlink(), "no image in its folders"),
    (lambda root: photo(root / "images/train/x.png", (5, 8)), None),
    (lambda root: (root / "labels/train/x.txt").write_text("0 .5 .5 .2 .2"), "line 1: a box"),
    (lambda root: (root / "labels/train/x.txt").write_text("4 0 0 1 1 0 1"), "expected 0 to 1"),
    (lambda root: (root / "labels/train/x.txt").write_text("0 0 0"), "three corners"),
    (lambda root: (root / "labels/train/x.txt").write_text("a b"), "class x y"),
    (lambda root: (root / "data.yaml").write_text("names: ["), "not YAML"),
    (
      lambda root: (root / "data.yaml").write_text("names: ['# a', b]\ntrain: images/train"),
      "rename",
    ),
    (lambda root: (root / "images/train/x.png").write_bytes(b"no"), "x.png"),
    (
      lambda root: (root / "labels/train/x.txt").write_text("0 1 1 5 1 5 5 1 5\n"),
      r"x\.txt, line 1: found 5, expected shares of the image's width and height",
    ),
    (
      lambda root: (root / "labels/train/x.txt").write_text("0 0 -300 1 0 1 1\n"),
      r"x\.txt, line 1: found -300, expected shares",
    ),
    (
      lambda root: (root / "data.yaml").write_text("names: [no, yes]\ntrain: images/train"),
      r"data\.yaml: a class has the name False, expected a text; put it in quotes",
    ),
    (
      lambda root: (root / "data.yaml").write_text("names: {0: null, 1: b}\ntrain: images/train"),
      "a class has the name None",
    ),
    (
      lambda root: (root / "data.yaml").write_text("names: ['a ', a]\ntrain: images/train"),
      "the export's classes, as classes.txt, lines 2 and 3: two classes of the name 'a'",
    ),
  ],
)
def test_broken_exports_are_one_error_and_leave_nothing(tmp_path, change, words):
  source = tmp_path / "export"
  source.mkdir()
  write_yolo(source)
  change(source)
  if words is None:  # shares fit any size
    convert.convert("yolo", source, tmp_path / "set")
    return
  with pytest.raises(UserError, match=words):
    convert.convert("yolo", source, tmp_path / "set")
  assert [p.name for p in tmp_path.iterdir()] == ["export"]


def test_images_of_another_size_or_without_a_file_are_errors(tmp_path):
  write_coco(tmp_path)
  photo(tmp_path / "train2017" / "x.png", (8, 6))
  with pytest.raises(UserError, match=r"8 x 6 .* annotations are of 6 x 8"):
    convert.convert("coco", tmp_path, tmp_path / "set")
  (tmp_path / "train2017" / "x.png").unlink()
  with pytest.raises(UserError, match="no file of its name"):
    convert.convert("coco", tmp_path, tmp_path / "set")
  with pytest.raises(UserError, match="one JSON file of Label Studio, found 0"):
    convert.convert("label_studio", tmp_path, tmp_path / "set")
  with pytest.raises(UserError, match="did you mean 'coco'"):
    convert.convert("cocos", tmp_path, tmp_path / "set")


@pytest.mark.parametrize("key", ["images", "categories"])
def test_ids_of_coco_that_stand_for_two_are_refused(key, tmp_path):
  write_coco(tmp_path)
  file = next(tmp_path.rglob("*.json"))
  value = json.loads(file.read_text())
  value[key].append(value[key][0] | dict(file_name="y.png", name="c"))
  file.write_text(json.dumps(value))
  with pytest.raises(UserError, match=rf"two entries of '{key}' have the id \d"):
    convert.convert("coco", tmp_path, tmp_path / "set")


@pytest.mark.parametrize("tool", ["coco", "labelme", "label_studio"])
def test_json_as_windows_writes_it_is_read_and_as_others_do_is_named(tool, tmp_path):
  (tmp_path / "export").mkdir()
  WRITERS[tool](tmp_path / "export")
  (file,) = (tmp_path / "export").rglob("*.json")
  text = file.read_text()
  if tool == "coco":
    text = text.replace('"x.png"', '"train2017\\\\x.png"')
  file.write_bytes(text.encode("utf-8-sig"))
  convert.convert(tool, tmp_path / "export", tmp_path / "set")
  mask = np.asarray(Image.open(tmp_path / "set" / "masks" / "x.png"))
  np.testing.assert_array_equal(mask, WANTED)
  for data in (text.encode("utf-16"), text.encode()[:-9]):
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"not (text in UTF-8|valid JSON) .*; export it anew$"):
      convert.convert(tool, tmp_path / "export", tmp_path / "other")


def test_an_image_that_was_turned_in_the_tool_is_refused(tmp_path):
  write_label_studio(tmp_path)
  file = tmp_path / "export.json"
  file.write_text(
    file.read_text().replace('"original_width"', '"image_rotation": 90, "original_width"')
  )
  with pytest.raises(UserError, match="task 1, region p: the image was turned by 90 degrees"):
    convert.convert("label_studio", tmp_path, tmp_path / "set")


def test_a_cut_brush_is_an_error():
  with pytest.raises(UserError, match="ends early"):
    label_studio.unpack(brush(WANTED == 2)[:-9], "x")


@pytest.mark.slow
def test_the_launcher(tmp_path):
  source = tmp_path / "export"
  source.mkdir()
  write_coco(source)
  jobs = [[f"--output={tmp_path / 'set'}", "--from=coco"], ["--from=coco"], []]
  done = launch_all([("prepare_data", [f"--source={source}", *job], {}) for job in jobs], tmp_path)
  assert [d.returncode for d in done] == [0, 1, 1], done
  assert f"--config.data.source.folder={tmp_path / 'set'}" in done[0].stdout
  assert "expected --output" in done[1].stderr and "expected one of --name" in done[2].stderr


def test_a_mask_beyond_its_image_draws_nothing():
  for corner in ((9, 0), (0, 20), (-5, -5), (5, 7)):
    shape = shapes.Shape("a", pixels=np.ones((2, 3), bool), corner=corner)
    mask, _, lost = drawing.draw([shape], dict(a=1), SIZE, 0)
    assert lost == (corner != (5, 7))
    assert mask.sum() == (1 if corner == (5, 7) else 0)


def test_shapes_that_cover_no_pixel_are_said(tmp_path, capsys):
  """As where a tool wrote shares of an image's size in place of pixels."""
  write_coco(tmp_path)
  file = next(tmp_path.rglob("*.json"))
  value = json.loads(file.read_text())
  value["annotations"][1]["segmentation"] = [[100, 100, 104, 100, 104, 104]]
  file.write_text(json.dumps(value))
  convert.convert("coco", tmp_path, tmp_path / "set")
  assert "note: 1 shapes cover no pixel: they lie outside" in capsys.readouterr().out


def test_pixels_of_an_image_keep_their_own_part():
  pixels = np.zeros(SIZE, bool)
  pixels[1:3, 4:7] = True
  shape = shapes.of_pixels("a", pixels)
  assert shape.pixels.shape == (2, 3) and shape.corner == (1, 4)
  mask, _, lost = drawing.draw([shape], dict(a=1), SIZE, 0)
  np.testing.assert_array_equal(mask, pixels)
  mask, _, lost = drawing.draw([shapes.of_pixels("a", ~pixels & pixels)], dict(a=1), SIZE, 0)
  assert lost == 1 and not mask.any()


def test_images_that_an_export_does_not_list_are_said(tmp_path, capsys):
  write_coco(tmp_path)
  photo(next(tmp_path.rglob("x.png")).with_name("empty road.png"))
  convert.convert("coco", tmp_path, tmp_path / "my set")
  out = capsys.readouterr().out
  assert "note: 1 image without an annotation left out: empty road.png" in out
  assert f"--config.data.source.folder='{tmp_path / 'my set'}'" in out


def test_an_image_that_lies_elsewhere_is_said_and_a_longer_name_is_no_prefix(tmp_path, capsys):
  write_coco(tmp_path)
  file, json_file = next(tmp_path.rglob("x.png")), next(tmp_path.rglob("*.json"))
  value = json.loads(json_file.read_text())
  value["images"][0]["file_name"] = "building-x.png"
  json_file.write_text(json.dumps(value))
  with pytest.raises(UserError, match="there is no file of its name"):
    convert.convert("coco", tmp_path, tmp_path / "set")
  for name, said in (("0a1b2c3d-x.png", False), ("train2017/x.png", False), ("cam/x.png", True)):
    value["images"][0]["file_name"] = name
    json_file.write_text(json.dumps(value))
    convert.convert("coco", tmp_path, tmp_path / name[:3])
    text = f"1 image taken by the name alone: {file.relative_to(tmp_path)} for {name}"
    assert (text in capsys.readouterr().out) == said
    shutil.rmtree(tmp_path / name[:3])


def test_another_list_beside_labelme(tmp_path):
  write_labelme(tmp_path)
  (tmp_path / "labels.json").write_text('["road", "sky"]')
  convert.convert("labelme", tmp_path, tmp_path / "set")


def test_yolo_names_by_numbers_in_quotes(tmp_path):
  write_yolo(tmp_path)
  (tmp_path / "data.yaml").write_text("names: {'0': a, '1': b}\ntrain: images/train\n")
  assert yolo.read(tmp_path).names == ("a", "b")


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda v: v["annotations"][1].update(segmentation=[in_shares_flat(A)]),
     r"annotation 2: found numbers from 0 to 1 alone, expected pixels; export it anew"),
    (lambda v: v["annotations"][0].update(segmentation="x"),
     r"annotation 1: not an annotation of COCO .*; export it anew"),
    (lambda v: v["annotations"].__setitem__(0, None), r"annotation 0: not an annotation of COCO"),
    (lambda v: v["categories"][0].update(name=None), "category 9: a class has the name None"),
    (lambda v: v["images"].append(v["images"][0] | dict(id=8)), "lists this image twice"),
  ],
)  # fmt: skip
def test_broken_entries_of_coco_are_named(change, words, tmp_path):
  write_coco(tmp_path)
  file = next(tmp_path.rglob("*.json"))
  value = json.loads(file.read_text())
  change(value)
  file.write_text(json.dumps(value))
  with pytest.raises(UserError, match=words):
    convert.convert("coco", tmp_path, tmp_path / "set")


def in_shares_flat(corners):
  return flat(in_shares(corners))


def test_a_shape_of_labelme_that_is_broken_is_named(tmp_path):
  write_labelme(tmp_path)
  value = json.loads((tmp_path / "x.json").read_text())
  for change, words in (
    (dict(points=[[1, 1], [2, 2], [3, 3]]), r"x\.json: shape 1: not a shape of LabelMe"),
    (dict(label=None), r"x\.json: shape 1: a class has the name None"),
  ):
    broken = json.loads(json.dumps(value))
    broken["shapes"][1].update(change)
    (tmp_path / "x.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=words):
      labelme.read(tmp_path)


@pytest.mark.parametrize("name", ["_background_", "Background", "__ignore__"])
def test_names_that_mean_no_class(name, tmp_path, capsys):
  write_labelme(tmp_path)
  text = (tmp_path / "x.json").read_text().replace('"b"', f'"{name}"')
  (tmp_path / "x.json").write_text(text)
  convert.convert("labelme", tmp_path, tmp_path / "set")
  out = capsys.readouterr().out
  assert (tmp_path / "set" / "classes.txt").read_text() == "background\na\n"
  found = np.asarray(Image.open(tmp_path / "set" / "masks" / "x.png"))
  ignored = name == "__ignore__"
  np.testing.assert_array_equal(found, np.where(WANTED == 2, 255 if ignored else 0, WANTED))
  assert f"note: {name!r} is " + ("not scored" if ignored else "read as 'background'") in out


def test_classes_that_differ_in_case_are_noted(tmp_path, capsys):
  write_labelme(tmp_path)
  (tmp_path / "x.json").write_text((tmp_path / "x.json").read_text().replace('"b"', '"A"'))
  convert.convert("labelme", tmp_path, tmp_path / "set")
  assert "note: 'a' and 'A' differ in case alone" in capsys.readouterr().out
