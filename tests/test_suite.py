"""The tests themselves: the selection of CI's second stage by markers."""

import ast

from conftest import ROOT


def skips_without_torch(node):
  calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
  return any(
    isinstance(c.func, ast.Attribute)
    and c.func.attr == "importorskip"
    and ast.unparse(c.args[0]) == "'torch'"
    for c in calls
  )


def test_comparisons_with_pytorch_are_marked():
  """Without the marker one would run in neither of CI's stages: the first has no PyTorch."""
  found = []
  for file in sorted((ROOT / "tests").glob("test_*.py")):
    tree = ast.parse(file.read_text())
    whole = any(ast.unparse(n) == "pytestmark = pytest.mark.torch" for n in tree.body)
    for node in tree.body:
      if isinstance(node, ast.FunctionDef) and skips_without_torch(node):
        own = any(ast.unparse(d) == "pytest.mark.torch" for d in node.decorator_list)
        assert own or whole, f"{file.name}: {node.name}"
        found.append(node.name)
  assert len(found) > 10
