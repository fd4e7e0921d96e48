"""Images of many channels, 16 bits or floats: files, values, training, tiles, georeference."""

import json

import numpy as np
import pytest
from PIL import Image

from segjax import config as config_lib
from segjax import ranges, training
from segjax.analysis import commands
from segjax.data import pipeline, rasters, sizes, sources, tiffs
from segjax.errors import UserError
from segjax.export import command as export_command
from segjax.inference import Predictor, command, inputs, rows
from segjax.inference.folder import Predictions, is_marked
from segjax.pictures import displayed
from segjax.training import experiment as experiment_lib
from segjax.training import input_pipeline

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


def predict(workdir, given, output):
  net = command.open_net(str(workdir), None, "latest")
  found = inputs.find(given, output)
  output.mkdir(exist_ok=True, parents=True)
  return net.run(found, Predictions(output, tuple(found.files.values())))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(folder of the set, workdir of a run of twelve steps)."""
  folder = tmp_path_factory.mktemp("rasters")
  config = of_six(write_set(folder / "set"), **{"augment.flip": 0.5, "augment.scale_max": 1.2})
  config.augment.brightness = 0.1
  training.train(config, folder / "run")
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
  assert predict(workdir, image, output) == []  # in place of its own files


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
