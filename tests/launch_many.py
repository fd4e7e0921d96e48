"""Runs launchers in forked processes that share one import of the libraries.

Reads [{"name": of the launcher, "args": [...], "env": {...}, "output": folder}, ...] as JSON from
standard input; writes `stdout`, `stderr` and `code` of each into its folder, two at a time.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

os.environ["GLIBC_TUNABLES"] = ""  # or the launchers would start Python anew
import segjax.analysis.figures
import segjax.cli
import segjax.training  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent


def main():
  cases, running = json.load(sys.stdin), {}
  for case in cases:
    if len(running) == 2:
      wait(running)
    running[os.fork() or child(case)] = Path(case["output"])
  while running:
    wait(running)


def wait(running):
  pid, status = os.wait()
  (running.pop(pid) / "code").write_text(str(os.waitstatus_to_exitcode(status)))


def child(case):
  """Becomes the launcher; does not return."""
  folder, code = Path(case["output"]), 1
  folder.mkdir(parents=True)
  for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
  os.environ.update(case["env"])
  os.chdir(ROOT)
  file = str(ROOT / "launch" / f"{case['name']}.py")
  sys.argv = [file, *case["args"]]
  sys.orig_argv = [sys.executable, *sys.argv]
  try:
    runpy.run_path(file, run_name="__main__")
    code = 0
  except SystemExit as exit:
    code = int(exit.code or 0)
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
  main()
