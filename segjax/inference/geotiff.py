"""Maps as GeoTIFF files, which lie on the earth where their images do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segjax.data import tiffs
from segjax.inference import png

SOFTWARE = 305  # tag


class GeoTiffWriter:
  """Writes a map from top to bottom, with the georeference of its image and our mark."""

  def __init__(self, file: Path, width: int, height: int, rows: np.ndarray, georeference: tuple):
    """Begins a file, not compressed.

    Args:
      file: path.
      width: pixels.
      height: pixels.
      rows: an array like those that will be written.
      georeference: see `tiffs.georeference`.
    """
    import tifffile

    how = dict(photometric="minisblack", software=png.MARK[1], metadata=None, returnoffset=True)
    how |= dict(shape=(height, width), dtype=rows.dtype, extratags=georeference)
    start, _ = tifffile.imwrite(file, **how)
    self._stream = file.open("r+b")
    self._stream.seek(start)

  def write(self, rows: np.ndarray):
    """Writes the next rows, u8[n,W] or u16[n,W]."""
    self._stream.write(np.ascontiguousarray(rows))

  def finish(self):
    """Writes the end."""
    self._stream.flush()

  def close(self):
    """Closes the file."""
    self._stream.close()


def is_marked(file: Path) -> bool:
  """Whether a TIFF file has our mark."""
  with file.open("rb") as stream:
    return tiffs.tag(stream, SOFTWARE) == png.MARK[1]
