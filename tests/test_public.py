"""The public modules: their names exist, are documented and annotated, and nothing is computed."""

import importlib
import inspect

import pytest

PUBLIC = (
  "augment", "inference", "losses", "metrics", "models", "ops", "study", "tasks", "training",
  "training.eval_step", "training.evaluation", "training.loop", "training.restore",
  "training.state", "training.steps", "weights",
)  # fmt: skip


def names_of(module):
  """[(name, object)] of the public names of a module of `segjax`."""
  module = importlib.import_module(f"segjax.{module}")
  return [(name, getattr(module, name)) for name in module.__all__]


def faults_of(function, name):
  """Sentences about a function: no docstring, arguments or result without an annotation."""
  found = [] if inspect.getdoc(function) else [f"{name} has no docstring"]
  signature = inspect.signature(function)
  found += [
    f"{name}({parameter.name}) has no annotation"
    for parameter in signature.parameters.values()
    if parameter.annotation is parameter.empty and parameter.name != "self"
  ]
  if signature.return_annotation is signature.empty:
    found.append(f"{name} does not say what it returns")
  return found


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_exist_and_are_listed_once(module):
  names = [name for name, _ in names_of(module)]
  assert names and len(set(names)) == len(names)


@pytest.mark.parametrize("module", PUBLIC)
def test_public_functions_are_documented_and_annotated(module):
  functions = [(n, x) for n, x in names_of(module) if inspect.isfunction(x)]
  assert [fault for name, x in functions for fault in faults_of(x, name)] == []


@pytest.mark.parametrize("module", PUBLIC)
def test_public_classes_are_documented(module):
  classes = [(name, x) for name, x in names_of(module) if inspect.isclass(x)]
  # `dataclass` writes a docstring of the signature where there is none.
  assert [n for n, x in classes if not x.__doc__ or x.__doc__.startswith(f"{n}(")] == []


def test_faults_are_found():
  def bare(x, *, y: int = 0):
    return x + y

  assert faults_of(bare, "bare") == [
    "bare has no docstring",
    "bare(x) has no annotation",
    "bare does not say what it returns",
  ]
