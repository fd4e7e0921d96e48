"""Trains the runs of a study that are missing, and writes its report.

  python launch/study.py --study=configs/studies/skip_connections.py
  python launch/study.py --study=configs/studies/skip_connections.py:data=kitti_road --seeds=5
  python launch/study.py --study=configs/studies/aspp.py:smoke --config.total_steps=10

--config.FIELD=VALUE changes a field of every run. Runs live under --runs and are shared by all
studies; finished ones are not trained again, an interrupted one resumes where it stopped. The
report (report.html, report.md, results.csv, figures/) goes to --output, by default
runs/studies/<file_argument_overrides>/. Exit code: 0 done, 1 an error that the message explains or
every run failed, 130 or 143 stopped and saved.
"""

import re
import sys
from pathlib import Path

from absl import flags

from segjax import cli

STUDY = flags.DEFINE_string("study", None, "File of configs/studies/, with an argument after a "
                            "colon if it takes one.", required=True)  # fmt: skip
SEEDS = flags.DEFINE_string("seeds", None, "How many (5: seeds 0 to 4), or a list such as 0,3,7.")
RUNS = flags.DEFINE_string("runs", "runs/pool", "Folder of the runs, shared by studies.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the report.")
OVERRIDE = re.compile(r"--?config\.([\w.]+)=(.*)", re.DOTALL)


def take_overrides():
  """Takes --config.FIELD=VALUE off the command line, as {field: text}."""
  found = {m[1]: m[2] for m in map(OVERRIDE.fullmatch, map(cli.expand_home, sys.argv[1:])) if m}
  sys.argv[1:] = [a for a in sys.argv[1:] if not OVERRIDE.fullmatch(a)]
  return found


def parse_seeds(text):
  """ "5" -> (0, 1, 2, 3, 4); "0,3" -> (0, 3)."""
  from segjax.errors import UserError

  if not re.fullmatch(r"\d+(,\d+)*,?", text) or text == "0":
    raise UserError(f"--seeds is {text!r}, expected a count such as 5 or a list such as 0,3,7")
  numbers = tuple(int(n) for n in text.strip(",").split(","))
  return numbers if "," in text else tuple(range(numbers[0]))


def folder_name():
  """The study's file, its argument and the overrides: reports of others stay."""
  from segjax.config import split_spec

  file, arg = split_spec(STUDY.value)
  parts = [Path(file).stem, arg, *(f"{k}={v}" for k, v in sorted(OVERRIDES.items()))]
  return re.sub(r"[^\w.=-]+", "_", "_".join(filter(None, parts)))[:120]


def main():
  import dataclasses

  from segjax import study as study_lib
  from segjax.analysis import intact, report
  from segjax.errors import UserError

  if "seed" in OVERRIDES:
    raise UserError("--config.seed: a study trains with several seeds; say which by --seeds=0,7")
  study = study_lib.read(STUDY.value)
  changes = dict(overrides=dict(study.overrides) | OVERRIDES)
  if SEEDS.value:
    changes["seeds"] = parse_seeds(SEEDS.value)
  study = dataclasses.replace(study, **changes)
  results = intact.checked(study_lib.run(study, Path(RUNS.value)))
  output = Path(OUTPUT.value or Path("runs/studies") / folder_name())
  cli.make_folder(output)
  page = cli.writing(lambda folder: report.write(study, results, folder), output)
  failed = [f"{r.label}, seed {r.seed}: {r.error}" for r in results if r.error]
  print(f"{len(results) - len(failed)} of {len(results)} runs done; report in {page}")
  if failed:
    print("failed: " + "; ".join(failed))
  if len(failed) == len(results):
    raise UserError("every run failed; see above")


if __name__ == "__main__":
  OVERRIDES = take_overrides()
  cli.run(main)
