"""Reads a net that was exported as ONNX; needs onnxruntime, and no jax."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np

from segjax.errors import UserError, fault_of_machine
from segjax.export import about as about_lib

INPUT, OUTPUT = "images", "probabilities"
CHECKSUM = "checksum"  # last entry of the metadata: SHA-256 of the file with zeros in its place
# Key and value as protobuf writes them, one after the other.
_SUM = re.compile(rb"\x0a\x08checksum\x12\x40([0-9a-f]{64})")
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class OnnxModel(about_lib.Exported):
  """The `segjax.inference.Model` in a file of `launch/export.py --format=onnx`."""

  def __init__(self, file: str | os.PathLike):
    """Reads the file.

    Raises:
      UserError: no such file, another file, a damaged one, or onnxruntime is not installed.
    """
    file = Path(file)
    if not file.is_file():
      raise UserError(f"{file.absolute()}: no such file")
    data = file.read_bytes()
    if not is_intact(data):
      raise UserError(
        f"{file}: damaged or edited: its bytes do not fit its {CHECKSUM!r}. If you edited it, "
        f"remove the {CHECKSUM!r} entry of its metadata; else export it again"
      )
    session = _session(file, data)
    found = session.get_modelmeta().custom_metadata_map
    super().__init__(file, about_lib.read(found, file))
    (given,), (out,) = session.get_inputs(), session.get_outputs()
    dtype = given.type.removeprefix("tensor(").removesuffix(")")
    self.check_program("float32" if dtype == "float" else dtype, given.shape, out.shape)
    self._session = session

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """See `segjax.inference.Model.probabilities`."""
    return self._session.run([OUTPUT], {INPUT: self.as_stored(images)})[0]


def _session(file, data):
  try:
    import onnxruntime
  except ImportError:
    raise UserError(
      f"{file}: to run ONNX files, install onnxruntime: pip install onnxruntime"
    ) from None
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4  # fatal; whatever else there is comes as an exception
  providers = [p for p in PROVIDERS if p in onnxruntime.get_available_providers()]
  try:
    return onnxruntime.InferenceSession(data, options, providers=providers)
  except Exception as error:  # onnxruntime has a class of its own for each fault
    if fault_of_machine(error):
      raise
    text = " ".join(str(error).split())[:200]
    raise UserError(
      f"{file}: onnxruntime cannot read it ({text}); expected a file of launch/export.py "
      "--format=onnx"
    ) from None


def is_intact(data: bytes) -> bool:
  """Whether the bytes of a file fit the checksum in it, or it has none."""
  found = list(_SUM.finditer(data))
  if not found:
    return True
  start, end = found[-1].span(1)
  blank = hashlib.sha256(data[:start] + b"0" * (end - start) + data[end:])
  return blank.hexdigest().encode() == data[start:end]
