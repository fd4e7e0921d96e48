"""Prediction: the outputs of a net for images of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from segjax.data import pipeline
from segjax.training.state import TrainState

__all__ = ["predict_image", "scale_warning"]


def predict_image(
  predict_step: Callable,
  state: TrainState,
  image: np.ndarray,
  data: ConfigDict,
  *,
  whole: bool = True,
) -> Any:
  """The task's outputs for an image, pictures among them at the image's own size.

  The net sees the image at the scale of the run's evaluation: with `eval_fit="resize"` resized to
  the size it was trained at (one compilation whatever the images' sizes; maps of outputs are
  resized back bilinearly, so that class borders are smooth); with "full" and "crop" at its own
  size, extended to a multiple of some pixels, with "crop" to `data.size` at least.

  Args:
    predict_step: result of `steps.make_predict_step`.
    state: TrainState.
    image: u8[H,W,3].
    data: `config.data` of the run.
    whole: False for a task with one answer for an image: with `eval_fit="crop"` the net then sees
      the middle of the image, as in evaluation.

  Returns:
    The task's outputs with a batch axis of 1, e.g. logits f32[1,H,W,K].
  """
  own_scale, size = data.eval_fit != "resize", tuple(data.size)
  if not own_scale:
    seen = pipeline.resize(dict(image=image), size)["image"]
  elif data.eval_fit == "crop" and not whole:
    seen = pipeline.CenterCrop([dict(image=image)], size, 0)[0]["image"]
  else:
    least = size if data.eval_fit == "crop" else (0, 0)
    size = _extended(image.shape[:2], data.eval_multiple, least)
    seen = pipeline.extend(image, size, mode="edge")

  def at_own_size(out):
    out = np.asarray(out)
    if out.ndim != 4 or out.shape[1:3] != size:
      return out
    if own_scale:
      return out[:, : image.shape[0], : image.shape[1]]
    return _resize(out[0], image)[None]

  return jax.tree.map(at_own_size, predict_step(state, seen[None]))


def _extended(shape, multiple, least):
  """The size that an image is extended to: `least` where it fits in, else to multiples."""
  if all(n <= m for n, m in zip(shape, least, strict=True)):
    return least
  size = pipeline.multiples(shape, multiple)
  return tuple(max(n, m) for n, m in zip(size, least, strict=True))


def scale_warning(data: ConfigDict, shape: Sequence[int]) -> str:
  """A sentence where a net sees an image at another scale than those it was trained on, or "".

  Args:
    data: `config.data` of the run.
    shape: (height, width) of the image, pixels.
  """
  size = f"{data.size[0]}x{data.size[1]}"
  if tuple(shape) == tuple(data.size) or (data.fit == "crop") == (data.eval_fit != "resize"):
    return ""
  if data.fit == "crop":
    return (
      f"the net was trained on crops of {size} at the images' own scale, but is evaluated, and so "
      f"predicts, on whole images squeezed to that size; a run with data.eval_fit='full' keeps "
      "the scale"
    )
  return (
    f"the net was trained on whole images squeezed to {size}, but is evaluated, and so predicts, "
    f"at the images' own scale (data.eval_fit={data.eval_fit!r})"
  )


def _resize(maps, image):
  """f32[h,w,K] -> [H,W,K] of an image, bilinearly."""
  channels = [
    np.asarray(Image.fromarray(c).resize(image.shape[1::-1], Image.Resampling.BILINEAR))
    for c in np.ascontiguousarray(maps.transpose(2, 0, 1))
  ]
  return np.stack(channels, -1)
