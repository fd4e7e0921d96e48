"""Class statistics against hand numbers and scikit-learn; the launcher's tables and sheets."""

import re

import numpy as np
import pytest
from conftest import launch, launch_all, write_pairs
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from segjax import config as config_lib
from segjax import legends, pictures, training
from segjax.analysis import class_statistics, sheets
from segjax.augment import make_augment
from segjax.data.labels import IGNORE, LabelTable, default_table


class Labels:
  """A source of given labels."""

  def __init__(self, *labels, classes=3):
    self.arrays = [np.array(a, np.uint8) for a in labels]
    self.labels = default_table(tuple("abcdef"[:classes]))
    self.names = tuple(f"n{i}" for i in range(len(labels)))

  def __len__(self):
    return len(self.arrays)

  def __getitem__(self, i):
    label = self.arrays[i]
    return dict(image=np.full((*(label.shape or (4, 4)), 3), 77, np.uint8), label=label)


def write_config(folder, data, augment="", kind="segmentation"):
  text = f"""
from segjax import config as config_lib

def get_config(arg=""):
  c = config_lib.default()
  c.name = "tiny"
  c.data.source = config_lib.data_source(
    "folder", folder={str(data)!r}, kind={kind!r}, train_fraction=0.8
  )
  c.data.size = (40, 60)
  {augment}
  return c
"""
  file = folder / "tiny.py"
  file.write_text(text)
  return file


# ---------------------------------------------------------------------------- statistics


def test_counts_shares_and_weights_by_hand():
  # 8 + 4 pixels: a 6, b 3, c never, 3 ignored; b only in the first image.
  source = Labels([[0, 0, 0, 1], [1, 1, IGNORE, IGNORE]], [[0, 0, 0, IGNORE]])
  s = class_statistics.count(source, threads=2)
  assert (s.pixels.tolist(), s.images.tolist(), s.ignored) == ([6, 3, 0], [2, 1, 0], 3)
  assert s.pixels_of_images.tolist() == [9, 6, 0]
  np.testing.assert_allclose(s.share, [0.5, 0.25, 0])
  assert s.ignored_share == 0.25
  # f = 6/9, 3/6; their median 7/12.
  np.testing.assert_allclose(class_statistics.weights_by(s, "median_frequency"), [7 / 8, 7 / 6, 1])
  want = [1 / np.log(1.02 + 6 / 9), 1 / np.log(1.02 + 3 / 9), 1]
  np.testing.assert_allclose(class_statistics.weights_by(s, "inverse_log"), want)
  assert re.search(r"a +50\.00% +2 \(100%\) +0\.875 ", class_statistics.table(s))
  assert re.search(r"ignored +25\.00%$", class_statistics.table(s))


def test_a_chart_shows_the_names_as_they_are(tmp_path):
  labels = Labels([[0, 1, 2]])
  labels.labels = LabelTable((("$x^$", (1, 2, 3)), ("a $b$ c", (4, 5, 6)), ("c_1", (7, 8, 9))))
  statistics = class_statistics.count(labels)
  class_statistics.bar_chart(statistics, labels.labels, "of $5 and $6", tmp_path / "a.png")
  assert (tmp_path / "a.png").is_file() and (tmp_path / "a.pdf").is_file()


def test_median_frequency_agrees_with_balanced_weights_where_every_image_has_every_class():
  rng = np.random.default_rng(0)
  labels = [rng.choice(4, (30, 20), p=(0.6, 0.25, 0.1, 0.05)) for _ in range(5)]
  s = class_statistics.count(Labels(*labels, classes=4))
  assert (s.images == 5).all()
  got = class_statistics.weights_by(s, "median_frequency")
  balanced = compute_class_weight("balanced", classes=np.arange(4), y=np.ravel(labels))
  np.testing.assert_allclose(got / got[0], balanced / balanced[0], rtol=1e-12)


def test_one_class_an_image_counts_images():
  s = class_statistics.count(Labels(0, 1, 1, 2))
  assert s.pixels.tolist() == s.images.tolist() == [1, 2, 1]
  np.testing.assert_allclose(s.share, [0.25, 0.5, 0.25])
  np.testing.assert_allclose(class_statistics.weights_by(s, "median_frequency"), [1, 0.5, 1])


# ---------------------------------------------------------------------------- sheets


def test_ignored_pixels_are_striped_and_classes_keep_their_colors():
  table = LabelTable((("black", (0, 0, 0)), ("white", (255, 255, 255))))
  label = np.full((20, 30), IGNORE, np.uint8)
  label[:5], label[5:10] = 0, 1
  colors = legends.colorize(table, label)
  assert (colors[:5] == 0).all()
  assert (colors[5:10] == 255).all()
  assert set(np.unique(colors[10:])) == set(pictures.STRIPES)


def test_legend_wraps_and_counts_what_it_leaves_out():
  table = default_table(tuple(f"class_{i}" for i in range(60)))
  few, many = (legends.legend(table, list(range(n)), 300) for n in (3, 60))
  assert few.shape[1] == many.shape[1] == 300
  assert few.shape[0] < 40 < many.shape[0] < 400
  for _, color in table.classes[:3]:
    assert (few == color).all(-1).sum() > 100


def test_examples_of_a_sheet_are_spread():
  assert pictures.spread(100, 4) == [0, 33, 66, 99]
  assert pictures.spread(3, 8) == [0, 1, 2]


def test_large_and_small_images_are_alike_in_a_sheet():
  label = np.zeros((900, 1200), np.uint8)
  label[:, 600:] = 1
  small = sheets.shrink(label)
  assert small.shape == (300, 400)
  np.testing.assert_array_equal(small, np.arange(400)[None].repeat(300, 0) >= 200)
  assert sheets.shrink(np.zeros((900, 2, 3), np.uint8)).shape == (400, 1, 3)
  assert sheets.shrink(label[:50, :60]).shape == (50, 60)
  sheet = sheets.samples(Labels(label, label[::3, ::3], classes=2))
  assert sheet.shape[0] < 2 * 300 + 100


@pytest.mark.parametrize("labels", [[0, 1, 2, 1, 0], [[[0, IGNORE]] * 9, [[1] * 30] * 4]])
def test_sheets_of_masks_and_of_classes(labels):
  sheet = sheets.samples(Labels(*labels))
  assert sheet.dtype == np.uint8
  assert (sheet == 77).all(-1).sum() > 100  # the images are there


def test_augmented_sheet_shows_image_and_label_moving_together():
  label = np.zeros((40, 60), np.uint8)
  label[:, :20] = 1
  source = Labels(label, classes=2)

  def mirror(key, image, label):
    return image[:, ::-1], label[:, ::-1]

  one = sheets.augmented(source, mirror, (40, 60), seed=0, versions=1)
  cells = [one[22 : 22 + 160, 6 + c * 246 : 6 + c * 246 + 240] for c in range(3)]
  assert (cells[0] == 77).all()
  np.testing.assert_array_equal(cells[1], cells[2][:, ::-1])
  assert not np.array_equal(cells[1], cells[2])


@pytest.mark.parametrize("kind", ["class", "target"])
def test_augmented_sheet_of_classes_and_of_pairs(kind):
  rng = np.random.default_rng(0)
  image, target = rng.integers(0, 255, (2, 160, 240, 3)).astype(np.uint8)
  label = np.uint8(1) if kind == "class" else target

  class Source:
    names, labels = ["x"], Labels(classes=2).labels

    def __len__(self):
      return 1

    def __getitem__(self, index):
      return dict(image=image, label=label)

  mirror = make_augment(flip=1.0)
  one = sheets.augmented(Source(), mirror, (160, 240), seed=0, versions=1)
  if kind == "class":
    np.testing.assert_array_equal(one[22:182, 6:246], image)
    np.testing.assert_array_equal(one[22:182, 252:492], image[:, ::-1])
  else:  # pairs are shrunk to 300 pixels in width
    pair = [one[22 : 22 + 100, 6 + c * 306 : 6 + c * 306 + 300].astype(int) for c in (1, 2)]
    for half in (slice(0, 150), slice(150, 300)):
      np.testing.assert_allclose(pair[0][:, half], pair[1][:, half][:, ::-1], atol=1)


def test_augmented_sheet_of_crops():
  row, column = np.mgrid[:320, :480]
  image = np.stack([row // 2, column // 2, row % 2 + 2 * (column % 2)], -1).astype(np.uint8)

  class Source:
    names, labels = ["x"], Labels(classes=2).labels

    def __len__(self):
      return 1

    def __getitem__(self, index):
      return dict(image=image, label=np.uint8(0))

  keep = lambda key, image, label: (image, label)  # noqa: E731
  sheet = sheets.augmented(Source(), keep, (160, 240), seed=0, crop=True, versions=2)
  places = []
  for c in (1, 2):  # beside the whole image, shrunk
    cell = sheet[22:182, 6 + c * 246 : 246 + c * 246]
    y, x, odd = cell[0, 0].astype(int)
    places.append((2 * y + odd % 2, 2 * x + odd // 2))
    top, left = places[-1]
    np.testing.assert_array_equal(cell, image[top : top + 160, left : left + 240])
  assert places[0] != places[1]


# ---------------------------------------------------------------------------- launcher


@pytest.mark.slow
def test_data_prints_a_table_and_pasteable_weights(tmp_path):
  config = write_config(tmp_path, write_pairs(tmp_path / "data", count=10))
  output = tmp_path / "out"
  done = launch("analyze", "data", f"--config={config}", f"--output={output}")
  assert done.returncode == 0, done.stderr
  assert "folder, train: 8 examples" in done.stdout
  assert re.search(r"^ground +\d\d\.\d\d% +8 \(100%\)", done.stdout, re.M)
  for name in ("samples_train.png", "classes_train.png"):
    with Image.open(output / name) as image:
      assert min(image.size) > 100
  weights = re.findall(r'--config\.loss\.class_weights="(\(.*\))"', done.stdout)
  assert len(weights) == 2
  again = launch(
    "analyze",
    "data",
    f"--config={config}",
    f"--output={output}",
    "--split=val",
    f"--config.loss.class_weights={weights[0]}",
  )
  assert again.returncode == 0, again.stderr
  assert (output / "samples_val.png").is_file()


@pytest.mark.slow
def test_data_lists_broken_files_once_and_fails(tmp_path):
  data = write_pairs(tmp_path / "data", count=30)
  lost = [0, 7, 8, 13]
  for i in range(30):
    if i in lost:
      (data / "masks" / f"x{i:03d}.png").unlink()
  (data / "images" / "x020.png").write_text("x")
  (data / "train.txt").write_text("\n".join(f"x{i:03d}" for i in range(25)))
  (data / "val.txt").write_text("x026\nx027\n")
  (data / "images" / "x027.png").write_text("x")
  output = tmp_path / "out"
  config = write_config(tmp_path, data)
  done = launch("analyze", "data", f"--config={config}", f"--output={output}")
  assert done.returncode == 1
  assert "error: 5 of 25 examples are broken, 5 faults:" in done.stderr
  assert "\nval: 1 of 2 examples is broken, 1 fault:" in done.stderr
  for i in (*lost, 20, 27):
    assert done.stderr.count(f"images/x{i:03d}.png") == 1
  assert "folder, train: 20 examples" in done.stdout
  assert (output / "classes_train.png").is_file()


@pytest.mark.slow
def test_augment_draws_a_sheet(tmp_path):
  data, output = write_pairs(tmp_path / "data", count=10), tmp_path / "out"
  config = write_config(tmp_path, data, "c.augment.update(flip=0.5, brightness=0.4)")
  command = ["augment", f"--config={config}", f"--output={output}"]
  nothing = [*command, "--config.augment.flip=0.0", "--config.augment.brightness=0.0"]
  done, off = launch_all([("analyze", args, {}) for args in (command, nothing)], tmp_path / "jobs")
  assert done.returncode == 0, done.stderr
  with Image.open(output / "augment.png") as image:
    assert image.width > 7 * 200
  assert off.returncode == 1
  assert "switches nothing on" in off.stderr


@pytest.mark.slow
def test_wrong_commands_are_reported_in_one_line(tmp_path):
  cases = (
    ([], "unknown command ''"),
    (
      ["dta"],
      "did you mean 'data'? (commands: augment, confusion, cost, crops, curves, data, examples, "
      "features, replay, stages, worst)",
    ),
    (["data"], "--config is required"),
    (["stages"], "--workdir is required"),
  )
  found = launch_all([("analyze", args, {}) for args, _ in cases], tmp_path)
  for done, (_, words) in zip(found, cases, strict=True):
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_pictures_of_a_run(small_run, tmp_path):
  pictures = ("curves", "crops", "confusion", "stages")
  written = {c: tmp_path / c / f"{c}.png" for c in pictures} | {"cost": tmp_path / "cost/cost.json"}
  jobs = [
    ("analyze", [command, f"--workdir={small_run}", f"--output={file.parent}"], {})
    for command, file in written.items()
  ]
  for done, file in zip(launch_all(jobs, tmp_path / "jobs"), written.values(), strict=True):
    assert done.returncode == 0, done.stderr
    assert file.stat().st_size > 100
    if file.suffix == ".png":
      assert file.with_suffix(".pdf").stat().st_size > 100
    assert str(file) in done.stdout


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
  """A finished run whose first checkpoint was kept."""
  root = tmp_path_factory.mktemp("run")
  data = write_pairs(root / "data", count=10)
  config = config_lib.read(str(write_config(root, data, "c.model.widths = (4, 8)")))
  config.update(total_steps=4, total_epochs=0.0, eval_steps=2, eval_epochs=0.0)
  config.update(keep_steps=(1,), writers=())
  training.train(config, root / "run")
  return root / "run"
