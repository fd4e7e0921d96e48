"""The files of a checkpoint: their checksums, and whether they are as they were saved."""

from __future__ import annotations

import json
import zlib

import tensorstore

from segjax import textfiles

SUMS = "files.json"  # of a checkpoint: {file: [bytes, CRC-32]}


def _files(folder):
  """Names of a checkpoint's files of state, position in the data, and scalars of the evaluation."""
  found = (f for part in ("state", "data", "metrics") for f in (folder / part).rglob("*"))
  return sorted(str(f.relative_to(folder)) for f in found if f.is_file())


def _checksum(file):
  """[bytes, CRC-32] of a file."""
  size, crc = 0, 0
  with file.open("rb") as stream:
    while block := stream.read(2**20):
      size, crc = size + len(block), zlib.crc32(block, crc)
  return [size, crc]


def write_sums(folder):
  """Writes the length and the checksum of each file of a checkpoint beside them."""
  textfiles.write_json(folder / SUMS, {f: _checksum(folder / f) for f in _files(folder)})


def check_metrics(folder):
  """Raises what is wrong with the scalars of a checkpoint's evaluation, if there are some."""
  file = folder / "metrics" / "metrics"
  if not file.is_file():
    return
  if not isinstance(json.loads(file.read_bytes().decode("utf-8")), dict):
    raise ValueError("metrics are no JSON object")
  sums = textfiles.read_json(folder / SUMS, dict) if (folder / SUMS).is_file() else {}
  expected = sums.get("metrics/metrics")  # none in a checkpoint of an older version
  if expected not in (None, _checksum(file)):
    raise ValueError("metrics/metrics is not what was saved")


def steps_in(folder):
  """Steps of the checkpoints in a folder by their names alone, whole or not, increasing."""
  return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def is_whole(folder):
  """Whether nothing is found to be wrong with a checkpoint."""
  try:
    check_metrics(folder)
    check(folder)
  except Exception:  # whatever orbax and TensorStore raise
    return False
  return True


def check(folder):
  """Raises an error for damaged files of a checkpoint; orbax would take other numbers from them.

  One of an older version, without their sums, is read as far as that shows.
  """
  if (folder / SUMS).is_file():
    sums = textfiles.read_json(folder / SUMS, dict)
    for name, expected in sums.items():
      if _checksum(folder / name) != expected:
        raise ValueError(f"{name} has other bytes than were saved")
    return
  positions = sorted((folder / "data").glob("process_*.json"))
  for file in (folder / "state" / "_METADATA", *positions):
    json.loads(file.read_bytes().decode("utf-8"))
  if not positions:
    raise ValueError("the position in the data is missing")
  # Orbax reads many arrays at once, and those that fail print their stacks.
  store = tensorstore.KvStore.open(dict(driver="ocdbt", base=f"file://{folder}/state/")).result()
  values = [store.read(key).result().value for key in store.list().result()]
  if not values or b"" in values:
    raise ValueError("arrays are missing")
