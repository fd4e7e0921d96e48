"""The tables of all fields in configs/README.md, made of `segjax.fields` and of docstrings.

python -m segjax.reference configs/README.md
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from segjax import augment, fields
from segjax.data.sources import SOURCES
from segjax.tasks import TASKS
from segjax.training import optim

BEGIN, END = "<!-- python -m segjax.reference configs/README.md -->", "<!-- end of the fields -->"
PARTS = dict(
  optimizer=optim.make_shared,
  schedule=optim.make_schedule,
  augment=augment.make_augment,
  batch_augment=augment.make_batch_augment,
)


def meanings(thing):
  """{argument: its text in the docstring}, of a function, or of a class and those it derives from.

  After `x_steps` comes `x_epochs`, as in a config.

  >>> meanings(optim.make_shared)["clip_norm"]
  'largest global norm of the gradient; 0 for no clipping'
  """
  found = {}
  for part in reversed(inspect.getmro(thing)) if inspect.isclass(thing) else [thing]:
    text = inspect.cleandoc(part.__doc__ or "")
    for section in re.findall(r"^(?:Args|Attributes):\n((?:  .*\n?|\n)*)", text, re.MULTILINE):
      entries = re.findall(r"^  (\w+): (.*(?:\n {4}.*)*)", section, re.MULTILINE)
      for name, entry in entries:
        found[name] = " ".join(entry.split()).rstrip(".")
        if name.endswith("_steps"):
          found[f"{name.removesuffix('_steps')}_epochs"] = "the same in epochs"
  return found


def rows(defaults, texts, prefix=""):
  """Lines of a table, "field | default | meaning", in the order of the texts.

  Raises:
    ValueError: a field without a text.
  """
  if lost := defaults.keys() - texts.keys():
    raise ValueError(f"no text for {', '.join(prefix + name for name in sorted(lost))}")
  found = [(name, text) for name, text in texts.items() if name in defaults]
  return [f"| `{prefix}{name}` | `{defaults[name]!r}` | {text} |" for name, text in found]


def tables():
  """The tables in Markdown: of every config, of each data source, of each task."""
  c = fields.default()
  lines = ["| field | default | meaning |", "|---|---|---|"]
  lines += [f"| `{k}` | `{value!r}` | {text} |" for k, (value, text) in fields.FIELDS.items()]
  for part, function in PARTS.items():
    own = {k: v for k, v in c[part].to_dict().items() if f"{part}.{k}" not in fields.FIELDS}
    lines += rows(own, meanings(function), f"{part}.")
  lines += [
    "",
    "`data.source.name` chooses the data, the other fields of `data.source` follow:",
    "",
  ]
  lines += ["| `data.source` | default | meaning |", "|---|---|---|"]
  for name, function in SOURCES.items():
    lines.append(f"| **`{name}`** | | {summary(function)} |")
    lines += rows(fields.DATA_SOURCES[name], meanings(function))
  lines += [
    "",
    "`task.name` chooses the task, the other fields of `task` and of `loss` follow:",
    "",
  ]
  lines += ["| `task`, `loss` | default | meaning |", "|---|---|---|"]
  for name, cls in TASKS.items():
    lines.append(f"| **`{name}`** | | {summary(cls)} |")
    for part, defaults in zip(("task.", "loss."), fields.task_fields(name), strict=True):
      lines += rows(defaults, meanings(cls), part)
  return "\n".join(lines)


def summary(thing):
  """The first sentence of a docstring."""
  return " ".join(inspect.cleandoc(thing.__doc__).partition("\n\n")[0].split()).rstrip(".")


def rewrite(text):
  """A text with the tables as they are now between its marks."""
  before, _, rest = text.partition(BEGIN)
  _, _, after = rest.partition(END)
  return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
  file = Path(sys.argv[1])
  file.write_text(rewrite(file.read_text(encoding="utf-8")), encoding="utf-8")
