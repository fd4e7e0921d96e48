"""The work of launch/study.py: a study's missing runs are trained, and its report is written."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from concurrent.futures import Future
from pathlib import Path

from segjax import engines, errors, project
from segjax import pool as pool_lib
from segjax import study as study_lib
from segjax.analysis import intact, report
from segjax.config import split_spec
from segjax.engines.command import IN_USE, end_with_parent
from segjax.errors import UserError


def run(
  spec, *, overrides, seeds=None, runs, output=None, engine="local", jobs=None, report_only=False
):
  """Trains the missing runs of a study, writes its report, and prints where it is.

  Args:
    spec: file of the study, with an argument after a colon if it takes one.
    overrides: {field of every config: text}.
    seeds: text, how many ("5": seeds 0 to 4) or a list ("0,3,7"); None for the study's own.
    runs: Path of the folder of the runs.
    output: folder of the report; None for one that is named after the study and the overrides.
    engine: where the runs are trained, see `segjax.engines.read`.
    jobs: runs at a time; None: one in this process, or as many as another engine takes.
    report_only: trains nothing; the report is of the runs that are finished.

  Raises:
    UserError: `overrides` has the seed, `seeds` is malformed, or no run is finished.
  """
  study = _read(spec, overrides, seeds)
  if report_only:
    results = pool_lib.collect(study_lib.plan(study, runs))
  else:
    words = [f"--study={spec}", f"--runs={runs}", *([f"--seeds={seeds}"] if seeds else [])]
    words += [f"--config.{field}={text}" for field, text in overrides.items()]
    results = _train(study, words, Path(runs), engine, jobs)
  results = intact.checked(results)
  folder = Path(output or Path("runs/studies") / folder_name(spec, overrides))
  with errors.writing(folder):
    folder.mkdir(parents=True, exist_ok=True)
    page = report.write(study, results, folder)
  failed = [f"{r.variant}, seed {r.seed}: {r.error}" for r in results if r.error]
  print(f"{len(results) - len(failed)} of {len(results)} runs done; report in {page}")
  if failed:
    print(f"{'missing' if report_only else 'failed'}: " + "; ".join(failed))
  if len(failed) == len(results):
    raise UserError(f"{'no run is finished' if report_only else 'every run failed'}; see above")


def train_one(spec, *, overrides, seeds=None, runs, only):
  """Trains one run of a study in this process, which ends with its parent; writes no report.

  Args:
    spec, overrides, seeds, runs: see `run`.
    only: name of the run's folder.

  Returns:
    An exit code: 0, or `IN_USE` where another process trains it.

  Raises:
    UserError: the study has no such run, or it failed.
  """
  end_with_parent()
  found = [r for r in study_lib.plan(_read(spec, overrides, seeds), runs) if r.workdir]
  found = [r for r in found if r.workdir.name == only]
  if not found:
    raise UserError(f"{spec} has no run {only!r} any more; its files were changed since the start")
  text = pool_lib.train(found[0])
  if text:
    raise UserError(text)
  return IN_USE if text is None else 0


def _read(spec, overrides, seeds):
  if "seed" in overrides:
    raise UserError("--config.seed: a study trains with several seeds; say which by --seeds=0,7")
  study = study_lib.read(spec)
  changes = dict(overrides=dict(study.overrides) | overrides)
  if seeds:
    changes["seeds"] = parse_seeds(seeds)
  return dataclasses.replace(study, **changes)


def _train(study, words, runs, engine, jobs):
  """The results of a study whose missing runs an engine trains.

  Args:
    study: Study.
    words: arguments of launch/study.py that say which study it is.
    runs: Path of the folder of the runs.
    engine, jobs: see `run`.
  """
  make, options = engines.read(engine)
  if jobs is not None and jobs < 1:
    raise UserError(f"--jobs={jobs}, expected 1 or more")
  if engine == "local" and jobs in (None, 1):
    return study_lib.run(study, runs)
  with errors.writing(runs):
    runs.mkdir(parents=True, exist_ok=True)
  launcher = [sys.executable, str(project.folder() / "launch" / "study.py"), *words]

  def start(result):
    done = Future()
    try:
      if pool_lib.finished_before(result):
        done.set_result("")
        return done
    except UserError as error:
      done.set_result(str(error))
      return done
    log = result.workdir.with_name(f"{result.workdir.name}.log")
    print(f"  log in {log}", flush=True)
    return submit([*launcher, f"--only={result.workdir.name}"], log)

  with make(jobs, runs, **options) as submit:
    return study_lib.run(study, runs, start, jobs or 0)


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
  name = re.sub(r"[^\w.=-]+", "_", "_".join(filter(None, parts)))
  short = hashlib.sha256(name.encode()).hexdigest()[:8]  # what is cut off may differ
  return name if len(name) <= 120 else f"{name[:111]}-{short}"
