"""Trains an experiment, or resumes it.

  python launch/train.py --config=configs/unet_road.py
  python launch/train.py --config=configs/unet_road.py:data=kitti_road --workdir=runs/kitti
  python launch/train.py --config=configs/unet_road.py --config.schedule.learning_rate=3e-4

  python launch/train.py --config=configs/unet_road.py --profile_steps=20,25
  python launch/train.py --config=configs/unet_road.py --dry_run

Without --workdir a new folder under runs/; the same --workdir again resumes. The workdir holds
config.json, metrics.jsonl, TensorBoard events, checkpoints/, images/ and figures/curves.png, and
with --profile_steps a trace of these steps in profile/, for TensorBoard's profile plugin, xprof or
ui.perfetto.dev. With --distributed it is one of several processes that train one run; --dry_run
trains nothing: it prints what a step needs and saves what a batch looks like beside the workdir,
in WORKDIR-dry_run.png. Both have a section in launch/README.md.
Exit code: 0 done, 1 an error that the message explains, 129, 130 or 143 stopped and saved.
"""

import time
from pathlib import Path

from absl import flags

from segjax import cli

CONFIG = cli.define_config()
cli.define_distributed()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; an existing one is resumed.")
PROFILE_STEPS = flags.DEFINE_list("profile_steps", [], "First and last step of a trace.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Prints what a step needs, saves what a batch looks "
                            "like, and trains nothing.")  # fmt: skip
flags.mark_flag_as_required("config")
flags.declare_key_flag("config")


def main():
  from segjax import hosts, training
  from segjax.analysis import figures

  config = CONFIG.value
  if DRY_RUN.value:
    from segjax.analysis.dry_run import dry_run

    dry_run(config, f"{WORKDIR.value or f'runs/{config.name}'}-dry_run.png")
    return
  stamp = hosts.of_first(time.strftime, "%Y%m%d-%H%M%S")
  workdir = Path(WORKDIR.value or f"runs/{config.name}-{stamp}")
  training.train(config, workdir, PROFILE_STEPS.value)
  if not hosts.is_first():
    return
  file = workdir / "figures" / "curves.png"
  file = cli.writing(lambda f: figures.curves(workdir, config.name, f), file)
  print(f"  curves in {file}, pictures in {workdir / 'images'}")


if __name__ == "__main__":
  cli.run(main)
