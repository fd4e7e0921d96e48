"""Mean and deviation of each channel of a source, for `data.mean` and `data.std`."""

from __future__ import annotations

import numpy as np

from segjax.data.threads import map_threads


def measure(source, threads=4):
  """Mean and standard deviation of each channel over all pixels of a source.

  Args:
    source: whose images are f32[H,W,C], see `segjax.data.sources`.
    threads: number of threads that read.

  Returns:
    (f64[C], f64[C]).

  Raises:
    UserError: a file is broken.
  """

  def moments(i):
    image = source[i]["image"].astype(np.float64)
    return image[..., 0].size, image.mean((0, 1)), image.var((0, 1))

  count, mean, var = map(np.array, zip(*map_threads(moments, len(source), threads), strict=True))
  share = (count / count.sum())[:, None]
  whole = (share * mean).sum(0)
  return whole, np.sqrt((share * (var + np.square(mean - whole))).sum(0))


def text(mean, std):
  """Both in words, and as arguments for a launcher.

  >>> print(text(np.array([0.25, 0.5]), np.array([0.1, 0.125])))
  mean and standard deviation of each channel:
    --config.data.mean="(0.25, 0.5)" --config.data.std="(0.1, 0.125)"
  """
  fixed = [str(i) for i, value in enumerate(std) if not value > 0]
  std = np.where(std > 0, std, 1.0)
  both = (f"({', '.join(f'{v:.5g}' for v in values)})" for values in (mean, std))
  flags = " ".join(f'--config.data.{k}="{v}"' for k, v in zip(("mean", "std"), both, strict=True))
  said = f"\n  1 stands for 0, the deviation of channel {', '.join(fixed)} (from 0 on)"
  constant = said if fixed else ""
  return f"mean and standard deviation of each channel:\n  {flags}{constant}"
