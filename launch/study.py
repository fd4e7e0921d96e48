"""Trains the runs of a study that are missing, and writes its report.

  python launch/study.py --study=configs/studies/skip_connections.py
  python launch/study.py --study=configs/studies/skip_connections.py:data=kitti_road --seeds=5
  python launch/study.py --study=configs/studies/aspp.py:smoke --config.total_steps=10
  python launch/study.py --study=configs/studies/aspp.py --engine=slurm:timeout_min=240

--config.FIELD=VALUE changes a field of every run. Runs live under --runs, shared by all studies;
finished ones are not trained again, others resume. The report goes to --output, by default
runs/studies/<file_argument_overrides>/. launch/README.md has a section on --jobs and --engine. Exit
code: 0 done, 1 an error that the message explains or every run failed, 129, 130 or 143 stopped and
saved.
"""

import re
import sys
from pathlib import Path

from absl import flags

from segjax import cli

STUDY = flags.DEFINE_string("study", None, "File of configs/studies/, with an argument after a "
                            "colon if it takes one.", required=True)  # fmt: skip
SEEDS = flags.DEFINE_string("seeds", None, "Number of seeds (5: 0 to 4), or a list such as 0,3,7.")
RUNS = flags.DEFINE_string("runs", "runs/pool", "Folder of the runs, shared by studies.")
OUTPUT = flags.DEFINE_string("output", None, "Folder of the report.")
ENGINE = flags.DEFINE_string("engine", "local", "Where runs are trained: local, slurm or ray; its "
                             "options follow a colon (slurm:timeout_min=240).")  # fmt: skip
JOBS = flags.DEFINE_integer("jobs", None, "Runs at a time; by default one, in this process.")
REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Trains nothing; reports what is finished.")
ONLY = flags.DEFINE_string("only", None, "Trains this run alone, the name of its folder, without a "
                           "report; engines start these.")  # fmt: skip
OVERRIDE = re.compile(r"--?config\.([\w.]+)=(.*)", re.DOTALL)


def take_overrides():
  """Takes --config.FIELD=VALUE off the command line, as {field: text}."""
  found = {m[1]: m[2] for m in map(OVERRIDE.fullmatch, map(cli.expand_home, sys.argv[1:])) if m}
  sys.argv[1:] = [a for a in sys.argv[1:] if not OVERRIDE.fullmatch(a)]
  return found


def main():
  from segjax.analysis import studies

  study = dict(overrides=OVERRIDES, seeds=SEEDS.value, runs=Path(RUNS.value))
  if ONLY.value:
    sys.exit(studies.train_one(STUDY.value, **study, only=ONLY.value))
  how = dict(output=OUTPUT.value, engine=ENGINE.value, jobs=JOBS.value)
  studies.run(STUDY.value, **study, **how, report_only=REPORT_ONLY.value)


if __name__ == "__main__":
  OVERRIDES = take_overrides()
  cli.run(main)
