"""The receipt of a run: with which config, data, code, versions and device it was started.

receipt.json has an entry for each start, the first one and those that resumed the run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

import jax

import segjax
from segjax import config as config_lib
from segjax import own_code, textfiles
from segjax.errors import UserError, writing

FILE = "receipt.json"
# Packages that take part in the numbers of a training, or read its data.
PACKAGES = (
  "jax", "jaxlib", "flax", "optax", "numpy", "ml_collections", "grain", "orbax-checkpoint",
  "Pillow", "tifffile", "llvmlite",
)  # fmt: skip
# Variables of the environment that choose kernels or their order of sums.
VARIABLES = ("XLA_FLAGS", "NVIDIA_TF32_OVERRIDE", "JAX_DEFAULT_MATMUL_PRECISION")


def versions():
  """{package: version} of Python and of `PACKAGES` that are installed."""
  found = dict(python=platform.python_version())
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def device():
  """Kind and number of the devices; of a CPU its model and cores, which decide the order of sums.

  Returns:
    dict of plain values.
  """
  first = jax.devices()[0]
  kind = _cpu_model() if first.platform == "cpu" else first.device_kind
  found = dict(platform=first.platform, kind=kind, count=jax.device_count())
  if first.platform == "cpu":
    found["cores"] = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
  return found | {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}


def _cpu_model():
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
  return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def code():
  """Sixteen hex digits over the source files of segjax, names and contents."""
  root, digest = Path(segjax.__file__).parent, hashlib.sha256()
  for file in sorted(root.rglob("*.py")):
    digest.update(f"{file.relative_to(root).as_posix()}\n".encode())
    digest.update(hashlib.sha256(file.read_bytes()).digest())
  return digest.hexdigest()[:16]


def own_modules(config):
  """{module: sixteen hex digits of its file} of the code of one's own that a config names."""
  found = {}
  for name in own_code.names(config):
    module = name.partition(":")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if file:
      found[module] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
  return found


def entry(config, data, step=0):
  """A start of a run, ready for JSON.

  Args:
    config: ConfigDict.
    data: `workdir.fingerprint` of its data and initial weights.
    step: that it starts from.

  Returns:
    dict of "step", "config" (a checksum), "data", "code", "own_code", "versions", "device".
  """
  return dict(
    step=step,
    config=textfiles.checksum(json.loads(json.dumps(config.to_dict(), default=list))),
    data=data,
    code=code(),
    own_code=own_modules(config),
    versions=versions(),
    device=device(),
  )


def write(workdir, config, data, step):
  """Writes the receipt of a new run, or adds to that of a resumed one.

  Args:
    workdir: path of the run.
    config: ConfigDict.
    data: see `entry`.
    step: that the run starts from.
  """
  before = read(workdir) if step else []
  with writing(f"to {workdir.absolute()}"):
    starts = [*before, entry(config, data, step)]
    textfiles.write_state(workdir / FILE, dict(starts=starts), indent=2)


def read(workdir):
  """The starts of a run, the first one first; none of a run of an older version.

  Raises:
    UserError: the file is damaged.
  """
  file = workdir / FILE
  if not file.is_file():
    return []
  starts = textfiles.read_state(file, ["starts"]).get("starts")
  if not isinstance(starts, list) or not all(isinstance(s, dict) for s in starts):
    raise UserError(f"{file}: no list of 'starts' in it; {textfiles.MEND}")
  return starts


def differences(then, now):
  """What differs between two starts, but for their steps: lines "what: then -> now".

  Args:
    then: dict, see `entry`.
    now: likewise.

  >>> differences(dict(versions=dict(jax="1")), dict(versions=dict(jax="2")))
  ['versions.jax: 1 -> 2']
  """
  a, b = (config_lib.flatten(x) for x in (then, now))
  keys = [k for k in {**a, **b} if k != "step" and a.get(k) != b.get(k)]
  return [f"{k}: {a.get(k, 'none')} -> {b.get(k, 'none')}" for k in keys]
