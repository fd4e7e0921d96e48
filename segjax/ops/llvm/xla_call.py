"""Compiles a kernel with LLVM and makes it a function that XLA calls on its CPU threads.

A kernel is a function `item` of a module, which does one of a fixed number of independent parts of
the work. XLA calls `handler` (its foreign function interface, a C structure, see `c_api.h` of
jaxlib); that shares the parts among XLA's threads. Which thread does which part changes no number.
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

from segjax.ops.llvm.kept_code import kept_code

# The job lives until its last user left it: a thread may come when all is done. The thread that
# XLA called takes parts as the others do, so it never waits for one that has not started.
HANDLER = """
declare ptr @malloc(i64)
declare void @free(ptr)
declare i32 @sched_yield()
%job = type {i64, i64, i64, [ARRAYS x ptr]}  ; next part, parts done, users, arrays

define internal void @leave(ptr %job) {
  %users = getelementptr %job, ptr %job, i64 0, i32 2
  %before = atomicrmw sub ptr %users, i64 1 acq_rel
  %last = icmp eq i64 %before, 1
  br i1 %last, label %clear, label %end
clear:
  call void @free(ptr %job)
  br label %end
end:
  ret void
}

define internal void @take(ptr %job, ptr %scratch) {
  %done = getelementptr %job, ptr %job, i64 0, i32 1
LOADS  br label %take
take:
  %part = atomicrmw add ptr %job, i64 1 monotonic
  %some = icmp slt i64 %part, PARTS
  br i1 %some, label %run, label %end
run:
  call void @item(POINTERS, i64 %part, ptr %scratch)
  %unused = atomicrmw add ptr %done, i64 1 release
  br label %take
end:
  ret void
}

define internal void @work(ptr %job) {
  %scratch = call ptr @malloc(i64 SCRATCH)
  %none = icmp eq ptr %scratch, null  ; then the other threads take all parts
  br i1 %none, label %end, label %some
some:
  call void @take(ptr %job, ptr %scratch)
  call void @free(ptr %scratch)
  br label %end
end:
  call void @leave(ptr %job)
  ret void
}

@message = private constant MESSAGE

define ptr @handler(ptr %frame) {
  %count = alloca i64
  %request = alloca {i64, ptr, ptr, ptr, ptr}
  %failure = alloca {i64, ptr, ptr, i32}
  store i64 1, ptr %count
  %extension.at = getelementptr i8, ptr %frame, i64 8
  %extension = load ptr, ptr %extension.at
  %plain = icmp eq ptr %extension, null
  br i1 %plain, label %staged, label %extended
extended:
  %kind.at = getelementptr i8, ptr %extension, i64 8
  %kind = load i32, ptr %kind.at
  %asked = icmp eq i32 %kind, 1
  br i1 %asked, label %describe, label %staged
describe:  ; the version of the interface, and no traits
  %metadata.at = getelementptr i8, ptr %extension, i64 24
  %metadata = load ptr, ptr %metadata.at
  %version = getelementptr i8, ptr %metadata, i64 8
  store {i64, ptr, i32, i32, i32} {i64 24, ptr null, i32 0, i32 MINOR, i32 0}, ptr %version
  ret ptr null
staged:
  %stage.at = getelementptr i8, ptr %frame, i64 32
  %stage = load i32, ptr %stage.at
  %execute = icmp eq i32 %stage, 3
  br i1 %execute, label %start, label %end
start:
  %api.at = getelementptr i8, ptr %frame, i64 16
  %api = load ptr, ptr %api.at
  %context.at = getelementptr i8, ptr %frame, i64 24
  %context = load ptr, ptr %context.at
  %args.at = getelementptr i8, ptr %frame, i64 72
  %args = load ptr, ptr %args.at
  %results.at = getelementptr i8, ptr %frame, i64 112
  %results = load ptr, ptr %results.at
  %size = ptrtoint ptr getelementptr (%job, ptr null, i64 1) to i64
  %job = call ptr @malloc(i64 %size)
  %scratch = call ptr @malloc(i64 SCRATCH)
  %no.job = icmp eq ptr %job, null
  %no.scratch = icmp eq ptr %scratch, null
  %nothing = or i1 %no.job, %no.scratch
  br i1 %nothing, label %failed, label %begin
failed:
  call void @free(ptr %job)
  call void @free(ptr %scratch)
  store {i64, ptr, ptr, i32} {i64 28, ptr null, ptr @message, i32 8}, ptr %failure
  %create.at = getelementptr i8, ptr %api, i64 ERRORS
  %create = load ptr, ptr %create.at
  %problem = call ptr %create(ptr %failure)
  ret ptr %problem
begin:
  %done = getelementptr %job, ptr %job, i64 0, i32 1
  %users = getelementptr %job, ptr %job, i64 0, i32 2
STORES  %request.2 = getelementptr i64, ptr %request, i64 2
  %request.3 = getelementptr i64, ptr %request, i64 3
  %request.4 = getelementptr i64, ptr %request, i64 4
  store {i64, ptr} {i64 32, ptr null}, ptr %request
  store ptr %context, ptr %request.2
  store ptr %count, ptr %request.3
  %threads.at = getelementptr i8, ptr %api, i64 COUNTS
  %threads.of = load ptr, ptr %threads.at
  %no.threads = call ptr %threads.of(ptr %request)
  %threads = load i64, ptr %count
  %few = icmp slt i64 %threads, PARTS
  %workers = select i1 %few, i64 %threads, i64 PARTS
  store {i64, i64} zeroinitializer, ptr %job
  %all = add i64 %workers, 1  ; this thread works and waits
  store i64 %all, ptr %users
  store i64 40, ptr %request
  store ptr @work, ptr %request.3
  store ptr %job, ptr %request.4
  %schedule.at = getelementptr i8, ptr %api, i64 SCHEDULES
  %schedule = load ptr, ptr %schedule.at
  br label %spread
spread:
  %k = phi i64 [1, %begin], [%k.next, %scheduled], [%k.next, %refused]
  %more = icmp slt i64 %k, %workers
  br i1 %more, label %ask, label %own
ask:
  %k.next = add i64 %k, 1
  %error = call ptr %schedule(ptr %request)
  %taken = icmp eq ptr %error, null
  br i1 %taken, label %scheduled, label %refused
scheduled:
  br label %spread
refused:
  call void @leave(ptr %job)
  br label %spread
own:
  call void @take(ptr %job, ptr %scratch)
  call void @free(ptr %scratch)
  call void @leave(ptr %job)
  br label %wait
wait:
  %so.far = load atomic i64, ptr %done acquire, align 8
  %missing = icmp slt i64 %so.far, PARTS
  br i1 %missing, label %rest, label %over
rest:
  %yielded = call i32 @sched_yield()
  br label %wait
over:
  call void @leave(ptr %job)
  br label %end
end:
  ret ptr null
}
"""

MESSAGE = "segjax: no memory left for a convolution"
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
  text = llvm.parse_assembly(f"{module}\n{_handler(arrays, parts, scratch)}")
  text.verify()
  options = llvm.create_pipeline_tuning_options(speed_level=2)
  # The kernels are unrolled and in vectors as they stand.
  options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
  builder = llvm.create_pass_builder(target, options)
  builder.getModulePassManager().run(text, builder)
  return target.emit_object(text)


def _handler(arrays, parts, scratch):
  """Text of the handler for a number of array arguments; one result follows them."""
  loads = stores = ""
  for k in range(arrays + 1):
    place = f"%job, ptr %job, i64 0, i32 3, i64 {k}"
    loads += f"  %at{k} = getelementptr {place}\n  %p{k} = load ptr, ptr %at{k}\n"
    buffers, index = ("%args", k) if k < arrays else ("%results", 0)
    stores += (
      f"  %buffer{k}.at = getelementptr ptr, ptr {buffers}, i64 {index}\n"
      f"  %buffer{k} = load ptr, ptr %buffer{k}.at\n"
      f"  %data{k}.at = getelementptr i8, ptr %buffer{k}, i64 24\n"
      f"  %data{k} = load ptr, ptr %data{k}.at\n"
      f"  %slot{k} = getelementptr {place}\n  store ptr %data{k}, ptr %slot{k}\n"
    )
  pointers = ", ".join(f"ptr %p{k}" for k in range(arrays + 1))
  text = HANDLER.replace("LOADS", loads).replace("STORES", stores).replace("POINTERS", pointers)
  text = text.replace("ARRAYS", str(arrays + 1)).replace("PARTS", str(parts))
  text = text.replace("MINOR", str(interface().minor)).replace("COUNTS", str(interface().count))
  text = text.replace("SCHEDULES", str(interface().schedule)).replace(
    "ERRORS", str(interface().error)
  )
  text = text.replace("MESSAGE", f'[{len(MESSAGE) + 1} x i8] c"{MESSAGE}\\00"')
  return text.replace("SCRATCH", str(4 * scratch + 64))
