"""Which files are predicted: an image, a video, or all images of a folder and those in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from segjax.data import files as files_lib
from segjax.errors import UserError
from segjax.inference import folder as folder_lib

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What is predicted.

  Attributes:
    files: {name: path}; a name is the path within the folder, with "/".
    notes: sentences about files that are not read.
    video: whether it is one video.
  """

  files: dict[str, Path]
  notes: tuple[str, ...] = ()
  video: bool = False


def find(given: Path, output: Path) -> Inputs:
  """The images in a file or folder, however deep, but for those in folders of results.

  Args:
    given: an image, a video, or a folder.
    output: folder of the results, which may not exist yet.

  Raises:
    UserError: there are none; or the results would lie among the images, where the next prediction
      would take them for images.
  """
  if given.is_file() and given.suffix.lower() in VIDEOS:
    _check_output(given.parent, output)
    return Inputs({given.name: given}, video=True)
  if not given.is_dir():
    found = files_lib.list_images(given)
    _check_output(given.parent, output)
    return Inputs({f.name: f for f in found})
  _check_output(given, output)
  found, notes = {}, []
  _collect(given, given, output.resolve(), found, notes, frozenset())
  if not found:
    said = "".join(f". {note}" for note in notes)
    endings = ", ".join(files_lib.IMAGE_ENDINGS)
    raise UserError(f"{given.absolute()}: no image in it, expected {endings}{said}")
  return Inputs(found, tuple(notes))


def _check_output(folder, output):
  if folder.is_dir() and output.is_dir() and folder.samefile(output):
    raise UserError(
      f"--output={output} is the folder of the images: the next prediction would take the results "
      "for images; choose another folder"
    )


def _collect(folder, root, output, found, notes, above):
  """Adds the images of a folder and of those in it; a link to a folder above is not followed."""
  entries = files_lib.entries(folder)
  for file in map(Path, entries.files):
    found[file.relative_to(root).as_posix()] = file
  notes.extend(files_lib.unread(folder, root, above=set(entries.folders)))
  above = above | {folder.resolve()}
  for inner in entries.folders:
    if inner.resolve() == output:
      notes.append(_results(inner, root))
    elif folder_lib.holds_results(inner):
      notes.append(f"{files_lib.inside(inner, root)} holds earlier results and is not read")
    elif inner.resolve() in above:
      notes.append(f"{files_lib.inside(inner, root)} is a link to a folder above and is not read")
    else:
      _collect(inner, root, output, found, notes, above)


def _results(folder, root):
  """The sentence about the folder of the results; a UserError where it holds other images."""
  for file in sorted(folder.rglob("*")):
    if file.suffix.lower() in files_lib.IMAGE_ENDINGS and not folder_lib.is_marked(file):
      raise UserError(
        f"--output={folder} lies among the images and holds {file.name}, which prediction did not "
        "write; choose another --output"
      )
  return f"{files_lib.inside(folder, root)} is the folder of the results and is not read"
