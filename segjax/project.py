"""Where the launchers and configs of the project lie: in a checkout, or as a wheel ships them."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path

import segjax

MARK = "launch/train.py"


@functools.cache
def folder():
  """The folder with `launch/` and `configs/`: path, or None where there is neither.

  It is the checkout that segjax is imported from, an editable installation's too; otherwise the
  folder `share/segjax` of the environment, into which a wheel puts them.
  """
  checkout = Path(segjax.__file__).resolve().parent.parent
  if (checkout / MARK).is_file() and (checkout / "configs").is_dir():
    return checkout
  try:
    files = metadata.files("segjax") or ()
  except metadata.PackageNotFoundError:
    return None
  for file in files:
    if file.as_posix().endswith(f"share/segjax/{MARK}"):
      return Path(file.locate()).resolve().parent.parent
  return None


def find(file):
  """A file as it is where it exists, else the project's file of that path, if there is one.

  Args:
    file: text; "configs/unet_road.py" is found from any folder.
  """
  known = folder()
  if Path(file).exists() or Path(file).is_absolute() or known is None:
    return file
  return str(known / file) if (known / file).is_file() else file
