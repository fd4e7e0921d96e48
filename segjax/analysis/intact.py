"""Which runs of a study can be reported: a damaged one is a line of the report, not its end."""

from __future__ import annotations

import dataclasses

import numpy as np

from segjax import config as config_lib
from segjax import textfiles
from segjax.errors import NoSplit, UserError
from segjax.tasks import LABEL_MAPS, TASKS
from segjax.training import experiment as experiment_lib
from segjax.training import restore
from segjax.training.evaluation import read_sums


def checked(results):
  """The results of a study; those whose runs have damaged files have an error, which is printed.

  The checkpoint is read of the first whole run of each variant, which pictures are of, and of every
  run whose features are scored.

  Args:
    results: list of study.Result.

  Returns:
    list of study.Result.
  """
  out, whole = [], set()
  for result in results:
    out.append(result)
    if result.error:
      continue
    try:
      _check_files(result)
      if result.variant not in whole or TASKS[result.config.task.name].self_supervised:
        restore.run(result.workdir)
      whole.add(result.variant)
    except UserError as error:
      print(f"{result.variant}, seed {result.seed}: {error}", flush=True)
      out[-1] = dataclasses.replace(result, error=str(error))
  return out


def _check_files(result):
  """Raises a UserError where a file of a run lacks an entry that the report needs."""
  workdir = result.workdir
  config_lib.load(workdir / "config.json")
  classes = experiment_lib.load_labels(workdir / "labels.json").names
  if not any("val/loss" in row for row in result.rows()):
    raise UserError(f"{workdir / 'metrics.jsonl'}: no evaluation in it; {textfiles.MEND}")
  matrix = read_sums(workdir).get("matrix")
  if result.config.task.name in LABEL_MAPS and np.shape(matrix) != (len(classes),) * 2:
    raise UserError(
      f"{workdir / 'val_sums.npz'}: its matrix has the shape {np.shape(matrix)}, expected "
      f"{(len(classes),) * 2}; {textfiles.MEND}"
    )


def or_line(document, what, make):
  """make(), or None and a line of the document where a run's file is damaged.

  Args:
    document: Document.
    what: the part that is then missing, for the line.
    make: function without arguments.

  Raises:
    NoSplit: `make` asks for a split that the data lack, for which no file is to blame.
  """
  try:
    return make()
  except NoSplit:
    raise
  except UserError as error:
    document.text(f"{what}: not drawn ({error}).")
    print(f"{what}: not drawn ({error})", flush=True)
    return None
