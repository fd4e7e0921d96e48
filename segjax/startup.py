"""What a launcher sets up for its process before jax is imported: heap, compilations, cores."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path


def keep_heap():
  """Starts the program anew with a heap of huge pages that is kept; glibc reads that at the start.

  XLA allocates the temporaries of a CPU step anew each time. From 4 KB pages of the system their
  page faults take a fifth to a third of the step, from huge ones of a heap that is kept nothing.
  Blocks from 256 MB on still go back to the system, and so does free memory above 1 GB, so that
  large nets take no more memory. A GLIBC_TUNABLES of the user's own is left alone, and programs
  that this one starts, such as the benchmark's peer, do not see ours.
  """
  tunables = dict(hugetlb=1, arena_max=1, mmap_threshold=1 << 28, trim_threshold=1 << 30)
  ours = ":".join(f"glibc.malloc.{name}={value}" for name, value in tunables.items())
  if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = ours
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
  if os.environ.get("GLIBC_TUNABLES") == ours:
    del os.environ["GLIBC_TUNABLES"]


def keep_compilations():
  """Keeps programs that take a second to compile, in ~/.cache/segjax by default.

  JAX reads JAX_COMPILATION_CACHE_DIR when it is imported, which is later.
  """
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Without a home, or one that can be written to: compile each time.
    with contextlib.suppress(OSError, RuntimeError):
      folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segjax"
      folder.mkdir(mode=0o700, parents=True, exist_ok=True)
      folder.chmod(folder.stat().st_mode & ~0o022)  # code that runs from it is the user's alone
      os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def mend_compilations():
  """Removes compilations that JAX warns it cannot read: it compiles anew and then keeps that.

  JAX itself never replaces an entry of its cache, so one that a kill has cut would cost its
  compilation, and a warning, at every start.
  """
  begins = "Error reading persistent compilation cache entry for "
  show = warnings.showwarning

  def mend(message, *args, **kwargs):
    entry = re.match(rf"{begins}'([\w.<>-]+)'", str(message))
    if not entry:
      show(message, *args, **kwargs)
      return
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
    for pattern in (f"{entry[1]}-cache", f"{entry[1]}-*-cache"):
      for file in folder.glob(pattern):
        with contextlib.suppress(OSError):
          file.unlink()

  warnings.showwarning = mend
  warnings.filterwarnings("always", re.escape(begins))


def drop_late_callbacks():
  """Drops the stacks that TensorStore prints where a checkpoint cannot be written, one per array.

  They say that orbax, which has given up at the first, no longer listens.
  """
  show = sys.unraisablehook

  def drop(dropped):
    if str(dropped.exc_value) != "Event loop is closed":
      show(dropped)

  sys.unraisablehook = drop


def use_all_cores():
  """Keeps convolutions from YNNPACK, which runs many of ours on one thread; XLA's own take all.

  A jaxlib that does not know the flag would end the program, so the version decides. An XLA_FLAGS
  that names the flag is left alone.
  """
  name, found = "xla_cpu_experimental_ynn_fusion_type", os.environ.get("XLA_FLAGS", "")
  if metadata.version("jaxlib").startswith("0.10.") and name not in found:
    os.environ["XLA_FLAGS"] = f"--{name}=-individual_convolution {found}".strip()
