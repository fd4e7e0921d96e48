"""Configs: reading a file with its argument, durations, and the config.json of a run.

A config file's `get_config(arg="")` starts from `default()` and sets the fields that differ, see
`segjax.fields`. Durations come in pairs, `x_steps` and `x_epochs`, of which at most one may be
above 0.
"""

from __future__ import annotations

import inspect
import os
import re
import runpy
from pathlib import Path

import ml_collections

from segjax import own_code, project, textfiles
from segjax.errors import UserError, check_fields, choose, did_you_mean, nearest
from segjax.fields import (  # noqa: F401
  DATA_SOURCES,
  TASK_FIELDS,
  THREE,
  data_source,
  default,
  image_source,
  initial_weights,
  set_task,
  smoke,
  task_fields,
)
from segjax.optimizer_fields import change_optimizer, settle_optimizer  # noqa: F401

NAMED = ("data.source.", "task.", "loss.", "model.")  # parts whose fields depend on a name
# What a file is that was given in another's place, by the function in it.
OTHERS = dict(
  get_config="; it is a config, for launch/train.py --config",
  get_study="; it is a study, for launch/study.py --study",
)

# Fields that older runs have in their config.json and that change nothing any more.
REMOVED = ("fused_loss",)

# Values that older runs have under another name: {field: {old: new}}. See `with_old_names`.
RENAMED = {"data.eval_fit": {"native": "full"}}


def read(spec):
  """The config of a file with its argument, `configs/unet_road.py:skip=0,smoke`, locked.

  Code outside the library that it names may be imported from now on, see `segjax.own_code`.

  Raises:
    UserError: no such file, or an argument that its `get_config` refuses.
  """
  config = call_file(spec, "get_config")
  own_code.allow(config, file=split_spec(spec)[0])
  settle_optimizer(config)
  paths = {k: expand_home(v) for k, v in flatten(config).items() if str(v).startswith("~")}
  config.update_from_flattened_dict(paths)
  config.lock()
  return config


def call_file(spec, function, what="file"):
  """The result of a function of a Python file, called with the argument in `x.py:arg`.

  Raises:
    UserError: no such file, or it lacks the function.
  """
  file, arg = split_spec(spec)
  file = project.find(file)
  if not Path(file).is_file():
    raise UserError(no_such_file(file, what))
  if not os.access(file, os.R_OK):
    raise UserError(f"{file}: cannot be read; check its permissions")
  own_code.add_folder(Path(file).parent)
  names = runpy.run_path(file)
  if function not in names:
    other = next((hint for name, hint in OTHERS.items() if name in names), "")
    raise UserError(f"{file}: no function {function!r}, expected `def {function}(arg)`{other}")
  call = names[function]
  try:
    return call(arg) if arg or inspect.signature(call).parameters else call()
  except TypeError as error:
    if "override field" not in str(error) or " type" not in str(error):
      raise
    said = " ".join(str(error).split())
    how = "give a value of the field's own type"
    if re.search(r"\(reference\)\. <(class|function|bound method|built-in) ", said):
      how = "a class or function stands in a config by its name, 'package.module:attribute'"
    raise UserError(f"{file}: {said}; {how}") from error


def split_spec(spec):
  """("a:b/x.py", "arg") of "a:b/x.py:arg"; the argument is "" where there is none."""
  spec = expand_home(spec)
  if spec.endswith(".py"):
    return spec, ""
  file, colon, arg = spec.partition(".py:")
  if colon:
    return f"{file}.py", arg
  file, _, arg = spec.partition(":")
  return file, arg


def expand_home(text):
  """A text that begins with "~" as a path in the home folder; anything else as it is."""
  return os.path.expanduser(text) if isinstance(text, str) else text


def no_such_file(file, what="file"):
  """The message for a missing Python file; names the nearest beside it, and all of them."""
  near = sorted(str(p) for p in Path(file).parent.glob("*.py"))
  known = project.folder()
  if not near and known is not None and not Path(file).is_absolute():
    near = sorted(str(p.relative_to(known)) for p in (known / file).parent.glob("*.py"))
  by_stem = {Path(n).stem: n for n in near}  # the endings are all alike
  alike = [f"; did you mean {by_stem[s]!r}?" for s in nearest(Path(file).stem, by_stem)]
  hint = f"{''.join(alike)}; there is {', '.join(near)}" if near else ""
  return f"no such {what} {file!r}{hint}"


def parse_arg(arg, **defaults):
  """Reads a config file's argument, as in `--config=configs/x.py:data=kitti_road,smoke`.

  Args:
    arg: comma-separated `key=value`, or `key` alone for True.
    **defaults: the keys there are; a value is read as its default's type.

  Returns:
    ConfigDict of the values.

  Raises:
    UserError: unknown key or a value of another type.

  >>> parse_arg("smoke,data=x", smoke=False, data="y").smoke
  True
  """
  out = dict(defaults)
  for part in filter(None, arg.split(",")):
    key, _, text = part.partition("=")
    check_fields([key], list(defaults), "the config's argument")
    kind = type(defaults[key])
    try:
      if kind is bool:
        out[key] = {"": True, "1": True, "true": True, "0": False, "false": False}[text.lower()]
      else:
        out[key] = kind(text)
    except (KeyError, ValueError):
      raise UserError(f"config argument {key}={text!r}: expected a {kind.__name__}") from None
  return ml_collections.ConfigDict(out)


def write_arg(**values):
  """The argument that `parse_arg` reads as these values; False and empty ones are left out.

  >>> write_arg(data="x", smoke=True, weights="", small=False)
  'data=x,smoke'
  """
  given = {k: v for k, v in values.items() if v is not False and v != ""}
  return ",".join(k if v is True else f"{k}={v}" for k, v in given.items())


def duration(config, name, steps_per_epoch, *, required=False):
  """Steps of the duration `name`, from `name_steps` or `name_epochs`; 0 where both are 0.

  Raises:
    UserError: both are set, or none where one is required.
  """
  steps, epochs = config[f"{name}_steps"], config[f"{name}_epochs"]
  if steps and epochs:
    raise UserError(
      f"{name}_steps={steps} and {name}_epochs={epochs:g} are both set; set one of them to 0"
    )
  if steps < 0 or epochs < 0 or (required and not steps and not epochs):
    raise UserError(f"{name}_steps={steps}, {name}_epochs={epochs:g}: expected one of them above 0")
  return int(steps) or (max(round(epochs * steps_per_epoch), 1) if epochs else 0)


def kept_steps(config, steps_per_epoch):
  """Steps from `keep_steps` or `keep_epochs`, at least 1 each.

  Raises:
    UserError: both are set.
  """
  if config.keep_steps and config.keep_epochs:
    raise UserError("keep_steps and keep_epochs are both set; empty one of them")
  steps = config.keep_steps or [max(round(e * steps_per_epoch), 1) for e in config.keep_epochs]
  return tuple(int(s) for s in steps)


def in_steps(part, steps_per_epoch, where=""):
  """The fields of a part of a config, with each duration in epochs given in steps instead.

  Args:
    part: ConfigDict or dict.
    steps_per_epoch: int.
    where: prefix of the fields' names, for the message.

  Returns:
    dict without `x_epochs`.

  Raises:
    UserError: a duration is given both in steps and in epochs.
  """
  fields = dict(part)
  for name in [k.removesuffix("_epochs") for k in fields if k.endswith("_epochs")]:
    steps, epochs = f"{name}_steps", fields.pop(f"{name}_epochs")
    if not isinstance(epochs, list | tuple):
      fields[steps] = duration(part, name, steps_per_epoch)
      continue
    if epochs and fields[steps]:
      raise UserError(f"{where}{steps} and {name}_epochs are both set; empty one of them")
    fields[steps] = tuple(fields[steps]) or tuple(round(e * steps_per_epoch) for e in epochs)
  return fields


def flatten(node, prefix=""):
  """ConfigDict or dict -> flat dict, `{"data.batch_size": 4, ...}`; lists become tuples."""
  out = {}
  for key, value in node.items():
    if hasattr(value, "items"):
      out |= flatten(value, f"{prefix}{key}.")
    else:
      out[prefix + key] = _plain(value)
  return out


def _plain(value):
  return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value


def save(config, file):
  """Writes the config as JSON with a checksum."""
  textfiles.write_state(file, config.to_dict(), indent=2, default=list)


def load(file):
  """Reads a config that `save` wrote; fields that are newer than it get their defaults.

  Fields of the data source, the task, its loss and the net are left to their own classes.

  Raises:
    UserError: no such file, not JSON, not what was written, or not a config: some of it is missing,
      a field is not known or has a value of another type.
  """
  values = textfiles.read_state(file)
  for name in REMOVED:
    values.pop(name, None)
  _rename(values)
  try:
    _fill(values, _known(values))
  except UserError as error:
    raise UserError(
      f"{file}: {error}; the file is damaged or from a newer version; {textfiles.MEND}"
    ) from None
  return ml_collections.ConfigDict(_tuples(values))


def check(config):
  """Raises a UserError for a field that is not known or has a value of another type.

  Code outside the library that the config names may be imported from now on, and an optimiser gets
  the fields that it has itself, see `settle_optimizer`.
  """
  own_code.allow(config)
  settle_optimizer(config)
  values = config.to_dict()
  _fill(values, _known(values))


def with_old_names(flat):
  """A flat config with values named as older versions did, so that hashes of runs stay."""
  old = {k: {new: name for name, new in names.items()} for k, names in RENAMED.items()}
  return {k: old[k].get(v, v) if k in old else v for k, v in flat.items()}


def _rename(values):
  """Gives values of `RENAMED` fields in a nested dict their present names."""
  for field, names in RENAMED.items():
    part, _, key = field.rpartition(".")
    node = values.get(part)
    if isinstance(node, dict) and isinstance(node.get(key), str):
      node[key] = names.get(node[key], node[key])


def _known(values):
  """All fields with their defaults, those of the source, the task and its loss by their names."""
  for part in ("data", "model", "task", "loss", "optimizer", "schedule"):
    if not hasattr(values.get(part), "items"):
      raise UserError(f"no fields {part!r}")
  known = default().to_dict()
  task, loss = task_fields(_name_of(values["task"], "task"))
  known["task"], known["loss"] = dict(name="") | task, loss
  source = values["data"].get("source")
  name = _name_of(source, "data.source")
  own = own_code.is_own(name)  # then the fields are those of its function
  fields = source if own else choose(DATA_SOURCES, name, "data source")
  known["data"]["source"] = dict(name="") | fields
  if _name_of(values["optimizer"], "optimizer") not in THREE:
    known["optimizer"] = values["optimizer"]
  for part in ("loss", "augment"):
    if hasattr(values.get(part), "items") and values[part].get("own"):
      known[part] = values[part] | known[part]
  _name_of(values["model"], "model")
  known["model"] = values["model"]  # whose fields are those of its class
  return known


def _name_of(part, where):
  name = part.get("name") if hasattr(part, "items") else None
  if not isinstance(name, str):
    raise UserError(f"{where}.name is {name!r}, expected a name")
  return name


def _fill(values, known, prefix=""):
  """Adds missing fields, but not to `NAMED` parts; a UserError names an unknown one."""
  for key in values:
    if key not in known:
      where = prefix.rstrip(".") or "the config"
      raise UserError(f"no field {key!r} in {where}{did_you_mean(key, known)}")
  for key, default_value in known.items():
    if key not in values and prefix in NAMED:
      continue
    value = values.setdefault(key, default_value)
    if isinstance(default_value, dict) and isinstance(value, dict):
      _fill(value, default_value, f"{prefix}{key}.")
    elif not _is_like(value, default_value):
      raise UserError(f"{prefix}{key} is {value!r}, expected a value such as {default_value!r}")


def _is_like(value, default_value):
  """Whether a value of JSON has the type of a default, and its elements that of its elements."""
  if isinstance(default_value, list | tuple):
    if not isinstance(value, list | tuple):
      return False
    return not default_value or all(_is_like(v, default_value[0]) for v in value)
  kind = type(default_value)
  if kind is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  return type(value) is kind


def _tuples(value):
  """Lists, which JSON makes of tuples, back to tuples."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
