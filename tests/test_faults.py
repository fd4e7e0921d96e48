"""Faults of each kind, a few: none is silent, none a stack. `campaign.py` makes thousands."""

import subprocess
import sys

import fault_world
import faults
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  with fault_world.prepared():
    made = fault_world.World(tmp_path_factory.mktemp("faults"))
    made.make()
    yield made


@pytest.mark.parametrize("kind", faults.KINDS)
def test_a_fault_of_each_kind_is_a_clear_error_or_harms_nothing(kind, world):
  found = [faults.attempt(kind, number, world) for number in range(4)]
  assert [f for f in found if f[0] not in ("right", "clear error")] == []


@pytest.mark.parametrize(
  "kind", [k for k in faults.KINDS if k.startswith("fuzz") and "field" not in k]
)
def test_inputs_that_are_not_damaged_are_right(kind, world, monkeypatch):
  monkeypatch.setattr(faults, "mutate", lambda content, draw: content)
  found = [faults.attempt(kind, number, world) for number in range(6)]
  assert [f for f in found if f[0] != "right"] == []


@pytest.mark.slow
def test_a_short_campaign():
  command = [sys.executable, str(ROOT / "tests" / "campaign.py"), "--minutes=0.5"]
  done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  assert "| kill | " in done.stdout
