"""Another program's step beside ours, in turn."""

from __future__ import annotations

import json
import statistics
import subprocess

from segjax.errors import UserError

# The key of the other program's JSON that `--peer` reads, by mode.
PEER_KEYS = {"train": "train_step_s", "infer": "infer_s"}


def run_peer(command, mode):
  """Seconds of another program's step, from the JSON object that its last line of output is.

  Args:
    command: a shell command.
    mode: "train" or "infer".

  Raises:
    UserError: the program fails, or its last line is no JSON with the key that is looked for.
  """
  key = PEER_KEYS[mode]
  done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
  lines = done.stdout.strip().splitlines()
  if done.returncode or not lines:
    tail = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise UserError(f"--peer {command!r} ended with {done.returncode}: {tail}")
  try:
    return float(json.loads(lines[-1])[key])
  except (ValueError, KeyError, TypeError):
    raise UserError(
      f"--peer {command!r}: its last line is {lines[-1][:80]!r}, expected JSON with {key!r}"
    ) from None


def alternate(program, command, mode, *, rounds=3, repeats=10):
  """Ours and another program's seconds, in turn: [(ours, theirs), ...], a pair a round."""
  pairs = []
  for _ in range(rounds):
    ours = statistics.median(program.seconds(repeats))
    pairs.append((ours, run_peer(command, mode)))
  return pairs
