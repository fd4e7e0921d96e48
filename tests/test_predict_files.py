"""What launch/predict.py reads and writes: strips, folders in folders, probabilities, videos."""

import csv
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, PngImagePlugin
from test_tiles import model, picture, two

from segjax.data.labels import default_table, table_of
from segjax.errors import UserError
from segjax.inference import Predictor, command, inputs, png, rows, video
from segjax.inference.folder import Predictions
from segjax.inference.predict_files import Segmented


def net(keep="", **how):
  """A net without jax, as launch/predict.py has it."""
  predictor = Predictor(model(), **how)
  labels = default_table(predictor.classes)
  return command.Net("", partial(Segmented, predictor, keep), labels)


def predict(given, output, of=None):
  found = inputs.find(given, output)
  output.mkdir(exist_ok=True, parents=True)
  return (of or net()).run(found, Predictions(output, tuple(found.files.values())))


def listing(folder):
  return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def save(array, file, **how):
  file.parent.mkdir(exist_ok=True, parents=True)
  Image.fromarray(array).save(file, **how)
  return file


def table(folder):
  return list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))


def all_rows(source, count):
  parts = []
  while len(part := source.read(count)):
    parts.append(part)
  return np.concatenate(parts)


# ------------------------------------------------------------------- strips


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA"])
def test_a_png_in_strips_is_the_png_as_a_whole(tmp_path, mode):
  smooth = np.add.outer(np.arange(90) * 2, np.arange(70))[..., None] + np.array([0, 40, 9])
  file = tmp_path / "x.png"
  image = Image.fromarray((smooth + picture(90, 70) // 64).astype(np.uint8)).convert(mode)
  image.save(file)
  source = png.PngRows(file)
  assert png.size_of(file) == (source.height, source.width) == (90, 70)
  np.testing.assert_array_equal(all_rows(source, 37), np.asarray(image.convert("RGB")))


def test_a_png_that_has_no_plain_rows_is_read_as_a_whole(tmp_path):
  deep = save(picture(9, 9)[..., 0].astype(np.uint16), tmp_path / "deep.png")
  one_bit = tmp_path / "bit.png"
  Image.fromarray(picture(9, 9)[..., 0] > 99).save(one_bit)
  exif = Image.Exif()
  exif[274] = 6
  turned = save(picture(9, 9), tmp_path / "turned.png", exif=exif)
  photo = save(picture(9, 9), tmp_path / "x.jpg")
  assert not any(map(png.size_of, (deep, one_bit, turned, photo)))


def xmp(orientation):
  return (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
  )


def turned_png(folder, how, orientation):
  """A PNG file whose orientation stands where programs other than Pillow write it."""
  info, exif = PngImagePlugin.PngInfo(), Image.Exif()
  exif[274] = orientation
  if how.startswith("xmp"):
    info.add_itxt("XML:com.adobe.xmp", xmp(orientation), zip=how == "xmp packed")
  elif how == "profile":
    data = exif.tobytes()
    info.add_text("Raw profile type exif", f"\nexif\n{len(data):8d}\n{data.hex()}")
  file = save(picture(20, 30), folder / "x.png", pnginfo=info)
  if how == "late":  # behind the pixels
    whole, end = file.read_bytes(), png._chunk(b"IEND", b"")
    late = png._chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    file.write_bytes(whole.removesuffix(end) + late + end)
  return file


@pytest.mark.parametrize("how", ["late", "xmp", "xmp packed", "profile"])
def test_a_large_png_is_turned_as_a_small_one_is(tmp_path, monkeypatch, how):
  file = turned_png(tmp_path, how, 6)
  monkeypatch.setattr(rows, "LARGE", 0)
  with rows.opened(file) as source:
    np.testing.assert_array_equal(source.read(99), np.rot90(picture(20, 30), -1))


def test_a_large_png_that_is_upright_by_its_xmp_is_read_in_strips(tmp_path):
  assert png.size_of(turned_png(tmp_path, "xmp", 1)) == (20, 30)


def test_a_large_tiff_of_four_channels_is_refused_as_a_small_one_is(tmp_path, monkeypatch):
  tifffile = pytest.importorskip("tifffile")
  monkeypatch.setattr(rows, "LARGE", 0)
  image, file = np.dstack([picture(20, 30), picture(20, 30)[..., :1]]), tmp_path / "x.tif"
  tifffile.imwrite(file, image, photometric="minisblack", planarconfig="contig")
  with pytest.raises(UserError, match="4 channels of uint8, expected 3"), rows.opened(file):
    pass
  tifffile.imwrite(file, image, photometric="rgb", extrasamples=["unassalpha"])
  with rows.opened(file) as source:
    assert isinstance(source._rows, rows.TiffRows)
    np.testing.assert_array_equal(source.read(99), image[..., :3])


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_tiff_is_turned_by_its_xmp(tmp_path, monkeypatch, orientation):
  tifffile = pytest.importorskip("tifffile")
  monkeypatch.setattr(rows, "LARGE", 0)
  text, image = xmp(orientation).encode(), picture(20, 30)
  tag = (700, "B", len(text), text, True)
  tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", extratags=[tag])
  with rows.opened(tmp_path / "x.tif") as source:
    assert isinstance(source._rows, rows.TiffRows) == (orientation == 1)
    found = source.read(99)
  np.testing.assert_array_equal(found, np.rot90(image, -1) if orientation == 6 else image)


@pytest.mark.parametrize("change", ["cut", "bit", "short"])
def test_a_damaged_strip_is_one_error(tmp_path, monkeypatch, change):
  monkeypatch.setattr(rows, "LARGE", 0)
  file = save(picture(300, 200), tmp_path / "in" / "a.png")
  save(picture(30, 20), tmp_path / "in" / "b.png")
  data = bytearray(file.read_bytes())
  if change == "bit":
    data[len(data) // 2] ^= 1
  file.write_bytes(data[: len(data) // 2] if change == "cut" else data)
  if change == "short":  # the header claims more rows than there are
    whole = file.read_bytes()
    header = png._header(200, 400, 8, 2)
    file.write_bytes(header + whole[len(header) :])
  (broken,) = predict(tmp_path / "in", tmp_path / "out", net(tile=64, batch_size=2))
  assert broken.startswith(f"{file}: cannot be read")
  assert {n for n in listing(tmp_path / "out") if n.endswith("index.png")} == {"b_index.png"}
  assert [row["file"] for row in table(tmp_path / "out")] == ["b.png"]


@pytest.mark.parametrize("how", [
  {}, dict(tile=(64, 32)), dict(compression="zlib", rowsperstrip=16),
  dict(compression="zlib", tile=(32, 64), predictor=True), dict(grey=True),
])  # fmt: skip
def test_a_tiff_in_strips_is_the_tiff_as_a_whole(tmp_path, monkeypatch, how):
  tifffile = pytest.importorskip("tifffile")
  monkeypatch.setattr(rows, "LARGE", 0)
  image, how = picture(90, 70), dict(how)
  grey = how.pop("grey", False)
  file = tmp_path / "x.tif"
  tifffile.imwrite(file, image[..., 0] if grey else image, photometric=1 if grey else 2, **how)
  with rows.opened(file) as source:
    assert isinstance(source._rows, rows.TiffRows)
    found = all_rows(source, 37)
  np.testing.assert_array_equal(found, image[..., [0, 0, 0]] if grey else image)


def test_pictures_written_in_parts_are_pictures(tmp_path):
  image = picture(90, 70)
  for i, array in enumerate((image, image[..., 0], image[..., 0].astype(np.uint16) * 257)):
    file = tmp_path / f"{i}.png"
    writer = png.PngWriter(file, 70, 90, array)
    for top in range(0, 90, 40):
      writer.write(array[top : top + 40])
    writer.finish()
    writer.close()
    with Image.open(file) as found:
      np.testing.assert_array_equal(np.asarray(found), array)
      assert found.info["Software"] == "segjax"


def test_an_image_beyond_pillows_limit_is_read_in_strips(tmp_path, monkeypatch):
  monkeypatch.setattr(rows, "LARGE", 10**5)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
  image = picture(300, 400)
  save(image, tmp_path / "in" / "a.png")
  save(image, tmp_path / "in" / "b.bmp")
  found = predict(tmp_path / "in", tmp_path / "out", net(tile=64))
  assert [text.partition(": too large")[0] for text in found] == [str(tmp_path / "in" / "b.bmp")]
  assert [row["file"] for row in table(tmp_path / "out")] == ["a.png"]


LARGE_PREDICTION = """
  import re, sys, time
  from pathlib import Path
  import numpy as np
  from segjax.inference import Predictor, command, inputs, png
  from segjax.inference.folder import Predictions
  from segjax.inference.predict_files import Segmented
  from segjax.data.labels import default_table
  from types import SimpleNamespace
  from functools import partial

  class Block:
    def find_spec(self, name, path=None, target=None):
      if name.split(".")[0] in ("jax", "flax", "grain", "orbax", "tensorflow"):
        raise ImportError("blocked: " + name)

  side, folder = int(sys.argv[1]), Path(sys.argv[2])
  sys.meta_path.insert(0, Block())
  line = (np.arange(side) % 256).astype(np.uint8)
  writer = png.PngWriter(folder / "x.png", side, side, np.zeros((1, side, 3), np.uint8))
  for top in range(0, side, 100):
    writer.write(np.repeat(line[None, :, None], 100, 0).repeat(3, 2))
  writer.finish(); writer.close()

  def second(images):
    p = images[..., :1] / np.float32(255)
    return np.concatenate([1 - p, p], -1)

  net = SimpleNamespace(classes=("a", "b"), palette=np.eye(2, 3, dtype=np.uint8), size=None,
                        multiple=32, one_logit=True, batch=None, probabilities=second)
  predictor = Predictor(net, tile=512, batch_size=2)
  net = command.Net("", partial(Segmented, predictor), default_table(("a", "b")))
  found = inputs.find(folder / "x.png", folder / "out")
  (folder / "out").mkdir()
  start = time.time()
  assert net.run(found, Predictions(folder / "out")) == []
  # Not `resource`, whose peak is at least that of the process that started this one.
  peak = re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1]
  print(int(peak) // 1024, round(time.time() - start))
"""


def predict_large(side, folder):
  """(MB, seconds) of a process that predicts side x side pixels by tiles, where no jax is."""
  code = textwrap.dedent(LARGE_PREDICTION)
  done = subprocess.run([sys.executable, "-c", code, str(side), str(folder)], cwd=ROOT, check=True,
                        capture_output=True, text=True)  # fmt: skip
  return list(map(int, done.stdout.split()[-2:]))


@pytest.mark.slow
def test_memory_grows_with_the_width_alone_and_without_jax(tmp_path):
  """4096 x 4096 pixels as a whole take 50 MB, their probabilities 134 MB."""
  (tmp_path / "small").mkdir()
  small, large = predict_large(600, tmp_path / "small")[0], predict_large(4100, tmp_path)[0]
  assert large - small < 110
  index = np.asarray(Image.open(tmp_path / "out" / "x_index.png"))
  np.testing.assert_array_equal(index, np.broadcast_to(np.arange(4100) % 256 >= 128, index.shape))


# ------------------------------------------------------------------- folders


def test_folders_in_folders_are_kept(tmp_path):
  for name in ("a.png", "one/a.png", "one/two/b.jpg", "one/two/b.png"):
    save(picture(20, 30), tmp_path / "in" / name)
  (tmp_path / "in" / "one" / "notes.txt").write_text("")
  (tmp_path / "in" / "one" / "up").symlink_to(tmp_path / "in")
  assert predict(tmp_path / "in", tmp_path / "out") == []
  names = ["a", "one/a", "one/two/b", "one/two/b.png"]
  kinds = ("color", "index", "overlay")
  pictures = [f"{n}_{k}.png" for n in names for k in kinds]
  assert listing(tmp_path / "out") == sorted([*pictures, "legend.png", "predictions.csv"])
  assert [r["file"] for r in table(tmp_path / "out")] == [
    "a.png", "one/a.png", "one/two/b.jpg", "one/two/b.png",
  ]  # fmt: skip
  notes = inputs.find(tmp_path / "in", tmp_path / "out").notes
  assert any("notes.txt" in note for note in notes)
  assert any("up" in note and "not read" in note for note in notes)
  assert len(notes) == 2


def test_results_within_the_folder_of_the_images_are_left_out(tmp_path):
  save(picture(20, 30), tmp_path / "a.png")
  out = tmp_path / "out"
  for _ in range(2):
    assert predict(tmp_path, out) == []
    assert [r["file"] for r in table(out)] == ["a.png"]
  assert inputs.find(tmp_path, out).notes == ("out/ is the folder of the results and is not read",)
  save(picture(20, 30), out / "mine.png")
  with pytest.raises(UserError, match=r"lies among the images and holds mine\.png"):
    predict(tmp_path, out)


def test_results_of_an_earlier_prediction_are_no_images(tmp_path):
  save(picture(20, 30), tmp_path / "one" / "a.png")
  predict(tmp_path, tmp_path / "one" / "before")
  predict(tmp_path, tmp_path / "out")
  assert [r["file"] for r in table(tmp_path / "out")] == ["one/a.png"]
  notes = inputs.find(tmp_path, tmp_path / "out").notes
  assert "one/before/ holds earlier results and is not read" in notes
  (tmp_path / "one" / "before" / "predictions.csv").write_text("image,mine\n")
  assert len(inputs.find(tmp_path, tmp_path / "out").files) == 5


def test_a_name_that_is_too_long_is_said_before_anything_is_written(tmp_path):
  for name in ("a", "l" * 250):
    save(picture(20, 30), tmp_path / "in" / f"{name}.png")
  with pytest.raises(UserError, match=r"^l{40}\.\.\.: too long a name, as index\.png"):
    predict(tmp_path / "in", tmp_path / "out")
  assert listing(tmp_path / "out") == []


def test_an_image_is_never_written_over(tmp_path):
  """Even where it is a result of prediction itself."""
  out = tmp_path / "out"
  predict(save(picture(20, 30), tmp_path / "a.png"), out)
  result = out / "a_index.png"
  before = result.read_bytes()
  found = inputs.Inputs({"a.png": tmp_path / "a.png", "b.png": result})
  with pytest.raises(UserError, match=r"a_index\.png is one of the images"):
    net().run(found, Predictions(out, tuple(found.files.values())))
  assert result.read_bytes() == before


def test_a_users_file_of_a_new_kind_is_not_replaced(tmp_path):
  image, out = save(picture(20, 30), tmp_path / "a.png"), tmp_path / "out"
  predict(image, out)
  (out / "a_probabilities.npz").write_bytes(b"mine")
  with pytest.raises(UserError, match=r"a_probabilities\.npz is there already"):
    predict(image, out, net("npz"))
  assert (out / "a_probabilities.npz").read_bytes() == b"mine"


def test_a_table_that_is_none(tmp_path):
  image, out = save(picture(20, 30), tmp_path / "a.png"), tmp_path / "out"
  (out / "predictions.csv").mkdir(parents=True)
  with pytest.raises(UserError, match=r"predictions\.csv is there already and is no file"):
    predict(image, out)
  (out / "predictions.csv").rmdir()
  (out / "predictions.csv").write_bytes(b"\xef\xbb\xbf")  # of a table that was emptied
  assert predict(image, out) == []
  assert b"a.png" in (out / "predictions.csv").read_bytes()


# ------------------------------------------------------------------- probabilities


def test_probabilities_as_an_array_and_as_pictures(tmp_path):
  image = picture(150, 100)
  file = save(image, tmp_path / "a.png")
  how = dict(tile=64, batch_size=2)
  wanted = Predictor(model(), **how)(image)
  for _ in range(2):  # its own file is replaced
    assert predict(file, tmp_path / "npz", net("npz", **how)) == []
  with np.load(tmp_path / "npz" / "a_probabilities.npz") as found:
    assert found.files == ["probabilities"]
    np.testing.assert_array_equal(found["probabilities"], wanted.probabilities)
  np.testing.assert_allclose(wanted.probabilities.sum(-1), 1, atol=1e-5)
  predict(file, tmp_path / "png", net("png16", **how))
  for i, name in enumerate("abc"):
    values = np.asarray(Image.open(tmp_path / "png" / f"a_probability_{i}_{name}.png"))
    np.testing.assert_allclose(values / 65535, wanted.probabilities[..., i], atol=1e-5)
  index = np.asarray(Image.open(tmp_path / "png" / "a_index.png"))
  np.testing.assert_array_equal(index, wanted.label)


# ------------------------------------------------------------------- videos


def fake_video(monkeypatch, frames):
  """imageio with FFmpeg replaced by lists of frames; what is written."""
  written = []

  class Source:
    def __init__(self, *_, **__):
      self.frames = list(frames)

    def __iter__(self):
      return iter(self.frames)

    def get_meta_data(self):
      return dict(fps=25.0)

    def close(self):
      pass

  class Target:
    def __init__(self, file, **how):
      self.file, self.how = Path(file), how

    def append_data(self, frame):
      written.append(frame)

    def close(self):
      self.file.write_bytes(b"video of segjax")

  fake = SimpleNamespace(get_reader=Source, get_writer=Target)
  monkeypatch.setattr(video, "_imageio", lambda: fake)
  return written


def test_a_video_becomes_a_video_of_overlays(tmp_path, monkeypatch):
  frames = [picture(41, 60, seed=i) for i in range(3)]
  written = fake_video(monkeypatch, frames)
  (tmp_path / "x.mp4").write_bytes(b"")
  for _ in range(2):
    assert predict(tmp_path / "x.mp4", tmp_path / "out") == []
  assert listing(tmp_path / "out") == ["legend.png", "predictions.csv", "x_overlay.mp4"]
  found = [Predictor(model())(frame) for frame in frames]
  for frame, one in zip(written[:3], found, strict=True):
    np.testing.assert_array_equal(frame, one.overlay[:40])
  (row,) = table(tmp_path / "out")
  assert (row["file"], row["width"], row["height"]) == ("x.mp4", "60", "41")
  shares = np.mean([list(one.shares.values()) for one in found], 0)
  np.testing.assert_allclose([float(row[c]) for c in "abc"], shares, atol=1e-6)
  (tmp_path / "out" / "x_overlay.mp4").write_bytes(b"mine")
  with pytest.raises(UserError, match=r"x_overlay\.mp4 is there already"):
    predict(tmp_path / "x.mp4", tmp_path / "out")


def test_without_ffmpeg_a_video_is_one_error(tmp_path, monkeypatch):
  (tmp_path / "x.mp4").write_bytes(b"")
  monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
  with pytest.raises(UserError, match=r"install segjax\[video\], or give the frames"):
    predict(tmp_path / "x.mp4", tmp_path / "out")
  assert not listing(tmp_path / "out")


# ------------------------------------------------------------------- flags


def test_an_exported_file_is_a_net_of_its_own(tmp_path, monkeypatch):
  """By the table of endings; the classes and colours are the file's."""
  file = tmp_path / "x.onnx"
  file.write_bytes(b"")
  one = dict(classes=("a", "b"), palette=np.eye(2, 3, dtype=np.uint8), one_logit=True)
  one["labels"] = table_of(zip(one["classes"], one["palette"].tolist(), strict=True))
  monkeypatch.setattr("segjax.inference.loading.load", lambda path: model(two, **one))
  opened = command.open_net(None, str(file), "best", view=dict(tile=(64, 64)), threshold="0.25")
  assert opened.labels.names == ("a", "b")
  assert opened.title == f"{file}\n  b from probability 0.25 on"
  save(picture(30, 40), tmp_path / "a.png")
  assert predict(tmp_path / "a.png", tmp_path / "out", opened) == []
  index = np.asarray(Image.open(tmp_path / "out" / "a_index.png"))
  np.testing.assert_array_equal(index, picture(30, 40)[..., 0] / np.float32(255) >= 0.25)


@pytest.mark.parametrize(("how", "message"), [
  (dict(), "give either --workdir"),
  (dict(workdir="x", file="y"), "give either --workdir"),
  (dict(file="y.onnx", threshold="half"), "--threshold=half: expected a number or max_f1"),
])  # fmt: skip
def test_flags_that_do_not_fit_are_one_error(how, message):
  known = dict(workdir=None, file=None, checkpoint="best")
  with pytest.raises(UserError, match=message):
    command.open_net(**known | how)


def test_only_given_flags_of_a_view_count():
  nothing = dict(mode="", tiles=[], overlap=None, tta="")
  assert command.view_of(**nothing) == {}
  assert command.view_of(**nothing | dict(tiles=["64"])) == dict(tile=(64, 64))
  given = dict(mode="tiles", tiles=["64", "96"], overlap=0.0, tta="flip")
  assert command.view_of(**given) == dict(mode="tiles", tile=(64, 96), overlap=0.0, tta="flip")
  with pytest.raises(UserError, match="--tiles=64,x: expected pixels"):
    command.view_of(**nothing | dict(tiles=["64", "x"]))


def test_the_room_needs_no_jax():
  """Nor does the launcher for an exported file."""
  code = """
    import sys
    class Block:
      def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "flax", "optax", "grain", "orbax", "tensorflow"):
          raise ImportError("blocked: " + name)
    sys.meta_path.insert(0, Block())
    from segjax import cli
    from segjax.inference import Predictor, command, folder, inputs
  """
  done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=False,
                        capture_output=True, text=True)  # fmt: skip
  assert done.returncode == 0, done.stderr
