"""DINOv3's vision transformers (Siméoni et al., arXiv 2508.10104): rotary positions, registers.

Parameters have the names of facebookresearch/dinov3, see `dinov2`; `weights.load_torch` also reads
those of `transformers`. Images are normalised by ImageNet's mean and deviation.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models import dinov2
from segjax.models.layers import Layered

NORM = partial(nn.LayerNorm, epsilon=1e-5)


class DinoV3(Layered):
  """A vision transformer of DINOv3 with a neck, see `dinov2.neck`; the defaults are ViT-S/16.

  Attributes:
    width: channels.
    depth: blocks.
    num_heads: heads.
    patch: side of a patch in pixels.
    registers: register tokens.
    base: ratio of the longest period of the rotary positions to the shortest, at most.
    output_stride: 32; 16: the last features are the last block's on the patches' own grid; or 8.
  """

  width: int = 384
  depth: int = 12
  num_heads: int = 6
  patch: int = 16
  registers: int = 4
  base: float = 100.0
  output_stride: int = 32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> list:
    """f32[B,H,W,C] -> features, see `dinov2.neck`, each of `width` channels."""
    x = dinov2.embed(self, image)
    grid, dtype = x.shape[1:3], jnp.promote_types(self.dtype, jnp.float32)
    angles = rotary_angles(grid, self.width // self.num_heads, self.base)
    rotation = tuple(jnp.asarray(f(angles), dtype) for f in (np.cos, np.sin))
    x = dinov2.joined(self, x.reshape(x.shape[0], -1, self.width))
    how = dict(key_bias=False, rotation=rotation, train=train)
    return dinov2.neck(image, dinov2.encode(self, x, grid, NORM, **how), self.output_stride)


def rotary_angles(grid: tuple[int, int], channels: int, base: float) -> np.ndarray:
  """Angles of rotary positions on a grid of patches.

  A coordinate runs from -1 to 1 over the image, whatever its size; the first quarter of the
  channels turns with the vertical one, the second with the horizontal one, and again.

  Args:
    grid: (height, width).
    channels: channels of a head, a multiple of 4.
    base: see `DinoV3`.

  Returns:
    f64[height * width,channels], radians.
  """
  places = [(np.arange(n) + 0.5) / n * 2 - 1 for n in grid]
  places = np.stack(np.meshgrid(*places, indexing="ij"), -1).reshape(-1, 2, 1)
  angles = 2 * np.pi * places * base ** -(np.arange(channels // 4) * 4 / channels)
  return np.tile(angles.reshape(len(angles), -1), 2)


_sizes = dict(
  vits16={}, vitb16=dict(width=768, num_heads=12), vitl16=dict(width=1024, depth=24, num_heads=16)
)
BACKBONES = {f"dinov3_{size}": partial(DinoV3, **fields) for size, fields in _sizes.items()}
