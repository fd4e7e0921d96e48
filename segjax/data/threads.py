"""Reading by several threads."""

from __future__ import annotations

import concurrent.futures


def map_threads(function, count, threads=4):
  """[function(0), ..., function(count - 1)], computed by threads."""
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    return list(pool.map(function, range(count)))
