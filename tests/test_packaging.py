"""Imported packages are declared, imports run one way, the licence is there."""

import ast
import re
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib import metadata

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normal(name):
  return re.sub(r"[-_.]+", "-", name).lower()


def imported(file):
  """Names of the top-level packages that a file imports."""
  for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module.split(".")[0]


def test_imported_packages_are_declared():
  files = [f for folder in ("segjax", "launch") for f in (ROOT / folder).rglob("*.py")]
  names = {name for file in files for name in imported(file)}
  names -= {"segjax", *sys.stdlib_module_names}
  assert {"jax", "scipy", "PIL"} <= names
  extras = PROJECT["optional-dependencies"]
  wanted = PROJECT["dependencies"] + [
    d for n in ("wandb", "video", "tiff", "onnx", "slurm", "ray") for d in extras[n]
  ]
  declared = {normal(re.match(r"[\w.-]+", d)[0]) for d in wanted}
  known = metadata.packages_distributions()
  missing = {n for n in names if not {normal(d) for d in known.get(n, [n])} & declared}
  assert not missing


def name_of(file):
  """The dotted name of a module of segjax."""
  parts = file.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_run_one_way():
  """At the top of files; between modules and between rooms, such as data and training."""
  files = {name_of(f): f for f in (ROOT / "segjax").rglob("*.py")}
  modules = {name: set() for name in files}
  rooms = {name.split(".")[1]: set() for name in files if "." in name}
  for name, file in files.items():
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
      if isinstance(node, ast.ImportFrom) and node.module.startswith("segjax"):
        named = [f"{node.module}.{alias.name}" for alias in node.names]
        modules[name] |= {n if n in files else node.module for n in named} - {name}
  for name in rooms:
    inside = [n for n in files if n.split(".")[1:2] == [name]]
    rooms[name] = {m.split(".")[1] for n in inside for m in modules[n] if "." in m} - {name}
  order = list(TopologicalSorter(rooms).static_order())  # a CycleError names the circle
  list(TopologicalSorter(modules).static_order())
  floors = ("ops", "models", "tasks", "training", "benchmark", "analysis")
  assert sorted(floors, key=order.index) == list(floors)


def test_the_command_and_what_it_runs_are_shipped():
  assert PROJECT["scripts"] == {"segjax": "segjax.__main__:main"}
  shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
  found = {f"{folder}/{f.name}" for folder, (g,) in shipped.items() for f in ROOT.glob(g)}
  files = [f for folder in ("launch", "configs") for f in (ROOT / folder).rglob("*.py")]
  assert found == {f"share/segjax/{f.relative_to(ROOT)}" for f in files}


def test_the_licence_is_there():
  assert PROJECT["license"] == "Apache-2.0"
  (file,) = PROJECT["license-files"]
  text = (ROOT / file).read_text()
  assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
