"""The fields of a config: their defaults, their reference, and those that a config file sets."""

import ast
import dataclasses
import re

import pytest
from conftest import ROOT

from segjax import config as config_lib
from segjax import fields, reference
from segjax.errors import UserError
from segjax.tasks import TASKS

CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py"))
# Fields of a task's class that no config sets.
LEFT_OUT = dict(
  class_query={"sigmoid", *fields.TASK_FIELDS["segmentation"][1]} - {"cross_entropy"},
  mask_classification={"sigmoid", *fields.TASK_FIELDS["segmentation"][1]}
  - {"cross_entropy", "dice"},
  rotation={"top_k", "class_weights"},
)


def test_the_reference_is_up_to_date():
  text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
  assert reference.rewrite(text) == text, "run: python -m segjax.reference configs/README.md"


def test_the_reference_has_every_field_with_a_meaning():
  general, *parts = re.split(r"^\| \*\*`(\w+)`\*\*", reference.tables(), flags=re.MULTILINE)
  parts = dict(zip(parts[::2], parts[1::2], strict=True))
  assert parts.keys() == fields.DATA_SOURCES.keys() | fields.TASK_FIELDS.keys()

  def check(table, defaults):
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| (.+) \|$", table, re.MULTILINE)
    assert {name: default for name, default, _ in rows} == {k: repr(v) for k, v in defaults.items()}
    assert all(len(text) >= 5 for _, _, text in rows)

  flat = config_lib.flatten(config_lib.default())
  by_name = ("data.source.", "task.", "loss.")
  check(general, {k: v for k, v in flat.items() if not k.startswith(by_name)})
  for name, defaults in fields.DATA_SOURCES.items():
    check(parts[name], defaults)
  for name in fields.TASK_FIELDS:
    task, loss = fields.task_fields(name)
    check(parts[name], config_lib.flatten(dict(task=task, loss=loss)))


def test_a_field_without_a_meaning_is_an_error():
  with pytest.raises(ValueError, match=r"no text for augment\.shear"):
    reference.rows(dict(flip=0.0, shear=0.0), dict(flip="probability"), "augment.")


@pytest.mark.parametrize("name", TASKS)
def test_fields_of_a_task_are_those_of_its_class(name):
  task, loss = fields.task_fields(name)
  known = {f.name: f.default for f in dataclasses.fields(TASKS[name])}
  own = known.keys() - {"classes", "palette"}
  found = {k: v for k, v in (task | loss).items() if not k.endswith("_epochs")}
  assert found.keys() == own - LEFT_OUT.get(name, set())
  assert not task.keys() & loss.keys()
  assert found == {k: known[k] for k in found} | fields.CHANGED.get(name, {})


def test_durations_come_in_pairs():
  flat = config_lib.flatten(config_lib.default()) | fields.task_fields("dino")[0]
  pairs = {k.removesuffix("_steps") for k in flat if k.endswith("_steps")}
  pairs -= {"log", "optimizer.accumulate"}
  assert pairs == {k.removesuffix("_epochs") for k in flat if k.endswith("_epochs")}
  assert pairs >= {"total", "schedule.warmup", "schedule.milestone", "teacher"}
  for k in pairs:
    kinds = type(flat[f"{k}_steps"]), type(flat[f"{k}_epochs"])
    assert kinds in ((int, float), (tuple, tuple)), k


def test_unknown_tasks_and_fields():
  with pytest.raises(UserError, match="unknown task 'segmentatoin'; did you mean 'segmentation'"):
    fields.task_fields("segmentatoin")
  with pytest.raises(UserError, match="task 'dino' has no field 'crop'; did you mean 'crops'"):
    fields.set_task(fields.default(), "dino", crop=2)


def assigned(tree):
  """Dotted names of the fields of `c` that a config file sets, and the functions it calls."""
  targets = [t for n in ast.walk(tree) if isinstance(n, ast.Assign) for t in n.targets]
  targets = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
  calls = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
  return {ast.unparse(t).removeprefix("c.") for t in targets}, calls


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_a_document(name):
  """The file of an experiment sets all of it, none by a function elsewhere."""
  tree = ast.parse((ROOT / "configs" / f"{name}.py").read_text(encoding="utf-8"))
  found, calls = assigned(tree)
  assert found >= {
    "name", "data.source", "data.size", "data.batch_size", "model", "optimizer.name",
    "schedule.name", "schedule.learning_rate", "total_epochs", "eval_epochs",
  }  # fmt: skip
  assert "config_lib.set_task" in calls or "loss.cross_entropy" in found
  augments = any(field.startswith("augment.") for field in found)
  assert augments or "no augmentation" in ast.get_docstring(tree)
  assert {call for call in calls if call.startswith("config_lib.")} <= {
    "config_lib.parse_arg", "config_lib.default", "config_lib.data_source", "config_lib.smoke",
    "config_lib.image_source", "config_lib.set_task", "config_lib.initial_weights",
  }  # fmt: skip
  imported = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
  assert {f"{n.module}.{a.name}" for n in imported for a in n.names} <= {
    "segjax.config", "segjax.weights", "segjax.errors.choose",
  }  # fmt: skip
