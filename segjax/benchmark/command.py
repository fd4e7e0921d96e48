"""The work of launch/benchmark.py: measures, prints, writes."""

from __future__ import annotations

import json
import statistics

from segjax import errors
from segjax.benchmark import step, training
from segjax.benchmark.peer import PEER_KEYS, alternate
from segjax.errors import UserError, choose

MODES = ("train", "infer", "input", "end_to_end")


def run(config, mode, *, peer=None, rounds=3, repeats=20, classes=0, file=None):
  """Measures an experiment, and prints the figures.

  Args:
    config: ConfigDict of an experiment.
    mode: one of `MODES`.
    peer: shell command of a program to compare with, or None.
    rounds: how often both programs are measured in turn.
    repeats: timed steps; of "end_to_end", before each evaluation.
    classes: number of classes of the random labels; 0: 2 with a sigmoid, else 8.
    file: Path of a JSON file for the figures, or None.

  Raises:
    UserError: no such mode, a peer in a mode without one, a peer that fails.
  """
  choose(dict.fromkeys(MODES), mode, "mode")
  if peer and mode not in PEER_KEYS:
    raise UserError(f"--peer compares train and infer, the mode is {mode!r}")
  if mode == "input":
    result = training.measure_input(config)
  elif mode == "end_to_end":
    result = training.measure_training(config, classes=classes, repeats=repeats)
  else:
    program = step.prepare(config, mode, classes)
    result = step.measure(program, config, mode, repeats=repeats)
    if peer:
      result |= _compare(program, peer, mode, rounds, repeats)
  for key, value in result.items():
    print(f"  {key:<22}{value:.4g}" if isinstance(value, float) else f"  {key:<22}{value}")
  if file:
    with errors.writing(file):
      file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _compare(program, peer, mode, rounds, repeats):
  """Prints our seconds beside the peer's; returns {"pairs": [(ours, theirs), ...], "ratio"}."""
  pairs = alternate(program, peer, mode, rounds=rounds, repeats=repeats)
  ratios = [ours / theirs for ours, theirs in pairs]
  for (ours, theirs), ratio in zip(pairs, ratios, strict=True):
    print(f"  ours {ours:.4f} s, theirs {theirs:.4f} s, ratio {ratio:.2f}")
  return dict(pairs=pairs, ratio=statistics.median(ratios))
