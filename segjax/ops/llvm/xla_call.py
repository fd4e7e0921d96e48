"""Compiles a kernel with LLVM and makes it a function that XLA calls on its CPU threads.

A kernel is a function `item` of a module, which does one of a fixed number of independent parts of
the work. XLA calls `handler`, see `segjax.ops.llvm.handler`, which shares the parts among XLA's
threads. Which thread does which part changes no number.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import re
import sys
import threading
import types
import warnings
from pathlib import Path
from typing import NamedTuple

import jax

from segjax.ops.llvm.handler import handler_text
from segjax.ops.llvm.kept_code import kept_code

FUNCTION = re.compile(r"^\s*_XLA_FFI_API_STRUCT_FIELD\((\w+)\);", re.MULTILINE)
FUNCTIONS_AT = 48  # bytes before the functions of the interface
# The handler reads XLA's structures by byte offsets, so that a field that moved would corrupt
# memory. These versions 0.minor were tested: jaxlib 0.10 has 3, jaxlib 0.11 has 4.
TESTED_MINORS = (3, 4)

# Outlives this module where it is imported anew: XLA takes a name only once, and has no way to
# give it back. The code of a registered kernel must stay, too.
_registered = sys.modules.setdefault("_segjax_registered", types.ModuleType("_segjax_registered"))
_engines = _registered.__dict__.setdefault("engines", {})  # by name
_lock = _registered.__dict__.setdefault("lock", threading.RLock())


class Machine(NamedTuple):
  """The machine that kernels are written for.

  Attributes:
    lanes: float32 values of a vector register.
    registers: vector registers.
  """

  lanes: int
  registers: int


class Interface(NamedTuple):
  """XLA's foreign function interface, as far as versions differ.

  Attributes:
    minor: its version, 0.minor.
    schedule: bytes from its start to `XLA_FFI_ThreadPool_Schedule`.
    count: bytes to `XLA_FFI_ThreadPool_NumThreads`.
    error: bytes to `XLA_FFI_Error_Create`.
  """

  minor: int
  schedule: int
  count: int
  error: int


def read_interface(text):
  """The Interface of a header `c_api.h`, or None where its version is not a tested one."""
  found = [re.search(rf"#define XLA_FFI_API_{k} (\d+)", text) for k in ("MAJOR", "MINOR")]
  names = FUNCTION.findall(text)
  needed = [
    f"XLA_FFI_{k}" for k in ("ThreadPool_Schedule", "ThreadPool_NumThreads", "Error_Create")
  ]
  if None in found or found[0][1] != "0" or int(found[1][1]) not in TESTED_MINORS:
    return None
  if not set(needed) <= set(names):
    return None
  return Interface(int(found[1][1]), *(FUNCTIONS_AT + 8 * names.index(n) for n in needed))


@functools.cache
def interface():
  """The Interface of the jaxlib that is installed, or None with a warning."""
  try:
    found = read_interface((Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text())
  except OSError:
    found = None
  if found is None:
    tested = " and ".join(f"0.{minor}" for minor in TESTED_MINORS)
    warnings.warn(
      f"jaxlib {jax.lib.__version__} has another version of XLA's foreign function interface than "
      f"those that segjax's CPU kernels were tested with ({tested}). XLA's own convolutions, which "
      "are slower, take their place",
      RuntimeWarning,
      stacklevel=2,
    )
  return found


@functools.cache
def machine():
  """The Machine of this process, or None where kernels are not used.

  That is without llvmlite, without fused multiply-add, with a jaxlib of an interface that was not
  tested, and on systems other than Linux and macOS.
  """
  if sys.platform not in ("linux", "darwin"):
    return None
  try:
    from llvmlite import binding as llvm
  except ImportError:
    return None
  if interface() is None:
    return None
  if platform.machine() in ("arm64", "aarch64"):
    return Machine(4, 32)
  features = llvm.get_host_cpu_features()
  if features.get("avx512f"):
    return Machine(16, 32)
  return Machine(8, 16) if features.get("avx2") and features.get("fma") else None


@functools.cache
def register(make, spec, machine):
  """Compiles a kernel and registers it with XLA, once in a process.

  Args:
    make: function of `spec` and a Machine that gives (llvmlite module with `item`, number of array
      arguments, number of parts, float32 values of scratch memory per thread). The arrays and the
      one result are pointers, the part and the scratch memory follow.
    spec: hashable, and all that the kernel depends on.
    machine: Machine that it is written for.

  Returns:
    Name of the target for `jax.ffi`.
  """
  from llvmlite import binding as llvm

  llvm.initialize_native_target()
  llvm.initialize_native_asmprinter()
  features = llvm.get_host_cpu_features()
  features["prefer-256-bit"] = False  # else vectors of 512 bits are taken apart
  target = llvm.Target.from_default_triple().create_target_machine(
    llvm.get_host_cpu_name(), features.flatten(), opt=3, codemodel="jitdefault", jit=True
  )
  digest = hashlib.sha256(repr((_sources(), target.triple, features.flatten())).encode())
  digest.update(repr((llvm.llvm_version_info, interface(), machine, make.__name__, spec)).encode())
  name = f"segjax_{make.__name__}_{digest.hexdigest()[:16]}"
  with _lock:  # LLVM's contexts are no more than one thread's, either
    if name not in _engines:
      folder = jax.config.jax_compilation_cache_dir
      code = kept_code(folder, name, lambda: _compile(make(spec, machine), target))
      engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
      engine.add_object_file(llvm.ObjectFileRef.from_data(code))
      engine.finalize_object()
      handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
      entry = jax.ffi.pycapsule(handler(engine.get_function_address("handler")))
      jax.ffi.register_ffi_target(name, entry, platform="cpu")
      _engines[name] = engine
  return name


@functools.cache
def _sources():
  return [f.read_text() for f in sorted(Path(__file__).parent.glob("*.py"))]


def _compile(kernel, target):
  """Object code of a kernel and its handler."""
  from llvmlite import binding as llvm

  module, arrays, parts, scratch = kernel
  text = llvm.parse_assembly(f"{module}\n{handler_text(interface(), arrays, parts, scratch)}")
  text.verify()
  options = llvm.create_pipeline_tuning_options(speed_level=2)
  # The kernels are unrolled and in vectors as they stand.
  options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
  builder = llvm.create_pass_builder(target, options)
  builder.getModulePassManager().run(text, builder)
  return target.emit_object(text)
