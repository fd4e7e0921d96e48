"""Studies: variants of an experiment trained with several seeds, so that they can be compared."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from segjax import config as config_lib
from segjax import own_code
from segjax import pool as pool_lib
from segjax.errors import UserError, check_fields, did_you_mean
from segjax.pool import NEUTRAL, Result
from segjax.training import workdir as workdir_lib

__all__ = [
  "Result", "Study", "changes", "identity", "make_config", "override", "plan", "read", "run",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Study:
  """The variants to train and to compare; files of `configs/studies/` make one.

  Attributes:
    title: title of the report.
    question: the question of the study, a sentence or two.
    variants: name of a variant -> config file with its argument.
    seeds: each variant is trained with each.
    metric: scalar of an evaluation that the study is about, e.g. "val/mean_iou".
    compare: pairs of variants, the second is compared with the first; empty: all with the first.
    overrides: "field" -> value, of every run.
    changes: variant -> "field" -> value, of one variant; `overrides` win.
    derived: variant -> function of its overridden config -> "field" -> value; for
      fields that depend on others, such as the length of the training. `overrides` win but for the
      length itself.
    notes: variant -> a remark for the reader of the report.
  """

  title: str
  question: str
  variants: dict[str, str]
  seeds: tuple[int, ...] = (0, 1, 2)
  metric: str = "val/mean_iou"
  compare: tuple[tuple[str, str], ...] = ()
  overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
  changes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  derived: dict[str, Callable] = dataclasses.field(default_factory=dict)
  notes: dict[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not isinstance(self.variants, dict) or not self.variants:
      raise UserError(
        f"the study's variants are {self.variants!r}, expected a dict of name: config"
      )
    seeds = self.seeds
    if isinstance(seeds, str | int) or not all(isinstance(s, int) and s >= 0 for s in seeds):
      raise UserError(
        f"the study's seeds are {seeds!r}, expected whole numbers of 0 or more such as (0, 1, 2)"
      )


def _check_names(study):
  """Raises a UserError where a part of a study names a variant that it does not have."""
  pairs = [variant for pair in study.compare for variant in pair]
  for part, named in dict(
    changes=study.changes, derived=study.derived, notes=study.notes, compare=pairs
  ).items():
    for variant in named:
      if variant not in study.variants:
        raise UserError(
          f"the study's {part} name the variant {variant!r}, which is none of "
          f"{', '.join(study.variants)}{did_you_mean(variant, study.variants)}"
        )


def read(spec: str) -> Study:
  """The Study of a file with its argument, `configs/studies/aspp.py:smoke`.

  Args:
    spec: path, or path:argument.

  Raises:
    UserError: no such file, an argument that its `get_study` refuses, a result that is no Study,
      or a part of it that names another variant.
  """
  study = config_lib.call_file(spec, "get_study", "study")
  if not isinstance(study, Study):
    raise UserError(
      f"{config_lib.split_spec(spec)[0]}: get_study returns a {type(study).__name__}, expected a "
      "segjax.study.Study"
    )
  _check_names(study)
  return study


def override(config: ConfigDict, field: str, text: Any) -> None:
  """Sets a field from a string, as the command line gives it, or from a value of its type.

  Args:
    config: ConfigDict, changed in place.
    field: its name, such as "data.batch_size".
    text: string or value.

  Raises:
    UserError: no such field, or a value of another type.
  """
  flat = config_lib.flatten(config)
  check_fields([field], list(flat), "the config")
  old, value = flat[field], config_lib.expand_home(text)
  if field == "optimizer.name" and isinstance(text, str):
    config_lib.change_optimizer(config, text)
  if isinstance(text, str) and not isinstance(old, str):
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
      value = text
  if isinstance(old, tuple) and isinstance(value, str):
    value = (value,)  # as the other launchers read it
  if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  try:
    config.update_from_flattened_dict({field: value})
  except TypeError:
    kind = type(old).__name__
    raise UserError(f"config.{field} is {text!r}, expected a {kind} such as {old!r}") from None
  own_code.allow(config)


def changes(study: Study, variant: str) -> dict[str, Any]:
  """Changes of a variant to its config file, overrides left out.

  Args:
    study: Study.
    variant: name of a variant.

  Returns:
    {"field": value}.
  """
  fixed = {k: v for k, v in study.changes.get(variant, {}).items() if k not in study.overrides}
  if variant not in study.derived:
    return fixed
  config = config_lib.read(study.variants[variant])
  for field, value in (fixed | study.overrides).items():
    override(config, field, value)
  derived = study.derived[variant](config)
  won = {k for k in study.overrides if not k.startswith("total_")}
  return fixed | {k: v for k, v in derived.items() if k not in won}


def make_config(study: Study, variant: str, seed: int) -> ConfigDict:
  """The config of a run: file, overrides, seed; checkpoints of an early and a middle stage stay.

  Args:
    study: Study.
    variant: name of a variant.
    seed: random seed of the run.

  Returns:
    ConfigDict.

  Raises:
    UserError: the file cannot be read, or has no such field.
  """
  config = config_lib.read(study.variants[variant])
  for field, value in (study.overrides | changes(study, variant)).items():
    override(config, field, value)
  config.seed = seed
  kind = "epochs" if config.total_epochs else "steps"
  if not (config.keep_steps or config.keep_epochs):
    total = config[f"total_{kind}"]
    early = min(config[f"eval_{kind}"] or total, total / 4)
    kept = [type(total)(x) for x in (early, total / 2)]
    config[f"keep_{kind}"] = tuple(x for x in kept if x > 0)  # of a training of one step none
  return config


def identity(config: ConfigDict) -> str:
  """Hash of the fields that affect results; equal for runs of the same numbers on the same data.

  Fields at their defaults are left out, those of the net, the task and the data source too, so a
  field that comes with a new version changes nothing.

  Args:
    config: ConfigDict of a run.

  Returns:
    8 hexadecimal digits.
  """
  flat = config_lib.flatten(config)
  default = config_lib.flatten(config_lib.default()) | workdir_lib.defaults(config)
  changed = {k: v for k, v in flat.items() if not k.startswith(NEUTRAL) and default.get(k, k) != v}
  text = json.dumps(config_lib.with_old_names(changed), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:8]


def plan(study: Study, pool: str | os.PathLike) -> list[Result]:
  """The runs of a study; nothing is trained.

  Runs live in `<pool>/<config name>-s<seed>-<identity>` and are shared by all studies with the
  same pool.

  Args:
    study: Study.
    pool: folder of runs.

  Returns:
    list of Result, by variant, then seed; one whose config cannot be made has an error.

  Raises:
    UserError: no variant's config can be read, or two variants are the same.
  """
  if not study.seeds or len(set(study.seeds)) < len(study.seeds):
    found = ", ".join(map(str, study.seeds)) or "none"
    raise UserError(f"the study's seeds are {found}; expected one or more, each once")
  results, of_a_seed = [], {}
  for variant in study.variants:
    for seed in study.seeds:
      try:
        config = make_config(study, variant, seed)
      except UserError as error:
        results.append(Result(variant, seed, None, None, str(error)))
        continue
      of_a_seed[variant] = config
      workdir = Path(pool) / f"{config.name}-s{seed}-{identity(config)}"
      results.append(Result(variant, seed, config, workdir))
  if not of_a_seed:
    raise UserError(results[0].error)
  _check_different(of_a_seed)
  return results


def _check_different(of_a_seed):
  first = {}
  for variant, config in of_a_seed.items():
    same = first.setdefault(identity(config), variant)
    if same != variant:
      raise UserError(
        f"the variants {same!r} and {variant!r} of the study have the same config; is a field that "
        "distinguishes them overridden?"
      )


def run(
  study: Study, pool: str | os.PathLike, start: Callable | None = None, jobs: int = 1
) -> list[Result]:
  """Trains the missing runs, in the order of seeds; one that fails does not stop the rest.

  A finished run is not trained again, an interrupted one resumes where it stopped, one of other
  data or of other defaults is an error of that run. A run that another process trains meanwhile
  comes last; its result is used.

  Args:
    study: Study.
    pool: see `plan`.
    start: function of a Result that starts its training elsewhere and returns a task, see
      `segjax.engines`; None: this process trains.
    jobs: tasks at a time; 0: as many as there are runs.

  Returns:
    list of Result, by variant, then seed.

  Raises:
    Stopped: after SIGTERM or Ctrl-C; the same study resumes later.
    UserError: see `plan`.
  """
  results = plan(study, pool)
  for r in results:
    if r.error:
      print(f"{r.variant}, seed {r.seed}: {r.error}", flush=True)
  queue = sorted((r for r in results if not r.error), key=lambda r: study.seeds.index(r.seed))
  errors = pool_lib.work_off(queue, start or pool_lib.train_here, jobs)
  return [dataclasses.replace(r, error=r.error or errors[r.workdir]) for r in results]
