"""One try to break something, and what came of it: for test_faults.py and campaign.py.

A try is a kind and a number, from which everything else follows. Its outcome is one of OUTCOMES:
"right" (the right result in spite of the damage), "clear error" (one line for the user, or a
printed warning that names the damaged file), "stack" (any other exception), "silent" (another
result without a word). Only a process of its own can note a crash or that it hangs.
"""

import contextlib
import io
import json
import os
import random
import traceback
import warnings
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from fault_world import USES
from PIL import Image

from segjax import config as config_lib
from segjax import ranges, startup, textfiles
from segjax.data import decoding, limits, sources
from segjax.errors import UserError, explain
from segjax.ops.llvm.kept_code import kept_code
from segjax.training import experiment as experiment_lib
from segjax.training import input_pipeline, restore
from segjax.training.plan import make_plan
from segjax.weights import torch_files

OUTCOMES = ("right", "clear error", "stack", "silent", "crash", "hang")
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32")
CODE = bytes(range(256)) * 8
EDGES = {
  int: (-1, 0, 1, 3, 2**31, 2**63, 2**64, 10**12),
  float: (float("nan"), float("inf"), -1.0, 0.0, 0.5, 1.0, 1e-30, 1e30, 1e308),
  str: ("", "x", "../..", "/", "a\0b", "é" * 300, "train", "val/loss"),
  bool: (False, True),
}


# ---------------------------------------------------------------------------- tries


def flip(file, draw):
  """Flips a bit of a file; returns where."""
  content = bytearray(file.read_bytes())
  place, bit = draw.randrange(len(content)), draw.randrange(8)
  content[place] ^= 1 << bit
  file.write_bytes(content)
  return f"bit {bit} of byte {place}"


def mutate(content, draw):
  """Bytes with a few changes: bits, bytes, a cut, a repetition, something put in."""
  content = bytearray(content)
  for _ in range(draw.choice((1, 1, 2, 5))):
    place = draw.randrange(max(len(content), 1))
    how = draw.randrange(6)
    if how == 0 and content:
      content[place] ^= 1 << draw.randrange(8)
    elif how == 1 and content:
      content[place] = draw.choice((0, 1, 127, 128, 255, 10, 32))
    elif how == 2:
      del content[place:]
    elif how == 3:
      content[place:place] = content[place : place + draw.randrange(40)]
    elif how == 4:
      content[place:place] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
    else:
      del content[place : place + draw.randrange(20)]
  return bytes(content)


def try_flip(pattern, uses, world, draw):
  """A bit of a file of a run: each use gives the right result or says what is damaged."""
  use = draw.choice(uses)
  name = "half" if use == "resume" else "whole"
  if (use, name) not in world.expected:
    world.expected[use, name] = USES[use](world, world.copy(name))
  run = world.copy(name)
  files = sorted(f for f in run.glob(pattern) if f.is_file() and f.stat().st_size)
  file = draw.choice(files)
  where = f"{use}: {flip(file, draw)} of {file.relative_to(run)}"
  return where, lambda: USES[use](world, run), world.expected[use, name]


def try_kernel(world, draw):
  """A bit of a compiled kernel."""
  folder = world.own / "kernels"
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  file = folder / "k.o"
  kept_code(str(folder), "k", lambda: CODE)
  where = flip(file, draw)
  return where, lambda: [kept_code(str(folder), "k", lambda: CODE) for _ in range(2)], [CODE, CODE]


def try_compilation(world, draw):
  """A bit of one of JAX's compilations: it is compiled anew, and the good one is kept."""
  del world

  def compiled():
    def total(x):  # another function each time, which JAX knows by its file alone
      return (x * 3 + 1).sum()

    return float(jax.jit(total)(np.arange(5.0, dtype="f4")))

  expected = compiled()
  entries = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).glob("jit_total-*-cache")
  where = flip(draw.choice(sorted(entries)), draw)

  def twice():
    with warnings.catch_warnings():
      startup.mend_compilations()
      first = compiled()
    with warnings.catch_warnings(record=True, action="always") as seen:
      return first, compiled(), list(map(str, seen))

  return where, twice, (expected, expected, [])


def try_image(world, draw):
  """A mutated image file."""
  file = draw.choice(sorted((world.root / "images").iterdir()))
  content = mutate(file.read_bytes(), draw)

  def read():
    image = decoding.read_image(content, file.name)
    return image.dtype == np.uint8 and image.shape[2:] == (3,)

  return file.name, read, True


def try_mask(world, draw):
  """A mutated mask of a data set."""
  file = draw.choice(sorted((world.root / "images").glob("mask*")))
  data = world.copy("data")
  (data / "masks" / "x000.png").unlink()
  (data / "masks" / f"x000{file.suffix}").write_bytes(mutate(file.read_bytes(), draw))
  return file.name, lambda: _are_examples(data), True


def try_list(world, draw):
  """A mutated list of a data set."""
  data = world.copy("data")
  file = data / draw.choice(("classes.txt", "train.txt", "val.txt"))
  text = file.read_bytes()
  file.write_bytes(mutate(text.decode().encode(draw.choice(ENCODINGS)), draw))
  return file.name, lambda: _are_examples(data), True


def _are_examples(data):
  for split in sources.SPLITS:
    source = sources.make("folder", split, folder=str(data))
    for i in range(min(len(source), 2)):
      label = source[i]["label"]
      if label.dtype != np.uint8 or not set(np.unique(label)) <= {*range(len(source.labels)), 255}:
        return False
  return True


def try_weights(world, draw):
  """A mutated file of weights."""
  file = world.copy("weights") / draw.choice(("new.pth", "old.pth", "a.safetensors"))
  file.write_bytes(mutate(file.read_bytes(), draw))

  def read():
    return all(isinstance(v, np.ndarray) for v in torch_files.read_tensors(file).values())

  return file.name, read, True


def try_config_file(world, draw):
  """A mutated config.json or labels.json, without its checksum: all else that is checked."""
  run = world.copy("whole")
  file = run / draw.choice(("config.json", "labels.json", "data.json", "class_weights.json"))
  values = json.loads(file.read_text())
  del values[textfiles.CHECKSUM]
  file.write_bytes(mutate(json.dumps(values, indent=draw.choice((None, 2))).encode(), draw))

  def read():
    config = config_lib.load(run / "config.json")
    labels = experiment_lib.load_labels(run / "labels.json")
    experiment_lib.build(config, labels).abstract_state()
    restore.data_of_run(run, config, "val")
    return True

  return file.name, read, True


def try_field(world, draw):
  """A field of a config with an extreme value: what a training checks before its first step."""
  few = config_lib.data_source("road_scenes", num_train=4, num_val=2)
  config = world.config(**{"data.source": few})
  if draw.random() < 0.5:
    config = world.config()
  field = draw.choice(sorted(config_lib.flatten(config)))
  old = config_lib.flatten(config)[field]
  if isinstance(old, tuple):
    of = type(old[0]) if old else draw.choice((int, float, str))
    new = tuple(draw.choice(EDGES[of]) for _ in range(draw.choice((0, 1, 2, 3))))
  else:
    new = draw.choice(EDGES[type(old)])
  config.update_from_flattened_dict({field: new})

  def start():
    with limit_kept():
      return begin()

  def begin():
    ranges.check(config)
    config_lib.check(config)
    train = input_pipeline.make_source(config, "train", training=True)
    val = input_pipeline.make_source(config, "val")
    input_pipeline.train_iterator(config, train, False)
    per_epoch = len(train) // config.data.batch_size
    make_plan(config, per_epoch)
    experiment_lib.build(config, val.source.labels, per_epoch).abstract_state()
    return True

  return f"{field}={str(new)[:60]}", start, True


@contextlib.contextmanager
def limit_kept():
  """Context after which the limit of pixels is as it was, whatever `data.max_pixels` was."""
  most = Image.MAX_IMAGE_PIXELS
  try:
    with mock.patch.dict(os.environ):
      yield
  finally:
    Image.MAX_IMAGE_PIXELS = most
    limits._set.cache_clear()


READERS = ["evaluate", "predict", "resume", "initial", "study"]
KINDS = {
  "flip config.json": lambda *a: try_flip("config.json", READERS, *a),
  "flip labels.json": lambda *a: try_flip("labels.json", READERS, *a),
  "flip data.json": lambda *a: try_flip("data.json", ["evaluate", "resume"], *a),
  "flip receipt.json": lambda *a: try_flip("receipt.json", ["resume"], *a),
  "flip weights": lambda *a: try_flip("class_weights.json", READERS[:3], *a),
  "flip val_sums.npz": lambda *a: try_flip("val_sums.npz", ["study"], *a),
  "flip metrics.jsonl": lambda *a: try_flip("metrics.jsonl", ["study", "resume"], *a),
  "flip evaluation": lambda *a: try_flip("evaluation_*.json", ["files"], *a),
  "flip arrays": lambda *a: try_flip("checkpoints/*/state/**/d/*", READERS[:4], *a),
  "flip checkpoint": lambda *a: try_flip("checkpoints/**/*", READERS[:4], *a),
  "flip kernel": try_kernel,
  "flip compilation": try_compilation,
  "fuzz image": try_image,
  "fuzz mask": try_mask,
  "fuzz list": try_list,
  "fuzz weights": try_weights,
  "fuzz state file": try_config_file,
  "fuzz field": try_field,
}


def attempt(kind, number, world, seed=0):
  """Makes a try; returns (outcome, what was done and what was found)."""
  draw = random.Random(f"{kind} {number} {seed}")
  world.own.mkdir(exist_ok=True)
  where, call, expected = KINDS[kind](world, draw)
  told = io.StringIO()
  try:
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
      found = call()
  except Exception as error:
    line = explain(error)
    if line is None:
      last = traceback.format_exc().strip().splitlines()
      at = [x.strip() for x in last if x.strip().startswith("File ")][-1]
      return "stack", f"{where}: {at}: {last[-1][:300]}"
    if not isinstance(error, UserError | MemoryError | RuntimeError | OSError) or "\n" in line:
      return "stack", f"{where}: more than a line: {line[:200]}"
    return "clear error", f"{where}: {line[:300]}"
  if repr(found) == repr(expected):
    return "right", where
  if "damaged" in told.getvalue():
    return "clear error", f"{where}: {told.getvalue()[-300:]}"
  return "silent", f"{where}: {found!r:.200} instead of {expected!r:.200}"
