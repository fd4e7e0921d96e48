"""Learning rates that shrink from the head of a net down to the first layers of its backbone."""

from __future__ import annotations

import re
from collections.abc import Iterable

import flax.traverse_util
import optax

from segjax.errors import UserError

_NUMBERED = re.compile(r"^backbone/([a-z_]*?)_?(\d+)(?:_[a-z_]*?(\d+))?(?:_[a-z_]+)?/")
_FIRST, _LAST = -1, 10**6


def factors(names: Iterable[str], decay: float) -> dict[str, float]:
  """The factor of each parameter's learning rate.

  1 for the head and the backbone's last norm, `decay` for the last block of the backbone, its
  square for the one before, and so on down to what comes before the first block, as in BEiT (Bao et
  al., ICLR 2022).

  Args:
    names: of the parameters, with "/" between their parts.
    decay: in (0,1].

  Raises:
    UserError: a decay outside of (0,1], or no block of a backbone among the names.
  """
  if not 0 < decay <= 1:
    raise UserError(f"optimizer.layer_decay is {decay}, expected one above 0, at most 1")
  places = {n: _place(n) for n in names}
  layers = sorted({p for p in places.values() if p is not None})
  if not [p for p in layers if p[0] != _FIRST]:
    raise UserError(
      "optimizer.layer_decay finds no blocks of a backbone among the parameters, such as "
      "backbone/blocks_0; leave it at 1, or take a net over a backbone"
    )
  steps = {p: decay ** (len(layers) - i) for i, p in enumerate(layers)}
  return {n: steps.get(p, 1.0) for n, p in places.items()}


def _place(name):
  """The order of a layer in the backbone, or None for one after all blocks: (stage, block)."""
  found = _NUMBERED.match(name)
  if not found:
    last = not name.startswith("backbone/") or name.startswith("backbone/norm/")
    return None if last else (_FIRST, _FIRST)
  word, stage, block = found.groups()
  if word == "downsample_layers":  # ConvNeXt's, whose second number is not a block's
    return int(stage), 0
  ends_stage = "downsample" in name.split("/")[1] or word == "layer_norm"
  return int(stage), int(block) if block else _LAST if ends_stage else _FIRST


def scale_by_layer(decay: float) -> optax.GradientTransformation:
  """Multiplies the updates of each parameter by its factor; stands after an optimiser."""

  def init(params):
    factors(flax.traverse_util.flatten_dict(params, sep="/"), decay)
    return optax.EmptyState()

  def update(updates, state, params=None):
    del params
    flat = flax.traverse_util.flatten_dict(updates, sep="/")
    factor = factors(flat, decay)
    scaled = {k: v if _is_masked(v) else v * factor[k] for k, v in flat.items()}
    return flax.traverse_util.unflatten_dict(scaled, sep="/"), state

  return optax.GradientTransformation(init, update)


def _is_masked(value):
  """Whether a frozen parameter stands here, of which an optimiser sees nothing."""
  return isinstance(value, optax.MaskedNode)
