"""Fixtures: small data sets on disk, tiny configs, launchers as subprocesses."""

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from importlib import metadata
from pathlib import Path

# The tests compile far more than they compute: without LLVM's optimiser and without the emitters of
# fusions that go through MLIR they take a sixth of the time. Set before jax starts, and inherited
# by the launchers that the tests run; `test_training` and `test_gradients` compare with what is
# compiled without these flags. A jaxlib that does not know a flag ends the program.
FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if metadata.version("jaxlib").startswith("0.10."):
  FAST_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
# scikit-learn's threads wait for each other where two processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each operation of a program would keep the stack that traced it.
os.environ["JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS"] = "0"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}".strip()

import jax
import numpy as np
import pytest
from light import SHALLOW, TINY, make_stand_in
from matplotlib.figure import Figure
from PIL import Image

from segjax import models

# Tracing makes many objects and hardly a cycle; looking for cycles took a quarter of its time.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SEGJAX_DATA", "/nonexistent"))


def pytest_configure(config):
  """Compiled programs serve all workers and the launchers that the tests run.

  The folder is that of `JAX_COMPILATION_CACHE_DIR` where it is set, as CI does for both of its
  stages, else one for this run. Workers of pytest-xdist inherit the environment.
  """
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="segjax_xla_cache")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
  # The smallest programs too: to read one takes a quarter of the time that its compilation takes,
  # and each process of a launcher needs some dozens of them.
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """What is marked weekly is slow too."""
  for item in items:
    if item.get_closest_marker("weekly"):
      item.add_marker(pytest.mark.slow)


@pytest.fixture
def shallow_backbones(monkeypatch):
  """The backbones of `light.SHALLOW`, by name."""
  for name, (backbone, like) in SHALLOW.items():
    monkeypatch.setitem(models.BACKBONES, name, (backbone, models.BACKBONES[like][1]))


@pytest.fixture
def light_backbones(monkeypatch, shallow_backbones):
  """The backbones of `light.TINY` too, which the nets of `light.NETS` have."""
  for name, known in TINY.items():
    monkeypatch.setitem(models.BACKBONES, name, known)


@pytest.fixture
def stand_in_nets(monkeypatch, light_backbones):
  """Configs give nets that compile at once, see `light.make_stand_in`; nothing is downloaded."""
  monkeypatch.setattr(models, "make", make_stand_in)


@pytest.fixture
def no_pdf(monkeypatch):
  """Figures are written as PNG alone, which takes half of the time."""
  save = Figure.savefig

  def savefig(figure, file, **how):
    if Path(file).suffix != ".pdf":
      save(figure, file, **how)

  monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def kitti():
  """Folder of real photographs with road labels."""
  folder = DATA / "kitti_road"
  if not folder.is_dir():
    pytest.skip("SEGJAX_DATA names no folder with kitti_road/: no real photographs here")
  return folder


def torchvision_models():
  """torchvision.models; its compiled extension may be missing, then operators are declared."""
  torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
  try:
    import torchvision
  except ModuleNotFoundError:
    pytest.skip("torchvision is not installed: pip install --no-deps torchvision==0.28.0")
  except RuntimeError:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
      library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    torchvision.declared = library
  return torchvision.models


def eight_devices():
  """XLA_FLAGS for eight virtual devices."""
  return f"{FAST_COMPILATION} --xla_force_host_platform_device_count=8"


CORE_ALONE = """
import sys
import jax, flax.linen, optax, ml_collections, numpy as np

class Block:
  blocked = ("grain", "clu", "tensorflow", "tensorflow_datasets", "PIL", "matplotlib",
             "sklearn", "tqdm", "tensorboard", "torch", "scipy.stats", "scipy.ndimage", "orbax",
             "pandas", "llvmlite")
  def find_spec(self, name, path=None, target=None):
    if any(name == b or name.startswith(b + ".") for b in self.blocked):
      raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Block())
"""


def run_with_core_packages(code):
  """Runs code where importing anything beyond the five core packages' own needs fails."""
  return subprocess.run(
    [sys.executable, "-c", CORE_ALONE + textwrap.dedent(code)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def launch(name, *args, env=None, **kwargs):
  """Runs launch/<name>.py to its end and returns the CompletedProcess, output as text."""
  return subprocess.run(
    [sys.executable, str(ROOT / "launch" / f"{name}.py"), *map(str, args)],
    cwd=ROOT,
    env={**os.environ, **(env or {})},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
    **kwargs,
  )


def shows(picture, image):
  """Whether u8[H,W,3] lies somewhere in a picture, as it is or each pixel enlarged to a square."""
  for scale in range(1, 9):
    large = image.repeat(scale, 0).repeat(scale, 1)
    height, width = large.shape[:2]
    for y, x in np.argwhere((picture == large[0, 0]).all(-1)):
      if np.array_equal(picture[y : y + height, x : x + width], large):
        return True
  return False


def launch_all(jobs, folder):
  """Runs launchers that share one import of the libraries, two at a time: for many short calls.

  Args:
    jobs: list of (name of the launcher, arguments, more environment).
    folder: for their output.

  Returns:
    list of CompletedProcess, output as text.
  """
  jobs = [
    dict(name=name, args=[*map(str, args)], env=env, output=str(folder / f"job{i}"))
    for i, (name, args, env) in enumerate(jobs)
  ]
  subprocess.run(
    [sys.executable, str(ROOT / "tests" / "launch_many.py")], input=json.dumps(jobs), text=True,
    check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300,
  )  # fmt: skip

  def done(job):
    code, out, err = ((Path(job["output"]) / n).read_text() for n in ("code", "stdout", "stderr"))
    return subprocess.CompletedProcess(job["args"], int(code), out, err)

  return [done(job) for job in jobs]


def write_pairs(folder, count=6, size=(40, 60), classes=("ground", "thing"), images="images"):
  """Writes a data set for the source `folder`: a bright rectangle is class 1."""
  rng = np.random.default_rng(0)
  (folder / images).mkdir(parents=True)
  (folder / "masks").mkdir()
  (folder / "classes.txt").write_text("\n".join(classes) + "\n")
  for i in range(count):
    label = np.zeros(size, np.uint8)
    top, left = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
    label[top : top + size[0] // 2, left : left + size[1] // 2] = 1
    image = rng.integers(0, 60, (*size, 3)) + 150 * label[..., None]
    Image.fromarray(image.astype(np.uint8)).save(folder / images / f"x{i:03d}.png")
    Image.fromarray(label).save(folder / "masks" / f"x{i:03d}.png")
  return folder


def write_kitti(folder, count=6, size=(40, 120), ending="png"):
  """Writes a set in KITTI road's layout; returns the true road masks by name."""
  rng = np.random.default_rng(1)
  for name in ("image_2", "gt_image_2"):
    (folder / "training" / name).mkdir(parents=True)
  roads = {}
  for i in range(count):
    category = ("um", "umm", "uu")[i % 3]
    road = np.zeros(size, bool)
    road[size[0] // 2 :, 30 + i : 90 + i] = True
    color = np.where(road[..., None], (255, 0, 255), (255, 0, 0)).astype(np.uint8)
    color[:3] = 0
    color[-1, :2] = (0, 0, 255)
    image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(image).save(folder / "training" / "image_2" / f"{category}_{i:06d}.{ending}")
    labels = folder / "training" / "gt_image_2"
    Image.fromarray(color).save(labels / f"{category}_road_{i:06d}.png")
    if category == "um":
      Image.fromarray(color[:, ::-1].copy()).save(labels / f"{category}_lane_{i:06d}.png")
    roads[f"{category}_{i:06d}"] = road
  return roads
