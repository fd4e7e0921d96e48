"""Tries to break runs for a while, by kills, flipped bits and mutated inputs; prints a table.

  python tests/campaign.py --minutes=20

One process trains, is killed at a random moment by SIGKILL, and resumes, a hundred times: every row
of metrics.jsonl must be there and the end must be the same, bit for bit. Then, and another from the
start on, it makes the tries of faults.py. Both have a process that has imported everything and
forks; a try that ends its process is a crash, one that takes more than a minute hangs. `--seed`
begins the numbers from which everything follows; `--only="fuzz image 17"` repeats one try in this
process. The exit code is 1 where something broke.
"""

import argparse
import collections
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import conftest

LONGEST = 60  # seconds of a try
KILLS = 100
SECOND = 1_000_000  # number of the first try of the process that kills
FORK = multiprocessing.get_context("fork")


def main():
  """Runs the campaign."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--minutes", type=float, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", default="")
  given = parser.parse_args()
  root = Path(tempfile.mkdtemp(prefix="segjax_campaign"))
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "compilations"))
  conftest.pytest_configure(None)
  import fault_world
  import faults  # and with it everything that the children need

  try:
    if given.only:
      kind, _, number = given.only.rpartition(" ")
      world = fault_world.World(root / "world")
      with fault_world.prepared():
        world.root.mkdir()
        world.make()
        print(*faults.attempt(kind, int(number), world, given.seed), sep=": ")
      return 0
    end = time.monotonic() + 60 * given.minutes
    ours, theirs = FORK.Pipe()
    killer = FORK.Process(target=kill_and_try, args=(theirs, root, end, given.seed))
    killer.start()
    theirs.close()
    found = tries(root / "world", end, given.seed)
    try:
      found += ours.recv()
    except EOFError:
      found.append(("kill", "crash", "the process of the kills has ended"))
    killer.join()
    return report(found)
  finally:
    shutil.rmtree(root, ignore_errors=True)


def report(found):
  """Prints what was found, a row for each kind; returns the exit code."""
  from faults import KINDS, OUTCOMES

  counts = collections.Counter((kind, outcome) for kind, outcome, _ in found)
  print("| kind | tries |", " | ".join(OUTCOMES), "|")
  print("|---" * (len(OUTCOMES) + 2) + "|")
  for kind in ("kill", *KINDS, "all"):
    row = [sum(counts[k, o] for k in ([kind] if kind != "all" else ["kill", *KINDS]))
           for o in OUTCOMES]  # fmt: skip
    print(f"| {kind} | {sum(row)} |", " | ".join(map(str, row)), "|")
  bad = [f for f in found if f[1] not in ("right", "clear error")]
  for kind, outcome, text in bad[:60]:
    print(f"{outcome}: {kind} {text}")
  return int(bool(bad))


# ---------------------------------------------------------------------------- flips and mutations


def kill_and_try(conn, root, end, seed):
  """Sends [(kind, outcome, text)] of kills and then of tries."""
  os.environ["JAX_COMPILATION_CACHE_DIR"] += "_kills"  # the other process breaks its own
  conftest.pytest_configure(None)
  found = kills(root / "kills", end, seed)
  conn.send(found + tries(root / "second", end, seed, SECOND))


def tries(root, end, seed, number=0):
  """[(kind, outcome, text)] of tries of all kinds in turn, in a process that may be replaced.

  Args:
    root: folder that does not exist.
    end: when it ends, see `time.monotonic`.
    seed, number: of the first try; each has the next number.
  """
  from faults import KINDS

  if time.monotonic() >= end:
    return []
  found, server = [], Server(root)
  while time.monotonic() < end:
    for kind in KINDS:
      # Inputs are read in milliseconds: more of them.
      for _ in range(16 if kind.startswith("fuzz") else 2):
        outcome, text = server.attempt(kind, number, seed)
        found.append((kind, outcome, f"{number}: {text}"))
        if outcome in ("crash", "hang"):
          server = Server(root)
        number += 1
  server.close()
  return found


class Server:
  """A process that makes tries."""

  def __init__(self, root):
    self._conn, theirs = FORK.Pipe()
    self._process = FORK.Process(target=serve, args=(theirs, root), daemon=True)
    self._process.start()
    theirs.close()
    self._conn.recv()

  def attempt(self, *job):
    """See `faults.attempt`."""
    self._conn.send(job)
    try:
      if self._conn.poll(LONGEST):
        return self._conn.recv()
    except EOFError:
      self._process.join()
      return "crash", f"exit code {self._process.exitcode}"
    self.close()
    return "hang", f"more than {LONGEST} s"

  def close(self):
    """Ends the process."""
    self._process.kill()
    self._process.join()


def serve(conn, root):
  """Makes the tries that come by a pipe."""
  import resource

  import fault_world
  import faults

  silence(root.with_suffix(".log"))
  resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))  # memory is a fault as well
  world = fault_world.World(root)
  with fault_world.prepared():
    if not root.exists():
      root.mkdir()
      world.make()
    conn.send("ready")
    while True:
      kind, number, seed = conn.recv()
      conn.send(faults.attempt(kind, number, world, seed))


def silence(log):
  """Sends what this process prints to a file."""
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(file, 1)
  os.dup2(file, 2)


# ---------------------------------------------------------------------------- kills


def kills(root, end, seed):
  """Trains, kills and resumes until the time is over; returns [("kill", outcome, text)]."""
  root.mkdir()
  conftest.write_pairs(root / "data", count=10)
  train(root, "first", None)  # compiles
  start = time.monotonic()
  expected = train(root, "whole", None)[1]
  seconds, found, number = time.monotonic() - start, [], 0
  while number < KILLS and time.monotonic() < end:
    draw, times = random.Random(f"kill {number} {seed}"), []
    for _ in range(draw.choice((1, 1, 2))):
      times.append(draw.uniform(0.1, 1) * seconds)
      train(root, "killed", times[-1])
    code, result = train(root, "killed", None)
    where = f"{number}: after {', '.join(f'{t:.2f}' for t in times)} of {seconds:.2f} s"
    if code is None:
      found.append(("kill", "hang", where))
    elif code < 0:
      found.append(("kill", "crash", f"{where}: signal {-code}"))
    elif code:
      found.append(("kill", "stack", f"{where}: {(root / 'log').read_text()[-300:]}"))
    else:
      same = result == expected
      found.append(("kill", "right" if same else "silent", where if same else f"{where}: {result}"))
    shutil.rmtree(root / "killed", ignore_errors=True)
    number += 1
  return found


def train(root, name, seconds):
  """Trains in a process of its own, killed after some seconds if they are not None.

  Returns:
    (exit code, result): the code is negative for a signal and None after LONGEST seconds; the
    result holds the digest of the parameters and all rows.
  """
  file = root / "result.json"
  file.unlink(missing_ok=True)
  process = FORK.Process(target=train_here, args=(root, name, file))
  process.start()
  process.join(LONGEST if seconds is None else seconds)
  if process.exitcode is None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return (-signal.SIGKILL if seconds else None), None
  return process.exitcode, json.loads(file.read_text()) if file.exists() else None


def train_here(root, name, file):
  """Trains and writes the result."""
  import fault_world

  from segjax import training

  silence(root / "log")
  with fault_world.prepared():
    state = training.train(fault_world.make_config(root / "data"), root / name)
    result = dict(parameters=fault_world.digest(state), rows=fault_world.rows_of(root / name))
    file.write_text(json.dumps(result))


if __name__ == "__main__":
  sys.exit(main())
