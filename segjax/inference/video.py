"""Frames of video files, by imageio and its FFmpeg; the extra `video`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from segjax.errors import UserError
from segjax.inference import png


def _imageio():
  """The modules of imageio, with FFmpeg behind them."""
  try:
    import imageio
    import imageio_ffmpeg
  except ImportError as error:
    raise UserError(
      f"videos need imageio and its FFmpeg ({error}); install segjax[video], or give the frames as "
      "a folder of images"
    ) from None
  del imageio_ffmpeg
  return imageio


@contextlib.contextmanager
def reader(file: Path) -> Iterator[tuple[Iterator[np.ndarray], float]]:
  """Frames of a video, u8[H,W,3] each, and their number in a second.

  Raises:
    UserError: no imageio or FFmpeg, or not a video.
  """
  imageio = _imageio()
  try:
    source = imageio.get_reader(file, format="FFMPEG")
  except (OSError, ValueError, RuntimeError) as error:
    first = " ".join(str(error).split())[:160]
    raise UserError(f"{file}: cannot be read as a video ({first}); replace it") from None
  with contextlib.closing(source):
    yield (np.asarray(frame) for frame in source), source.get_meta_data()["fps"]


@contextlib.contextmanager
def writer(file: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
  """A function that appends a frame u8[H,W,3] to a video with our mark.

  Odd sizes lose a row or column.

  Args:
    file: path.
    rate: frames in a second.
  """
  how = ["-metadata", f"comment={png.MARK[1]}"]
  target = _imageio().get_writer(
    file, format="FFMPEG", fps=rate, macro_block_size=1, output_params=how
  )

  def add(frame):
    height, width = (n - n % 2 for n in frame.shape[:2])
    target.append_data(np.ascontiguousarray(frame[:height, :width]))

  with contextlib.closing(target):
    yield add
