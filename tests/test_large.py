"""Sets of many or large images: kept hashes, names on demand, light paths, the limit of pixels."""

import hashlib
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_pairs
from PIL import Image

from segjax import config as config_lib
from segjax.data import checks, contents, files, kept_hashes, limits, sources, threads
from segjax.data.datasets.tfds import Names
from segjax.data.paths import File
from segjax.errors import UserError
from segjax.training import input_pipeline, workdir


@pytest.fixture
def large(tmp_path, monkeypatch):
  """(folder of a set that counts as large, files that are read for its hash)."""
  monkeypatch.setattr(kept_hashes, "FROM", 1)
  monkeypatch.setattr(kept_hashes, "RECENT", 0)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  read, ends = [], contents._ends
  monkeypatch.setattr(contents, "_ends", lambda file: read.append(file.name) or ends(file))
  return write_pairs(tmp_path / "set"), read


def make(folder, **fields):
  return sources.make("folder", "train", folder=str(folder), **dict(train_fraction=1.0) | fields)


def mend(file):
  """Another mask of the same size and times, as far as a program can set them."""
  before = file.stat()
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(bytes(data))
  os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_files_of_a_large_set_are_read_once_and_a_mended_mask_is_noticed(large, monkeypatch):
  folder, read = large
  first = make(folder).digest()
  assert len(read) == 6
  assert make(folder).digest() == first and len(read) == 6
  monkeypatch.setattr(kept_hashes, "FROM", 100)  # as a small set
  assert make(folder).digest() == first and len(read) == 12
  monkeypatch.setattr(kept_hashes, "FROM", 1)
  mend(folder / "masks" / "x002.png")
  mended = make(folder).digest()
  assert mended != first and read[12:] == ["x002.png"]
  assert make(folder).digest() == mended and len(read) == 13


def test_a_file_that_has_just_changed_is_read_again(large, monkeypatch):
  folder, read = large
  monkeypatch.setattr(kept_hashes, "RECENT", 10**12)
  for count in (6, 12):
    make(folder).digest()
    assert len(read) == count


def test_kept_hashes_that_are_damaged_are_made_anew(large):
  folder, read = large
  first = make(folder).digest()
  (kept,) = (folder.parent / "cache").glob("segjax/contents/*")
  data = bytearray(kept.read_bytes())
  data[-1] ^= 1
  for damaged in (bytes(data), bytes(data[:-5]), b""):
    kept.write_bytes(damaged)
    assert make(folder).digest() == first
  assert len(read) == 4 * 6
  os.environ["XDG_CACHE_HOME"] = "/dev/null/nowhere"
  assert make(folder).digest() == first


def test_a_kept_hash_is_of_the_class_by_its_name(tmp_path):
  file = tmp_path / "x.png"
  file.touch()
  keys = set()
  for name in "ab":
    source = SimpleNamespace(names=["x"], labels=SimpleNamespace(names=[name]))
    keys.add(kept_hashes.stamp(*contents._parts(source, 0, file, 0)))
  assert len(keys) == 2


def test_many_images_in_both_splits(tmp_path, monkeypatch):
  folder = write_pairs(tmp_path, count=10)
  for i in range(10):
    (folder / "images" / f"x{i:03d}.png").write_bytes(b"%d" % (i // 2))
  monkeypatch.setattr(contents, "COMPARED", 3)
  source = sources.make("folder", "val", folder=str(folder), train_fraction=0.5)
  everywhere = files.images_by_stem(folder / "images")
  source = SimpleNamespace(pairs=source.pairs, elsewhere=tuple(everywhere.values()))
  (said,) = contents._twins(source)
  assert said.startswith("3 images of 3 looked at in both splits, byte for byte: ")


def test_names_on_demand_have_the_hash_of_a_list(monkeypatch):
  names = Names("set/train/", 12345)
  assert (len(names), names[0], names[-1]) == (12345, "set/train/0", "set/train/12344")
  with pytest.raises(IndexError):
    names[12345]
  text = "\n".join(f"set/train/{i}" for i in range(12345))
  source = SimpleNamespace(source=SimpleNamespace(names=names))
  source = type("S", (), {"source": source.source, "__len__": lambda s: 12345})()
  found = workdir.names_of(source)
  assert found == [12345, hashlib.sha256(text.encode()).hexdigest()[:16]]
  source.source.names = tuple(names)
  assert workdir.names_of(source) == found
  monkeypatch.setattr(workdir, "MANY", 100)  # beyond it a rule stands for them
  assert workdir.names_of(source) == found  # a list has none
  source.source.names = Names("set/train/", 12345)
  rule = workdir.names_of(source)
  source.source.names = Names("set/val/", 12345)
  assert len({str(found), str(rule), str(workdir.names_of(source))}) == 3


def test_a_digest_of_shards(tmp_path, monkeypatch):
  shards = [tmp_path / f"a-{i}" for i in range(2)]
  for i, shard in enumerate(shards):
    shard.write_bytes(bytes([i]) * 300_000)
  for whole in (2**20, 1000):
    monkeypatch.setattr(contents, "WHOLE", whole)
    first = contents.of_shards(shards)
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[:150_000] + b"x" + data[150_001:])
    assert (contents.of_shards(shards) != first) == (whole == 2**20)
    shards[1].write_bytes(data + b"x")
    assert contents.of_shards(shards) != first
    shards[1].write_bytes(data)
    assert contents.of_shards(shards) == first


def test_light_paths_are_those_of_pathlib(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write_pairs(tmp_path, count=2)
  for folder in (Path("images"), tmp_path / "images"):
    for file in files.entries(folder).files:
      path = Path(file)
      assert str(file) == str(path) and hash(file) == hash(str(file))
      assert (file.name, file.stem, file.suffix) == (path.name, path.stem, path.suffix)
      assert file.parent == path.parent == folder and file.read_bytes() == path.read_bytes()
  names = ("a.tar.png", "noending", ".png", "a b.PNG")
  for name in names:
    file, path = File(f"x/{name}"), Path(f"x/{name}")
    assert (file.name, file.stem, file.suffix) == (path.name, path.stem, path.suffix)
  for name in names[:1]:
    (tmp_path / name).touch()
  (file,) = files.entries(Path()).files
  assert file == "a.tar.png" and isinstance(pickle.loads(pickle.dumps(file)), File)


def test_a_folder_is_listed_once_unless_it_has_just_changed(tmp_path, monkeypatch):
  scans, scan = [], os.scandir
  monkeypatch.setattr(files.os, "scandir", lambda folder: scans.append(folder) or scan(folder))
  folder = tmp_path / "images"
  folder.mkdir()
  (folder / "a.png").touch()
  assert [len(files.entries(folder).files) for _ in range(2)] == [1, 1] and len(scans) == 2
  os.utime(folder, (1, 1))
  assert [len(files.entries(folder).files) for _ in range(2)] == [1, 1] and len(scans) == 3
  (folder / "b.png").touch()
  assert len(files.entries(folder).files) == 2


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_map_threads_keeps_the_order(count):
  assert threads.map_threads(lambda i: i * i, count, 3) == [i * i for i in range(count)]
  if count > 500:
    with pytest.raises(KeyError, match="500"):
      threads.map_threads(lambda i: {}[i] if i >= 500 else i, count, 3)


def test_a_field_raises_the_limit_of_pixels(tmp_path, monkeypatch):
  """And what is too large is not left out as broken."""
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
  monkeypatch.delenv(limits.MOST, raising=False)
  limits._set.cache_clear()
  folder = write_pairs(tmp_path / "set", size=(40, 60))
  Image.new("RGB", (3, 3)).save(folder / "images" / "x001.png")  # of another size than its mask
  config = config_lib.default()
  config.data.source = config_lib.data_source("folder", folder=str(folder), train_fraction=0.9)
  config.data.skip_broken = True
  with pytest.raises(
    UserError, match=r"of \d images are no broken files: .*too large .*max_pixels"
  ):
    input_pipeline.make_source(config, "train")
  config.data.max_pixels = -1
  with pytest.raises(UserError, match=r"data.max_pixels is -1, expected 0"):
    input_pipeline.make_source(config, "train")
  config.data.max_pixels = 2400
  monkeypatch.setenv(limits.MOST, "")  # so that it is put back
  source = input_pipeline.make_source(config, "train").source
  assert "x001" not in source.names and np.shape(source[0]["image"]) == (40, 60, 3)
  limits._set.cache_clear()


def test_subsets_of_names_on_demand():
  source = SimpleNamespace(names=Names("a/", 10**9))
  assert checks.Subset(source, (0, 10**8)).names == ("a/0", "a/100000000")
