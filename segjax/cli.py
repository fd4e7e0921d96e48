"""Shared by the launchers: flags, one message for an error of the user's, exit codes."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

# Before CLU imports TensorFlow, which would print a notice at every start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from absl import app, flags, logging
from ml_collections import config_flags

from segjax import config as config_lib
from segjax import errors, own_code, project, startup, streams
from segjax.errors import Stopped, UserError
from segjax.stopping import STOP


def define_config():
  """Defines --config, locked, so that a mistyped override is an error; returns its holder."""
  holder = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment: a file of configs/, with an argument after a colon if it takes one "
    "(--config=configs/unet_road.py:data=kitti_road). Fields are set by "
    "--config.FIELD=VALUE, e.g. --config.data.batch_size=8.",
    lock_config=True,
  )
  # It would split "a:b/x.py:arg" at the first colon.
  flags.FLAGS["config"].parser.parse = _read
  return holder


def define_view() -> Callable[[], dict]:
  """Defines the flags of how an image is put before a net; returns () -> their values by name."""
  size = "Size of tiles, pixels: 512, or HEIGHT,WIDTH; makes --mode=tiles."
  views = "Averages over views of an image: flip,scales=0.75,1,1.25."
  holders = (
    flags.DEFINE_string("mode", "", "resize, native or tiles; default: as the run is evaluated."),
    flags.DEFINE_list("tiles", [], size),
    flags.DEFINE_float("overlap", None, "Share of a tile that the next has too; default 0.25."),
    flags.DEFINE_string("tta", "", views),
  )
  return lambda: {holder.name: holder.value for holder in holders}


def define_own_code():
  """Defines --config for launchers that take everything else from the folder of a run."""
  flags.DEFINE_string(
    "config", None, "Config file of the training, where it names code of your own (a net, loss, "
    "data source ...): that code is imported, all else is read from the run's config.json."
  )  # fmt: skip


def define_distributed():
  """Defines --distributed and --heartbeat_seconds, for launchers that several processes may run."""
  flags.DEFINE_string(
    "distributed", None, "Makes this one of several processes of a run, which share the devices of "
    "all: auto (Slurm, Open MPI, Kubernetes, Cloud TPU), or HOST:PORT,COUNT,INDEX; see "
    "launch/README.md."
  )  # fmt: skip
  flags.DEFINE_integer(
    "heartbeat_seconds", 100, "After so long without a sign of one process the others end.",
    lower_bound=2,
  )  # fmt: skip


def _join():
  """Joins the other processes, before any device is touched."""
  if "distributed" in flags.FLAGS and flags.FLAGS["distributed"].value:
    from segjax import hosts

    hosts.join(
      flags.FLAGS["distributed"].value, heartbeat_seconds=flags.FLAGS["heartbeat_seconds"].value
    )


def _leave(code, text=""):
  """Ends this process at once where it is one of several: their common end would wait for all."""
  if _joined():
    with contextlib.suppress(OSError):
      print(text, end="", file=sys.stderr, flush=True)
      sys.stdout.flush()
    os._exit(code)


def _joined():
  jax = sys.modules.get("jax")
  return jax is not None and jax.distributed.is_initialized()


def _read(spec):
  """The config of a file; an optimiser that the command line names has its own fields already."""
  config = config_lib.read(spec)
  for arg in sys.argv:
    if name := re.fullmatch(r"--?config\.optimizer\.name=(.*)", arg):
      config_lib.change_optimizer(config, name[1])
  return config


def _allow_own_code():
  """Lets the code be imported that the config of the command line names."""
  config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
  if isinstance(config, str):
    config_lib.read(config)
  elif config is not None:
    own_code.allow(config)


def run(main):
  """Runs `main()` with parsed flags and exits: 0, 1 after one line of error, 128 + signal.

  Unexpected errors keep their stack: they are ours, not the user's.
  """
  streams.open_closed()
  startup.keep_heap()
  # Tracing makes many objects and hardly a cycle: a small run takes 8.7 for 10.4 s of CPU time.
  gc.set_threshold(100_000, 50, 100)
  STOP.listen()
  streams.show_any_text()
  startup.keep_compilations()
  startup.mend_compilations()
  startup.drop_late_callbacks()
  startup.use_all_cores()
  sys.argv[1:] = map(expand_home, sys.argv[1:])
  with _ends_by_signal():
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def expand_home(arg):
  """An argument with "~" at the start, or after --NAME=, as a path in the home folder."""
  name, value = re.fullmatch(r"(?s)(--?[\w.]+=)?(.*)", arg).groups()
  return (name or "") + config_lib.expand_home(value)


def writing(write, file, *args):
  """Calls write(file, ...); a UserError names the file that cannot be written."""
  with errors.writing(file):
    return write(file, *args)


def make_folder(folder):
  """Makes a folder and its parents, see `writing`."""
  writing(lambda f: f.mkdir(parents=True, exist_ok=True), folder)


@contextlib.contextmanager
def _ends_by_signal():
  """Context in which an interrupt, in whatever guise, ends the program by 128 + signal.

  So does a reader of the output that has left, as `head` does.
  """
  try:
    yield
  except BrokenPipeError:
    if not streams.reader_is_gone():
      raise
    sys.exit(128 + signal.SIGPIPE)
  except Exception:
    if not STOP.interrupted:  # else the interrupt of an import, say, has become an ImportError
      raise
  except KeyboardInterrupt:
    pass
  else:
    return
  code = 128 + (STOP.signal or signal.SIGINT)
  with contextlib.suppress(OSError):
    print("interrupted", file=sys.stderr)
  _leave(code)
  sys.exit(code)


def _guarded(main):
  # orbax logs every rename, warns of saving without metrics, and of a full disk each of its threads
  # prints its stack, a thousand lines; what it raises comes here too.
  logging.set_verbosity(logging.FATAL)
  try:
    _join()
    main()
    sys.stdout.flush()
  except Stopped as stop:
    same = " with the same --workdir" if "workdir" in flags.FLAGS else ""
    with contextlib.suppress(OSError):
      print(f"stopped at step {stop.step}; saved. The same command{same} resumes", flush=True)
    sys.exit(128 + stop.signal)
  except BrokenPipeError:
    raise  # `run` knows whose pipe it is
  except Exception as error:
    line = None if STOP.interrupted else _explain(error)
    if line is None:
      _leave(1, traceback.format_exc())
      raise
    if not getattr(error, "of_all", False):
      _leave(1, f"error: {line}\n")
    _fail(line)


def _explain(error):
  """One line for an error that is not a fault of ours, or None."""
  if _joined():
    from segjax import hosts

    if line := hosts.explain(error):
      return line
  return errors.explain(error)


def _fail(message):
  print(f"error: {message}", file=sys.stderr)
  sys.exit(1)


def _parse(argv):
  """Parses flags; turns errors of a wrong --config into one line."""
  spec = ""
  for arg, after in zip(argv, [*argv[1:], ""], strict=True):
    if arg in ("--config", "-config") or re.match(r"--?config=", arg):
      spec = after if "=" not in arg else arg.partition("=")[2]
      file, _ = config_lib.split_spec(spec)
      if not Path(project.find(file)).is_file():
        _fail(f"--config: {config_lib.no_such_file(file)}")
  try:
    program, *more = flags.FLAGS(argv)
    _allow_own_code()
    if more:
      _fail(f"unexpected argument {more[0]!r}; flags are --NAME=VALUE, see --help")
    return [program]
  except UserError as error:
    _fail(error)
  except flags.Error as error:
    cause = error.__context__  # absl wraps errors of a config file
    if isinstance(cause, UserError):
      _fail(f"--config={spec}: {cause}")
    if cause is not None and _in_file(cause, project.find(config_lib.split_spec(spec)[0])):
      raise cause from None
    text = re.sub(r"(?s)flag --(\w+)=None: .*", r"--\1 is required", str(error))
    text = re.sub(r"invalid literal for int\(\) with base 10: .*", "expected a whole number", text)
    text = re.sub(r"could not convert string to float: .*", "expected a number", text)
    _fail(f"{text}; see --help")
  except (AttributeError, KeyError):
    _check_overrides(argv, spec)
    raise


def _in_file(error, file):
  """Whether a frame of an error's stack is in a file."""
  frame = error.__traceback__
  while frame is not None:
    if file and Path(frame.tb_frame.f_code.co_filename) == Path(file):
      return True
    frame = frame.tb_next
  return False


def _check_overrides(argv, spec):
  """Fails for the first --config.FIELD that the config does not have."""
  known = config_lib.flatten(_read(spec)) if spec else {}
  for arg in argv:
    given = re.match(r"--?config\.([\w.]+)", arg)
    field = given and given[1]
    if field and not any(k == field or k.startswith(f"{field}.") for k in known):
      hint = errors.did_you_mean(field, known, 3)
      part = field.rpartition(".")[0]
      inside = [value for k, value in known.items() if k.rpartition(".")[0] == part]
      if part == "model" or any(map(own_code.is_own, inside)):
        hint += " (fields of a net or of your own code can be changed here if the config sets them)"
      _fail(f"{arg}: the config has no field {field!r}{hint}")
