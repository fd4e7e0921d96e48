"""Metrics of images against true images: PSNR, SSIM, colourfulness."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from segjax.errors import UserError
from segjax.ops import wide


def _picture(image):
  """A picture as float32, or as it is where that is wider.

  Raises:
    TypeError: integers, whose range is not known and whose differences wrap round.
  """
  image = jnp.asarray(image)
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise TypeError(f"image has dtype {image.dtype}; expected floats in [0,1], e.g. image / 255")
  return wide(image)


def psnr(image: ArrayLike, truth: ArrayLike) -> jax.Array:
  """Peak signal-to-noise ratio of each image, dB.

  Args:
    image: f32[B,H,W,C] in [0,1].
    truth: likewise.

  Returns:
    f32[B]; 100 where the images are equal to within 1e-10.

  Raises:
    TypeError: integers, whose range is not [0,1].
  """
  image, truth = _picture(image), _picture(truth)
  error = jnp.square(image - truth).mean((1, 2, 3))
  return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def ssim(image: ArrayLike, truth: ArrayLike) -> jax.Array:
  """Structural similarity of each image (Wang et al., IEEE TIP 2004), the mean over channels.

  Gaussian window of 11x11 pixels with a standard deviation of 1.5, population covariances, and
  the mean over the places where the window lies inside the image.

  Args:
    image: f32[B,H,W,C] in [0,1], at least 11x11 pixels.
    truth: likewise.

  Returns:
    f32[B] in [-1,1].

  Raises:
    TypeError: integers, whose range is not [0,1].
    UserError: smaller images.
  """
  image, truth = _picture(image), _picture(truth)
  if min(image.shape[1:3]) < 11:
    found = "x".join(map(str, image.shape[1:3]))
    raise UserError(
      f"ssim needs images of at least 11x11 pixels, found {found}; use a larger data.size, or "
      "leave smaller images out"
    )
  weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
  weights = jnp.array(weights / weights.sum(), image.dtype)

  def blur(x):
    for axis in (1, 2):
      size = x.shape[axis] - 10
      taps = [jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in range(11)]
      x = sum(w * tap for w, tap in zip(weights, taps, strict=True))
    return x

  x, y = blur(image), blur(truth)
  xx, yy, xy = blur(image**2) - x**2, blur(truth**2) - y**2, blur(image * truth) - x * y
  c1, c2 = 0.01**2, 0.03**2
  score = (2 * x * y + c1) * (2 * xy + c2) / ((x**2 + y**2 + c1) * (xx + yy + c2))
  return score.mean((1, 2, 3))


def colorfulness(image: ArrayLike) -> jax.Array:
  """How colourful each image is (Hasler and Suesstrunk, SPIE 2003): 0 grey, 109 extremely so.

  Args:
    image: f32[B,H,W,3], sRGB in [0,1].

  Returns:
    f32[B].

  Raises:
    TypeError: integers, whose range is not [0,1].
  """
  image = _picture(image)
  red, green, blue = (255 * image[..., i] for i in range(3))
  pair = jnp.stack([red - green, (red + green) / 2 - blue])
  mean, deviation = pair.mean((2, 3)), pair.std((2, 3))
  return jnp.linalg.norm(deviation, axis=0) + 0.3 * jnp.linalg.norm(mean, axis=0)
