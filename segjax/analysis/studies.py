"""The work of launch/study.py: trains a study's missing runs and writes its report."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from segjax import errors
from segjax import study as study_lib
from segjax.analysis import intact, report
from segjax.config import split_spec
from segjax.errors import UserError


def run(spec, *, overrides, seeds=None, runs, output=None):
  """Trains the missing runs of a study, writes its report, and prints where it is.

  Args:
    spec: file of the study, with an argument after a colon if it takes one.
    overrides: {field of every config: text}.
    seeds: text, how many ("5": seeds 0 to 4) or a list ("0,3,7"); None for the study's own.
    runs: Path of the folder of the runs.
    output: folder of the report; None for one that is named after the study and the overrides.

  Raises:
    UserError: `overrides` has the seed, `seeds` is malformed, or every run failed.
  """
  if "seed" in overrides:
    raise UserError("--config.seed: a study trains with several seeds; say which by --seeds=0,7")
  study = study_lib.read(spec)
  changes = dict(overrides=dict(study.overrides) | overrides)
  if seeds:
    changes["seeds"] = parse_seeds(seeds)
  study = dataclasses.replace(study, **changes)
  results = intact.checked(study_lib.run(study, runs))
  folder = Path(output or Path("runs/studies") / folder_name(spec, overrides))
  with errors.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
    page = report.write(study, results, folder)
  failed = [f"{r.variant}, seed {r.seed}: {r.error}" for r in results if r.error]
  print(f"{len(results) - len(failed)} of {len(results)} runs done; report in {page}")
  if failed:
    print("failed: " + "; ".join(failed))
  if len(failed) == len(results):
    raise UserError("every run failed; see above")


def parse_seeds(text):
  """ "5" -> (0, 1, 2, 3, 4); "0,3" -> (0, 3)."""
  if not re.fullmatch(r"\d+(,\d+)*,?", text) or text == "0":
    raise UserError(f"--seeds is {text!r}, expected a count such as 5 or a list such as 0,3,7")
  numbers = tuple(int(n) for n in text.strip(",").split(","))
  return numbers if "," in text else tuple(range(numbers[0]))


def folder_name(spec, overrides):
  """The study's file, its argument and the overrides: reports of others stay."""
  file, arg = split_spec(spec)
  parts = [Path(file).stem, arg, *(f"{k}={v}" for k, v in sorted(overrides.items()))]
  return re.sub(r"[^\w.=-]+", "_", "_".join(filter(None, parts)))[:120]
