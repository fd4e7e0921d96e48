"""Trains a run again and says whether the same comes out.

  python launch/verify.py --workdir=runs/kitti
  python launch/verify.py --workdir=runs/kitti --steps=0

Evaluates the run's latest checkpoint again, and trains its first steps again in a folder of its
own, 20 by default, 0: all. Losses, metrics and the parameters of checkpoints that both have are
compared: bit for bit equal, equal within last bits (to a thousandth, as another number of cores or
another device gives) or different. The lines before say what differs from the run's receipt.json:
config, contents of the data, segjax's code, versions of packages, device.
Exit code: 0 equal, at least within last bits; 1 different, or another error.
"""

from pathlib import Path

from absl import flags

from segjax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
STEPS = flags.DEFINE_integer("steps", 20, "Steps to train again; 0: all.", lower_bound=0)
FOLDER = flags.DEFINE_string("folder", "", "Where the data of the run lie now, if they have moved.")
cli.define_own_code()


def main():
  from segjax.analysis import verification
  from segjax.errors import UserError

  verdict = verification.verify(Path(WORKDIR.value), STEPS.value, FOLDER.value)
  if verdict == verification.DIFFERENT:
    raise UserError(f"{WORKDIR.value}: different")
  print(f"{WORKDIR.value}: {verdict}")


if __name__ == "__main__":
  cli.run(main)
