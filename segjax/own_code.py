"""Code of one's own that a config names: "package.module:attribute" in place of a name of ours.

The fields of `FIELDS` take such a name. It is imported only where `allow` has been called with the
config, which is done for configs that the command line names or that a program passes to
`training.train`, never for the config.json in the folder of a run: such a folder may come from
somebody else.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import traceback
from pathlib import Path

from segjax import errors
from segjax.errors import UserError, check_fields, did_you_mean

FIELDS = ("model.name", "data.source.name", "optimizer.name", "loss.own", "augment.own")

_allowed: set[str] = set()
_folders: list[Path] = []


def is_own(name):
  """Whether a name is one of code outside the library.

  >>> is_own("nets:Small"), is_own("unet")
  (True, False)
  """
  return isinstance(name, str) and ":" in name


def choose(table, name, what):
  """`errors.choose`, or what `find` imports where the name is "package.module:attribute"."""
  return find(name, what) if is_own(name) else errors.choose(table, name, what)


# ---------------------------------------------------------------------------- permission


def add_folder(folder):
  """Makes the modules in a folder importable, after all others."""
  folder = Path(folder).resolve()
  if folder not in _folders:
    _folders.append(folder)
  if str(folder) not in sys.path:
    sys.path.append(str(folder))


def allow(config, file=""):
  """Lets `find` import the names in a config; a class or function in it becomes its name.

  Args:
    config: ConfigDict; changed where it holds a class or function.
    file: path of the config file, for objects defined in it.

  Raises:
    UserError: a class or function that no other program could import.
  """
  for field, part, last in _parts(config):
    name = part[last]
    if callable(name):
      name = name_of(name, field, file)
      with part.ignore_type():
        part[last] = name
    if is_own(name):
      _allowed.add(name)


def names(config):
  """The names of code of one's own in a config."""
  return [part[last] for _, part, last in _parts(config) if is_own(part[last])]


def _parts(config):
  """Yields (field, part of the config, key in it) of the `FIELDS` that a config has."""
  for field in FIELDS:
    *path, last = field.split(".")
    part = config
    for key in path:
      part = part.get(key) if hasattr(part, "get") else None
    if hasattr(part, "get") and last in part:
      yield field, part, last


def name_of(thing, field, file=""):
  """The name by which a class or function can be imported.

  Args:
    thing: class or function.
    field: name of a field of a config, for the message.
    file: path of the file that defines it, if `runpy.run_path` ran it.

  Raises:
    UserError: it is a lambda, a partial, within a function, or defined in the main program.

  >>> import optax
  >>> name_of(optax.sgd, "optimizer.name").endswith(":sgd")
  True
  """
  module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
  module = Path(file).stem if module == "<run_path>" and file else module
  if not module or not name or "<" in name or module in ("__main__", "<run_path>"):
    raise UserError(
      f"{field} is {thing!r}, which has no name that evaluation could import later; define it by "
      "`def` or `class` at the top level of a module"
    )
  return f"{module}:{name}"


# ---------------------------------------------------------------------------- import


def find(name, what):
  """Imports a class or function.

  Args:
    name: "package.module:attribute".
    what: it is for, for messages.

  Raises:
    UserError: nobody has allowed it, there is no such module or attribute, the module fails, or
      its object cannot be called.
  """
  where = f"{what} {name!r}"
  if name not in _allowed:
    raise UserError(
      f"{where} is code outside segjax, which the folder of a run alone does not get imported; if "
      "you trust it, name the config file of the training, --config=FILE.py (in Python: "
      "segjax.config.read(FILE), or call the class itself)"
    )
  module_name, _, attribute = name.partition(":")
  module = _import(module_name, where)
  found = module
  for part in attribute.split("."):
    if not hasattr(found, part):
      public = [n for n in dir(found) if not n.startswith("_")]
      file = getattr(module, "__file__", module_name)
      raise UserError(f"{where}: no {attribute!r} in {file}{did_you_mean(part, public)}")
    found = getattr(found, part)
  if not callable(found):
    raise UserError(f"{where} is {found!r}, expected a class or function")
  return found


def _import(name, where):
  try:
    module = importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name is None or not f"{name}.".startswith(f"{error.name}."):
      raise UserError(f"{where}: {_place(error)}importing it failed: {error}") from error
    beside = [p.stem for folder in _folders for p in folder.iterdir() if _is_module(p)]
    looked = ", ".join(map(str, _folders)) or "no config file's folder"
    raise UserError(
      f"{where}: no module {error.name!r}{did_you_mean(error.name, beside)}; looked in {looked} "
      "(beside the config), among the installed packages and in PYTHONPATH"
    ) from None
  except Exception as error:
    kind = type(error).__name__
    raise UserError(f"{where}: {_place(error)}importing it failed: {kind}: {error}") from error
  _check_not_hidden(module, name, where)
  return module


def _is_module(path):
  return path.suffix == ".py" or path.is_dir()


def _place(error):
  """ "file:line: " of the last frame of an error's stack outside the import system, or ""."""
  frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
  frames = [f for f in frames if f.filename != __file__]
  return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _check_not_hidden(module, name, where):
  """Raises a UserError where a module beside the config is hidden by another of its name."""
  top = name.partition(".")[0]
  found = [Path(p).resolve() for p in (getattr(module, "__file__", None), *_paths(module)) if p]
  for folder in _folders:
    mine = [p for p in (folder / f"{top}.py", folder / top) if _is_module(p) and p.exists()]
    if mine and not any(f.is_relative_to(g) for f in found for g in _folders):
      raise UserError(
        f"{where}: {top!r} is also the name of {found[0] if found else 'a part of Python'}, which "
        f"hides {mine[0]}; give your module another name"
      )


def _paths(module):
  return list(getattr(module, "__path__", ()))


# ---------------------------------------------------------------------------- arguments


def arguments(function):
  """Parameters of a function or class, {name: inspect.Parameter}; of Flax's own fields none."""
  try:
    found = dict(inspect.signature(function).parameters)
  except ValueError:
    raise UserError(f"{function!r} does not say what its arguments are; write a `def`") from None
  return {k: p for k, p in found.items() if not (inspect.isclass(function) and k in _OF_FLAX)}


_OF_FLAX = ("parent", "name")


def defaults(function):
  """{argument: default}, of those that have one."""
  return {k: p.default for k, p in arguments(function).items() if p.default is not p.empty}


def known_defaults(name):
  """`defaults` of the object of a user's name; {} where it cannot be imported."""
  if not is_own(name):
    return {}
  try:
    return defaults(find(name, "code"))
  except UserError:
    return {}


def bind(name, kind, fields, known, passed):
  """The function of a user's name, with its fields.

  Args:
    name: "package.module:attribute".
    kind: its kind, for messages: "loss".
    fields: dict of its own fields.
    known: names of the library's fields beside them.
    passed: names of the arguments that the library passes to it.

  Raises:
    UserError: see `find`, `check_disjoint` and `check_arguments`.
  """
  function, what = find(name, kind), f"{kind} {name!r}"
  check_disjoint(function, known, what)
  check_arguments(function, fields, what, passed)
  return functools.partial(function, **fields)


def check_arguments(function, fields, what, passed=()):
  """Raises a UserError where fields of a config do not fit the arguments of a function.

  Args:
    function: a function that gets the fields by keyword.
    fields: dict of the config's fields.
    what: the function is, for messages.
    passed: names of the arguments that the library itself passes.
  """
  known = arguments(function)
  for name in passed:
    if name not in known and not _takes_any(known):
      raise UserError(f"{what} has no argument {name!r}, which segjax passes to it")
  mine = [k for k, p in known.items() if k not in passed and p.kind not in _STARS]
  if not _takes_any(known):
    check_fields(fields, mine, what)
  lacking = [k for k in mine if known[k].default is inspect.Parameter.empty and k not in fields]
  if lacking:
    raise UserError(f"{what} needs the field {lacking[0]!r} (fields: {', '.join(mine)})")


def check_disjoint(function, known, what):
  """Raises a UserError where a function's own arguments have the names of fields that are taken."""
  twice = [k for k in arguments(function) if k in known]
  if twice:
    raise UserError(f"{what} has an argument {twice[0]!r}, the name of a field of ours; rename it")


_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _takes_any(parameters):
  return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
