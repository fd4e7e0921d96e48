"""Studies over several processes: commands, engines, shared pools, reports by themselves."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from conftest import ROOT
from test_study import table, write_study

from segjax import claims, engines, pool
from segjax import study as study_lib
from segjax.analysis import report, studies
from segjax.engines import local
from segjax.engines.command import IN_USE, Command
from segjax.errors import UserError
from segjax.training import loop

# Counts to 200, from where it was stopped, in the file of its argument, as a run in its folder.
COUNTER = """
import pathlib, signal, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
file = pathlib.Path(sys.argv[1])
count = int(file.read_text()) if file.exists() else 0
print("from", count, flush=True)
while count < 200:
  time.sleep(0.02)
  count += 1
  if stop:
    break
file.write_text(str(count))
sys.exit(143 if stop else 0)
"""


def code(text, log, *args):
  return Command([sys.executable, "-c", text, *map(str, args)], log)


def until(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.02)


# ---------------------------------------------------------------------------- one command


@pytest.mark.parametrize(
  ("text", "result"),
  [
    ("print('fine')", ""),
    (f"import sys; sys.exit({IN_USE})", None),
    ("import sys; print('error: a: b', file=sys.stderr); sys.exit(1)", "a: b"),
    ("print('error: of before'); import sys; sys.exit(3)", "ended with code 3, see {log}"),
    ("import os; os.kill(os.getpid(), 9)", "ended by signal 9, see {log}"),
  ],
)
def test_why_a_command_failed(tmp_path, text, result):
  log = tmp_path / "a.log"
  log.write_text("error: of another start\n")
  assert code(text, log)() == (result and result.format(log=log))


def test_a_command_has_what_decides_its_numbers_and_not_the_signal_of_slurm(tmp_path, monkeypatch):
  monkeypatch.setenv("SEGJAX_DATA", "/there")
  command = code(
    "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print(os.environ['SEGJAX_DATA'])",
    tmp_path / "a.log",
  )
  monkeypatch.setenv("SEGJAX_DATA", "/here")  # of the machine that runs it
  assert command() == ""
  assert (tmp_path / "a.log").read_text() == "/there\n"
  assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_engines_by_name():
  make, options = engines.read("ray:num_gpus=0.5,address=auto")
  assert (make, options) == (engines.ray.engine, dict(num_gpus=0.5, address="auto"))
  make, options = engines.read("slurm:slurm_partition=gpu,timeout_min=5")
  assert options == dict(slurm_partition="gpu", timeout_min=5)
  for spec, message in (
    ("slrum", "unknown engine 'slrum'; did you mean 'slurm'"),
    ("ray:gpus=1", "the engine 'ray' has no field 'gpus'; did you mean 'num_gpus'"),
    ("local:x", "expected OPTION=VALUE"),
  ):
    with pytest.raises(UserError, match=message):
      engines.read(spec)


def test_local_processes_save_when_the_study_is_stopped(tmp_path):
  files, logs = ([tmp_path / f"{kind}{i}" for i in range(2)] for kind in ("count", "log"))

  def words(i):
    return [sys.executable, "-c", COUNTER, str(files[i])]

  with pytest.raises(KeyboardInterrupt), local.engine(2, tmp_path) as start:
    tasks = [start(words(i), logs[i]) for i in range(2)]
    until(lambda: all(log.read_text() for log in logs))
    assert not any(task.done() for task in tasks)
    raise KeyboardInterrupt
  assert all(0 < int(file.read_text()) < 200 for file in files)


def test_each_local_process_has_its_share_of_the_gpus(tmp_path, monkeypatch):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  show = [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
  with local.engine(2, tmp_path) as start:
    tasks = [start(show, tmp_path / str(i)) for i in range(2)]
    until(lambda: all(task.done() for task in tasks))
  assert [(tmp_path / str(i)).read_text() for i in range(2)] == ["4,7\n", "5\n"]
  with pytest.raises(UserError, match="--jobs=4, but there are 3 GPUs"), local.engine(4, tmp_path):
    pass


# ---------------------------------------------------------------------------- engines of others


def preempt(task, log):
  """Sends the process that a scheduler would stop its signal, as Slurm does before the end."""
  until(lambda: log.exists() and log.read_text())
  found = subprocess.run(["pgrep", "-f", str(log)[:-4]], capture_output=True, text=True, check=True)
  child = next(int(p) for p in found.stdout.split() if "-c" in cmdline(p))
  os.kill(int(stat(child)[1]), task)


def cmdline(pid):
  return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def stat(pid):
  return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("spec", "number", "begins"),
  [("slurm:cluster=local", signal.SIGUSR2, 2), ("ray:num_cpus=1", signal.SIGKILL, 2)],
)
def test_a_task_that_is_interrupted_is_started_again(tmp_path, spec, number, begins):
  pytest.importorskip("submitit" if spec.startswith("slurm") else "ray")
  make, options = engines.read(spec)
  count, log = tmp_path / "run", tmp_path / "run.log"
  with make(1, tmp_path, **options) as start:
    task = start([sys.executable, "-c", COUNTER, str(count)], log)
    preempt(number, log)
    until(task.done)
    assert task.result() == ""
  starts = [int(line.split()[1]) for line in log.read_text().splitlines()]
  assert len(starts) == begins and starts[0] == 0
  assert count.read_text() == "200"
  if number == signal.SIGUSR2:  # it saved before
    assert starts[1] > 0


def test_engines_that_are_not_installed_say_so(tmp_path, monkeypatch):
  for name in ("submitit", "ray"):
    monkeypatch.setitem(sys.modules, name, None)
  for spec, extra in (("slurm", "slurm"), ("ray", "ray")):
    make, options = engines.read(spec)
    message = rf"pip install 'segjax\[{extra}\]'"
    with pytest.raises(UserError, match=message), make(1, tmp_path, **options):
      pass


# ---------------------------------------------------------------------------- a pool


def runs_in(folder, count):
  for i in range(count):
    (folder / str(i)).mkdir()
  return [study_lib.Result("v", i, None, folder / str(i)) for i in range(count)]


def test_runs_that_others_train_come_last(tmp_path, monkeypatch, capsys):
  """The second is claimed by another study until the others are done, the third at its start."""
  monkeypatch.setattr(pool, "POLL", 0.001)
  runs = runs_in(tmp_path, 4)
  other, order, going = claims.claim(runs[1].workdir), [], set()

  def start(run):
    order.append(run.seed)
    going.add(run.seed)
    assert len(going) <= 2
    task = Future()
    first = order.count(run.seed) == 1

    def end():
      going.remove(run.seed)
      if len(order) == 4:
        other.release()
      task.set_result(None if run.seed == 2 and first else f"failed {run.seed}" * (run.seed == 3))

    threading.Timer(0.05, end).start()
    return task

  errors = pool.work_off(runs, start, 2)
  assert errors == {r.workdir: "failed 3" * (r.seed == 3) for r in runs}
  assert sorted(order) == [0, 1, 2, 2, 3] and order[0] == 0 and order[-1] == 1
  assert capsys.readouterr().out.count(f"process {os.getpid()} on ") == 1


def test_a_report_names_the_runs_that_are_missing(tmp_path, monkeypatch, capsys):
  spec, how = "configs/studies/skip_connections.py:smoke", dict(overrides={}, runs=tmp_path)
  first, second, third, *_ = study_lib.plan(study_lib.read(spec), tmp_path)
  for r in (first, second):
    r.workdir.mkdir()
    (r.workdir / "finished").touch()
  (second.workdir / "finished").unlink()
  (second.workdir / "metrics.jsonl").write_text('{"step": 5}\n')
  held = claims.claim(second.workdir)
  monkeypatch.setattr(study_lib.Result, "complete", lambda r: True)
  monkeypatch.setattr(studies.intact, "checked", lambda results: results)
  monkeypatch.setattr(report, "write", lambda study, results, folder: folder / "report.html")
  monkeypatch.setattr(loop, "train", None)
  studies.run(spec, **how, output=tmp_path / "out", report_only=True)
  said = capsys.readouterr().out
  assert "1 of 4 runs done" in said and f"{third.variant}, seed {third.seed}: not begun" in said
  assert f"{second.variant}, seed {second.seed}: not finished, 5 steps done; process" in said
  held.release()
  (first.workdir / "finished").unlink()
  with pytest.raises(UserError, match="no run is finished"):
    studies.run(spec, **how, output=tmp_path / "out", report_only=True)


def one_seed(folder):
  spec = folder / "study.py"
  study = study_lib.read(str(spec if spec.exists() else write_study(folder)))
  variants = {v: study.variants[v] for v in ("narrow", "wide")}
  return dataclasses.replace(study, variants=variants, changes={}, seeds=(0,))


OF_ONE_POOL = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_engines import one_seed
from segjax import study, training
from segjax.training import loop
trained, train = [], loop.train

def count(config, workdir):
  train(config, workdir)
  trained.append(str(workdir))

loop.train = count
folder = Path(sys.argv[1])
results = study.run(one_seed(folder), folder / "pool")
print(json.dumps([[r.error for r in results], trained]))
"""


@pytest.mark.weekly
def test_two_studies_on_one_pool_train_each_run_once(tmp_path):
  runs = study_lib.plan(one_seed(tmp_path), tmp_path / "pool")
  command = [sys.executable, "-c", OF_ONE_POOL, str(tmp_path)]
  how = dict(cwd=ROOT, env=os.environ | dict(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE)
  both = [subprocess.Popen(command, text=True, **how) for _ in range(2)]
  said = [json.loads(p.communicate(timeout=280)[0].splitlines()[-1]) for p in both]
  assert [errors for errors, _ in said] == [[""] * 2] * 2
  assert sorted(said[0][1] + said[1][1]) == sorted(str(r.workdir) for r in runs)
  for run in runs:
    assert [row["step"] for row in run.rows() if "val/loss" in row] == [2, 4]
    assert [row["step"] for row in run.rows() if "train/loss" in row] == [1, 2, 3, 4]


@pytest.mark.slow
def test_several_processes_give_the_results_of_one(tmp_path, monkeypatch, capsys):
  """By the engine `local`, among them a run that fails."""
  write_study(tmp_path)
  monkeypatch.setattr(report, "write", lambda study, results, folder: write_csv(results, folder))
  how = dict(overrides={}, seeds="0,", output=tmp_path)
  spec = str(tmp_path / "study.py")
  studies.run(spec, **how, runs=tmp_path / "pool")
  before = table(tmp_path / "results.csv")
  studies.run(spec, **how, runs=tmp_path / "pool2", jobs=2)
  text = (tmp_path / "results.csv").read_text().replace("/pool2/", "/pool/")
  (tmp_path / "results.csv").write_text(text)  # the failed run's message names its folder
  assert table(tmp_path / "results.csv") == before
  assert "broken, seed 0: not finite at step" in capsys.readouterr().out
  studies.run(spec, **how, runs=tmp_path / "pool2", jobs=2)
  assert capsys.readouterr().out.count("finished before") == 2


def write_csv(results, folder):
  """results.csv without the costs, which take time to measure."""
  costs = {r.variant: [study_costs()] for r in results}
  study = study_lib.Study("", "", {r.variant: "" for r in results})
  (folder / "results.csv").write_text(report._csv(study, results, costs, {}))
  return folder / "results.csv"


def study_costs():
  from segjax.benchmark.cost import Cost

  return Cost("cpu", (1, 1), 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


def test_a_run_of_a_study_by_itself(tmp_path, monkeypatch):
  spec, seen = "configs/studies/skip_connections.py:smoke", []
  run = study_lib.plan(study_lib.read(spec), tmp_path)[1]
  monkeypatch.setattr(studies, "end_with_parent", lambda: None)
  monkeypatch.setattr(pool, "train", lambda r: seen.append(r.workdir) or answer[0])
  how = dict(overrides={}, runs=tmp_path)
  answer = [""]
  assert studies.train_one(spec, **how, only=run.workdir.name) == 0 and seen == [run.workdir]
  answer = [None]
  assert studies.train_one(spec, **how, only=run.workdir.name) == IN_USE
  answer = ["why"]
  with pytest.raises(UserError, match="why"):
    studies.train_one(spec, **how, only=run.workdir.name)
  with pytest.raises(UserError, match="has no run 'x' any more"):
    studies.train_one(spec, **how, only="x")
