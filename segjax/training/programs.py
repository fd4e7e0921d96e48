"""Programs of experiments that differ in their seed alone: a process traces each of them once.

The seeds of a study, a run that resumes and the evaluation after it ask for the same programs.
"""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np

from segjax import config as config_lib
from segjax import own_code

MOST = 8  # experiments whose programs are kept
# Fields that change no program: it takes the seed's key as an argument, weights are loaded into the
# state, and of the data it knows the classes, which are the task's.
OTHERS = ("seed", "name", "init_from", "init_part")


def shared(method):
  """A method of Experiment that makes a program, which an equal experiment gets too."""

  @functools.wraps(method)
  def program(experiment, *args, **fields):
    key = _identity(experiment)
    # A function in the arguments is a new one at each call: its program would only be held.
    if key is None or any(map(callable, (*args, *fields.values()))):
      return method(experiment, *args, **fields)
    kept, name = _programs(key), (method.__name__, args, *sorted(fields.items()))
    if name not in kept:
      kept[name] = method(experiment, *args, **fields)
    return kept[name]

  return program


@functools.lru_cache(maxsize=MOST)
def _programs(identity):
  """{method and arguments: program} of an experiment."""
  return {}


def _identity(experiment):
  """All that an experiment's programs depend on; None with code of the user's, which may change."""
  if own_code.names(experiment.config):
    return None
  config = config_lib.flatten(experiment.config)
  config = {k: v for k, v in config.items() if k not in OTHERS and not k.startswith("data.source.")}
  text = json.dumps(config, sort_keys=True, default=str)
  task = experiment.task
  fields = [(f.name, _hashable(getattr(task, f.name))) for f in dataclasses.fields(task)]
  parts = experiment.model, type(task), tuple(fields), experiment.mesh, experiment.frozen
  key = (*parts, experiment.steps_per_epoch, text)
  try:
    hash(key)
  except TypeError:  # a list or dict in a field
    return None
  return key


def _hashable(value):
  """An array as its shape, dtype and bytes; other values as they are."""
  if isinstance(value, np.ndarray):
    return value.shape, value.dtype.str, value.tobytes()
  return value
