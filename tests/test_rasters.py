"""Images of many channels, 16 bits or floats: files, values, training, tiles, georeference."""

import contextlib
import importlib.util
import io
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from segjax import config as config_lib
from segjax import own_code, ranges, training
from segjax.analysis import channel_statistics, commands
from segjax.data import labels as labels_lib
from segjax.data import pipeline, rasters, sizes, sources, tiffs
from segjax.errors import UserError
from segjax.export import command as export_command
from segjax.export import evaluation
from segjax.inference import Predictor, command, inputs, rows
from segjax.inference.folder import Predictions, is_marked
from segjax.pictures import displayed
from segjax.training import experiment as experiment_lib
from segjax.training import input_pipeline, steps

tifffile = pytest.importorskip("tifffile", reason="the extra `tiff` is not installed")

# UTM zone 33 north, pixels of 10 m, the upper left corner at (500000, 4600000).
KEYS = (1, 1, 0, 4, 1024, 0, 1, 1, 1025, 0, 1, 1, 1026, 34737, 22, 0, 3072, 0, 1, 32633)
GEO = (
  (33550, 12, 3, (10.0, 10.0, 0.0), True),
  (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 4600000.0, 0.0), True),
  (34735, 3, len(KEYS), KEYS, True),
  (34737, "s", 0, "WGS 84 / UTM zone 33N|", True),
)
SIX = rasters.Pixels(6, "uint16")
MEAN, STD = (0.05,) * 6, (0.1,) * 6


def write(file, values, **how):
  """A TIFF of [H,W,C], its bands pixel by pixel, without compression, unless `how` says more."""
  file.parent.mkdir(exist_ok=True, parents=True)
  how = dict(photometric="minisblack", planarconfig="contig", metadata=None) | how
  tifffile.imwrite(file, values, **how)
  return file


def write_set(folder, count=4, size=(40, 60)):
  """Images of six channels of uint16 on the earth; class 1 is bright in the fifth alone."""
  rng = np.random.default_rng(0)
  (folder / "masks").mkdir(parents=True)
  (folder / "classes.txt").write_text("ground\ncrop\n")
  for i in range(count):
    label = np.zeros(size, np.uint8)
    top, left = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
    label[top : top + size[0] // 2, left : left + size[1] // 2] = 1
    image = rng.integers(0, 6000, (*size, 6))
    image[..., 4] += 20000 * (label > 0)
    write(folder / "images" / f"x{i}.tif", image.astype(np.uint16), extratags=GEO)
    Image.fromarray(label).save(folder / "masks" / f"x{i}.png")
  return folder


def of_six(folder, **fields):
  c = config_lib.default()
  c.data.source = config_lib.data_source("folder", folder=str(folder), train_fraction=0.5)
  c.data.update(channels=6, dtype="uint16", mean=MEAN, std=STD, threads=1)
  c.data.update(size=(16, 24), batch_size=2, fit="crop", eval_multiple=1)
  c.data.update(eval_fit="tiles", eval_overlap=0.5)
  c.model = dict(name="unet", widths=(4,), dtype="float32")
  c.optimizer.name, c.schedule.learning_rate = "adam", 0.03
  c.total_steps, c.total_epochs, c.eval_steps, c.eval_epochs = 12, 0.0, 12, 0.0
  c.writers, c.pictures = ("pictures",), 1
  c.update_from_flattened_dict(fields)
  return c


def predict(workdir, given, output, model=None, **how):
  net = command.open_net(workdir and str(workdir), model, "latest", **how)
  found = inputs.find(given, output)
  output.mkdir(exist_ok=True, parents=True)
  return net.run(found, Predictions(output, tuple(found.files.values())))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(folder of the set, workdir of a run of twelve steps)."""
  folder = tmp_path_factory.mktemp("rasters")
  config = of_six(write_set(folder / "set"), **{"augment.flip": 0.5, "augment.scale_max": 1.2})
  config.augment.brightness = 0.1
  with contextlib.redirect_stdout(io.StringIO()) as said:
    training.train(config, folder / "run")
  (folder / "run" / "said.txt").write_text(said.getvalue())
  return folder / "set", folder / "run"


def tags(file):
  with file.open("rb") as stream:
    return tiffs.georeference(stream)


# ------------------------------------------------------------------- a run


def test_a_run_finds_what_a_band_beyond_rgb_shows_and_is_evaluated_by_tiles(run, capsys):
  folder, workdir = run
  last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
  assert last["val/iou/crop"] > 0.9
  predictor, counts = Predictor(workdir, checkpoint="latest"), np.zeros((2, 2), int)
  assert predictor.pixels == SIX
  source = sources.make("folder", "val", folder=str(folder), train_fraction=0.5, pixels=SIX)
  for i in range(len(source)):
    stored = tifffile.imread(folder / "images" / f"{source.names[i]}.tif")
    found = predictor(stored)
    np.testing.assert_array_equal(found.image, source[i]["image"])
    assert found.overlay.shape == (40, 60, 3)
    np.add.at(counts, (source[i]["label"], found.label), 1)
  with np.load(workdir / "val_sums.npz") as sums:
    np.testing.assert_array_equal(sums["matrix"], counts)


def test_a_class_map_lies_on_the_earth_where_its_image_does(run, tmp_path):
  folder, workdir = run
  image, output = folder / "images" / "x1.tif", tmp_path / "out"
  assert predict(workdir, image, output) == []
  label = Predictor(workdir, checkpoint="latest")(image).label
  assert 0 < label.mean() < 1
  np.testing.assert_array_equal(tifffile.imread(output / "x1_index.tif"), label)
  np.testing.assert_array_equal(np.asarray(Image.open(output / "x1_index.png")), label)
  assert tags(output / "x1_index.tif") == tags(image) == GEO
  assert is_marked(output / "x1_index.tif") and not is_marked(image)
  assert predict(workdir, image, output, probabilities="png16") == []  # in place of its own files
  name = "x1_probability_1_crop"
  likely = tifffile.imread(output / f"{name}.tif")
  assert likely.dtype == np.uint16 and tags(output / f"{name}.tif") == GEO
  np.testing.assert_array_equal(likely, np.asarray(Image.open(output / f"{name}.png")))


def test_gdal_sees_the_place_of_a_class_map(run, tmp_path):
  rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
  folder, workdir = run
  predict(workdir, folder / "images" / "x1.tif", tmp_path / "out")
  with (
    rasterio.open(folder / "images" / "x1.tif") as image,
    rasterio.open(tmp_path / "out" / "x1_index.tif") as found,
  ):
    assert found.crs == image.crs and found.crs.to_epsg() == 32633
    assert found.transform == image.transform and found.transform.c == 500000
    np.testing.assert_array_equal(
      found.read(1), np.asarray(Image.open(tmp_path / "out" / "x1_index.png"))
    )


def test_photographs_and_other_channels_are_refused_by_one_error(run, tmp_path, capsys):
  folder, workdir = run
  Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.jpg")
  (said,) = predict(workdir, tmp_path / "photo.jpg", tmp_path / "out")
  assert "photo.jpg: 3 channels of uint8, expected 6 channels of uint16" in said
  with pytest.raises(UserError, match=r"image of uint8\[4, 4, 3\], expected uint16\[height,wi"):
    Predictor(workdir, checkpoint="latest")(np.zeros((4, 4, 3), np.uint8))
  with pytest.raises(UserError, match=r"image of int32\[4, 4, 6\], expected uint16"):
    Predictor(workdir, checkpoint="latest")(np.zeros((4, 4, 6), np.int32))
  with pytest.raises(UserError, match=r"data\.channels: 6 -> 5; data\.mean"):
    config = of_six(write_five(folder, tmp_path / "five"), **{"data.channels": 5})
    config.data.update(mean=MEAN[:5], std=STD[:5])
    training.train(config, workdir)


def test_an_exported_file_is_evaluated_and_predicts_as_its_run(run, tmp_path, capsys):
  folder, workdir = run
  file, spec = tmp_path / "net.stablehlo", tmp_path / "spec.py"
  export_command.run(str(workdir), file, form="stablehlo", checkpoint="latest", images=2)
  assert "images of 16x24 with 6 channels of uint16, 65535 becomes 1" in capsys.readouterr().out

  def evaluated(full_scale):
    fields = {"data.full_scale": full_scale}
    spec.write_text(
      "from test_rasters import of_six\n"
      f"def get_config():\n  return of_six({str(folder)!r}, **{fields})\n"
    )
    return evaluation.run(file, str(spec))

  with pytest.raises(UserError, match=r"65535 becomes 1, and those of .* 10000 becomes 1; set"):
    evaluated(10000.0)
  with np.load(workdir / "val_sums.npz") as sums:
    np.testing.assert_array_equal(evaluated(65535.0)["matrix"], sums["matrix"])
  assert evaluation.run(file, None, folder=str(folder), split="train")["pixels"] == 3 * 40 * 60
  image, label = folder / "images" / "x1.tif", Predictor(workdir, checkpoint="latest")
  predict(None, image, tmp_path / "out", model=file)
  np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/x1_index.tif"), label(image).label)
  assert tags(tmp_path / "out" / "x1_index.tif") == GEO


def write_five(folder, target):
  """The same set without its last channel."""
  for file in (*folder.glob("*.txt"), *folder.glob("masks/*")):
    place = target / file.relative_to(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(file.read_bytes())
  for file in folder.glob("images/*"):
    write(target / "images" / file.name, tifffile.imread(file)[..., :5])
  return target


def test_a_config_of_an_older_version_is_of_photographs(run, tmp_path):
  values = json.loads((run[1] / "config.json").read_text())
  del values["checksum"]
  for name in ("channels", "dtype", "full_scale"):
    del values["data"][name]
  (tmp_path / "config.json").write_text(json.dumps(values))
  assert rasters.of(config_lib.load(tmp_path / "config.json").data) == rasters.RGB


def test_the_run_says_what_its_images_are_and_draws_three_channels(run):
  assert "images      6 channels of uint16, 65535 becomes 1" in (run[1] / "said.txt").read_text()
  assert list((run[1] / "images").iterdir())


# ------------------------------------------------------------------- files and values


STORED = np.array([[0, 1, 9999, 10000, 40000, 65535]] * 2, np.uint16)[None]  # [1,2,6]


@pytest.mark.parametrize(
  "how",
  [
    dict(),
    dict(planarconfig="separate", compression="zlib", predictor=True),
    dict(planarconfig=None),
    dict(byteorder=">", bigtiff=True),
  ],
  ids=["contiguous", "bands", "pages", "big"],
)
def test_values_of_uint16_are_divided_by_65535_however_they_are_stored(tmp_path, how):
  bands = how.get("planarconfig") == "separate" or "planarconfig" in how
  values = np.moveaxis(STORED, -1, 0) if bands else STORED
  file = write(tmp_path / "x.tif", values, **how)
  np.testing.assert_array_equal(SIX.read_stored(file).values, STORED)
  found = SIX.read(file)
  assert found.dtype == np.float32 and found[0, 0, 0] == 0 and found[0, 0, 5] == 1
  np.testing.assert_array_equal(found, STORED.astype(np.float32) / np.float32(65535))
  tenths = rasters.Pixels(6, "uint16", 10000.0).read(file)
  assert tenths[0, 0, 3] == 1 and tenths[0, 0, 4] == 4


@pytest.mark.parametrize(
  "dtype, value, expected", [("uint8", 51, 0.2), ("int16", -32767, -1), ("float32", -12.5, -12.5)]
)
def test_values_of_other_dtypes(tmp_path, dtype, value, expected):
  pixels = rasters.Pixels(4, dtype)
  file = write(tmp_path / "x.tif", np.full((3, 2, 4), value, dtype))
  np.testing.assert_array_equal(pixels.read(file), np.full((3, 2, 4), expected, np.float32))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_files_have_their_stored_values(tmp_path, channels, dtype):
  values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (5, 7, channels), dtype)
  file = tmp_path / "x.png"
  file.write_bytes(tf.io.encode_png(values).numpy())
  found = rasters.Pixels(channels, dtype).read(file)
  if (channels, dtype) != (3, "uint8"):
    assert found.dtype == np.float32
    found = found * np.float32(np.iinfo(dtype).max)
  np.testing.assert_allclose(found, values, rtol=1e-6)
  other = "uint16" if dtype == "uint8" else "uint8"
  said = f"x.png: {tiffs.text(channels, dtype)}, expected {tiffs.text(channels, other)}"
  with pytest.raises(
    UserError,
    match=said
    if (channels, other) != (3, "uint8")
    else f"data.channels=3 --config.data.dtype={dtype}",
  ):
    rasters.Pixels(channels, other).read(file)
  with pytest.raises(UserError, match=f"{tiffs.text(channels, dtype)}, expected 5 channels"):
    rasters.Pixels(5, dtype).read(file)
  file.write_bytes(file.read_bytes()[:-40])
  with pytest.raises(UserError, match=r"x\.png: cannot be read"):
    rasters.Pixels(channels, dtype).read(file)


@pytest.mark.parametrize(
  "how, channels, said",
  [
    (dict(photometric="miniswhite"), 1, "0 stands for white"),
    (dict(photometric="palette", colormap=np.zeros((3, 256), np.uint16)), 1, "indices of a pal"),
    (dict(photometric="separated"), 4, "inks"),
  ],
)
def test_tiff_values_that_are_no_brightness_are_refused(tmp_path, how, channels, said):
  file = tmp_path / "x.tif"
  tifffile.imwrite(file, np.zeros((4, 5, channels)[: 2 + (channels > 1)], np.uint8), **how)
  with pytest.raises(UserError, match=rf"x\.tif: values of another kind \({said}"):
    rasters.Pixels(channels).read(file)


def test_a_fourth_band_beside_rgb_is_not_dropped(tmp_path):
  values = np.random.default_rng(0).integers(0, 256, (6, 7, 4), np.uint8)
  file = tmp_path / "x.tif"
  tifffile.imwrite(file, values, photometric="rgb", extrasamples=["unspecified"])
  with pytest.raises(UserError, match=r"x\.tif: 4 channels of uint8, .* --config.data.channels=4"):
    rasters.RGB.read(file)
  tifffile.imwrite(file, values, photometric="rgb", extrasamples=["unassalpha"])
  np.testing.assert_array_equal(rasters.RGB.read(file), values[..., :3])


@pytest.mark.parametrize("alpha", ["assocalpha", "unassalpha"])
def test_large_and_small_tiff_files_with_alpha_have_the_same_colours(tmp_path, monkeypatch, alpha):
  values = np.random.default_rng(0).integers(0, 256, (6, 7, 4), np.uint8)
  values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
  tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb", extrasamples=[alpha])
  monkeypatch.setattr(rows, "LARGE", 1)
  with rows.opened(tmp_path / "x.tif") as source:
    np.testing.assert_array_equal(source.read(6), rasters.RGB.read(tmp_path / "x.tif"))


def test_without_tifffile_a_tiff_asks_for_it(tmp_path, monkeypatch):
  Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / "x.tif")
  monkeypatch.setitem(sys.modules, "tifffile", None)
  with pytest.raises(UserError, match=r"of mode F, .* found 32; install segjax\[tiff\]"):
    rasters.RGB.read(tmp_path / "x.tif")


def test_other_files_of_one_channel(tmp_path):
  grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
  grey.save(tmp_path / "x.jpg", quality=100)
  found = rasters.Pixels(1).read(tmp_path / "x.jpg")
  assert found.shape == (8, 8, 1) and np.abs(255 * found[..., 0] - np.asarray(grey)).max() < 4
  grey.convert("P").save(tmp_path / "x.png")
  with pytest.raises(UserError, match=r"mode P with 8 bits, expected 1 channel of uint8; conv"):
    rasters.Pixels(1).read(tmp_path / "x.png")
  turned = Image.Exif()
  turned[ORIENTATION] = 6
  wide = Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 9000)
  wide.save(tmp_path / "y.png", exif=turned)
  found = rasters.Pixels(1, "uint16").read(tmp_path / "y.png")
  np.testing.assert_allclose(found[..., 0] * 65535, np.rot90(np.asarray(wide), -1))


def test_photographs_stay_as_they_are(tmp_path):
  values = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
  file = write(tmp_path / "x.tif", values, photometric="rgb", extratags=GEO)
  found = rasters.RGB.read(file)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, values)
  with rows.opened(file) as source:
    assert source.georeference == GEO and source.limits is None


ORIENTATION = 274  # tag
NAN, NODATA = np.ones((3, 4, 6), np.float32), np.ones((3, 4, 6), np.uint16)
NAN[0, 1, 2], NAN[1, 1, 3], NODATA[2, 2, 2:] = np.nan, np.inf, 7


FLOATS, MARKED = rasters.Pixels(6, "float32"), dict(extratags=[(42113, "s", 0, "7", True)])
RGB_FIRST = dict(photometric="rgb")  # then Pillow would read three
TURNED = dict(extratags=[(ORIENTATION, 3, 1, 6, True)])


@pytest.mark.parametrize(
  "pixels, values, how, said",
  [
    (SIX, NODATA[..., :4], {}, r"4 channels of uint16, expected 6 channels of uint16 \(data"),
    (SIX, np.uint8(NODATA), {}, "6 channels of uint8, .* set --config.data.channels=6 --con"),
    (rasters.RGB, NODATA, {}, "6 channels of uint16, expected 3 channels of uint8; convert"),
    (rasters.RGB, np.uint8(NODATA), {}, "6 channels of uint8, expected 3 .*data.channels=6"),
    (rasters.RGB, np.uint8(NODATA), RGB_FIRST, "6 channels of uint8, expected 3"),
    (rasters.RGB, NODATA[..., :3], {}, "3 channels of uint16, .* --config.data.dtype=uint16"),
    (rasters.RGB, NODATA[..., 0], {}, "of mode I;16, expected 8 bits .*data.channels=1 .*uint16"),
    (
      SIX,
      np.float64(NODATA),
      {},
      "float64, .* convert the file to uint8, uint16, int16 or fl",
    ),
    (FLOATS, NAN, {}, "2 of 12 pixels are nan or infinite, expected numbers"),
    (SIX, NODATA, MARKED, "1 of 12 pixels have the file's nodata value, 7; fill them"),
    (SIX, NODATA, TURNED, "a turned image .*Orientation is 6.*, expected an upright one"),
  ],
)
def test_files_that_a_set_does_not_take(tmp_path, pixels, values, how, said):
  file = write(tmp_path / "x.tif", values, **how)
  with pytest.raises(UserError, match=rf"x\.tif: .*{said}"):
    pixels.read(file)


def test_photographs_alone_are_divided_on_the_device():
  np.testing.assert_array_equal(steps.as_floats(np.array([51], np.uint8)), np.float32([0.2]))
  np.testing.assert_array_equal(steps.as_floats(np.float32([51, -2])), np.float32([51, -2]))


def test_smaller_copies_within_a_file_do_not_count(tmp_path):
  with tifffile.TiffWriter(tmp_path / "x.tif") as file:
    how = dict(photometric="minisblack", planarconfig="contig", metadata=None)
    file.write(NODATA, **how)
    file.write(NODATA[:1], subfiletype=1, **how)
  np.testing.assert_array_equal(SIX.read_stored(tmp_path / "x.tif").values, NODATA)


def test_a_codec_that_is_missing_is_named(tmp_path):
  if importlib.util.find_spec("imagecodecs"):
    pytest.skip("imagecodecs is installed")
  Image.fromarray(NODATA[..., 0]).save(tmp_path / "x.tif", compression="tiff_lzw")
  with pytest.raises(UserError, match=r"requires .*imagecodecs.*; install segjax\[tiff\]"):
    rasters.Pixels(1, "uint16").read(tmp_path / "x.tif")


def test_classes_by_folder_and_sources_of_ones_own_have_many_channels_too(tmp_path, monkeypatch):
  for name in ("a/x", "a/y", "b/x", "b/y"):
    write(tmp_path / "set" / f"{name}.tif", STORED)
  how = dict(folder=str(tmp_path / "set"), kind="classification", train_fraction=0.5)
  (tmp_path / "own_six.py").write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  own_code.allow(dict(data=dict(source=dict(name="own_six:build"))))
  for source in (
    sources.make("folder", "train", pixels=SIX, **how),
    sources.make("own_six:build", "train", pixels=SIX),
  ):
    image = source[0]["image"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0]["image"], image)  # workers
    assert image.dtype == np.float32 and image.shape == (1, 2, 6)
  with pytest.raises(
    UserError, match=r"'own_six:build', example 'one': image is float32\[1, 2, 6\]"
  ):
    sources.make("own_six:build", "train", pixels=rasters.Pixels(4, "float32"))


OWN = """
import numpy as np
from segjax.data.labels import default_table


class Six:
  labels, names = default_table(("a", "b")), ("one",)

  def __len__(self):
    return 1

  def __getitem__(self, i):
    return dict(image=np.ones((1, 2, 6), np.float32), label=np.zeros((1, 2), np.uint8))


def build(split):
  return Six()
"""


def test_damaged_and_large_files_and_lost_packages(tmp_path, monkeypatch):
  file = write(tmp_path / "x.tif", NODATA)
  (tmp_path / "cut.tif").write_bytes(file.read_bytes()[:-40])
  with pytest.raises(UserError, match=r"cut\.tif: cannot be read .*; replace or remove it"):
    SIX.read(tmp_path / "cut.tif")
  with monkeypatch.context() as patch, pytest.raises(UserError, match=r"x\.tif: too large \(12 pi"):
    patch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    SIX.read(file)
  monkeypatch.setitem(sys.modules, "tifffile", None)
  with pytest.raises(UserError, match=r"x\.tif: .* need tifffile .*; install segjax\[tiff\]"):
    SIX.read(file)
  with pytest.raises(UserError, match=r"x\.tif: not an image, expected PNG"):
    rasters.RGB.read(file)


def test_resizing_a_channel_is_pillows_resizing_of_it():
  image = np.random.default_rng(0).normal(0, 9, (12, 10, 5)).astype(np.float32)
  example = dict(image=image, label=np.zeros((12, 10), np.uint8))
  found = pipeline.resize(example, (6, 7))
  assert found["image"].shape == (6, 7, 5) and found["label"].shape == (6, 7)
  for c in range(5):
    one = Image.fromarray(image[..., c]).resize((7, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found["image"][..., c], np.asarray(one))
  flat = sizes.resize_image(np.full((4, 4, 6), 0.25, np.float32), (2, 2))
  np.testing.assert_array_equal(flat, np.full((2, 2, 6), 0.25, np.float32))


def test_pictures_stretch_three_channels_and_leave_photographs():
  ramp = np.linspace(3, 5, 101, dtype=np.float32)[:, None, None]
  shown = displayed(np.concatenate([ramp, 2 * ramp, -ramp, 0 * ramp], -1))
  assert shown.shape == (101, 1, 3) and shown.dtype == np.uint8
  assert shown[:3, 0, 0].tolist() == [0, 0, 0] and shown[98:, 0, 0].tolist() == [255] * 3
  assert shown[50, 0].tolist() == [128, 128, 128] and shown[2, 0, 2] == 255
  assert displayed(ramp)[98, 0].tolist() == [255] * 3  # a single channel is grey
  assert displayed(shown) is shown


# ------------------------------------------------------------------- configs


def test_the_moments_of_a_set_are_those_of_numpy(tmp_path, capsys):
  folder, c = write_set(tmp_path / "set"), config_lib.default()
  c.data.source = config_lib.data_source("folder", folder=str(folder), train_fraction=0.5)
  c.data.update(channels=6, dtype="uint16", full_scale=10000.0)
  commands.data(c, "train", tmp_path / "out", 2)
  names = sources.make("folder", "train", folder=str(folder), train_fraction=0.5).names
  stored = np.stack([tifffile.imread(folder / "images" / f"{n}.tif") for n in names]) / 10000
  said = capsys.readouterr().out
  assert "images of 6 channels of uint16, 10000 becomes 1" in said
  for field, value in (("mean", stored.mean((0, 1, 2))), ("std", stored.std((0, 1, 2)))):
    text = said.split(f'--config.data.{field}="(')[1].split(")")[0]
    np.testing.assert_allclose([float(v) for v in text.split(",")], value, rtol=1e-4)


@pytest.mark.parametrize(
  "fields, said",
  [
    (dict(mean=(0.5,) * 3), "data.mean is .*, expected 6 numbers by data.channels, or one for all"),
    (dict(std=(0.5,) * 7), "data.std is .*, expected 6 numbers by data.channels, or one for all"),
    (dict(mean=(2.0,)), r"data.mean is \(2.0,\), expected numbers from 0 to 1"),
    (dict(dtype="uint12"), "unknown data.dtype 'uint12'"),
    (dict(channels=0), "data.channels is 0, expected 1 or more"),
    (dict(full_scale=-1.0), "data.full_scale is -1.0, expected the value in the files"),
    (dict(full_scale=1e-50), "data.full_scale is 1e-50, expected .* from 1e-06 to 1e.12, or 0"),
    (dict(full_scale=float("nan")), "data.full_scale is nan, expected the value"),
    (dict(channels=3, dtype="uint8", full_scale=9.0), "data.full_scale is for other images than 3"),
  ],
)
def test_fields_that_make_no_sense(fields, said):
  config = of_six("")
  config.data.update(fields)
  with pytest.raises(UserError, match=said):
    ranges.check(config)


def test_one_mean_is_for_all_channels_and_floats_may_have_any():
  config = of_six("")
  config.data.update(dtype="float32", mean=(-12.5,), std=(4.0,))
  ranges.check(config)


def test_changes_of_colours_do_not_cut_off_values_beyond_one(run):
  config, labels = of_six(run[0]), labels_lib.default_table(("a", "b"))
  config.data.update(dtype="float32", mean=(-12.5,), std=(4.0,))
  experiment_lib.build(config, labels)
  config.augment.brightness = 0.2
  for mean, std, fits in ((-12.5, 4.0, False), (0.0, 1.0, False), (0.4, 0.2, True)):
    config.data.update(mean=(mean,), std=(std,))
    if fits:
      experiment_lib.build(config, labels)
      continue
    with pytest.raises(UserError, match=rf"augment: brightness expect .* by data.mean \({mean}, "):
      experiment_lib.build(config, labels)


def test_sources_and_tasks_of_photographs_say_so(run):
  config = of_six(run[0], **{"data.eval_fit": "resize"})
  config_lib.set_task(config, "colorization")
  with pytest.raises(UserError, match="the task 'colorization' is for photographs"):
    input_pipeline.make_source(config, "train")
  with pytest.raises(UserError, match=r"'road_scenes' gives images uint8.*, expected float32"):
    floats = rasters.Pixels(3, "float32")
    sources.make("road_scenes", "train", pixels=floats, height=16, width=32)


def test_a_mask_of_another_size_is_found(run, tmp_path):
  folder = write_five(run[0], tmp_path / "set")
  Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "masks" / "x0.png")
  pixels = rasters.Pixels(5, "uint16")
  source = sources.make("folder", "train", folder=str(folder), train_fraction=1.0, pixels=pixels)
  (fault,) = source.faults(source.names.index("x0"))
  assert "is 9x9 pixels (width x height), its image" in fault and "60x40" in fault


def test_it_is_said_where_the_place_is_lost(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert rows.loses_georeference([Path("x.png"), Path("x.TIF")])
  assert not rows.loses_georeference([Path("x.png")])


def placed(values, east=500000.0, side=10.0, by_matrix=False, **more):
  """extratags of a mask whose upper left corner is `east` metres east; `values` is GDAL_NODATA."""
  if by_matrix:
    matrix = (side, 0, 0, east, 0, -side, 0, 4600000, 0, 0, 0, 0, 0, 0, 0, 1)
    tags = ((34264, 12, 16, tuple(map(float, matrix)), True),)
  else:
    tie = (0.0, 0.0, 0.0, east, 4600000.0, 0.0)
    tags = ((33550, 12, 3, (side, side, 0.0), True), (33922, 12, 6, tie, True))
  return (*tags, (42113, "s", 0, str(values), True)) if values is not None else tags


def with_masks(folder, values=lambda label: label, nodata=None, **how):
  write_set(folder)
  for file in sorted((folder / "masks").glob("*.png")):
    label = values(np.asarray(Image.open(file)))
    write(file.with_suffix(".tif"), label, extratags=placed(nodata, **how))
    file.unlink()
  return sources.make("folder", "train", pixels=SIX, folder=str(folder), train_fraction=0.5)


@pytest.mark.parametrize(
  ("how", "found"),
  [
    (dict(), False),
    (dict(by_matrix=True), False),
    (dict(east=500004.0), False),  # within a pixel
    (dict(east=500020.0), True),
    (dict(east=500020.0, by_matrix=True), True),
    (dict(side=10.5), True),  # the lower right corner
  ],
)
def test_masks_that_lie_elsewhere_are_named(how, found, tmp_path):
  notes = " ".join(with_masks(tmp_path / "set", **how).notes)
  assert ("2 masks of 2 looked at lie elsewhere than the image: x" in notes) == found


def test_numbers_that_masks_declare_as_missing(tmp_path):
  source = with_masks(tmp_path / "zero", nodata=0)
  assert any("masks declare 0 as missing (GDAL_NODATA), and it is read as 'ground'; "
             "--config.data.source.ignore_value=0 leaves" in n for n in source.notes)  # fmt: skip
  how = dict(pixels=SIX, folder=str(tmp_path / "zero"), train_fraction=0.5, ignore_value=0)
  assert not any("GDAL" in n for n in sources.make("folder", "train", **how).notes)
  far = lambda label: np.where(label > 0, 1, -9999).astype(np.int16)  # noqa: E731
  source = with_masks(tmp_path / "far", far, nodata=-9999)
  with pytest.raises(UserError, match=r"label value -9999 .*declares -9999 as missing .*_value=-9"):
    source[0]
  how |= dict(folder=str(tmp_path / "far"), ignore_value=-9999)
  assert set(np.unique(sources.make("folder", "train", **how)[0]["label"])) == {1, 255}


def test_a_constant_channel_is_said():
  said = channel_statistics.text(np.array([0.5, 0.25]), np.array([0.1, 0.0]))
  assert '--config.data.std="(0.1, 1)"' in said
  assert "1 stands for 0, the deviation of channel 1 (from 0 on)" in said
