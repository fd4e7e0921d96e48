"""Where the runs of a study are trained: local processes, jobs of Slurm, tasks of Ray.

An engine is a context manager, `engine(jobs, folder, **options)`, whose value is a function of the
words of a command and of a log file: it starts the command somewhere and returns a task with
`done() -> bool` and `result() -> str | None`, see `command.Command`.
"""

from __future__ import annotations

import ast
import inspect

from segjax.engines import local, ray, slurm
from segjax.errors import UserError, check_fields, choose

ENGINES = {"local": local.engine, "slurm": slurm.engine, "ray": ray.engine}


def read(spec):
  """The engine of a text and its options, `ray:num_gpus=1,address=auto`.

  Returns:
    (function, {option: value}).

  Raises:
    UserError: unknown engine, or an option that it does not have.
  """
  name, _, text = spec.partition(":")
  engine = choose(ENGINES, name, "engine")
  options = {}
  for part in filter(None, text.split(",")):
    key, equals, value = part.partition("=")
    if not equals:
      raise UserError(f"--engine={spec}: {part!r}, expected OPTION=VALUE")
    try:
      options[key] = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      options[key] = value
  known = inspect.signature(engine).parameters
  if not any(p.kind == p.VAR_KEYWORD for p in known.values()):
    check_fields(options, [k for k in known if k not in ("jobs", "folder")], f"the engine {name!r}")
  return engine, options
