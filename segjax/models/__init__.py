"""Pure Flax modules: images f32[B,H,W,3] -> logits f32[B,H,W,K].

>>> import jax
>>> net = make("unet", widths=(4, 8), num_outputs=2)
>>> image = jax.numpy.zeros((1, 30, 45, 3))
>>> variables = net.init(jax.random.key(0), image, train=False)
>>> net.apply(variables, image, train=False).shape
(1, 30, 45, 2)
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from segjax.errors import check_fields, choose
from segjax.models.encoder_decoder import EncoderDecoder
from segjax.models.unet import UNet

MODELS = {"encoder_decoder": EncoderDecoder, "unet": UNet}

__all__ = ["EncoderDecoder", "UNet", "count_params", "make", "names"]


def names():
  """The names that `make` knows, sorted."""
  return sorted(MODELS)


def make(name, **fields):
  """Builds a net by name.

  Args:
    name: one of `names()`.
    **fields: attributes of the class; `dtype` may be a string such as "bfloat16".

  Raises:
    UserError: (a ValueError) for an unknown name or field; lists what there is.
  """
  cls = choose(MODELS, name, "model")
  known = [f.name for f in dataclasses.fields(cls) if f.name not in ("parent", "name")]
  check_fields(fields, known, f"model {name!r}")
  if isinstance(fields.get("dtype"), str):
    fields["dtype"] = jnp.dtype(fields["dtype"])
  return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def count_params(params):
  """Number of values in a tree of parameters."""
  return sum(x.size for x in jax.tree.leaves(params))
