"""Writes a net as ONNX with its metadata, by jax2onnx."""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.extend.core
import jax.numpy as jnp

from segjax import ops
from segjax.errors import UserError
from segjax.export.about import About
from segjax.export.onnx_model import CHECKSUM, INPUT, OUTPUT

# jax2onnx asks for an older orbax-checkpoint and for packages that it needs for other libraries
# alone, so it comes without its dependencies; the extra `onnx` has those that it needs.
INSTALL = "pip install 'segjax[onnx]' && pip install --no-deps jax2onnx==0.17.1"
LARGEST = 2**31 - 1  # bytes of a protobuf message


def write(function: Callable, about: About, file: Path) -> None:
  """Writes the file.

  Args: see `segjax.export.stablehlo_file.write`.

  Raises:
    UserError: jax2onnx is not installed, it cannot convert the net, or the file would pass 2 GB.
  """
  to_onnx = converter()
  try:
    with ops.plain_forms():
      function, images = _traced(function, about)
      model = to_onnx(function, [images], input_names=[INPUT], output_names=[OUTPUT])
  except Exception as error:  # whatever jax2onnx raises for an operation that it does not know
    text = " ".join(str(error).split())[:300]
    raise UserError(
      f"jax2onnx cannot convert this net ({type(error).__name__}: {text}); --format=stablehlo has "
      "every net"
    ) from error
  model.producer_name, model.producer_version = "segjax", about.versions["segjax"]
  for key, value in (about.texts() | {CHECKSUM: "0" * 64}).items():
    entry = model.metadata_props.add()
    entry.key, entry.value = key, value
  if model.ByteSize() > LARGEST:
    raise UserError("the net passes the 2 GB of an ONNX file; --format=stablehlo, or float16")
  data = model.SerializeToString()
  digest = hashlib.sha256(data).hexdigest().encode()
  start = data.rindex(b"0" * 64)
  file.write_bytes(data[:start] + digest + data[start + 64 :])


def _traced(function, about):
  """The function as jax2onnx takes it, and the type of its images.

  jax2onnx takes some functions of JAX whole, such as `jax.image.resize`, which for one batch size
  becomes a fast operation of ONNX. For any batch size it fails there, so it gets a program that is
  traced already, in which each is a matrix product.
  """
  batch = jax.export.symbolic_shape("batch")[0] if about.batch is None else about.batch
  images = jax.ShapeDtypeStruct((batch, *about.size, about.channels), jnp.dtype(about.dtype))
  if about.batch is not None:
    return function, images
  program = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(function)(images))
  return lambda images: program(images)[0], images


def converter() -> Callable:
  """`jax2onnx.to_onnx`.

  Raises:
    UserError: it is not installed; says how to install it.
  """
  # They name each plugin of a library that is not installed, and each constant without a name.
  for name in ("jax2onnx.plugins.plugin_system", "onnx_ir.serde"):
    logging.getLogger(name).setLevel(logging.ERROR)
  try:
    return importlib.import_module("jax2onnx").to_onnx
  except ImportError as error:
    raise UserError(
      f"--format=onnx needs jax2onnx, which is not installed ({error}): {INSTALL}"
    ) from None
