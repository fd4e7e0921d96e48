"""What the launchers share: flags, one message for an error of the user's, exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from importlib import metadata
from pathlib import Path

# Before CLU brings TensorFlow in, which would tell of its kernels at every start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from absl import app, flags, logging
from ml_collections import config_flags

from segjax.config import no_such_file
from segjax.errors import Stopped, UserError


def define_config():
  """Defines --config, locked, so that a mistyped override is an error; returns its holder."""
  return config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment: a file of configs/, with an argument after a colon if it takes one "
    "(--config=configs/unet_road.py:data=kitti_road). Fields are set by "
    "--config.FIELD=VALUE, e.g. --config.data.batch_size=8.",
    lock_config=True,
  )


def run(main):
  """Runs `main()` with parsed flags and exits: 0, 1 after one line of error, 128 + signal.

  Unexpected errors keep their stack: they are ours, not the user's.
  """
  _keep_heap()
  _keep_compilations()
  _use_all_cores()
  app.run(lambda _: _guarded(main), flags_parser=_parse)


def writing(write, file, *args):
  """Calls write(file, ...); a UserError names the file that cannot be written."""
  try:
    return write(file, *args)
  except OSError as error:
    raise UserError(
      f"cannot write {file}: {error}; check the permissions and the free space"
    ) from error


def write_text(file, text):
  """Writes a text file, see `writing`."""
  writing(lambda f: f.write_text(text), file)


def make_folder(folder):
  """Makes a folder and its parents, see `writing`."""
  writing(lambda f: f.mkdir(parents=True, exist_ok=True), folder)


def _keep_heap():
  """Starts the program anew with a heap of huge pages that is kept; glibc reads that at the start.

  XLA allocates the temporaries of a CPU step anew each time. From 4 KB pages of the system their
  page faults take a fifth to a third of the step, from huge ones of a heap that is kept nothing.
  Blocks from 256 MB on still go back to the system, and so does what is free above 1 GB, so that
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


def _keep_compilations():
  """What takes a second to compile is kept in ~/.cache/segjax, or JAX_COMPILATION_CACHE_DIR.

  JAX reads the variable when it is imported, which is later.
  """
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segjax"
    with contextlib.suppress(OSError):  # a home that cannot be written to: compile each time
      folder.mkdir(parents=True, exist_ok=True)
      os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def _use_all_cores():
  """Keeps convolutions from YNNPACK, which runs many of ours on one thread; XLA's own take all.

  A jaxlib that does not know the flag would end the program, so the version decides. An XLA_FLAGS
  that names the flag is left alone.
  """
  name, found = "xla_cpu_experimental_ynn_fusion_type", os.environ.get("XLA_FLAGS", "")
  if metadata.version("jaxlib").startswith("0.10.") and name not in found:
    os.environ["XLA_FLAGS"] = f"--{name}=-individual_convolution {found}".strip()


def _guarded(main):
  # orbax tells of every rename, and warns of read-only folders and of saving without metrics.
  logging.set_verbosity(logging.ERROR)
  try:
    main()
  except Stopped as stop:
    same = " with the same --workdir" if "workdir" in flags.FLAGS else ""
    print(f"stopped at step {stop.step}; saved. The same command{same} goes on")
    sys.exit(128 + stop.signal)
  except KeyboardInterrupt:
    print("interrupted; the last complete checkpoint stays", file=sys.stderr)
    sys.exit(130)
  except UserError as error:
    _fail(error)


def _fail(message):
  print(f"error: {message}", file=sys.stderr)
  sys.exit(1)


def _parse(argv):
  """Parses flags; turns what a wrong --config raises into one line."""
  for arg, after in zip(argv, [*argv[1:], ""], strict=True):
    if arg in ("--config", "-config") or re.match(r"--?config=", arg):
      file = (after if "=" not in arg else arg.partition("=")[2]).partition(":")[0]
      if not Path(file).is_file():
        _fail(f"--config: {no_such_file(file)}")
  try:
    program, *more = flags.FLAGS(argv)
    if more:
      _fail(f"unexpected argument {more[0]!r}; flags are --NAME=VALUE, --help tells which")
    return [program]
  except UserError as error:
    _fail(error)
  except flags.Error as error:
    text = re.sub(r"(?s).*segjax\.errors\.UserError: ([^\n]*).*", r"\1", str(error))
    text = re.sub(r"(?s)flag --(\w+)=None: .*", r"--\1 is required", text)
    _fail(f"{text}; --help tells more")
  except (AttributeError, KeyError) as error:
    name = re.match(r"\W*(\w+)", str(error.args[0])).group(1)
    given = [a for a in argv if re.match(rf"--?config\.(\w+\.)*{name}\b", a)]
    if not given:
      raise
    near = re.search(r'Did you mean "([^"]+)"', str(error.args[0]))
    hint = f"; did you mean {near.group(1)!r}?" if near else ""
    _fail(f"{given[0]}: the config has no field {name!r}{hint}")
