"""Convolutions that reach far: a matrix product for each tap, over what it sees of the image."""

from __future__ import annotations

from segjax.ops.llvm import tiles
from segjax.ops.llvm.emitter import integer

# Pixels of a tile lie a number of channels apart, often a power of two, so that more of them would
# fall into one set of the first cache.
PIXELS = 8


def wide(spec, machine):
  """Kernel of `convolve_wide`; the middle tap, which sees every output, sets the sums."""
  module, e, (x, kernel, out, part, scratch) = tiles.begin("wide", 2)
  build, channels, features = e.build, spec.channels, spec.features
  height, width = spec.out_size
  blocks = tiles.blocks(features, machine.lanes)
  shares = sum(count for _, count in blocks)
  image, share = e.divide(part, shares)
  of_image = (image, height * width * features)
  for vectors, start, (low, high) in tiles.feature_blocks(
    e, features, machine.lanes, share, shares
  ):
    together = sum(vectors)
    with e.loop(high, low) as block:
      feature = build.add(build.mul(block, integer(together)), integer(start))
      for n, (tap, (down, rows), (right, columns)) in enumerate(spec.seen()):
        i, j = divmod(tap, spec.size)
        tiles.copy_tap(e, spec, scratch, kernel, integer(i), j, feature, together, together)
        with e.loop(rows.stop, rows.start) as row:
          for pixels, column, count in tiles.columns(len(columns), PIXELS):
            with e.loop(count) as tile:
              first = column + columns.start
              source = e.at(
                x,
                (image, spec.height * spec.width * channels),
                (row, spec.width * channels),
                (tile, pixels * channels),
                (down * spec.width + first + right) * channels,
              )
              target = e.at(
                out,
                of_image,
                (row, width * features),
                (tile, pixels * features),
                first * features,
                feature,
              )
              sums = tiles.sums(e, pixels, vectors)
              places = tiles.places(e, sums, vectors, target, features)
              if n:
                for total, lanes, place in places:
                  build.store(e.load(place, lanes), total)
              seen, taps = (source, 1, channels), (scratch, together)
              tiles.add_products(e, channels, sums, vectors, seen, taps)
              for total, lanes, place in places:
                e.store(e.load(total, lanes), place)
  e.finish()
  return module, 2, spec.batch * shares, channels * 2 * machine.lanes
