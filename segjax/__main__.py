"""The command `segjax`, or `python -m segjax`: runs a launcher from any folder.

  segjax train --config=configs/unet_road.py
  segjax evaluate --workdir=runs/kitti
  segjax train --help

The commands are the files of launch/, with the same flags. A path such as configs/unet_road.py that
does not exist where you are is taken from the project.
"""

import runpy
import sys

from segjax import errors, project


def main():
  """Runs the launcher that the first argument names; exits as it does."""
  folder = project.folder()
  if folder is None:
    _fail("launch/ and configs/ are not installed; install from a checkout, pip install -e .")
  launchers = {file.stem: file for file in (folder / "launch").glob("*.py")}
  name = sys.argv[1] if len(sys.argv) > 1 else "--help"
  if name in ("--help", "-h", "help"):
    print(f"{__doc__}\ncommands: {', '.join(sorted(launchers))}")
    return
  try:
    file = errors.choose(launchers, name, "command")
  except errors.UserError as error:
    _fail(error)
  sys.argv = [str(file), *sys.argv[2:]]
  runpy.run_path(str(file), run_name="__main__")


def _fail(message):
  print(f"error: {message}", file=sys.stderr)
  sys.exit(1)


if __name__ == "__main__":
  main()
