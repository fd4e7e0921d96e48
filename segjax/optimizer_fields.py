"""The fields of a config's optimiser where it is another than the config began with."""

from __future__ import annotations

from segjax import own_code
from segjax.fields import SHARED, THREE, optimizer_defaults


def settle_optimizer(c):
  """Gives an optimiser beyond sgd, adam and adamw the fields that it has itself.

  Call it after a config, or the command line, has named one. Values that a config sets stay; what
  is left of the defaults of those three goes.

  Args:
    c: ConfigDict, changed.

  Raises:
    UserError: no such optimiser.
  """
  from segjax.training import optim

  name = c.optimizer.name
  if name in THREE:
    return
  known, given = optim.settings(name), c.optimizer.to_dict()
  if set(SHARED) <= given.keys() and not set(SHARED) <= known.keys():
    before = optimizer_defaults("adam")
    set_here = {k: given[k] != before[k] and k in known for k in SHARED}
    given = {k: v for k, v in given.items() if set_here.get(k, True)}
  with c.unlocked():
    c.optimizer = known | given


def change_optimizer(c, name):
  """Gives a config another optimiser; of the former's fields those stay that the config had set.

  Args:
    c: ConfigDict, changed.
    name: name of the optimiser.

  Raises:
    UserError: no such optimiser.
  """
  before, given = c.optimizer.name, c.optimizer.to_dict()
  c.optimizer.name = name
  own_code.allow(c)
  if {before, name} <= set(THREE):
    return
  default, known = optimizer_defaults(before), optimizer_defaults(name)
  chosen = {k: v for k, v in given.items() if k in known and default.get(k, v) != v}
  with c.unlocked():
    c.optimizer = dict(name=name) | known | chosen
