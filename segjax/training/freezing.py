"""Parts of a net that are not trained."""

from __future__ import annotations

import re

import flax.linen as nn
import flax.traverse_util
import jax

from segjax.errors import UserError
from segjax.models.layers import BatchNorm
from segjax.models.lora import PARTS


def frozen_names(pattern, params):
  """Names of the parameters that a regular expression finds, all with "/" between their parts.

  LoRA's additions are never among them: `^backbone/` freezes the kernels that they are added to.

  Args:
    pattern: searched for in names such as "backbone/layer1_0/conv1/kernel"; "" for none.
    params: tree of parameters.

  Raises:
    UserError: not a regular expression, or it finds nothing, or everything.
  """
  if not pattern:
    return ()
  names = list(flax.traverse_util.flatten_dict(params, sep="/"))
  try:
    found = tuple(n for n in names if re.search(pattern, n) and not n.endswith(PARTS))
  except re.error as error:
    raise UserError(f"freeze {pattern!r} is not a regular expression: {error}") from None
  if not found or len(found) == len(names):
    tops = ", ".join(dict.fromkeys(n.split("/")[0] for n in names))
    what = "nothing" if not found else "every parameter, so nothing is left to train"
    raise UserError(f"freeze {pattern!r} finds {what}; the net's parts are {tops}")
  return found


def check_lora(rank, params):
  """Raises a UserError where a net has a `lora_rank` above 0, but nothing that it adds to."""
  names = flax.traverse_util.flatten_dict(params, sep="/")
  if rank and not any(n.endswith(PARTS) for n in names):
    raise UserError(
      f"model.lora_rank is {rank}, but this net has no transformer of DINOv2 or DINOv3; leave it "
      "at 0, or set model.backbone to one, such as dinov3_vits16"
    )


def stop_gradients(params, frozen):
  """The parameters, those named in `frozen` cut off from the gradient."""
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  cut = {k: jax.lax.stop_gradient(v) if k in frozen else v for k, v in flat.items()}
  return flax.traverse_util.unflatten_dict(cut, sep="/")


def labels(params, frozen):
  """ "frozen" or "trained" for each parameter, in a tree like `params`."""
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  marked = {k: "frozen" if k in frozen else "trained" for k in flat}
  return flax.traverse_util.unflatten_dict(marked, sep="/")


def frozen_norms(frozen):
  """Context in which batch norms with a frozen scale use and keep their running averages."""

  def intercept(call, args, kwargs, context):
    module = context.module
    if "/".join((*module.path, "scale")) in frozen:
      if isinstance(module, BatchNorm):
        kwargs = kwargs | dict(train=False)
      elif isinstance(module, nn.BatchNorm):
        kwargs = kwargs | dict(use_running_average=True)
    return call(*args, **kwargs)

  return nn.intercept_methods(intercept)
